from __future__ import annotations

import pickle

import pytest

from headrace.core.attempts import delay_of, verdict
from headrace.core.policy import Policy
from headrace.core.signals import Cancelled, Crashed, Fail, Retry, Skip, TimedOut
from headrace.core.state import State
from headrace.errors import FlowError, TaskCrashed, TaskFailed, TaskTimedOut

ENDS = [
    (ValueError("no"), State.FAILED, ValueError, "^no$"),
    (Fail("no"), State.FAILED, TaskFailed, "^no$"),
    (Fail(), State.FAILED, TaskFailed, "task 't' raised hr.Fail without saying why"),
    (Retry("no"), State.FAILED, TaskFailed, r"task 't' asked for another attempt \(no\), but has used its retries=2"),
    (Retry(), State.FAILED, TaskFailed, "asked for another attempt, but has used"),
    (TimedOut("no"), State.TIMED_OUT, TaskTimedOut, "^no$"),
    (Crashed("no"), State.CRASHED, TaskCrashed, "^no$"),
    (Skip("no"), State.SKIPPED, Skip, "^no$"),
    (Cancelled("no"), State.CANCELLED, Cancelled, "^no$"),
]


@pytest.mark.parametrize(("error", "state", "kind", "text"), ENDS, ids=lambda value: repr(value)[:40])
def test_what_the_last_attempt_means(error, state, kind, text):
    found = verdict(Policy(name="t", retries=2), 3, error)
    assert (found.state, type(found.error)) == (state, kind)
    with pytest.raises(kind, match=text):
        raise found.error


@pytest.mark.parametrize(("error", "state", "kind", "text"), ENDS, ids=lambda value: repr(value)[:40])
def test_what_an_earlier_attempt_means(error, state, kind, text):
    found = verdict(Policy(name="t", retries=2, retry_delay=[1, 2]), 2, error)
    final = isinstance(error, (Fail, Skip, Cancelled))
    assert (found.state, found.delay) == ((state, 0.0) if final else (State.RETRYING, 2.0))
    assert type(found.error) is kind


def test_what_is_told_in_place_of_a_signal_keeps_where_it_came_from():
    with pytest.raises(Fail) as caught:
        raise Fail("no") from KeyError("cause")
    told = verdict(Policy(name="t"), 1, caught.value).error
    assert told.__traceback__ is caught.value.__traceback__
    assert isinstance(told.__cause__, KeyError)
    assert str(pickle.loads(pickle.dumps(told))) == "no"


@pytest.mark.parametrize(
    ("worth", "states"),
    [
        (TimeoutError, [State.RETRYING, State.FAILED, State.CRASHED]),
        (TaskCrashed, [State.TIMED_OUT, State.FAILED, State.RETRYING]),
        ((TaskTimedOut, ValueError), [State.RETRYING, State.RETRYING, State.CRASHED]),
        (lambda error: isinstance(error, ValueError), [State.TIMED_OUT, State.RETRYING, State.CRASHED]),
    ],
)
def test_signals_are_judged_as_what_is_told_in_their_place(worth, states):
    policy = Policy(name="t", retries=1, retry_on=worth)
    assert [verdict(policy, 1, error).state for error in (TimedOut("x"), ValueError(), Crashed("x"))] == states


def test_a_wish_is_judged_by_nobody_and_may_name_its_time():
    policy = Policy(name="t", retries=1, retry_on=OSError, retry_delay=7)
    assert verdict(policy, 1, Retry())[:2] == (State.RETRYING, 7.0)
    assert verdict(policy, 1, Retry(delay=0.5))[:2] == (State.RETRYING, 0.5)
    assert verdict(policy, 1, Retry(delay=0))[:2] == (State.RETRYING, 0)


def test_a_predicate_that_raises_is_the_failure_and_shows_what_it_was_asked_about():
    def broken(error):
        raise LookupError("who knows")

    found = verdict(Policy(name="t", retries=1, retry_on=broken), 1, ValueError("first"))
    assert (found.state, str(found.error)) == (State.FAILED, "who knows")
    assert str(found.error.__context__) == "first"


@pytest.mark.parametrize(
    ("delay", "attempts", "seconds"),
    [(0, 1, 0.0), (1.5, 4, 1.5), ([1, 2], 1, 1.0), ([1, 2], 2, 2.0), ((1, 2), 9, 2.0), (lambda n: 10 * n, 3, 30.0)],
)
def test_delays(delay, attempts, seconds):
    assert delay_of(delay, attempts) == seconds


@pytest.mark.parametrize("found", [-1, None, "soon", True, float("inf"), float("nan")])
def test_a_delay_that_cannot_be_meant(found):
    with pytest.raises(FlowError, match=r"must return seconds >= 0, and returned .* after 1 attempts"):
        delay_of(lambda attempts: found, 1)


@pytest.mark.parametrize("delay", [-1, float("inf"), float("nan")])
def test_a_wish_for_a_delay_that_cannot_be_meant(delay):
    with pytest.raises(FlowError, match=r"hr\.Retry's delay must be seconds >= 0"):
        Retry(delay=delay)


@pytest.mark.parametrize("signal", [Skip("x"), Fail("x"), Retry("x", delay=3), TimedOut("x")])
def test_signals_travel(signal):
    arrived = pickle.loads(pickle.dumps(signal))
    assert (type(arrived), str(arrived), vars(arrived)) == (type(signal), "x", vars(signal))


def test_signals_are_no_exceptions():
    assert not issubclass(Skip, Exception)
