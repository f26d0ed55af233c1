"""Preflight finds what is wrong with a cluster, a storage and a flow: seeded on real workers, each with its own lie."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from distributed import Client

import headrace as hr
from headrace import entrusted
from headrace.environments.checks.places import Place, visit
from headrace.environments.checks.sites import SCHEDULER, Here, Told
from headrace.environments.checks.software import about_cluster, about_packages
from headrace.errors import PreflightWarning, SetupError
from headrace.storage.spec import StorageSpec
from tests.environments.seeds.plain import greedy, keeping, modest, secretive
from tests.proxies import Proxy, proxy_before
from tests.servers import Server
from tests.waiting import until

#: Seconds within which a check finds all: less than 10 alone, more beside other tests.
SOON = 50.0
#: What a process believes of itself: executed when its interpreter starts.
LIES = {
    "python": "import platform; platform.python_version = lambda: '3.12.9'",
    "headrace": "import headrace; headrace.__version__ = '0.0.1'",
    "distributed": "import distributed; distributed.__version__ = '2020.1.0'",
    "cloudpickle": "import cloudpickle; cloudpickle.__version__ = '2.2.1'",
    "clock": "import time; now = time.time; time.time = lambda: now() + 120",
    "disk": """
import shutil
from collections import namedtuple
shutil.disk_usage = lambda path: namedtuple("Usage", "total used free")(1 << 30, 1 << 30, 5 << 20)
""",
    "bare": """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "headrace":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Nothing())
""",
    # Another machine: folders of storages are elsewhere.
    "elsewhere": """
import os
from headrace.storage.media.local import LocalDisk
made = LocalDisk.__init__
def init(self, place):
    made(self, place)
    self._root = os.environ["SEED_ROOT"] + self._root
LocalDisk.__init__ = init
""",
}


class Crew:
    """A scheduler and workers, each a process with an environment of its own."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self._stack = stack
        self.address = ""
        self.workers: dict[str, str] = {}  # address by name

    def start(self, lie: str, workers: Mapping[str, Mapping[str, str]]) -> None:
        """Start a scheduler that believes something, and workers with environment variables, and lies of their own."""
        file = self.folder / "scheduler.json"
        common = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        self._run("scheduler", lie, {}, "scheduler", *common, "--port", "0", "--scheduler-file", str(file))
        for name, variables in workers.items():
            more = {key: value for key, value in variables.items() if key != "lies"}
            options = ["--name", name, "--nthreads", "1", "--no-nanny", "--local-directory", str(self.folder / name)]
            options += ["--scheduler-file", str(file)]
            self._run(name, variables.get("lies", ""), more, "worker", *common, *options)
        until(file.exists, 100)
        client = self._stack.enter_context(Client(scheduler_file=str(file), set_as_default=False))
        client.wait_for_workers(len(workers), timeout=100)
        self.address = client.scheduler.address
        info = client.scheduler_info(n_workers=-1)["workers"]
        self.workers = {worker["name"]: address for address, worker in info.items()}

    def _run(self, name: str, lies: str, variables: Mapping[str, str], *command: str) -> None:
        site = self.folder / f"{name}-site"
        site.mkdir()
        (site / "sitecustomize.py").write_text("\n".join(LIES[lie] for lie in lies.split()))
        path = [str(site), variables.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, **variables, "PYTHONPATH": os.pathsep.join(filter(None, path))}
        log = self._stack.enter_context((self.folder / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [sys.executable, "-m", "dask", *command], env=environment, stdout=log, stderr=log, cwd=self.folder
        )
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)

    def check(self, *what: object, **options: object) -> list[hr.Finding]:
        """Check, as a user does, who waits for it."""
        with warnings.catch_warnings(), hr.DaskEnvironment(self.address) as env:
            warnings.simplefilter("ignore", PreflightWarning)
            began = time.monotonic()
            found = env.check(*what, **options)
        assert time.monotonic() - began < SOON
        return found


