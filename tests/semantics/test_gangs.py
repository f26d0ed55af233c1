"""Flows that are coupled at each step: batches that run at the same time and send each other values."""

import random
import threading
import time

import pytest
from distributed import Client

import headrace as hr
from headrace.core.events import Dispatch
from headrace.execution.dask import DaskExecutor
from headrace.execution.scheduler import MARK, RunsPlugin
from tests.clusters import local_cluster
from tests.semantics.test_kills import Victims, victims  # noqa: F401 - a fixture
from tests.waiting import until

WIDTH, STEPS = 4, 40


def mixed(step, place, *values):
    number = 1
    for value in values:
        number = (31 * number + (value if isinstance(value, int) else len(value))) % 1_000_003
    return number + step * place


@hr.task
def cell(step, place, *values, pause=0.003):
    time.sleep(pause)
    return mixed(step, place, *values)


@hr.task
def large_now_and_then(step, place, *values):
    time.sleep(0.003)
    number = mixed(step, place, *values)
    return bytes((2 << 20) + number) if step % 10 == 5 else number


@hr.task
def fails_once(step, place, *values):
    time.sleep(0.003)
    if (step, place) == (20, 1):
        raise ValueError("here")
    return mixed(step, place, *values)


@hr.task
def slow_once(step, place, *values):
    time.sleep(1.0 if (step, place) == (20, 1) else 0.003)
    return mixed(step, place, *values)


@hr.task
def last(*values):
    return [value if isinstance(value, int) else len(value) for value in values]


def grid(task):
    level = [task(0, place) for place in range(WIDTH)]
    for step in range(1, STEPS):
        level = [task(step, place, *level[max(place - 1, 0) : place + 2]) for place in range(WIDTH)]
    return last(*level)


def flow_of(task):
    @hr.flow(name=f"grid_of_{task.name}")
    def drawn():
        return grid(task)

    return drawn


def expected(of=mixed):
    level = [of(0, place) for place in range(WIDTH)]
    for step in range(1, STEPS):
        level = [of(step, place, *level[max(place - 1, 0) : place + 2]) for place in range(WIDTH)]
    return [value if isinstance(value, int) else len(value) for value in level]


@pytest.fixture
def gangs(monkeypatch):
    """The gangs that were formed."""
    seen = set()
    send = DaskExecutor.send

    def spying(self, commands):
        seen.update(c.links.gang for c in commands if isinstance(c, Dispatch) and c.links is not None)
        send(self, commands)

    monkeypatch.setattr(DaskExecutor, "send", spying)
    return seen


def test_a_coupled_flow_runs_in_gangs(dask_place, gangs):
    run = flow_of(cell).run(environment=dask_place)
    assert run.result() == expected()
    assert gangs


def test_large_values_go_another_way(dask_place, gangs):
    run = flow_of(large_now_and_then).run(environment=dask_place)
    assert run.state is hr.State.SUCCESS
    assert run.result() == expected(
        lambda step, place, *values: (
            bytes((2 << 20) + mixed(step, place, *values)) if step % 10 == 5 else mixed(step, place, *values)
        )
    )
    assert gangs


def test_a_failure_spreads_through_a_gang_as_through_any_batch(dask_place, gangs):
    run = flow_of(fails_once).run(environment=dask_place)
    states = [state for name in run if name.startswith("fails_once") for state in run[name].states]
    # Each step after the failure, one more place to each side waits for what did not come.
    lost = [sum(1 - reach <= place <= 1 + reach for place in range(WIDTH)) for reach in range(1, STEPS - 20)]
    assert states.count(hr.State.FAILED) == 1
    assert states.count(hr.State.TRIGGER_FAILED) == sum(lost)
    assert states.count(hr.State.SUCCESS) == WIDTH * STEPS - 1 - sum(lost)
    assert gangs


def test_nobody_waits_for_a_slow_one_longer_than_the_limit(dask_place, gangs):
    run = flow_of(slow_once).run(environment=dask_place)
    assert run.result() == expected()
    assert gangs


def boxes():
    from headrace.execution.mail import OFFICE

    return len(OFFICE)


def test_nothing_is_left_of_the_mail(dask_place):
    run = flow_of(cell).run(environment=dask_place)
    assert run.result() == expected()
    del run
    until(lambda: set(dask_place.client.run(boxes).values()) == {0})


SEEDS = [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 2 else []) for seed in range(30)]


@pytest.mark.parametrize("seed", SEEDS)
def test_a_gang_survives_the_death_of_one(victims: Victims, seed):  # noqa: F811
    until(lambda: len(victims.pids()) == 2)
    rng = random.Random(seed)
    kill = threading.Timer(rng.uniform(0.1, 0.5), victims.kill, [rng])
    kill.start()
    try:
        run = flow_of(cell).run(environment=victims.environment)
        assert run.state is hr.State.SUCCESS, run.errors
        assert run.result() == expected()
    finally:
        kill.join()


def test_a_batch_whose_seat_is_gone_runs_on_the_first_worker_that_comes():
    with (
        local_cluster(n_workers=0, threads_per_worker=1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(RunsPlugin())
        dead = "tcp://127.0.0.1:1"
        batch = client.submit(int, 7, key=f"cell{MARK}run-0", workers=[dead], allow_other_workers=True)
        until(lambda: cluster.scheduler.unrunnable)
        cluster.scale(1)
        assert batch.result(timeout=30) == 7
