"""Waiting for runs in an event loop, which goes on with other things meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from headrace.execution.flowrun import FlowRun

T = TypeVar("T")


async def see_through(start: Callable[[], FlowRun]) -> FlowRun:
    """Start a run in a thread, and wait for its end.

    When the task that awaits this is cancelled, so is the run, and its clean-ups are done before ``CancelledError`` is
    raised. A second cancel does not wait for them.

    Parameters
    ----------
    start : callable
        Starts the run; called in a thread, because storages may be far away.
    """
    run: FlowRun | None = None
    asked = 0

    def cancel() -> None:
        nonlocal asked
        asked += 1
        if run is not None:
            run.cancel()

    run = await _insist(asyncio.to_thread(start), cancel)
    for _ in range(asked):  # while it was being started
        run.cancel()
    await _insist(_over(run), cancel)
    if asked:
        raise asyncio.CancelledError(f"run {run.run_id} was cancelled and ended as {run.state}")
    return run.wait()


async def _insist(what: Coroutine[Any, Any, T], cancelled: Callable[[], None]) -> T:
    """Await something to its end, and tell of each cancel meanwhile."""
    task = asyncio.ensure_future(what)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled()
        except BaseException:  # noqa: BLE001 - it is the task's, and raised below
            break
    return task.result()


async def _over(run: FlowRun) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def tell() -> None:
        with suppress(RuntimeError):  # the loop was closed, so nobody waits
            loop.call_soon_threadsafe(over.set)

    run.call_when_over(tell)
    await over.wait()
