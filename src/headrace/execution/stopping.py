"""Stopping batches on a Dask worker, and keeping the worker of use when one of them cannot be stopped."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from time import perf_counter, time
from typing import Any

from distributed import threadpoolexecutor as pool
from distributed.worker_state_machine import SecedeEvent

from headrace.execution.interrupt import Control


class Running:
    """The batches that this process executes, by run, and those that were stopped, also before they came."""

    def __init__(self) -> None:
        self._controls: dict[str, set[Control]] = {}
        self._stopped: dict[str, set[int]] = {}

    @contextmanager
    def noted(self, run_id: str, control: Control) -> Iterator[None]:
        """While a batch executes: let it be found by those who stop it."""
        controls = self._controls.setdefault(run_id, set())
        controls.add(control)
        if control.batch in self._stopped.get(run_id, ()):  # whoever stops it now has noted that, or finds it
            control.end()
        try:
            yield
        finally:
            controls.discard(control)

    def stop(self, run_id: str, batches: Collection[int]) -> list[int]:
        """Stop batches of a run, those that are still on their way to here, too; return those that will report."""
        self._stopped.setdefault(run_id, set()).update(batches)
        running = [control for control in list(self._controls.get(run_id, ())) if control.batch in batches]
        for control in running:
            control.end()
        return [control.batch for control in running]

    def clear(self, run_id: str) -> None:
        """Forget a run, and stop what is left of it."""
        self._stopped.pop(run_id, None)
        for control in list(self._controls.pop(run_id, ())):
            control.end()


RUNNING = Running()


def stop_batches(run_id: str, batches: tuple[int, ...]) -> list[int]:
    """Stop batches in this process; what the driver has each worker call.

    Parameters
    ----------
    run_id : str
        Whose batches.
    batches : tuple of int
        Their numbers.

    Returns
    -------
    list of int
        Those that run here, and will report.
    """
    return RUNNING.stop(run_id, batches)


def place_of_this_thread(worker: Any) -> Callable[[], None] | None:
    """Return what gives this thread's place in the worker's pool to a new one, for others to call.

    ``distributed.secede`` does that for the thread that calls it, and a thread that hangs in a C function cannot. So
    what it would need is gathered beforehand. The thread leaves the pool when what it does is over.

    Parameters
    ----------
    worker : distributed.Worker
        Which executes this batch.

    Returns
    -------
    callable or None
        None if the thread is not of a pool that can be left.
    """
    thread = threading.current_thread()
    own = vars(pool.thread_state)  # of a threading.local: this thread's values
    threads = own.get("executor")
    if threads is None:
        return None
    key, began = worker.get_current_task(), perf_counter()

    def leave() -> None:
        with pool.threads_lock:
            if not own.get("proceed") or thread not in threads._threads:
                return  # it has left by itself
            own["proceed"] = False
            threads._threads.remove(thread)
            threads._adjust_thread_count()
        seconds = perf_counter() - began
        event = SecedeEvent(key=key, compute_duration=seconds, stimulus_id=f"headrace-leave-{time()}")
        worker.loop.add_callback(worker.handle_stimulus, event)

    return leave
