import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

import psutil
import pytest
from distributed import LocalCluster

import headrace as hr
from headrace.environments import addresses
from headrace.environments.addresses import client_of
from headrace.environments.clusters import KINDS
from headrace.environments.encryption import as_security
from headrace.errors import MissingPackage, SetupError
from tests.clusters import LOOPBACK, local_cluster
from tests.environments import flows
from tests.proxies import proxy_before
from tests.waiting import until

HERE = Path(__file__).parent


def children(process=None):
    """Living child processes, but for the helper that Python's multiprocessing keeps for itself."""
    found = (process or psutil.Process()).children(recursive=True)
    return [child for child in found if child.is_running() and "resource_tracker" not in " ".join(_line(child))]


def _line(process):
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def ports(processes):
    """Ports on which processes listen."""
    found = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            found |= {each.laddr for each in process.net_connections() if each.status == psutil.CONN_LISTEN}
    return found


@pytest.fixture
def nothing_left():
    """Check that a test leaves no child process and no listening port."""
    before = {child.pid for child in children()}, ports([psutil.Process()])
    yield
    until(lambda: {child.pid for child in children()} <= before[0])
    until(lambda: ports([psutil.Process()]) <= before[1])


@pytest.fixture
def storage(tmp_path):
    return hr.Storage(tmp_path)


@pytest.mark.usefixtures("nothing_left")
def test_a_cluster_serves_many_runs_and_is_taken_down(storage):
    location = storage.add_flow(flows.doubled)
    with hr.DaskEnvironment("local", n_workers=2) as env:
        env.setup(storage)
        client = env.client
        env.setup(storage)
        assert env.client is client
        assert [env.execute(storage, location, {"n": n}).result() for n in (3, 4)] == [6, 12]
        assert env.client is client
        location = storage.add_flow(flows.processes)
        until(lambda: len(workers := set(env.execute(storage, location).result())) == 2 and os.getpid() not in workers)
    assert env.client is None
    env.close()


@pytest.mark.usefixtures("nothing_left")
def test_set_ups_at_the_same_time_are_one():
    made: ClassVar = []

    class Counted(LocalCluster):
        def __init__(self, **options):
            made.append(self)
            super().__init__(**options)

    with hr.DaskEnvironment(Counted, processes=False, n_workers=1, **LOOPBACK) as environment:
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(lambda _: environment.setup(), range(3)))
        assert len(made) == 1


@pytest.mark.parametrize("processes", [True, False])
@pytest.mark.usefixtures("nothing_left")
def test_it_listens_on_loopback_only(processes):
    before = ports([psutil.Process(), *children()])  # of other tests
    with hr.DaskEnvironment("local", n_workers=1, processes=processes) as env:
        env.setup()
        found = ports([psutil.Process(), *children()]) - before
    assert {address.ip for address in found} == {"127.0.0.1"}


class Stillborn(LocalCluster):
    """A cluster that comes up without workers."""

    def __init__(self, **options):
        super().__init__(**{**options, "n_workers": 0, **LOOPBACK})


@pytest.mark.usefixtures("nothing_left")
def test_nothing_survives_a_failed_setup():
    env = hr.DaskEnvironment(Stillborn, deadline=3, processes=False)
    with pytest.raises(SetupError, match=r"has no worker after 3 s"):
        env.setup()


class Silent(LocalCluster):
    """A cluster whose scheduler does not tell in time of all its workers."""

    def __init__(self, **options):
        super().__init__(**{**options, **LOOPBACK})
        answer = self.scheduler.handlers["identity"]

        async def hesitate(n_workers=-1):
            await asyncio.sleep(60 if n_workers == -1 else 0)
            return answer(n_workers)

        self.scheduler.handlers["identity"] = hesitate


def test_a_scheduler_that_falls_silent_does_not_outlast_the_deadline():
    began = time.monotonic()
    with pytest.raises(SetupError, match=r"did not answer within \S+ s; look whether they hang"):
        hr.DaskEnvironment(Silent, n_workers=1, deadline=4.0, processes=False).setup()
    assert time.monotonic() - began < 30


@pytest.mark.usefixtures("nothing_left")
def test_a_class_that_raises_is_told_as_a_failed_setup():
    with pytest.raises(SetupError, match=r"could not be brought up.*unexpected keyword argument 'moons'"):
        hr.DaskEnvironment("distributed.LocalCluster", moons=2, n_workers=1, processes=False, **LOOPBACK).setup()


@pytest.mark.parametrize("kind", ["distributed.LocalCluster", LocalCluster, "distributed:LocalCluster"])
@pytest.mark.usefixtures("nothing_left")
def test_any_cluster_class(kind, storage):
    with hr.DaskEnvironment(kind, n_workers=1, processes=False, **LOOPBACK) as env:
        assert env.execute(storage, storage.add_flow(flows.doubled)).result() == 90


