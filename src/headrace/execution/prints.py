"""``log_prints=True``: what a task prints becomes log records, and what is delivered is seen.

``sys.stdout`` is replaced while such a task runs. The stand-in asks a context variable where a text belongs, so what
other threads print goes where it always went. Lines are what counts: a text without a line's end waits for it, or for
the end of the attempt.
"""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TextIO

from headrace.core.task import Task
from headrace.execution.context import Call
from headrace.execution.logs import LOGS, configured

PRINTS = logging.getLogger("headrace.prints")
if PRINTS.level == logging.NOTSET:
    PRINTS.setLevel(logging.INFO)  # who asks for prints wants to see them, whatever the root logger's level is

#: Characters of one line beyond which it is cut in two.
LONGEST_LINE = 1 << 16


class _Lines:
    """Cuts what a task prints into lines."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> None:
        """Take a text, and log the lines that end in it."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            _log(line)
        while len(self._rest) > LONGEST_LINE:
            line, self._rest = self._rest[:LONGEST_LINE], self._rest[LONGEST_LINE:]
            _log(line)

    def close(self) -> None:
        """Log what had no end."""
        if self._rest:
            _log(self._rest)
            self._rest = ""


#: Where this thread's prints go; None: where they always went.
_LINES: ContextVar[_Lines | None] = ContextVar("headrace_lines", default=None)


class _Stdout:
    """Stands in for ``sys.stdout``."""

    def __init__(self, real: TextIO) -> None:
        self.real = real

    def write(self, text: str) -> int:
        """Take a text to where its thread's prints go."""
        lines = _LINES.get()
        if lines is None:
            return self.real.write(text)
        lines.write(text)
        return len(text)

    def writelines(self, texts: Iterable[str]) -> None:
        """Take several."""
        for text in texts:
            self.write(text)

    def flush(self) -> None:
        """Flush the real one; a line that has no end yet still waits for it."""
        if _LINES.get() is None:
            self.real.flush()

    def __getattr__(self, name: str) -> Any:
        """All else is as the real one has it: ``encoding``, ``buffer``, and so on."""
        return getattr(self.real, name)


class _Replaced:
    """Counts who needs the stand-in; the last one takes it away."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._ours: _Stdout | None = None

    def begin(self) -> None:
        """Put it in place."""
        with self._lock:
            self._users += 1
            if not isinstance(sys.stdout, _Stdout):
                self._ours = _Stdout(sys.stdout)
                sys.stdout = self._ours

    def end(self) -> None:
        """Take it away, if nobody else needs it."""
        with self._lock:
            self._users -= 1
            if not self._users and self._ours is not None:
                if sys.stdout is self._ours:  # else somebody replaced it meanwhile, and will put back what was there
                    sys.stdout = self._ours.real
                self._ours = None


_REPLACED = _Replaced()


@contextmanager
def logged_prints() -> Iterator[None]:
    """Log what this thread prints."""
    lines = _Lines()
    token = _LINES.set(lines)
    _REPLACED.begin()
    try:
        yield
    finally:
        _REPLACED.end()
        _LINES.reset(token)
        lines.close()


def printing(task: Task[..., Any], call: Call) -> Call:
    """Log what a task prints that asks for it. A guard (``execution.loaded``)."""
    if not task.policy.log_prints:
        return call

    def printing_call(source: Any, child: int) -> Any:
        with logged_prints():
            return call(source, child)

    async def printing_coroutine(source: Any, child: int) -> Any:
        with logged_prints():
            return await call(source, child)

    return printing_coroutine if task.is_async else printing_call


def _log(line: str) -> None:
    if not PRINTS.isEnabledFor(logging.INFO):
        return
    token = _LINES.set(None)  # a handler that prints shall not be heard as the task
    try:
        record = PRINTS.makeRecord(PRINTS.name, logging.INFO, "<print>", 0, line, (), None)
        if LOGS.ships():
            PRINTS.handle(record)
        else:
            deliver(record)
    finally:
        _LINES.reset(token)


def deliver(record: logging.LogRecord) -> None:
    """Give a record to the loggers of this process, as their levels say.

    Printed lines are also seen where nobody has set up logging: as ``task[3]  text``.

    Parameters
    ----------
    record : logging.LogRecord
        Made here, or made again of what a worker sent.
    """
    logger = logging.getLogger(record.name)
    if not logger.isEnabledFor(record.levelno):
        return
    logger.handle(record)
    if record.name == PRINTS.name and not configured(record.name):
        print(f"{getattr(record, 'run_name', record.name)}  {record.getMessage()}", flush=True)  # noqa: T201 - it was printed by the user
