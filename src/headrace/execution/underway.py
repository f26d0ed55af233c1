"""A run on its way, as the thread that drives it and those who hold it share it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headrace.core.events import CancelRequested
from headrace.execution.base import Executor


class Underway:
    """What the driver of a run and its holders tell each other. The machine itself is moved by the driver alone.

    Attributes
    ----------
    over : threading.Event
        Set when the run is over, and its record is written.
    error : BaseException or None
        What kept the driver from bringing the run to an end of its own.
    cancelled : int
        How often somebody asked for the end.
    """

    def __init__(self) -> None:
        self.over = threading.Event()
        self.error: BaseException | None = None
        self.cancelled = 0
        self._began = time.monotonic()
        self._seconds: float | None = None
        self._executor: Executor | None = None
        self._calls: list[Callable[[], object]] = []
        self._lock = threading.Lock()

    @property
    def executor(self) -> Executor | None:
        """Where it executes; None before that is there."""
        return self._executor

    def enter(self, executor: Executor) -> bool:
        """Tell where it executes, and return whether somebody wants its end already."""
        with self._lock:
            self._executor = executor
            return bool(self.cancelled)

    @property
    def elapsed(self) -> float:
        """Seconds since it began; when it is over, those that it took."""
        return time.monotonic() - self._began if self._seconds is None else self._seconds

    def stop_clock(self) -> None:
        """All that it executes is over."""
        self._seconds = self.elapsed

    def cancel(self) -> None:
        """Ask for the end, from any thread."""
        with self._lock:
            self.cancelled += 1
            executor = self._executor
        if executor is not None and not self.over.is_set():
            executor.notify(CancelRequested())

    def heed(self) -> None:
        """The same, in the handler of a signal, and so perhaps in the midst of a task."""
        self.cancelled += 1
        if self._executor is not None:
            self._executor.interrupt()

    def was_poked(self) -> bool:
        """Whether the executor itself sent the signal that is being handled."""
        return self._executor is not None and self._executor.was_poked()

    def call_when_over(self, call: Callable[[], object]) -> None:
        """Call something when the run is over, in the driver's thread, or now if it is over."""
        with self._lock:
            if not self.over.is_set():
                self._calls.append(call)
                return
        call()

    def finish(self, error: BaseException | None) -> None:
        """The run is over."""
        with self._lock:
            self.error = error
            self.over.set()
        for call in self._calls:
            call()

    def release(self) -> None:
        """Nobody holds the run any more."""
        if self._executor is not None:
            self._executor.release()