@contextmanager
def crew(folder: Path) -> Iterator[Crew]:
    with ExitStack() as stack:
        yield Crew(folder, stack)


def one(found: list[hr.Finding], subject: str, words: str) -> hr.Finding:
    """The one finding about something whose message has words in it."""
    matching = [each for each in found if each.subject == subject and words in each.message]
    assert len(matching) == 1, found
    return matching[0]


# -- software that does not fit ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def misfits(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Crew]:
    with crew(tmp_path_factory.mktemp("misfits")) as found:
        liar = {"lies": "python headrace distributed cloudpickle clock disk"}
        found.start("distributed", {"well": {}, "liar": liar, "bare": {"lies": "bare"}})
        yield found


@pytest.fixture(scope="module")
def misfit_findings(misfits: Crew, tmp_path_factory: pytest.TempPathFactory) -> list[hr.Finding]:
    return misfits.check(hr.Storage(tmp_path_factory.mktemp("storage")))


SOFTWARE = [
    ("liar", "error", "Python", "has 3.12.9, this process has", "install Python 3."),
    ("liar", "error", "headrace", "has 0.0.1, this process has", "install headrace "),
    ("bare", "error", "headrace", "cannot be imported on", "install headrace "),
    ("liar", "error", "cloudpickle", "has 2.2.1, this process has", "install cloudpickle "),
    ("liar", "warning", "distributed", "has 2020.1.0, this process has", "install distributed "),
    ("liar", "warning", "clock", " s ahead of this process", "NTP"),
    ("liar", "warning", "disk", "has 5 MiB free in", "--local-directory"),
]


@pytest.mark.parametrize(
    ("worker", "level", "subject", "message", "remedy"), SOFTWARE, ids=[row[0] for row in SOFTWARE]
)
def test_software_that_does_not_fit(
    worker: str, level: str, subject: str, message: str, remedy: str, misfits: Crew, misfit_findings: list[hr.Finding]
) -> None:
    found = one(misfit_findings, subject, message)
    assert found.level == level
    assert misfits.workers[worker] in found.message
    assert remedy in found.remedy
    assert "\n" not in found.remedy
    others = [address for name, address in misfits.workers.items() if name != worker]
    assert not any(address in found.message for address in others)


def test_a_scheduler_of_another_version_is_named(misfit_findings: list[hr.Finding]) -> None:
    assert one(misfit_findings, "distributed", "2020.1.0").message.startswith(f"{SCHEDULER} and worker ")


def test_a_set_up_is_refused_with_all_errors_and_nothing_else(misfits: Crew) -> None:
    env = hr.DaskEnvironment(misfits.address)
    with pytest.raises(SetupError) as caught:
        env.setup()
    assert env.client is None
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 4
    assert {line.partition(":")[0] for line in lines[1:]} == {"- Python", "- headrace", "- cloudpickle"}


# -- what flows and storages need ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def denying(server_of) -> Iterator[tuple[Proxy, Proxy]]:
    """Before S3: one that denies everything, and one that denies writing."""
    with proxy_before(server_of("s3")) as nothing, proxy_before(server_of("s3")) as reading:
        nothing.choose = lambda number, asked: 403
        reading.choose = lambda number, asked: 403 if asked.startswith(("PUT", "POST", "DELETE")) else None
        yield nothing, reading


