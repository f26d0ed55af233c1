"""The machine, message by message: what the simulation cannot force, or would only meet by luck."""

from __future__ import annotations

from array import array

import pytest

import headrace as hr
from headrace.core.events import (
    CancelRequested,
    Dispatch,
    Ended,
    Exceptional,
    Failure,
    HandedBack,
    Input,
    Loss,
    Lost,
    Release,
    Resized,
    Size,
    Stop,
    Vanished,
    Wake,
)
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.noderun import NO_BATCH
from headrace.core.planning import make_plan
from headrace.core.state import State
from headrace.core.strips import Strip, count, runs
from headrace.errors import FlowError

FAILURE = Failure("builtins.ValueError", "no")


@hr.task
def t(*values):
    return 1


@hr.task(trigger="all_finished")
def always(*values):
    return 1


def machine_of(function, threads=1) -> RunMachine:
    return RunMachine(make_plan(draw("f", function, {})), threads)


def orders(commands) -> list[Dispatch]:
    return [command for command in commands if isinstance(command, Dispatch)]


def ended(order: Dispatch, *exceptional: Exceptional, seconds: float = 0.0, sizes=(), stop=None) -> Ended:
    stop = count(order.strips) if stop is None else stop
    return Ended(order.batch, stop, array("f", [seconds] * stop), list(exceptional), list(sizes))


def states(machine: RunMachine, node: int) -> list[State]:
    return [State(state) for state in machine.nodes[node].states]


def test_a_chain_is_one_batch():
    machine = machine_of(lambda: t(t(t())))
    (order,) = machine.start(0.0)
    assert order.strips == (Strip((0, 1, 2), 0, 1),)
    assert machine.handle(1.0, [ended(order)]) == []
    assert machine.state is State.SUCCESS


def test_a_map_over_a_map_goes_depth_first_and_is_spread_over_the_threads():
    machine = machine_of(lambda: t.map(t.map(list(range(10)))), threads=2)
    assert [order.strips for order in orders(machine.start(0.0))] == [
        (Strip((0, 1), 0, 5),),
        (Strip((0, 1), 5, 10),),
    ]


def test_a_coarse_task_is_a_batch_of_its_own():
    machine = machine_of(lambda: t.map(list(range(6))), threads=2)
    first, second = machine.start(0.0)
    later = machine.handle(9.0, [HandedBack(first.batch, 1, array("f"), 9.0)])
    assert [count(order.strips) for order in orders(later)] == [1, 1]
    assert states(machine, 0).count(State.RUNNING) == 1 + count(second.strips) + 2


def test_what_is_handed_back_is_dispatched_before_what_comes_later():
    machine = machine_of(lambda: t.map(list(range(4))))
    (first,) = machine.start(0.0)
    (second,) = orders(machine.handle(0.1, [HandedBack(first.batch, 1, array("f"), 0.01)]))
    assert list(runs(second.strips)) == [(0, 1), (0, 2), (0, 3)]
    machine.handle(0.2, [ended(first, stop=1), ended(second)])
    assert machine.state is State.SUCCESS


@pytest.mark.parametrize("again", [0, 1, 2])
def test_repeated_and_late_messages_change_nothing(again):
    machine = machine_of(lambda: t.map(list(range(4))))
    (first,) = machine.start(0.0)
    back = HandedBack(first.batch, 1, array("f"), 0.01)
    (second,) = orders(machine.handle(0.1, [back]))
    machine.handle(0.2, [ended(first, stop=1)])
    late = [back, ended(first, stop=1), Lost(first.batch, Loss.KILLED, FAILURE)]
    assert machine.handle(0.3, [late[again]]) == []
    assert states(machine, 0) == [State.SUCCESS] + [State.RUNNING] * 3
    machine.handle(0.4, [ended(second)])
    assert machine.state is State.SUCCESS


def test_a_second_execution_of_a_batch_may_report_more_than_was_left_to_it():
    machine = machine_of(lambda: t.map(list(range(4))))
    (first,) = machine.start(0.0)
    (second,) = orders(machine.handle(0.1, [HandedBack(first.batch, 1, array("f"), 0.01)]))
    machine.handle(0.2, [ended(first, Exceptional(3, State.FAILED, 1, FAILURE))])
    assert states(machine, 0) == [State.SUCCESS] + [State.RUNNING] * 3
    machine.handle(0.3, [ended(second)])
    assert states(machine, 0) == [State.SUCCESS] * 4


