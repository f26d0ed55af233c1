from __future__ import annotations

from array import array

import pytest

from headrace.core.ending import GRACE, STOPPING
from headrace.core.events import (
    CancelRequested,
    Deadline,
    Dispatch,
    Ended,
    Exceptional,
    Failure,
    HandedBack,
    Loss,
    Lost,
    Stop,
    Wake,
)
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.resource import resource
from headrace.core.state import State
from headrace.core.strips import count
from headrace.core.task import task

FAILURE = Failure("builtins.ValueError", "no")


@task
def work(x: object = None) -> None: ...


@resource
def place() -> str: ...


@place.cleanup(retries=1, retry_delay=2.0)
def leave(x: str) -> None: ...


def held() -> None:
    with place() as x:
        work(x)


def dispatched(commands: list) -> list[Dispatch]:
    return [command for command in commands if isinstance(command, Dispatch)]


def ended(order: Dispatch, *odd: Exceptional) -> Ended:
    total = count(order.strips)
    return Ended(order.batch, total, array("f", [0.0] * total), list(odd))


def states(machine: RunMachine) -> list[str]:
    return [State(state).label for run in machine.nodes for state in run.states]


def started(function: object = held, *, timeout: float | None = None) -> tuple[RunMachine, Dispatch]:
    machine = RunMachine(make_plan(draw("f", function, {})), 2, timeout=timeout)
    (order,) = dispatched(machine.start(0.0))
    return machine, order


def at_work(**options: float) -> tuple[RunMachine, Dispatch]:
    """A run whose set-up is done, and whose task is running."""
    machine, setup = started(**options)
    (order,) = dispatched(machine.handle(0.1, [ended(setup)]))
    return machine, order


def test_a_setup_and_a_cleanup_are_batches_of_their_own():
    machine, body = at_work()
    (cleanup,) = dispatched(machine.handle(0.2, [ended(body)]))
    assert [order.strips[0].nodes for order in (body, cleanup)] == [(1,), (2,)]
    machine.handle(0.3, [ended(cleanup)])
    assert machine.state is State.SUCCESS


def cancelled(machine: RunMachine, body: Dispatch, now: float = 1.0) -> Dispatch:
    """Cancel a run, and have its task report that it was stopped; return the clean-up."""
    machine.handle(now, [CancelRequested()])
    (cleanup,) = dispatched(machine.handle(now, [ended(body, Exceptional(0, State.CANCELLED, 1))]))
    return cleanup


def test_a_cancel_stops_the_rest_and_cleans_up():
    machine, body = at_work()
    stop, wake, deadline = machine.handle(1.0, [CancelRequested()])
    assert (stop, wake, deadline) == (Stop((body.batch,)), Wake(1.0 + STOPPING), Deadline(1.0 + GRACE, strict=True))
    cleanup, *_, wake = machine.handle(1.05, [ended(body, Exceptional(0, State.CANCELLED, 1))])
    assert wake == Wake(1.0 + GRACE)
    assert states(machine) == ["Success", "Cancelled", "Running"]
    machine.handle(1.1, [ended(cleanup)])
    assert states(machine) == ["Success", "Cancelled", "Success"]
    assert machine.state is State.CANCELLED


def test_a_setup_that_runs_may_end_and_is_cleaned_up_then():
    machine, setup = started()
    assert not [c for c in machine.handle(1.0, [CancelRequested()]) if isinstance(c, (Stop, Dispatch))]
    (cleanup,) = dispatched(machine.handle(1.1, [ended(setup)]))
    machine.handle(1.2, [ended(cleanup)])
    assert states(machine) == ["Success", "Cancelled", "Success"]
    assert machine.state is State.CANCELLED


@pytest.mark.parametrize(
    "event",
    [
        lambda setup: ended(setup, Exceptional(0, State.FAILED, 1, FAILURE)),
        lambda setup: ended(setup, Exceptional(0, State.RETRYING, 1, FAILURE, 9.0)),
        lambda setup: Lost(setup.batch, Loss.KILLED, FAILURE),
        lambda setup: Lost(setup.batch, Loss.BROKEN, FAILURE),
        lambda setup: HandedBack(setup.batch, 0, array("f"), 0.0),
    ],
)
def test_a_setup_that_does_not_succeed_any_more_is_not_cleaned_up(event):
    machine, setup = started()
    machine.handle(1.0, [CancelRequested()])
    assert not dispatched(machine.handle(1.1, [event(setup)]))
    assert states(machine)[1:] == ["Cancelled", "Skipped"]
    assert machine.state is State.CANCELLED


def test_a_cleanup_that_runs_goes_on():
    machine, body = at_work()
    (cleanup,) = dispatched(machine.handle(0.2, [ended(body)]))
    assert not [c for c in machine.handle(1.0, [CancelRequested()]) if isinstance(c, Stop)]
    machine.handle(1.1, [ended(cleanup)])
    assert states(machine) == ["Success", "Success", "Success"]
    assert machine.state is State.CANCELLED


def test_a_second_cancel_ends_at_once_and_tells_what_was_not_cleaned_up():
    machine, body = at_work()
    cleanup = cancelled(machine, body)
    assert machine.handle(1.1, [CancelRequested()]) == [Stop((cleanup.batch,))]
    assert machine.state is State.CANCELLED
    assert "clean-up leave was not done" in machine.nodes[2].failures[0].message
    assert machine.handle(1.2, [ended(cleanup), ended(body), CancelRequested()]) == []


