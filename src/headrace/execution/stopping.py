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


class _Run:
    """The batches of one run that this process executes, and those that were stopped, also before they came."""

    def __init__(self) -> None:
        self.controls: set[Control] = set()
        self.stopped: set[int] = set()


class Running:
    """What this process executes, by run."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def open(self, run_id: str) -> None:
        """Begin to execute batches of a run."""
        self._runs.setdefault(run_id, _Run())

    @contextmanager
    def noted(self, run_id: str, control: Control) -> Iterator[None]:
        """While a batch executes: let it be found by those who stop it."""
        run = self._runs.get(run_id) or _Run()
        run.controls.add(control)
        # Whoever stops the batch from now on finds it; before, it was noted, or the run is over.
        if control.batch in run.stopped or self._runs.get(run_id) is not run:
            control.end()
        try:
            yield
        finally:
            run.controls.discard(control)

    def stop(self, run_id: str, batches: Collection[int]) -> list[int]:
        """Stop batches of a run, those that are still on their way to here, too; return those that will report."""
        run = self._runs.get(run_id)
        if run is None:
            return []
        run.stopped.update(batches)
        running = [control for control in list(run.controls) if control.batch in batches]
        for control in running:
            control.end()
        return [control.batch for control in running]

    def close(self, run_id: str) -> None:
        """Stop what is left of a run, and execute nothing of it any more."""
        run = self._runs.pop(run_id, None)
        for control in list(run.controls) if run is not None else ():
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