def install(site: Path, version: str) -> Path:
    info = site / f"seed_pack-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: seed-pack\nVersion: {version}\n")
    (info / "RECORD").write_text("seed_pack.py,,\n")
    (site / "seed_pack.py").write_text("def same(x): return x\n")
    return site


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory, denying: tuple[Proxy, Proxy], server_of) -> Iterator[Crew]:
    folder = tmp_path_factory.mktemp("team")
    old, new = (str(install(folder / version / "site-packages", version)) for version in ("1.0", "2.0"))
    nothing, reading = (f"http://{proxy.address}" for proxy in denying)
    server = server_of("s3")
    options = server.storage_options
    ours = {"AWS_ACCESS_KEY_ID": options["key"], "AWS_SECRET_ACCESS_KEY": options["secret"]}
    ours["AWS_ENDPOINT_URL"] = options["endpoint_url"]
    with crew(folder) as found, pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(new)
        for name, value in ours.items():
            patch.setenv(name, value)
        patch.delenv("SEED_TOKEN", raising=False)
        token = {"SEED_TOKEN": "a-token"}
        workers = {
            "far": {"lies": "elsewhere", "SEED_ROOT": str(folder / "far-root"), "SEED_BROKEN": "1"},
            "old": {"PYTHONPATH": old, "AWS_ENDPOINT_URL": nothing, **token},
            "reader": {"PYTHONPATH": new, "AWS_ENDPOINT_URL": reading, **token},
            "lost": {"PYTHONPATH": new, "AWS_ENDPOINT_URL": "http://127.0.0.1:9", **token},
        }
        found.start("", workers)
        yield found


@pytest.fixture
def storage(tmp_path: Path) -> hr.Storage:
    return hr.Storage(tmp_path / "flows")


def stored(storage: hr.Storage, flow: hr.Flow) -> str:
    location = storage.add_flow(flow)
    storage.build(check=False)
    return location


def test_a_package_that_is_missing_and_one_that_is_older(team: Crew, storage: hr.Storage) -> None:
    packed = importlib.import_module("tests.environments.seeds.packed").packed
    found = team.check(storage, stored(storage, packed))
    missing = one(found, "package seed-pack", "is missing on")
    assert missing.message.endswith(f"worker {team.workers['far']}")
    assert missing.remedy == "install seed-pack==2.0 where the workers run"
    older = one(found, "package seed-pack", f"worker {team.workers['old']} has 1.0")
    assert older.level == "warning"
    assert "install seed-pack==2.0" in older.remedy
    load = one(found, "flow 'packed'", "seed_pack")
    assert load.level == "error"
    assert found[0] is load


def test_a_module_that_does_not_load_on_a_worker(team: Crew, storage: hr.Storage) -> None:
    broken = importlib.import_module("tests.environments.seeds.broken").broken
    found = one(team.check(storage, stored(storage, broken)), "flow 'broken'", "there is no display")
    assert found.level == "error"
    assert "modules are imported there" in found.remedy


def test_a_secret_that_one_worker_lacks(team: Crew, storage: hr.Storage) -> None:
    found = one(team.check(storage, stored(storage, secretive)), "secret 'SEED_TOKEN'", "is not known on")
    assert found.level == "error"
    assert team.workers["far"] in found.message
    assert team.workers["old"] not in found.message
    assert found.remedy == "set one of them where the workers run"


def test_resources_that_nobody_offers(team: Crew, storage: hr.Storage) -> None:
    found = one(team.check(storage, stored(storage, greedy)), "task 'shade'", "asks for resources={'GPU': 1}")
    assert found.level == "error"
    assert "dask worker --resources" in found.remedy


def test_a_folder_that_a_worker_does_not_share(team: Crew, storage: hr.Storage, tmp_path: Path) -> None:
    (found,) = team.check(storage)
    assert found.level == "error"
    assert found.message.startswith(f"worker {team.workers['far']} does not share this folder")
    assert "s3://" in found.remedy
    assert not (team.folder / "far-root").exists()
    location = stored(storage, modest)
    found = one(team.check(storage, location, {"n": 2}), f"storage {storage.url}", "does not share this folder")
    assert found.level == "note"
    assert "it runs all the same" in found.message
    with hr.DaskEnvironment(team.address) as env:
        assert env.execute(storage, location, {"n": 2}).result() == [0, 1]
    assert not list(tmp_path.rglob(".headrace-check*"))


