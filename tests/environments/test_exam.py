"""Every place where a run can execute sits the exam that third parties inherit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster

import headrace as hr
from headrace.environments.base import GROUP
from headrace.environments.certificates import make_certificates, security_of
from headrace.testing import EnvironmentTests, Make
from tests.clusters import LOOPBACK, local_cluster
from tests.environments.ssh import ssh_server

THREADS = {"processes": False, **LOOPBACK}


class TestInThisProcess(EnvironmentTests):
    @pytest.fixture(scope="class")
    def make(self) -> Make:
        return hr.LocalEnvironment


class TestLocal(EnvironmentTests):
    takes = frozenset({"n_workers", "adapt"})

    @pytest.fixture(scope="class")
    def make(self) -> Make:
        return lambda **options: hr.DaskEnvironment("local", **(options or {"n_workers": 1}))

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment("local", moons=2)


class TestThreads(TestLocal):
    @pytest.fixture(scope="class")
    def make(self) -> Make:
        return lambda **options: hr.DaskEnvironment("local", **THREADS, **(options or {"n_workers": 1}))

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment("local", **THREADS, moons=2)


class Pond(LocalCluster):
    """A cluster class that nobody has heard of."""

    def __init__(self, *, depth: int, **options: Any) -> None:
        self.depth = depth
        super().__init__(**THREADS, **options)


class TestClass(TestLocal):
    @pytest.fixture(scope="class")
    def make(self) -> Make:
        return lambda **options: hr.DaskEnvironment(Pond, depth=3, **(options or {"n_workers": 1}))

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment(Pond)


class Still:
    """A cluster class whose constructor takes no number of workers, and which is none of Dask's own."""

    def __init__(self, depth: int, **further: Any) -> None:
        assert not further, "as of a server that knows its options"
        self.depth = depth
        self._cluster = local_cluster(n_workers=0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cluster, name)


class TestClassWithoutSize(TestClass):
    @pytest.fixture(scope="class")
    def make(self) -> Make:
        return lambda **options: hr.DaskEnvironment(Still, depth=3, **(options or {"n_workers": 1}))


GATEWAY = """
from distributed import LocalCluster
from headrace import DaskEnvironment, Environment

class GatewayEnvironment(Environment):
    def __init__(self, address):
        self.address, self._cluster, self._inner = address, None, None

    def setup(self, storage=None):
        if self._inner is None:
            quiet = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
            self._cluster = LocalCluster(n_workers=1, processes=False, **quiet)
            self._inner = DaskEnvironment(self._cluster)
        self._inner.setup(storage)

    def executor(self):
        return self._inner.executor()

    def describe(self):
        return {"type": "GatewayEnvironment", "address": self.address}

    serialize = describe

    def close(self):
        inner, cluster = self._inner, self._cluster
        self._inner = self._cluster = None
        if inner is not None:
            inner.close()
        if cluster is not None:
            cluster.close()
"""


class TestPlugIn(EnvironmentTests):
    """An environment of another package, which is found by its entry point."""

    @pytest.fixture(scope="class")
    def make(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
        site = tmp_path_factory.mktemp("site")
        facts = site / "pondgate-1.0.dist-info"
        facts.mkdir()
        (site / "pondgate.py").write_text(GATEWAY)
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: pondgate\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text(f"[{GROUP}]\nGatewayEnvironment = pondgate:GatewayEnvironment\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(site)
            yield lambda: hr.Environment.deserialize({"type": "GatewayEnvironment", "address": "https://gate"})


@pytest.fixture(scope="class")
def pond() -> Iterator[LocalCluster]:
    with local_cluster(n_workers=1) as cluster:
        yield cluster
        assert cluster.status.name == "running"  # nobody has closed it


class TestAddress(EnvironmentTests):
    @pytest.fixture(scope="class")
    def make(self, pond: LocalCluster) -> Make:
        return lambda: hr.DaskEnvironment(pond.scheduler_address)

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment("tcp://127.0.0.1:1", deadline=1.0)


class TestEncryptedAddress(EnvironmentTests):
    @pytest.fixture(scope="class")
    def make(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
        folder, pems = tmp_path_factory.mktemp("certificates"), make_certificates()
        files = {"tls_ca_file": pems.ca, "tls_client_cert": pems.cert, "tls_client_key": pems.key}
        for name, text in files.items():
            (folder / name).write_text(text)
        given = {name: str(folder / name) for name in files}
        with local_cluster(n_workers=1, protocol="tls://", security=security_of(pems)) as cluster:
            assert cluster.scheduler_address.startswith("tls://")
            yield lambda: hr.DaskEnvironment(cluster.scheduler_address, security=given)
            assert cluster.status.name == "running"

    @pytest.fixture
    def broken(self, make: Make) -> hr.Environment:
        """It has no certificates."""
        return hr.DaskEnvironment(make().cluster, deadline=5.0)  # type: ignore[attr-defined]


class TestEncrypted(TestLocal):
    takes = frozenset()

    @pytest.fixture(scope="class")
    def make(self) -> Make:
        return lambda: hr.DaskEnvironment("local", n_workers=1, security=True)

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment("local", security={"tls_ca_file": "/nowhere"})


class TestLiveCluster(EnvironmentTests):
    serializes = False

    @pytest.fixture(scope="class")
    def make(self, pond: LocalCluster) -> Make:
        return lambda: hr.DaskEnvironment(pond)


class TestLiveClient(EnvironmentTests):
    serializes = False

    @pytest.fixture(scope="class")
    def make(self, pond: LocalCluster) -> Iterator[Make]:
        with Client(pond, set_as_default=False) as client:
            yield lambda: hr.DaskEnvironment(client)
            assert client.status == "running"


class TestSSH(EnvironmentTests):
    @pytest.fixture(scope="class")
    def make(self, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
        with ssh_server(tmp_path_factory.mktemp("ssh")) as options:
            yield lambda: hr.DaskEnvironment(
                "distributed.SSHCluster",
                hosts=["127.0.0.1", "127.0.0.1"],
                connect_options=options,
                scheduler_options={"port": 0, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
                worker_options={"nthreads": 1, "dashboard_address": "127.0.0.1:0"},
            )

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment("distributed.SSHCluster", hosts=["127.0.0.1"] * 2, connect_options={"port": 1})


class TestJobQueue(EnvironmentTests):
    @pytest.fixture(scope="class")
    def make(self, tmp_path_factory: pytest.TempPathFactory) -> Make:
        folder = str(tmp_path_factory.mktemp("jobs"))
        return lambda: hr.DaskEnvironment(
            "dask_jobqueue.local.LocalCluster",
            n_workers=1,
            cores=1,
            memory="500 MB",
            local_directory=folder,
            scheduler_options={"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"},
        )