def test_nobody_answers_at_an_address():
    began = time.monotonic()
    with pytest.raises(SetupError, match=r"no Dask scheduler answers at tcp://127.0.0.1:1 .*check the address"):
        hr.DaskEnvironment("tcp://127.0.0.1:1", deadline=1.0).setup()
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_tunnel_that_is_there_before_its_scheduler(encrypted):
    security = as_security(encrypted)
    options = {"security": security} if encrypted else {"protocol": "tcp"}
    with (
        local_cluster(n_workers=1, **options) as cluster,
        proxy_before(cluster.scheduler_address) as tunnel,
        hr.DaskEnvironment(f"{'tls' if encrypted else 'tcp'}://{tunnel.address}", security=security) as env,
        ThreadPoolExecutor(1) as pool,
    ):
        tunnel.down = True
        setup = pool.submit(env.setup)
        until(lambda: tunnel.broken > 2 or setup.done())
        tunnel.down = False
        setup.result()
        assert env.client.submit(abs, -1).result() == 1


def test_a_tunnel_that_leads_nowhere(monkeypatch):
    monkeypatch.setattr(addresses, "SETTLED", 0.5)
    with proxy_before("tcp://127.0.0.1:1") as tunnel:
        tunnel.down = True
        for protocol, security in (("tcp", None), ("tls", as_security(True))):
            with pytest.raises(
                SetupError, match=rf"no Dask scheduler answers at {protocol}://.*(ConnectionReset|BrokenPipe)Error"
            ):
                hr.DaskEnvironment(f"{protocol}://{tunnel.address}", security=security).setup()
        assert tunnel.broken > 3


@pytest.fixture
def unchecked(monkeypatch):
    """No short talk before Dask's client connects."""
    monkeypatch.setattr(addresses, "check_answers", lambda *args: None)


@pytest.mark.usefixtures("unchecked")
def test_attempts_to_connect_leave_no_threads():
    before = set(threading.enumerate())
    with pytest.raises(OSError, match="Timed out"):
        client_of("tcp://127.0.0.1:1", 0.5)
    assert set(threading.enumerate()) <= before


def test_what_is_wrong_before_it_connects_is_told_as_dask_tells_it():
    with local_cluster(n_workers=0) as cluster:
        pass
    with pytest.raises(RuntimeError, match="already closed or closing"):
        client_of(cluster, 5)


@pytest.mark.usefixtures("unchecked")
def test_ctrl_c_while_it_connects_leaves_no_client():
    """Dask's would close itself at the end of the process, where nothing answers, and wait for minutes."""
    before = set(threading.enumerate())

    def interrupt():
        with mute.accept()[0]:
            os.kill(os.getpid(), signal.SIGINT)

    with socket.create_server(("127.0.0.1", 0)) as mute:  # takes connections, and says nothing
        threading.Thread(target=interrupt).start()
        with pytest.raises(KeyboardInterrupt):
            client_of(f"tcp://127.0.0.1:{mute.getsockname()[1]}", 60)
    until(lambda: set(threading.enumerate()) <= before)


def test_a_scheduler_that_is_gone_is_left_in_silence(caplog):
    with (
        local_cluster(n_workers=1, protocol="tcp") as cluster,
        proxy_before(cluster.scheduler_address) as tunnel,
        hr.DaskEnvironment(f"tcp://{tunnel.address}") as env,
    ):
        env.setup()
        tunnel.down = True
        tunnel.cut()
        until(lambda: tunnel.broken > 1)
        assert env.client.status == "connecting"
    assert not [record for record in caplog.records if record.name == "distributed.client"]


@pytest.mark.parametrize(
    ("kind", "error", "said"),
    [
        ("moon", SetupError, "unknown cluster 'moon': give 'local'"),
        ("127.0.0.1:8786", SetupError, "unknown cluster .* an address like 'tcp://host:8786'"),
        ("scheduler:8786", SetupError, "unknown cluster .* an address like 'tcp://host:8786'"),
        ("dask_moon.MoonCluster", MissingPackage, "pip install dask-moon"),
        ("distributed.MoonCluster", SetupError, "no cluster class 'MoonCluster'"),
    ],
)
def test_an_unknown_cluster_says_what_there_is(kind, error, said):
    with pytest.raises(error, match=said):
        hr.DaskEnvironment(kind).setup()


def test_each_kind_in_the_table_can_be_called():
    assert all(map(callable, KINDS.values()))