def test_what_takes_an_item_that_there_is_not_needs_no_value_of_the_map():
    machine = machine_of(lambda: t(t.map([1, 2])[5]))
    (first,) = machine.start(0.0)
    second, release = machine.handle(0.1, [ended(first)])
    assert release == Release((first.batch,))
    assert (second.strips, second.inputs) == ((Strip((1,), 0, 1),), ())


def test_one_node_waits_and_its_neighbour_takes_the_value():
    def function():
        a = t()
        return [t(1, upstream=a), t(a)]

    machine = machine_of(function)
    (first,) = machine.start(0.0)
    assert count(first.strips) == 3
    later = orders(machine.handle(0.1, [HandedBack(first.batch, 1, array("f"), 0.0), ended(first, stop=1)]))
    assert {order.inputs for order in later} == {(first.batch,)}


def test_a_delayed_retry_wakes_the_machine_when_it_is_due():
    machine = machine_of(lambda: t(t()))
    (first,) = machine.start(0.0)
    report = ended(first, Exceptional(0, State.RETRYING, 1, FAILURE, 5.0), Exceptional(1, State.PENDING))
    assert machine.handle(1.0, [report]) == [Wake(6.0)]
    assert (states(machine, 0), states(machine, 1)) == ([State.RETRYING], [State.PENDING])
    assert machine.nodes[1].holders[0] == NO_BATCH
    assert machine.handle(5.9, []) == [Wake(6.0)]
    (second,) = machine.handle(6.0, [])
    assert second.attempts == {(0, 0): 1}
    machine.handle(7.0, [ended(second, Exceptional(0, State.SUCCESS, 2))])
    assert machine.nodes[0].attempts == {0: 2}


def test_a_killed_batch_is_split_until_the_culprit_is_alone():
    machine = machine_of(lambda: t.map(list(range(100))), threads=4)
    culprit, now, commands = (0, 37), 0.0, machine.start(0.0)
    live = {order.batch: order for order in orders(commands)}
    for _ in range(1000):
        if machine.finished:
            break
        now += 1.0
        _, order = live.popitem()
        kills = culprit in list(runs(order.strips))
        event = Lost(order.batch, Loss.KILLED, FAILURE) if kills else ended(order, seconds=0.001)
        live |= {new.batch: new for new in orders(machine.handle(now, [event]))}
    assert machine.state is State.FAILED
    assert [child for child, state in enumerate(states(machine, 0)) if state is not State.SUCCESS] == [37]
    assert states(machine, 0)[37] is State.CRASHED
    assert machine.nodes[0].failures == {37: FAILURE}


def test_a_value_that_cannot_be_made_again_ends_the_run_and_is_told():
    machine = machine_of(lambda: t(t.map([1, 2])), threads=2)
    first, other = machine.start(0.0)
    machine.handle(1.0, [ended(first)])
    (waits,) = orders(machine.handle(2.0, [ended(other)]))
    (again,) = orders(machine.handle(3.0, [Vanished(first.batch)]))
    assert list(runs(again.strips)) == [(0, 0)]
    for now in (4.0, 5.0):
        (again,) = orders(machine.handle(now, [Lost(again.batch, Loss.KILLED, FAILURE)]))
    assert machine.state is State.RUNNING
    machine.handle(6.0, [Lost(again.batch, Loss.KILLED, FAILURE)])
    machine.handle(6.1, [Lost(waits.batch, Loss.DROPPED, FAILURE)])
    assert machine.state is State.CRASHED
    assert machine.trouble == (0, 0)
    assert machine.nodes[0].failures == {0: FAILURE}


def test_a_batch_that_is_lost_without_a_death_is_not_tried_again():
    machine = machine_of(lambda: always(t.map([1, 2])), threads=1)
    (first,) = machine.start(0.0)
    only_map = HandedBack(first.batch, 2, array("f"), 0.0)
    machine.handle(0.1, [only_map])
    (second,) = orders(machine.handle(0.2, [Lost(first.batch, Loss.BROKEN, FAILURE)]))
    assert states(machine, 0) == [State.CRASHED] * 2
    assert second.inputs == ()  # nobody holds a value of what was lost
    assert second.outside == (Input(0, 0, State.CRASHED), Input(0, 1, State.CRASHED))
    machine.handle(0.3, [ended(second)])
    assert machine.state is State.SUCCESS


