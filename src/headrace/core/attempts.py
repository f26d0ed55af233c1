"""What follows an attempt that did not succeed; the same rules inside a batch and across batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace.core.policy import Delay, Policy
from headrace.core.signals import Cancelled, Crashed, Fail, Found, Retry, Signal, Skip, TimedOut
from headrace.core.state import State
from headrace.errors import FlowError, RunError, TaskCrashed, TaskFailed, TaskTimedOut


class Verdict(NamedTuple):
    """What becomes of a task run after an attempt.

    Attributes
    ----------
    state : State
        RETRYING, or a final one.
    delay : float
        Seconds until the next attempt.
    error : BaseException
        What is told: the attempt's own exception, an error in place of a signal, or what is wrong with its policy.
    """

    state: State
    delay: float
    error: BaseException


#: what a signal that no attempt follows comes to: a state, and the error that is told
_ENDS: dict[type[Signal], tuple[State, type[RunError]]] = {
    Fail: (State.FAILED, TaskFailed),
    Retry: (State.FAILED, TaskFailed),
    TimedOut: (State.TIMED_OUT, TaskTimedOut),
    Crashed: (State.CRASHED, TaskCrashed),
}


def verdict(policy: Policy, attempts: int, error: BaseException) -> Verdict:
    """Say what becomes of a task run whose attempt ended with an exception.

    Parameters
    ----------
    policy : Policy
        Of its task.
    attempts : int
        How many there were, this one included.
    error : BaseException
        With what the last one ended.
    """
    if isinstance(error, Skip):
        return Verdict(State.SKIPPED, 0.0, error)
    if isinstance(error, Found):
        return Verdict(State.CACHED, 0.0, error)
    if isinstance(error, Cancelled):
        return Verdict(State.CANCELLED, 0.0, error)
    state, told = _told(policy, error)
    if isinstance(error, Fail) or attempts > policy.retries:
        return Verdict(state, 0.0, told)
    try:
        if isinstance(error, Retry) and error.delay is not None:
            return Verdict(State.RETRYING, error.delay, told)
        if not isinstance(error, Retry) and not _worth(policy, told):
            return Verdict(state, 0.0, told)
        return Verdict(State.RETRYING, delay_of(policy.retry_delay, attempts), told)
    except Exception as broken:  # noqa: BLE001 - users' functions may raise anything
        broken.__context__ = told
        return Verdict(State.FAILED, 0.0, broken)


def _told(policy: Policy, error: BaseException) -> tuple[State, BaseException]:
    """The final state that an exception means, and what is told in place of a signal; its origin stays visible."""
    if not isinstance(error, Signal):
        return State.FAILED, error
    state, kind = _ENDS.get(type(error), (State.FAILED, TaskFailed))
    told = kind(_text(policy, error), task=policy.name).with_traceback(error.__traceback__)
    told.__cause__, told.__context__ = error.__cause__, error.__context__
    told.__suppress_context__ = error.__suppress_context__
    return state, told


def _text(policy: Policy, signal: Signal) -> str:
    if not isinstance(signal, Retry):
        return signal.message or f"task {policy.name!r} raised hr.{type(signal).__name__} without saying why"
    allowed = "has no retries; allow some with @task(retries=...)"
    if policy.retries:
        allowed = f"has used its retries={policy.retries}"
    why = f" ({signal.message})" if signal.message else ""
    return f"task {policy.name!r} asked for another attempt{why}, but {allowed}"


def _worth(policy: Policy, error: BaseException) -> bool:
    on = policy.retry_on
    if on is None:
        return True
    return isinstance(error, on) if isinstance(on, (type, tuple)) else bool(on(error))


def delay_of(delay: Delay, attempts: int) -> float:
    """Return seconds until the next attempt.

    Parameters
    ----------
    delay : float, sequence of float or callable
        As a task's ``retry_delay``.
    attempts : int
        How many there were.

    Raises
    ------
    FlowError
        If a function returned something else than seconds.
    """
    if isinstance(delay, Sequence):
        return float(delay[min(attempts, len(delay)) - 1])
    if not callable(delay):
        return float(delay)
    found = delay(attempts)
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not 0 <= found < math.inf:
        raise FlowError(f"retry_delay must return seconds >= 0, and returned {found!r} after {attempts} attempts")
    return float(found)