def test_time_is_up_for_a_cleanup_that_hangs():
    machine, body = at_work()
    cleanup = cancelled(machine, body)
    assert machine.handle(0.9 + GRACE, []) == [Wake(1.0 + GRACE)]
    assert machine.handle(1.0 + GRACE, []) == [Stop((cleanup.batch,))]
    assert machine.state is State.CANCELLED
    assert list(machine.nodes[2].failures) == [0]


def test_a_setup_that_hangs_is_told():
    machine, setup = started()
    machine.handle(1.0, [CancelRequested()])
    assert machine.handle(1.0 + GRACE, []) == [Stop((setup.batch,))]
    assert "set-up place was stopped" in machine.nodes[0].failures[0].message


def test_a_cleanup_is_tried_again_if_there_is_time():
    machine, body = at_work()
    again = Exceptional(0, State.RETRYING, 1, FAILURE, 2.0)
    cleanup = cancelled(machine, body)
    machine.handle(1.1, [ended(cleanup, again)])
    (second,) = dispatched(machine.handle(3.1, []))
    machine.handle(3.2, [ended(second)])
    assert states(machine)[2] == "Success"
    machine, body = at_work()
    cleanup = cancelled(machine, body)
    machine.handle(5.0, [ended(cleanup, again)])
    assert states(machine)[2] == "Failed"
    assert machine.state is State.CANCELLED


def test_a_cleanup_that_waits_for_its_next_attempt_is_tried_at_once():
    machine, body = at_work()
    (cleanup,) = dispatched(machine.handle(0.2, [ended(body)]))
    machine.handle(0.3, [ended(cleanup, Exceptional(0, State.RETRYING, 1, FAILURE, 2.0))])
    (again,) = dispatched(machine.handle(1.0, [CancelRequested()]))
    machine.handle(1.1, [ended(again)])
    assert states(machine) == ["Success", "Success", "Success"]


def test_a_run_that_is_out_of_time_cleans_up():
    machine, body = at_work(timeout=3.0)
    assert machine.handle(2.9, []) == [Wake(3.0)]
    assert machine.handle(3.0, [])[0] == Stop((body.batch,))
    (cleanup,) = dispatched(machine.handle(3.05, [ended(body, Exceptional(0, State.CANCELLED, 1))]))
    machine.handle(3.1, [ended(cleanup)])
    assert machine.state is State.TIMED_OUT


def test_a_run_that_is_done_in_time_is_not_out_of_time():
    machine, body = at_work(timeout=3.0)
    (cleanup,) = dispatched(machine.handle(2.0, [ended(body)]))
    machine.handle(3.0, [ended(cleanup)])
    assert machine.state is State.SUCCESS


def test_nothing_is_dispatched_twice_when_a_cleanup_is_ready_already():
    def many() -> None:
        for _ in range(40):
            with place() as x:
                work(x)

    machine = RunMachine(make_plan(draw("f", many, {})), 1)
    orders = dispatched(machine.start(0.0))
    seen: set[int] = set()
    while orders and len(seen) < 50:
        order = orders.pop(0)
        seen.add(order.batch)
        orders += dispatched(machine.handle(0.1, [ended(order)]))
    done = [run.spec.index for run in machine.nodes if run.spec.name.startswith("place") and run.succeeded]
    orders = [order for order in orders if order.batch in machine.dispatcher.batches]
    commands = machine.handle(0.2, [CancelRequested()])
    stopped = {batch for command in commands if isinstance(command, Stop) for batch in command.batches}
    commands += machine.handle(0.2, [Ended(batch, 0, array("f")) for batch in stopped])
    orders = [order for order in orders if order.batch not in stopped] + dispatched(commands)
    while orders:
        orders += dispatched(machine.handle(0.3, [ended(orders.pop(0))]))
    assert machine.state is State.CANCELLED
    now = [run.spec.index for run in machine.nodes if run.spec.name.startswith("place") and run.succeeded]
    assert set(done) <= set(now)
    assert [run.spec.index - 2 for run in machine.nodes if run.cleans and run.succeeded] == now


def test_what_a_stopped_batch_had_done_counts():
    def two() -> None:
        work(work())

    machine = RunMachine(make_plan(draw("f", two, {})), 1)
    (order,) = dispatched(machine.start(0.0))
    machine.handle(1.0, [CancelRequested()])
    machine.handle(1.1, [Ended(order.batch, 1, array("f", [0.5]))])
    assert states(machine) == ["Success", "Cancelled"]
    assert machine.state is State.CANCELLED


def test_a_stopped_batch_that_does_not_report_is_let_go():
    machine, _ = at_work()
    machine.handle(1.0, [CancelRequested()])
    assert not dispatched(machine.handle(0.9 + STOPPING, []))
    (cleanup,) = dispatched(machine.handle(1.0 + STOPPING, []))
    machine.handle(3.0, [ended(cleanup)])
    assert states(machine) == ["Success", "Cancelled", "Success"]


def test_a_stopped_task_is_not_tried_again():
    machine, body = at_work()
    machine.handle(1.0, [CancelRequested()])
    (cleanup,) = dispatched(machine.handle(1.1, [ended(body, Exceptional(0, State.RETRYING, 1, FAILURE, 0.5))]))
    machine.handle(1.2, [ended(cleanup)])
    assert machine.handle(2.0, []) == []
    assert states(machine) == ["Success", "Cancelled", "Success"]