def test_more_threads_get_more_batches():
    machine = machine_of(lambda: t.map(list(range(8))))
    (first,) = machine.start(0.0)
    machine.handle(1.0, [HandedBack(first.batch, 1, array("f"), 1.0)])
    more = orders(machine.handle(1.1, [Resized(4)]))
    assert len(more) == 6
    assert len(machine.dispatcher.batches) == 8


@pytest.mark.parametrize(
    ("sizes", "told"),
    [
        ([Size(0, 0, 2), Size(1, 0, 3)], "different lengths: \\[2, 3\\]"),
        ([Size(0, 0, 2), Size(1, 0, -1)], "maps over the value of 't-2', which is not a sequence"),
    ],
)
def test_maps_that_cannot_be_are_failures_with_a_reason(sizes, told):
    machine = machine_of(lambda: t.map(t(), t()))
    (first,) = machine.start(0.0)
    machine.handle(1.0, [ended(first, sizes=sizes)])
    assert machine.state is State.FAILED
    with pytest.raises(hr.errors.FlowError, match=told):
        raise machine.nodes[2].failures[0].exception


def test_a_cancel_stops_what_is_live_and_settles_the_rest():
    machine = machine_of(lambda: t.map(t(t.map([1, 2, 3]))), threads=2)
    first, second = machine.start(0.0)
    machine.handle(0.1, [ended(first)])
    stop, release, *_ = machine.handle(0.2, [CancelRequested()])
    assert (stop, release) == (Stop((second.batch,)), Release((first.batch,)))
    machine.handle(0.25, [Ended(second.batch, 0, array("f"))])
    assert machine.state is State.CANCELLED
    assert {state for node in range(3) for state in states(machine, node)} == {State.SUCCESS, State.CANCELLED}
    assert machine.handle(0.3, [CancelRequested(), ended(second)]) == []


def test_a_cancel_before_the_start():
    machine = machine_of(t)
    assert machine.handle(0.0, [CancelRequested()]) == []
    assert machine.state is State.CANCELLED


def test_summaries_count():
    machine = machine_of(lambda: t(t.map([1, 2, 3])))
    (first,) = machine.start(0.0)
    summary = machine.summaries()[0]
    assert (summary.name, summary.width, summary.done, summary.state) == ("t", 3, 0, State.RUNNING)
    machine.handle(1.0, [ended(first, Exceptional(1, State.FAILED, 1, FAILURE), Exceptional(3, State.TRIGGER_FAILED))])
    mapped, reduced = machine.summaries()
    assert mapped.counts == {State.SUCCESS: 2, State.FAILED: 1}
    assert (mapped.state, mapped.failures, reduced.state) == (State.FAILED, 1, State.TRIGGER_FAILED)


def test_tasks_of_different_placements_go_apart_and_by_priority():
    gpu = t.with_options(resources={"GPU": 1})
    urgent = t.with_options(priority=1)

    def function():
        first = t.map([1, 2])
        return gpu.map(first), urgent.map([1, 2]), t.map(first)

    machine = RunMachine(make_plan(draw("f", function, {})), threads=2)
    orders = [command for command in machine.start(0.0) if isinstance(command, Dispatch)]
    placements = [{machine.nodes[node].placement for strip in order.strips for node in strip.nodes} for order in orders]
    assert all(len(some) == 1 for some in placements)
    (first,), (second,) = placements[0], placements[-1]
    assert (first.priority, second.priority) == (1, 0)
    assert {placement for some in placements for placement in some} == {first, second}  # nothing for the GPU is ready


@pytest.mark.parametrize(
    "options",
    [{"resources": {"GPU": 0}}, {"resources": ["GPU"]}, {"workers": [1]}, {"workers": {"a": 1}}, {"priority": 0.5}],
)
def test_placements_that_cannot_be_are_refused(options):
    with pytest.raises(FlowError, match=next(iter(options))):
        t.with_options(**options)


@pytest.mark.parametrize("follow", [True, False], ids=["and a sum", "and nothing"])
@pytest.mark.parametrize(("seconds", "alone"), [(1e-4, True), (1e-3, False)])
def test_what_is_done_before_a_round_trip_goes_out_as_one_batch(seconds, alone, follow):
    machine = RunMachine(make_plan(draw("f", lambda: t(t.map([1] * 60)) if follow else t.map([1] * 60), {})), threads=2)
    machine.costs.prior = {0: seconds}
    assert (len(orders(machine.start(0.0))) == 1) is alone
