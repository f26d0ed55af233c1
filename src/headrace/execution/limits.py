"""Timeouts of tasks that run in the worker's own thread: the guard around their calls."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import perf_counter
from typing import Any

from headrace.core.signals import Cancelled, TimedOut
from headrace.core.task import Task
from headrace.execution.interrupt import forget

#: Seconds after its timeout until which an attempt that ended by the interruption counts as stopped in time.
PROMPT = 0.5

Call = Callable[[Any, int], Any]


def limited(task: Task[..., Any], call: Call) -> Call:
    """Give each attempt of a task its timeout, if it has one.

    An attempt that took longer is timed out, whatever it returned or raised in the end: whether it heard of the
    interruption must not decide what becomes of it.

    Parameters
    ----------
    task : Task
        Whose calls.
    call : callable
        ``call(source, child)``; where the source is an ``Execution``.
    """
    seconds = task.policy.timeout
    if seconds is None or task.is_async or task.policy.isolated:  # `Children` looks after those that are isolated
        return call

    def attempt(source: Any, child: int) -> Any:
        control = source.control
        began, value, error = perf_counter(), None, None
        try:
            try:
                control.deadline = began + seconds
                value = call(source, child)
            finally:
                control.deadline = None
                with control.lock:
                    pass
                forget(get_ident())
        except (Cancelled, KeyboardInterrupt):
            raise
        except BaseException as caught:  # noqa: BLE001 - it is raised again, below
            error = caught
        took = perf_counter() - began
        if took < seconds and not isinstance(error, TimedOut):
            if error is not None:
                raise error
            return value
        if isinstance(error, TimedOut):  # its traceback says where the task was
            raise timed_out(seconds, took, prompt=took < seconds + PROMPT).with_traceback(error.__traceback__) from None
        raise timed_out(seconds, took, prompt=False) from error

    return attempt


def timed_out(seconds: float, took: float, *, prompt: bool) -> TimedOut:
    """Return the signal that says that an attempt took too long.

    Parameters
    ----------
    seconds : float
        What it was allowed.
    took : float
        What it took.
    prompt : bool
        Whether it ended when it was told to.
    """
    if prompt:
        return TimedOut(f"it took longer than its timeout of {seconds:g} s, and was stopped after {took:.3g} s")
    return TimedOut(
        f"it took longer than its timeout of {seconds:g} s, and did not stop until {took:.3g} s (it was inside a C "
        "function, or caught the exception); isolated=True ends such tasks, too"
    )