def test_values_are_not_kept_in_a_folder_that_is_not_shared(team: Crew, storage: hr.Storage, tmp_path: Path) -> None:
    (tmp_path / "rows").mkdir()
    location = stored(storage, keeping(hr.Target(f"{tmp_path}/rows/{{x}}.json")))
    found = one(team.check(storage, location), "target of task 'keep'", "does not share this folder")
    assert found.level == "error"
    with hr.DaskEnvironment(team.address) as env:
        for _ in range(2):
            with pytest.raises(SetupError, match="does not share this folder"):
                env.execute(storage, location)
    assert list((tmp_path / "rows").iterdir()) == []


def test_memory_is_not_shared(team: Crew) -> None:
    storage = hr.Storage("memory://seeded")
    (found,) = team.check(storage)
    assert found.level == "error"
    assert "lies in the memory of one process" in found.message
    location = storage.add_flow(keeping(hr.Target("{x}.json", storage=storage)))
    assert one(team.check(storage, location), "target of task 'keep'", "memory").level == "error"


def test_a_bucket_that_workers_cannot_reach_or_not_use(team: Crew, server_of) -> None:
    storage = hr.Storage(server_of("s3").new_url())
    found = team.check(storage)
    assert {each.level for each in found} == {"error"}
    messages = {name: [each for each in found if address in each.message] for name, address in team.workers.items()}
    assert messages["far"] == []
    (denied,) = messages["old"]
    assert "refuses access" in denied.message
    assert denied.remedy == "check the credentials and their permissions"
    (read_only,) = messages["reader"]
    assert "cannot create" in read_only.message
    (unreachable,) = messages["lost"]
    assert "nothing listens there" in unreachable.message
    assert unreachable.remedy == "check the address and port, and storage_options"
    assert storage.files.list() == []


