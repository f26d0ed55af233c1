"""What runs must not leave on a cluster, and what a run must not keep on it."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections import deque

import pytest
from dask.sizeof import sizeof
from distributed import Client

import headrace as hr
from headrace import pickling
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.execution.dask import DaskExecutor
from headrace.execution.scheduler import RunsPlugin
from headrace.execution.switchboard import TOPIC
from headrace.execution.worker import PROCESS
from tests.clusters import local_cluster
from tests.waiting import until

RUNS = 50
NAMES = {"make", "odd_fails", "nap", "total", "map_len", "headrace", "int"}  # the last two: what fetches, what checks


@hr.task
def make(i):
    return [i] * 100


@hr.task
def odd_fails(values):
    if values[0] % 2:
        raise ValueError("odd")
    return len(values)


@hr.task
def nap(i):
    time.sleep(0.2)
    return i


@hr.task
def total(values):
    return sum(values)


@hr.flow
def right(n: int = 20):
    return total(map_len.map(make.map(range(n))))


@hr.task
def map_len(values):
    return len(values)


@hr.flow
def wrong(n: int = 20):
    return total(odd_fails.map(make.map(range(n))))


@hr.flow
def long(n: int = 40):
    return total(nap.map(range(n)))


class Interrupt(hr.Observer):
    """An observer with whom somebody presses Ctrl-C as soon as tasks run."""

    def on_progress(self, summaries, elapsed):
        if any(summary.counts.get(hr.State.RUNNING) for summary in summaries):
            raise KeyboardInterrupt


def on_scheduler(dask_scheduler):
    return {
        "tasks": len(dask_scheduler.tasks),
        # Dask keeps one for each name of a node that a batch began with.
        "prefixes": {name for name in dask_scheduler.task_prefixes if name.partition("-")[0] not in NAMES},
        "groups": len(dask_scheduler.task_groups),
        "wanted": {client: len(state.wants_what) for client, state in dask_scheduler.clients.items()},
        "topics": len(dask_scheduler._broker._topics),
        "runs": len(runs_of(dask_scheduler)),
        "worker plugins": len(dask_scheduler.worker_plugins),
        "plugins": len(dask_scheduler.plugins),
    }


def runs_of(dask_scheduler):
    return dask_scheduler.plugins[RunsPlugin.name].switchboard.runs if RunsPlugin.name in dask_scheduler.plugins else {}


def waits_for_reports(dask_scheduler):
    topics = [topic for topic in dask_scheduler._broker._topics if topic.startswith(TOPIC)]
    return topics or any(not driver.over or driver.reports for driver in runs_of(dask_scheduler).values())


def on_worker(dask_worker):
    gc.collect()
    return {
        "data": len(dask_worker.data),
        "tasks": len(dask_worker.state.tasks),
        "plugins": len(dask_worker.plugins),
        "plans": len(PROCESS.plans),
        "users": len(PROCESS.users),
        "shelf": len(PROCESS.kept._values),
        "room": PROCESS.kept._total,
        "threads": threading.active_count(),
    }


#: Threads of other tests, which may end meanwhile.
OTHERS: set[threading.Thread] = set()


def in_driver(client):
    gc.collect()
    return {
        "futures": len(client.futures),
        "handlers": len(client._event_handlers),
        "executors": sum(type(thing) is DaskExecutor and thing.client is client for thing in gc.get_objects()),
        "threads": len(set(threading.enumerate()) - OTHERS),
    }


def census(client):
    return {
        "scheduler": client.run_on_scheduler(on_scheduler),
        "driver": in_driver(client),
        **client.run(on_worker),
    }


#: What there is nothing of when no run is going on or kept; of the rest there is as much as before.
OF_RUNS = {"tasks", "groups", "runs", "data", "plans", "users", "shelf", "room", "futures", "executors"}


def differences(before, after):
    """What is there more or less of than there should be: where, what, before, after."""
    return [
        (where, what, before[where][what], number)
        for where, counts in after.items()
        for what, number in counts.items()
        if number != (0 if what in OF_RUNS else before[where][what])
    ]


def one_of_each(environment):
    run = right.run(environment=environment)
    assert run.result() == 2_000
    assert run["make"][3].result() == [3] * 100  # off a shelf
    yield run
    run = wrong.run(environment=environment)
    assert run.state is hr.State.FAILED
    yield run
    with pytest.raises(KeyboardInterrupt):
        long.run(environment=environment, observers=[Interrupt()])


def test_runs_leave_nothing():
    OTHERS.update(threading.enumerate())
    with hr.DaskEnvironment("local", n_workers=2) as environment:
        environment.setup(None)
        client = environment.client
        list(one_of_each(environment))
        # What the first runs made that stays, such as pools of threads, is there once.
        until(lambda: not differences(now := census(client), now)), differences(now := census(client), now)
        before = census(client)
        kept = deque(maxlen=5)  # some runs are dropped at once, some later
        for _ in range(RUNS // 3):
            kept.extend(one_of_each(environment))
        kept.clear()
        until(lambda: not differences(before, census(client))), differences(before, census(client))


def test_a_kept_run_leaves_its_values_only():
    with hr.DaskEnvironment("local", n_workers=1, processes=False) as environment:
        environment.setup(None)
        client = environment.client
        run = right.run(environment=environment)
        until(lambda: not client.run_on_scheduler(waits_for_reports))
        until(lambda: not [topic for topic in client._event_handlers if topic.startswith(TOPIC)])
        assert client.run_on_scheduler(on_scheduler)["tasks"] == 1  # the one that the flow returns
        assert run["make"][7].result() == [7] * 100


def test_a_driver_that_says_good_bye_leaves_nothing():
    plan = make_plan(draw("f", lambda: total(make.map([1, 2])), {}))
    with local_cluster(n_workers=1) as cluster:
        scheduler = cluster.scheduler
        driver = Client(cluster, set_as_default=False)
        DaskExecutor(driver).start("abandoned", pickling.dumps(plan, "a plan"), plan)
        assert "abandoned" in PROCESS.plans
        assert runs_of(scheduler)
        driver.close()
        until(lambda: not runs_of(scheduler))
        until(lambda: "abandoned" not in PROCESS.plans)
        assert not [name for name in scheduler.worker_plugins if name.startswith(TOPIC)]


# -- while a run goes on -------------------------------------------------------------------------------------------

WIDTH, LEVELS, SIZE = 4, 12, 4 << 20


@hr.task
def block(i):
    return bytes(SIZE)


@hr.task
def again(value):
    time.sleep(0.05)
    return bytes(value)


@hr.flow
def chain():
    values = block.map(range(WIDTH))
    for _ in range(LEVELS - 1):
        values = again.map(values)
    return map_len.map(values)


def held(dask_worker):
    return sum(map(sizeof, dask_worker.data.values()))


class Scales(Interrupt):
    """An observer that weighs what the workers hold."""

    def __init__(self, client):
        self.client = client
        self.seen = []

    def on_progress(self, summaries, elapsed):
        self.seen.append(sum(self.client.run(held).values()))


def test_values_are_let_go_of_when_their_last_consumer_is_done():
    with hr.DaskEnvironment("local", n_workers=2, processes=False, threads_per_worker=1) as environment:
        environment.setup(None)
        scales = Scales(environment.client)
        run = chain.run(environment=environment, observers=[scales])
        assert run.result() == [SIZE] * WIDTH
        assert len(scales.seen) > 4
        # A level that is being made, the one that it is made of, and one whose release is on its way; of twelve.
        assert SIZE < max(scales.seen) <= 3 * WIDTH * SIZE
        until(lambda: sum(environment.client.run(held).values()) < SIZE)


@hr.task
def breaks():
    raise ValueError("as ordered")


def test_a_failed_run_that_is_dropped_is_forgotten(dask_place):
    run = hr.flow(lambda: breaks(), name="breaking").run(environment=dask_place)
    assert isinstance(run.error, ValueError)
    dropped = weakref.ref(run)
    del run
    gc.collect()
    assert dropped() is None
