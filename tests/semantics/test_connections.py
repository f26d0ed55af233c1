"""What a connection to the scheduler that breaks must not change."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
import threading
import time
from collections import Counter
from textwrap import dedent

import numpy as np
import pytest
from distributed import Client

import headrace as hr
from headrace.execution import line
from headrace.execution.scheduler import RunsPlugin
from headrace.execution.switchboard import OVER, TOPIC, Switchboard
from headrace.execution.worker import PROCESS
from tests.clusters import local_cluster
from tests.proxies import Proxy, proxy_before
from tests.waiting import until

RAN: Counter[str] = Counter()  # the workers are threads of this process
GO = threading.Event()


@pytest.fixture(scope="module")
def cluster():
    with local_cluster(n_workers=2, threads_per_worker=1, protocol="tcp", silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def proxy(cluster):
    RAN.clear()
    GO.clear()
    with proxy_before(cluster.scheduler_address) as proxy:
        yield proxy
    GO.set()


@pytest.fixture
def client(proxy):
    with Client(f"tcp://{proxy.address}", set_as_default=False) as client:
        yield client


def known(cluster):
    return cluster.scheduler.plugins[RunsPlugin.name].switchboard.runs


def traces(cluster):
    """What the scheduler has of runs: it forgets their names, their drivers and their keys one after the other."""
    scheduler = cluster.scheduler
    drivers = [name for name in list(scheduler.clients) if name.startswith(TOPIC)]
    return [*known(cluster), *drivers, *(key for key in list(scheduler.tasks) if "-hr-" in str(key))]


@hr.task
def nap(i):
    RAN[f"nap {i}"] += 1
    time.sleep(0.04)
    return i


@hr.task
def total(parts):
    RAN["total"] += 1
    return sum(parts)


@hr.flow
def naps(n: int = 60):
    return total(nap.map(range(n)))


class Trouble(hr.Observer):
    """Does something to the connection, each time that so many more tasks are done."""

    def __init__(self, act, every=10, times=1):
        self.act = act
        self.every = every
        self.left = times
        self.next = every

    def on_progress(self, summaries, elapsed):
        if self.left and sum(summary.done for summary in summaries) >= self.next:
            self.left -= 1
            self.next += self.every
            self.act()


def down_for(proxy: Proxy, seconds: float):
    def up():
        proxy.down = False

    def act():
        proxy.down = True
        proxy.cut()
        threading.Timer(seconds, up).start()

    return act


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_what_has_ended_is_not_executed_again(proxy, client, seconds):
    trouble = Trouble(down_for(proxy, seconds), every=12, times=3)
    run = naps.run(environment=hr.DaskEnvironment(client), observers=[trouble])
    assert not trouble.left
    assert run.result() == sum(range(60))
    assert set(RAN.values()) == {1}


def test_reports_that_were_on_their_way_are_told_again(proxy, client, monkeypatch):
    """All goes on while the driver hears nothing, and does not know it."""
    monkeypatch.setattr(line, "SILENCE", 1.0)
    trouble = Trouble(proxy.freeze)
    run = naps.run(environment=hr.DaskEnvironment(client), observers=[trouble])
    assert not trouble.left
    assert run.result() == sum(range(60))
    assert set(RAN.values()) == {1}


@hr.task
def wait_long(i):
    RAN["wait_long"] += 1
    GO.wait(60)
    return i


@hr.flow
def waiting():
    return total(wait_long.map(range(2)))


def test_a_scheduler_that_stays_away_is_an_error_and_what_it_held_goes(proxy, client, cluster, monkeypatch):
    monkeypatch.setattr(line, "SILENCE", 0.2)
    lost = []

    def lose():
        until(lambda: RAN["wait_long"])
        lost.append(time.monotonic())
        proxy.down = True
        proxy.cut()

    threading.Thread(target=lose).start()
    with pytest.raises(hr.errors.ClusterLost, match=r"out of reach for 1 s.*\n?.*reconnect=SECONDS"):
        waiting.run(environment=hr.DaskEnvironment(client, reconnect=1.0))
    assert 1 < time.monotonic() - lost[0] < 30
    until(lambda: not traces(cluster))
    until(lambda: not PROCESS.plans)


def test_who_interrupts_a_run_that_is_cut_off_need_not_wait(proxy, client):
    def cut_and_interrupt():
        proxy.down = True
        proxy.cut()
        until(lambda: client.status == "connecting")
        raise KeyboardInterrupt

    trouble = Trouble(cut_and_interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        naps.run(environment=hr.DaskEnvironment(client), observers=[trouble])
    assert time.monotonic() - began < 30  # and not the 60 s for which it would wait by itself
    proxy.down = False
    until(lambda: client.status == "running")


@hr.task
def make(i):
    RAN["make"] += 1
    return np.full(100_000, i)


@hr.flow
def arrays():
    return make.map(range(4))


def test_values_are_there_when_the_connection_is_back_after_the_run(proxy, client, cluster):
    run = arrays.run(environment=hr.DaskEnvironment(client))
    proxy.down = True
    proxy.cut()
    until(lambda: client.status == "connecting")
    threading.Timer(0.5, setattr, (proxy, "down", False)).start()
    assert [array[0] for array in run.result()] == [0, 1, 2, 3]
    assert run["make"][2].result()[0] == 2
    assert RAN["make"] == 4
    del run
    gc.collect()
    until(lambda: not traces(cluster))


def test_values_that_were_not_waited_for_are_told_so(proxy, client, cluster, monkeypatch):
    monkeypatch.setattr(line, "SILENCE", 0.1)
    run = arrays.run(environment=hr.DaskEnvironment(client, reconnect=0.1))
    proxy.down = True
    proxy.cut()
    until(lambda: not known(cluster))
    proxy.down = False
    with pytest.raises(hr.errors.ValueReleased):
        run.result()


def test_a_run_may_begin_while_the_connection_is_down(proxy, client):
    environment = hr.DaskEnvironment(client)
    environment.setup()
    proxy.down = True
    proxy.cut()
    until(lambda: client.status == "connecting")
    threading.Timer(0.5, setattr, (proxy, "down", False)).start()
    assert naps.run(environment=environment, n=4).result() == 6


LARGE = np.ones(300_000)


@hr.task
def weigh(i, large):
    RAN[f"weigh {i}"] += 1
    time.sleep(0.05)
    return float(large.sum()) * i


@hr.flow
def with_constant():
    return total(weigh.map(range(20), hr.unmapped(LARGE)))


def test_constants_are_there_when_the_connection_is_back(proxy, client):
    trouble = Trouble(down_for(proxy, 0.3), every=5, times=2)
    run = with_constant.run(environment=hr.DaskEnvironment(client), observers=[trouble])
    assert not trouble.left
    assert run.result() == 300_000 * sum(range(20))
    assert set(RAN.values()) == {1}


# -- what else a scheduler knows of drivers ------------------------------------------------------------------------


def in_memory(flow, name):
    """The flow in a storage of its own."""
    storage = hr.Storage(f"memory://{name}")
    location = storage.add_flow(flow)
    storage.build()
    return storage, location


def broken(proxy, client):
    """Break the connection, and wait for the next."""
    before = client.scheduler_comm
    proxy.cut()
    until(lambda: client.status == "running" and client.scheduler_comm not in (None, before))


def test_a_connection_that_breaks_is_no_error_in_dasks_log(proxy, client, caplog):
    run = arrays.run(environment=hr.DaskEnvironment(client))
    logger = logging.getLogger("distributed.scheduler")
    logger.addHandler(caplog.handler)
    try:
        broken(proxy, client)
    finally:
        logger.removeHandler(caplog.handler)
    assert [array[0] for array in run.result()] == [0, 1, 2, 3]
    told = [record for record in caplog.records if record.name == logger.name]
    assert not [record for record in told if record.levelno >= logging.ERROR]


def test_runs_whose_ids_resemble_each_other_let_go_of_their_own_only(proxy, client, cluster):
    environment = hr.DaskEnvironment(client)
    runs = [environment.execute(*in_memory(arrays, f"alike{run_id}"), run_id=run_id) for run_id in ("a", "a-1", "1")]
    broken(proxy, client)
    for run in runs:
        assert [array[0] for array in run.result()] == [0, 1, 2, 3]
        there = {key.partition("-hr-")[2].rpartition("-")[0] for key in map(str, list(cluster.scheduler.tasks))}
        assert there.issuperset({"a", "a-1", "1"})


def test_another_run_of_the_same_id_is_refused_and_disturbs_nobody(client):
    environment = hr.DaskEnvironment(client)
    run = environment.execute(*in_memory(arrays, "first"), run_id="same")
    with pytest.raises(hr.errors.RunError, match=r"another run of the id 'same'.*del run"):
        environment.execute(*in_memory(arrays, "second"), run_id="same")
    assert [array[0] for array in run.result()] == [0, 1, 2, 3]
    del run
    gc.collect()
    until(lambda: f"{TOPIC}same" not in client._event_handlers)
    assert environment.execute(*in_memory(naps, "third"), {"n": 2}, run_id="same").result() == 1


def test_a_run_whose_introduction_was_never_answered_is_forgotten(proxy, client, cluster, monkeypatch):
    """Else the scheduler would wait for its driver, and never be idle, for as long as the client lives."""
    opened, open_run = threading.Event(), Switchboard.open

    def cut_off(self, *told):
        proxy.down = True
        proxy.cut()
        open_run(self, *told)
        opened.set()

    monkeypatch.setattr(Switchboard, "open", cut_off)
    with pytest.raises(hr.errors.ClusterLost, match=r"out of reach for 0\.5 s"):
        naps.run(environment=hr.DaskEnvironment(client, reconnect=0.5))
    assert opened.is_set()
    assert known(cluster)
    proxy.down = False
    until(lambda: not known(cluster))


def test_no_handler_stays_when_the_last_event_is_never_told(client, monkeypatch):
    async def nothing(self):
        """As if the run were forgotten first."""

    monkeypatch.setattr(line.Line, "_close", nothing)
    run = arrays.run(environment=hr.DaskEnvironment(client))
    topic = f"{TOPIC}{run.run_id}"
    assert topic in client._event_handlers
    del run
    gc.collect()
    until(lambda: topic not in client._event_handlers)


def test_dask_does_not_complain_of_a_last_event_that_nobody_hears(client, cluster, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("distributed.client"), "handlers", [caplog.handler])
    told, tell = threading.Event(), Switchboard._tell

    def late(self, name, driver, number, what):
        """Tell the last event a while after the run was forgotten."""
        if what == OVER:
            self.scheduler.loop.call_later(0.3, lambda: (tell(self, name, driver, number, what), told.set()))
        else:
            tell(self, name, driver, number, what)

    monkeypatch.setattr(Switchboard, "_tell", late)
    run = hr.DaskEnvironment(client).execute(*in_memory(arrays, "late"))
    topic = f"{TOPIC}{run.run_id}"
    del run
    gc.collect()
    assert told.wait(30)
    heard = []
    client.subscribe_topic("later", heard.append)
    # Told again, as the scheduler may hear of it sooner than of who listens.
    until(lambda: client.log_event("later", "than all that was told before") or heard)
    assert topic not in client._event_handlers
    assert "No event handler" not in caplog.text


def test_a_process_that_ends_says_good_bye(cluster, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        dedent(f"""
            import headrace as hr
            import numpy as np

            @hr.task
            def make(i):
                return np.full(100_000, i)

            @hr.flow
            def arrays():
                return make.map(range(4))

            run = arrays.run(environment=hr.DaskEnvironment({cluster.scheduler_address!r}))
            """)
    )
    subprocess.run([sys.executable, script], check=True, timeout=100)
    until(lambda: not traces(cluster))  # much sooner than a driver that is cut off
