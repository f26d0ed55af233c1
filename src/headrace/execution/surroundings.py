"""What surrounds an isolated task in its child process: its context, and a way for what it logs."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from headrace import pickling
from headrace.execution.context import context, pinned
from headrace.execution.logs import LOGS, Logged, Outlet, settings
from headrace.execution.prints import deliver


class _Promptly(Outlet):
    """Sends each record at once, for a child may be killed at any time."""

    def add(self, row: dict[str, Any]) -> None:
        super().add(row)
        self.flush()


def surroundings() -> bytes:
    """Return, in the parent, what ``surrounded`` makes again in the child."""
    here = context(None)
    return pickling.dumps((here, settings(1)) if here is not None else None, "the context of an isolated task")


@contextmanager
def surrounded(data: bytes, send: Callable[[bytes], None]) -> Iterator[None]:
    """Let a task find itself, in a child, where its parent is.

    Parameters
    ----------
    data : bytes
        What ``surroundings`` returned.
    send : callable
        Takes what the parent shall ``relay``.
    """
    found = pickling.loads(data, "the context of an isolated task")
    if found is None:
        yield
        return
    here, logs = found
    LOGS.open(here.run_id, logs, _Promptly(lambda logged: send(pickle.dumps(logged)), here.worker, logs.lines))
    LOGS.mute(logs)
    try:
        with pinned(here):
            yield
    finally:
        LOGS.close_run(here.run_id)


def relay(data: bytes) -> None:
    """Pass on, in the parent, what a child's task logged, as if this thread had logged it."""
    logged: Logged = pickle.loads(data)
    for row in logged.rows:
        if not LOGS.forward(row):
            deliver(logging.makeLogRecord(row))
