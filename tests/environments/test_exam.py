"""Every place where a run can execute sits the exam that third parties inherit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from distributed import Client, LocalCluster

import headrace as hr
from headrace.testing import EnvironmentTests, Make

QUIET = {"dashboard_address": None}
THREADS = {"processes": False, **QUIET}


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


@pytest.fixture(scope="class")
def pond() -> Iterator[LocalCluster]:
    with LocalCluster(n_workers=1, **THREADS) as cluster:
        yield cluster
        assert cluster.status.name == "running"  # nobody has closed it


class TestAddress(EnvironmentTests):
    @pytest.fixture(scope="class")
    def make(self, pond: LocalCluster) -> Make:
        return lambda: hr.DaskEnvironment(pond.scheduler_address)

    @pytest.fixture
    def broken(self) -> hr.Environment:
        return hr.DaskEnvironment("tcp://127.0.0.1:1", deadline=1.0)


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