def test_a_task_that_kills_its_worker_crashes_alone(storage):
    with hr.DaskEnvironment("local", n_workers=2, silence_logs=50) as env:
        run = env.execute(storage, storage.add_flow(flows.killing))
        states = run["killer"].states
        assert [child for child, state in enumerate(states) if state is not hr.State.SUCCESS] == [5]
        assert states[5] is hr.State.CRASHED
        with pytest.raises(hr.errors.TaskCrashed, match="process that ran it died"):
            run.result()


SCRIPT = """
import sys, time
from pathlib import Path
import headrace as hr

@hr.task
def nap(folder: str) -> None:
    Path(folder, "started").touch()
    time.sleep(600)

@hr.flow
def naps(folder: str):
    return nap(folder)

if __name__ == "__main__":
    with hr.DaskEnvironment("local", n_workers=2) as env:
        storage = hr.Storage(Path(sys.argv[1]) / "storage")
        env.execute(storage, storage.add_flow(naps), {"folder": sys.argv[1]})
"""


def test_nothing_survives_ctrl_c(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until((tmp_path / "started").exists, 60)
        family = children(psutil.Process(process.pid))
        assert family
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group, workers included
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert "KeyboardInterrupt" in said
    until(lambda: not [child for child in family if child.is_running()])
    [record] = hr.Storage(tmp_path / "storage").runs()
    assert record.state == "Cancelled"


def test_a_wrong_option_is_not_taken_for_a_missing_main_guard():
    with pytest.raises(SetupError, match=r"^security= must be"):
        hr.DaskEnvironment("local", security="yes").setup()


def test_a_script_without_a_main_guard_is_told_what_to_do(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("import headrace as hr\nhr.DaskEnvironment('local', n_workers=1, deadline=5).setup()\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=100)
    assert done.returncode != 0
    assert 'if __name__ == "__main__"' in done.stderr


class Slow(LocalCluster):
    """Comes up when it may."""

    begun, go = threading.Event(), threading.Event()
    made: ClassVar = []

    def __init__(self, **options):
        self.begun.set()
        self.go.wait(20)
        super().__init__(n_workers=1, processes=False, **LOOPBACK, **options)
        self.made.append(self)


class Plain:
    """Takes no number of workers, and cannot have so many."""

    made: ClassVar = []

    def __init__(self):
        self.cluster = local_cluster(n_workers=1)
        self.made.append(self.cluster)

    def scale(self, n):
        raise ValueError("too many")

    def close(self):
        self.cluster.close()


@pytest.mark.usefixtures("nothing_left")
def test_a_cluster_that_was_lost_is_taken_down_before_another_takes_its_place():
    with hr.DaskEnvironment("local", n_workers=1, processes=False) as env:
        env.setup()
        lost = env._cluster
        env.client.close()
        env.setup()
        assert env._cluster is not lost
        assert lost.status.name == "closed"
        assert env.client.submit(sum, [1, 2]).result() == 3


@pytest.mark.usefixtures("nothing_left")
def test_what_is_closed_while_it_comes_up_does_not_stay():
    env = hr.DaskEnvironment(Slow)
    with ThreadPoolExecutor(1) as pool:
        setting_up = pool.submit(env.setup)
        assert Slow.begun.wait(20)
        env.close()
        Slow.go.set()
        with pytest.raises(SetupError, match="was closed while it was set up"):
            setting_up.result()
    assert [cluster.status.name for cluster in Slow.made] == ["closed"]
    assert env.client is None


@pytest.mark.usefixtures("nothing_left")
def test_a_cluster_that_cannot_be_scaled_does_not_stay():
    cls = f"{__name__}.Plain"
    with pytest.raises(SetupError, match="ValueError: too many"):
        hr.DaskEnvironment(cls, n_workers=3).setup()
    assert [cluster.status.name for cluster in Plain.made] == ["closed"]


def test_a_client_that_is_closed_is_refused():
    with local_cluster(n_workers=1) as cluster:
        client = cluster.get_client()
        client.close()
        with pytest.raises(SetupError, match="the Client that was given is closed"):
            hr.DaskEnvironment(client).setup()


@pytest.mark.usefixtures("nothing_left")
@pytest.mark.parametrize("broken", ["_scaler", "_client"])
def test_ctrl_c_while_it_is_closed_leaves_no_cluster(broken, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    env = hr.DaskEnvironment("local", adapt=(1, 1), processes=False)
    env.setup()
    part, cluster = getattr(env, broken), env._cluster
    close = part.close
    monkeypatch.setattr(part, "close", interrupted)
    with pytest.raises(KeyboardInterrupt):
        env.close()
    assert cluster.status.name == "closed"
    close()
