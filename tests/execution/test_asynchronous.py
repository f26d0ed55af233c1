"""Coroutines of a batch: they wait together, and are claimed, cancelled and counted as they should."""

from __future__ import annotations

import asyncio
import threading
from time import perf_counter

import pytest

import headrace as hr
from headrace.core.events import Dispatch, HandedBack
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.state import State
from headrace.core.strips import Strip, count
from headrace.execution import asynchronous
from headrace.execution.asynchronous import AsyncExecution, execution_of
from headrace.execution.batch import LARGE, Execution
from headrace.execution.interrupt import Control
from headrace.execution.loaded import LoadedPlan
from headrace.execution.watchdog import give_back, watched


class Stopped(BaseException):
    """Stands for a Ctrl-C."""


def execution(function, *strips, size_of=None, send=None, **order) -> Execution:
    plan = LoadedPlan(make_plan(draw("f", function, {})))
    dispatch = Dispatch(0, tuple(Strip(*strip) for strip in strips), **order)
    control = Control(dispatch, send or (lambda event: None))
    return execution_of(plan, dispatch)(plan, dispatch, {}, control, size_of, interrupts=(Stopped,))


@hr.task
async def nap(x, seconds=0.2):
    await asyncio.sleep(seconds)
    return x


@hr.task
async def forever(started):
    started.append(1)
    await asyncio.Event().wait()


@hr.task
def plain(x):
    return x


def test_a_batch_without_coroutines_needs_no_loop():
    assert type(execution(lambda: plain(nap(1)), ((1,), 0, 1))) is Execution
    assert type(execution(lambda: plain(1), ((0,), 0, 1))) is Execution
    assert type(execution(lambda: plain(nap(1)), ((0, 1), 0, 1))) is AsyncExecution


def test_a_hundred_children_wait_together_and_their_waiting_costs_nothing():
    run = execution(lambda: nap.map(range(100)), ((0,), 0, 100))
    began = perf_counter()
    ended = run.run()
    assert perf_counter() - began < 10  # 20 one after the other
    assert ended.stop == len(ended.seconds) == 100
    assert 0 < sum(ended.seconds) < 10
    assert run.kept() == {0: dict(enumerate(range(100)))}


def test_columns_go_depth_first():
    log = []

    @hr.task
    async def first(x):
        await asyncio.sleep(0.001 if x else 0.1)
        return x

    @hr.task
    def second(x):
        log.append(x)

    execution(lambda: second.map(first.map([0, 1, 2])), ((0, 1), 0, 3)).run()
    assert log[-1] == 0  # the others did not wait for the first


def test_what_needs_a_value_waits_for_it():
    @hr.task
    def total(xs):
        return sum(xs)

    run = execution(
        lambda: nap(total(nap.map(range(3), hr.unmapped(0.01))), 0), ((0,), 0, 3), ((1, 2), 0, 1), widths={0: 3}
    )
    run.run()
    assert run.kept()[2] == {0: 3}


def test_no_more_at_once_than_is_allowed(monkeypatch):
    monkeypatch.setattr(asynchronous, "MOST_AT_ONCE", 3)
    now, most = [], []

    @hr.task
    async def count_me(x):
        now.append(x)
        most.append(len(now))
        await asyncio.sleep(0.002)
        now.remove(x)

    execution(lambda: count_me.map(range(10)), ((0,), 0, 10)).run()
    assert max(most) == 3


