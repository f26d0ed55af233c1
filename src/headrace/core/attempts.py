"""What follows an attempt that did not succeed; the same rules inside a batch and across batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from headrace.core.policy import Delay, Policy
from headrace.core.signals import Cancelled, Fail, Found, Retry, Skip, TimedOut
from headrace.core.state import State
from headrace.errors import FlowError


class Verdict(NamedTuple):
    """What becomes of a task run after an attempt.

    Attributes
    ----------
    state : State
        RETRYING, or a final one.
    delay : float
        Seconds until the next attempt.
    error : BaseException
        What is told: the attempt's own exception, or what is wrong with its policy.
    """

    state: State
    delay: float
    error: BaseException


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
    final = State.TIMED_OUT if isinstance(error, TimedOut) else State.FAILED
    if isinstance(error, Fail) or attempts > policy.retries:
        return Verdict(final, 0.0, error)
    try:
        if not isinstance(error, Retry) and not _worth(policy, error):
            return Verdict(final, 0.0, error)
        own = error.delay if isinstance(error, Retry) else None
        return Verdict(State.RETRYING, own if own is not None else delay_of(policy.retry_delay, attempts), error)
    except Exception as broken:  # noqa: BLE001 - users' functions may raise anything
        broken.__context__ = error
        return Verdict(State.FAILED, 0.0, broken)


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
