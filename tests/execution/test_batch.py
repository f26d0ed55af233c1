from __future__ import annotations

import pytest

import headrace as hr
from headrace.core.events import Dispatch, Exceptional, HandedBack, Input, Size
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.state import State
from headrace.core.strips import Strip
from headrace.execution import batch
from headrace.execution.batch import LARGE, Control, Execution
from headrace.execution.loaded import LoadedPlan
from headrace.execution.watchdog import give_back


class Stopped(BaseException):
    """Stands for a Ctrl-C."""


def execution(function, *strips, size_of=None, values=None, send=None, **order) -> Execution:
    loaded = LoadedPlan(make_plan(draw("f", function, {})))
    dispatch = Dispatch(0, tuple(Strip(*strip) for strip in strips), **order)
    control = Control(dispatch, send or (lambda event: None))
    return Execution(loaded, dispatch, values if values is not None else {}, control, size_of, interrupts=(Stopped,))


@hr.task
def add(x, y=1):
    return x + y


@hr.task
def upto(n):
    return list(range(n))


@hr.task(retries=2)
def stubborn(log):
    log.append(1)
    if len(log) < 3:
        raise ValueError(len(log))
    return "done"


@hr.task(retries=1, retry_delay=5.0)
def patient(x):
    raise ValueError("later")


@hr.task
def pair(x, y):
    return x, y


def test_a_batch_reports_what_it_did():
    run = execution(lambda: add.map(add.map([1, 2])), ((0, 1), 0, 2))
    ended = run.run()
    assert (ended.batch, ended.stop, len(ended.seconds), ended.exceptional, ended.sizes) == (0, 4, 4, [], [])
    assert run.kept() == {0: {0: 2, 1: 3}, 1: {0: 3, 1: 4}}


def test_values_come_from_outside_too():
    run = execution(lambda: add.map(add.map([1, 2])), ((1,), 1, 2), values={0: {1: 10}})
    run.run()
    assert run.kept() == {1: {1: 11}}


def test_lengths_are_measured_where_a_map_needs_them():
    run = execution(lambda: [add.map(upto(3)), add.map(hr.flatten(upto.map([1, 2])))], ((0,), 0, 1), ((2,), 0, 2))
    assert run.run().sizes == [Size(0, 0, 3), Size(1, 0, 1), Size(2, 0, 2)]


@pytest.mark.parametrize("value", ["text", b"raw", {"a": 1}, {1}, 5, None])
def test_what_is_not_a_sequence_has_no_length(value):
    @hr.task
    def give():
        return value

    assert execution(lambda: add.map(give()), ((0,), 0, 1)).run().sizes == [Size(0, 0, -1)]


def test_immediate_retries_happen_at_once():
    log = []
    run = execution(lambda: stubborn(log), ((0,), 0, 1))
    assert run.run().exceptional == [Exceptional(0, State.SUCCESS, 3)]
    assert run.kept() == {0: {0: "done"}}


def test_no_attempt_is_the_context_of_the_next():
    @hr.task(retries=1)
    def always():
        raise ValueError("no")

    (entry,) = execution(lambda: always(), ((0,), 0, 1)).run().exceptional
    assert (entry.state, entry.attempts) == (State.FAILED, 2)
    assert entry.failure.exception.__context__ is None
    assert "another exception" not in entry.failure.traceback


def test_an_interrupt_during_a_retry_is_not_a_failure():
    calls = []

    @hr.task(retries=5)
    def interrupted():
        calls.append(1)
        raise (ValueError if len(calls) == 1 else Stopped)

    with pytest.raises(Stopped):
        execution(lambda: interrupted(), ((0,), 0, 1)).run()
    assert len(calls) == 2


def test_a_delayed_retry_and_what_waits_for_it_come_back():
    def function():
        return pair(patient(1), add(2))

    run = execution(function, ((0,), 0, 1), ((1,), 0, 1), ((2,), 0, 1))
    retrying, deferred = run.run().exceptional
    assert (retrying.position, retrying.state, retrying.attempts, retrying.delay) == (0, State.RETRYING, 1, 5.0)
    assert (deferred.position, deferred.state) == (2, State.PENDING)


def test_the_attempt_after_a_delayed_retry_is_counted():
    run = execution(lambda: add(1), ((0,), 0, 1), attempts={(0, 0): 2})
    assert run.run().exceptional == [Exceptional(0, State.SUCCESS, 3)]


def test_the_last_attempt_fails():
    run = execution(lambda: patient(1), ((0,), 0, 1), attempts={(0, 0): 1})
    (entry,) = run.run().exceptional
    assert (entry.state, entry.attempts, entry.failure.message) == (State.FAILED, 2, "later")


@pytest.mark.parametrize(("consumer", "kept"), [(patient, {0: 2}), (upto, {})], ids=["deferred", "done"])
def test_what_a_deferred_task_run_will_need_elsewhere_is_kept(consumer, kept, monkeypatch):
    monkeypatch.setattr(batch, "KEPT", 0)
    run = execution(lambda: consumer(add(1)), ((0,), 0, 1), ((1,), 0, 1), size_of=lambda value: 8)
    run.run()
    assert run.kept()[0] == kept


def test_a_batch_whose_values_grow_large_ends_early():
    run = execution(lambda: add.map([1, 2, 3]), ((0,), 0, 3), size_of=lambda value: LARGE // 2 + 1)
    ended = run.run()
    assert (ended.stop, run.kept()) == (2, {0: {0: 2, 1: 3}})


def test_what_is_given_back_is_never_started():
    events, started = [], []

    @hr.task
    def note(x):
        started.append(x)
        if x == 1:
            give_back(run.control)
            give_back(run.control)

    run = execution(lambda: note.map([0, 1, 2, 3]), ((0,), 0, 4), send=events.append)
    ended = run.run()
    assert started == [0, 1]
    (back,) = events
    assert isinstance(back, HandedBack)
    assert (back.stop, len(back.seconds), ended.stop) == (2, 1, 2)
    assert back.current >= 0


@pytest.mark.parametrize(
    ("state", "value"),
    [
        (State.SKIPPED, None),
        (State.TRIGGER_FAILED, hr.errors.TriggerFailed),
        (State.CRASHED, hr.errors.TaskCrashed),
        (State.FAILED, hr.errors.FlowError),
    ],
)
def test_what_stands_in_for_a_value_that_never_was(state, value):
    @hr.task(trigger="all_finished", skip_on_upstream_skip=False)
    def see(x):
        return x

    run = execution(lambda: see(add(1)), ((1,), 0, 1), outside=(Input(0, 0, state),))
    run.run()
    seen = run.kept()[1][0]
    assert seen is value if value is None else type(seen) is value


@pytest.mark.parametrize(("trigger", "runs"), [("all_failed", False), ("any_failed", False), ("all_finished", True)])
def test_triggers_are_asked_even_when_nothing_went_wrong(trigger, runs):
    see = add.with_options(trigger=trigger)
    run = execution(lambda: see(add(1)), ((0,), 0, 1), ((1,), 0, 1))
    assert [entry.state for entry in run.run().exceptional] == ([] if runs else [State.TRIGGER_FAILED])


def test_an_argument_that_cannot_be_made_is_the_task_runs_failure():
    (entry,) = execution(lambda: add(add(1)["missing"]), ((0,), 0, 1), ((1,), 0, 1)).run().exceptional
    assert (entry.position, entry.state, entry.failure.type_name) == (1, State.FAILED, "TypeError")