def test_what_is_claimed_is_not_given_back_and_the_rest_is(monkeypatch):
    monkeypatch.setattr(asynchronous, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(asynchronous, "AHEAD", 5)
    events = []

    @hr.task
    async def slow(x):
        if x == 2:
            give_back(run.control)
        await asyncio.sleep(0.001)
        return x

    run = execution(lambda: slow.map(range(20)), ((0,), 0, 20), send=events.append)
    ended = run.run()
    (back,) = events
    assert isinstance(back, HandedBack)
    assert ended.stop == back.stop == len(ended.seconds)
    assert 5 <= ended.stop < 20
    assert sorted(run.kept()[0]) == list(range(ended.stop))


def test_a_hand_back_tells_of_time_that_was_spent_and_not_of_waiting(monkeypatch):
    monkeypatch.setattr(asynchronous, "MOST_AT_ONCE", 1)
    monkeypatch.setattr(asynchronous, "AHEAD", 1)
    events = []
    run = execution(lambda: nap.map(range(5)), ((0,), 0, 5), send=events.append)
    thread = threading.Thread(target=run.run)
    thread.start()
    while not run.control.busy:
        thread.join(0.001)
    give_back(run.control)
    thread.join()
    assert 0 < events[0].current < 0.1


def test_a_batch_of_large_values_ends_early_and_gives_back_what_it_had_claimed():
    @hr.task
    async def large(x):
        await asyncio.sleep(0.001 * x)
        return bytes(LARGE // 2)

    run = execution(lambda: large.map(range(1000)), ((0,), 0, 1000), size_of=len)
    ended = run.run()
    assert ended.stop == len(ended.seconds) < 1000
    assert sorted(run.kept()[0]) == list(range(ended.stop))


def test_a_stopped_batch_cancels_its_coroutines():
    started = []
    run = execution(lambda: forever.map([started] * 3), ((0,), 0, 3))
    ended = []
    thread = threading.Thread(target=lambda: ended.append(watched(run)))
    thread.start()
    while not started:
        thread.join(0.001)
    run.control.end()
    thread.join(20)
    assert [entry.state for entry in ended[0].exceptional] == [State.CANCELLED] * 3
    assert ended[0].stop == len(ended[0].seconds) == 3


def test_a_batch_that_is_stopped_before_it_starts_starts_nothing():
    started = []
    run = execution(lambda: forever.map([started] * 3), ((0,), 0, 3))
    run.control.end()
    run.cancel()
    ended = run.run()
    assert (ended.stop, list(ended.seconds), started) == (0, [], [])


def test_it_runs_where_a_loop_runs_already():
    run = execution(lambda: nap.map([1, 2], hr.unmapped(0.001)), ((0,), 0, 2))

    async def main():
        return run.run()

    assert asyncio.run(main()).stop == 2
    assert run.kept() == {0: {0: 1, 1: 2}}


@pytest.mark.parametrize("looped", [False, True])
def test_an_interruption_is_not_a_failure(looped):
    @hr.task
    async def interrupted(x):
        await asyncio.sleep(0)
        raise Stopped

    run = execution(lambda: interrupted.map(range(3)), ((0,), 0, 3))

    async def main():
        run.run()

    with pytest.raises(Stopped):
        asyncio.run(main()) if looped else run.run()


def test_what_a_coroutine_left_behind_is_ended_with_the_batch():
    told = []

    async def background():
        try:
            await asyncio.Event().wait()
        finally:
            told.append("ended")

    @hr.task
    async def leaves(x):
        leaves.kept = asyncio.create_task(background())
        await asyncio.sleep(0)
        return x

    execution(lambda: leaves(1), ((0,), 0, 1)).run()
    assert told == ["ended"]


# -- batches of them ---------------------------------------------------------------------------------------------


def machine_of(function, **costs):
    machine = RunMachine(make_plan(draw("f", function, {})), threads=2)
    by_name = {task.name: number for number, task in enumerate(machine.plan.tasks)}
    machine.costs.prior = {by_name[name]: seconds for name, seconds in costs.items()}
    return machine


def test_unknown_coroutines_are_shared_between_threads():
    commands = machine_of(lambda: nap.map(range(100))).start(0.0)
    assert [count(command.strips) for command in commands] == [50, 50]


def test_what_computes_for_long_goes_apart_from_what_waits():
    orders = machine_of(lambda: plain.map(nap.map(range(100))), nap=1e-4, plain=0.05).start(0.0)
    assert {strip.nodes for order in orders for strip in order.strips} == {(0,)}
    orders = machine_of(lambda: plain.map(nap.map(range(100))), nap=1e-4, plain=1e-5).start(0.0)
    assert {strip.nodes for order in orders for strip in order.strips} == {(0, 1)}


def test_no_gang_holds_a_coroutine():
    def coupled(task):
        row = [task(x) for x in range(4)]
        for _ in range(20):
            row = [task(left, right) for left, right in zip(row, row[1:] + row[:1], strict=True)]
        return row

    @hr.task
    def step(x, y=0):
        return x + y

    @hr.task
    async def async_step(x, y=0):
        return x + y

    for task, linked in ((step, True), (async_step, False)):
        machine = machine_of(lambda task=task: coupled(task), **{task.name: 0.002})
        assert any(order.links for order in machine.start(0.0)) is linked
