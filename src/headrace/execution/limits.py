"""Timeouts of tasks that run in the worker's own thread: the guard around their calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
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
    if seconds is None or task.policy.isolated:  # `Children` looks after those that are isolated
        return call
    if task.is_async:
        return _limited_coroutines(task, call, seconds)

    def attempt(source: Any, child: int) -> Any:
        control = source.control
        began, value, error = perf_counter(), None, None
        try:
            try:
                control.deadline = began + seconds
                value = call(source, child)
            finally:
                with control.lock:  # before anything is called; see `interrupt`
                    control.deadline = None
                forget()
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
            told = timed_out(task, took, prompt=took < seconds + PROMPT)
            raise told.with_traceback(error.__traceback__) from None
        raise timed_out(task, took, prompt=False) from error

    return attempt


def _limited_coroutines(task: Task[..., Any], call: Call, seconds: float) -> Call:
    async def attempt(source: Any, child: int) -> Any:
        began, scope = perf_counter(), asyncio.timeout(seconds)
        try:
            async with scope:
                value = await call(source, child)
        except TimeoutError as error:
            if not scope.expired():
                raise
            took = perf_counter() - began
            told = timed_out(task, took, prompt=took < seconds + PROMPT)
            raise told.with_traceback(error.__traceback__) from None
        if (took := perf_counter() - began) >= seconds:
            raise timed_out(task, took, prompt=False)
        return value

    return attempt


def timed_out(task: Task[..., Any], took: float, *, prompt: bool) -> TimedOut:
    """Return the signal that says that an attempt took too long.

    Parameters
    ----------
    task : Task
        Which has a timeout.
    took : float
        Seconds that the attempt took.
    prompt : bool
        Whether it ended when it was told to.
    """
    text = f"task {task.name!r} took longer than its timeout of {task.policy.timeout:g} s, and "
    if prompt:
        return TimedOut(f"{text}was stopped after {took:.3g} s")
    return TimedOut(
        f"{text}did not stop until {took:.3g} s (it was inside a C function, or caught the exception); isolated=True "
        "ends such tasks, too"
    )