def test_credentials_that_travel_are_there_for_the_check_and_only_where_nobody_listens(
    server_of: Callable[[str], Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    server = server_of("s3")
    storage = hr.Storage(server.new_url(), server.storage_options, ship_credentials=True)
    with hr.DaskEnvironment("local", n_workers=1, security=True) as env:
        assert env.check(storage) == []
        until(lambda: not brought(env.client))
    with hr.DaskEnvironment("local", n_workers=1) as env:
        (found,) = env.check(storage)
        assert "encrypted connections only" in found.message


def brought(client: Client) -> object:
    """What a worker has of credentials that travelled."""
    return client.run(lambda: entrusted._KEPT.brought).popitem()[1]


#: As if the process were killed while it checks.
DYING = """
import json, os, sys
from distributed import Client, Security
from headrace.execution import line, supplies
from headrace.storage.spec import StorageSpec

line.SILENCE = supplies.SILENCE = 0.5
address, keys, spec = json.load(sys.stdin)
client = Client(address, security=Security(require_encryption=True, **keys))
with supplies.carried(client, StorageSpec("s3://bucket", "there", spec, ship_credentials=True)):
    os._exit(7)
"""


def test_credentials_do_not_stay_when_who_checks_dies() -> None:
    with hr.DaskEnvironment("local", n_workers=1, security=True) as env:
        env.setup()
        keys = env.client.security.get_tls_config_for_role("client")
        told = (
            env.client.scheduler.address,
            {"tls_ca_file": keys["ca_file"], "tls_client_cert": keys["cert"], "tls_client_key": keys["key"]},
            {"key": "K", "secret": "S"},
        )
        process = subprocess.Popen([sys.executable, "-c", DYING], stdin=subprocess.PIPE, text=True)
        there = []
        assert process.stdin is not None
        process.stdin.write(json.dumps(told))
        process.stdin.close()
        until(lambda: there or there.extend(filter(None, [brought(env.client)])))
        assert process.wait(60) == 7
        until(lambda: not brought(env.client))


def test_parameters_that_are_missing_are_asked_for(team: Crew, storage: hr.Storage) -> None:
    location = stored(storage, modest)
    assert "give parameters" in one(team.check(storage, location), "flow 'modest'", "'n'").remedy
    assert one(team.check(storage, location, {"n": "x"}), "flow 'modest'", "'n'").level == "error"


# -- what costs nothing --------------------------------------------------------------------------------------


def test_warnings_are_told_once_and_runs_are_not_refused_for_them(
    team: Crew, storage: hr.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("headrace.environments.checks.software.ROOM", 1 << 60)  # no disk is as large
    location = stored(storage, secretive)
    with hr.DaskEnvironment(team.address) as env:
        with pytest.warns(PreflightWarning, match="free in") as caught:
            env.setup(storage)
        assert len(caught) == 1
        env.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            env.setup(storage)
            env.check(storage, location)


def test_a_run_asks_nobody_but_for_places_that_are_new(storage: hr.Storage, tmp_path: Path) -> None:
    kept = stored(storage, keeping(hr.Target(f"{tmp_path}/{{x}}.json")))
    plain = stored(storage, modest)
    with hr.DaskEnvironment("local", n_workers=1, processes=False) as env:
        env.setup(storage)
        asked, really = [], env._inspection.site.ask

        def ask(function, *args, of=None):
            asked.append(function.__name__)
            return really(function, *args, of=of)

        env._inspection.site.ask = ask
        assert env.execute(storage, plain, {"n": 2}).result() == [0, 1]
        assert asked == []
        for x in range(2):
            assert env.execute(storage, kept, {"x": x}).result() == x
        assert asked == ["leave", "collect"]


def test_in_this_process_all_is_well(storage: hr.Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SEED_TOKEN", raising=False)
    location = stored(storage, secretive)
    env = hr.LocalEnvironment()
    assert one(env.check(storage, location), "secret 'SEED_TOKEN'", "is not known on this process").level == "error"
    monkeypatch.setenv("SEED_TOKEN", "a-token")
    assert env.check(storage, location) == env.check(storage) == []
    assert env.check(hr.Storage("memory://here")) == []
    assert "no flow 'nothing'" in env.check(storage, "nothing")[0].message


def told(**facts: object) -> Told:
    usual = {"python": "3.11.7", "loaded": {}, "errors": {}, "packages": {}, "time": 100.0, "folder": "/", "host": "h"}
    return Told({"tcp://a": {**usual, "free": None, **facts}}, {}, 99.0, 101.0)


@pytest.mark.parametrize(
    ("time", "found"), [(94.5, []), (105.9, []), (93.0, ["6 s behind"]), (108.0, ["7 s ahead of"])]
)
def test_a_slow_network_is_no_wrong_clock(time: float, found: list[str]) -> None:
    mine = told().facts["tcp://a"]
    messages = [each.message for each in about_cluster(mine, told(time=time))]
    assert [words in message for words, message in zip(found, messages, strict=True)] == [True] * len(found)


@pytest.mark.parametrize("has", ["1.0", "1.0.0", "1"])
def test_versions_are_compared_as_versions(has: str) -> None:
    assert about_packages({"Some.Pack": "1.0"}, told(packages={"some-pack": has})) == []
    assert about_packages({"Some.Pack": None}, told(packages={"some-pack": has})) == []


def test_who_does_not_tell_of_itself_is_named() -> None:
    mine = told().facts["tcp://a"]
    (found,) = about_cluster(mine, told()._replace(silent={"tcp://b": "OSError: gone"}))
    assert found.subject == "tcp://b"
    assert "OSError: gone" in found.message


class Hanging(Here):
    """Workers that do not answer."""

    def ask(self, function, *args, of=None):
        raise SetupError("no answer")


def test_nothing_stays_where_a_check_was_broken_off(tmp_path):
    place = Place("storage", StorageSpec(f"file://{tmp_path}"))
    with pytest.raises(SetupError, match="no answer"):
        visit(place, Hanging(), ["tcp://a:1"])
    assert list(tmp_path.iterdir()) == []
