"""Work beside the run, in order: what users hang onto a run may be slow, and shall not hold it up."""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any


class Aside:
    """A thread that calls functions one after the other; it begins with the first one.

    It has the context variables of who made it, so that a run inside of a task is seen as such.

    Parameters
    ----------
    name : str
        The thread's.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._context = contextvars.copy_context()
        self._calls: queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        return self._calls.qsize()

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Call a function, after all that were put before; it must not raise."""
        self._calls.put((function, args))
        if self._thread is None:
            self._thread = threading.Thread(target=self._context.run, args=(self._run,), name=self._name, daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Wait until all calls are done. May be called twice."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._calls.put(None)
            thread.join()

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            function, args = call
            function(*args)
