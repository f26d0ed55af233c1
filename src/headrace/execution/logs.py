"""What tasks log, on its way to the driver.

Each process in which tasks run has a ``Post`` per thread, which tells where a record comes from. While a run is open
here, records made inside of its tasks carry that as attributes: ``run_id``, ``task``, ``child``, ``attempt``,
``worker``, ``run_name``. In the driver's own process nothing else happens: its handlers see the records. In any other
process, an ``Outlet`` per run collects them as plain data and sends them as ``Logged`` events: when a batch ends, and
while it runs, each time the watchdog says so. The driver hands them to its own loggers (``deliver``).

An outlet holds a bounded number of lines between two sendings, the latest; the driver reads how many were dropped.
"""

from __future__ import annotations

import logging
import os
import threading
import uuid
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from traceback import format_exception
from typing import Any

from headrace.execution.context import POST
from headrace.redaction import redact

#: Lines, and characters, between two sendings of one process, of which there are some ten a second. A scheduler
#: passes on some ten megabytes a second with ease; what a person reads is a ten-thousandth of that.
MOST_LINES = 1_000
MOST_CHARACTERS = 1 << 20
#: Of as many processes as this, each may send so many lines; of more, each less.
SHARED = 8
#: The longest text of one record, in characters.
LONGEST = 1 << 16

_TOKEN = uuid.uuid4().hex
_PLAIN = (bool, int, float, type(None))


def this_process() -> str:
    """Tell this process from all others, forked ones included."""
    return f"{_TOKEN}-{os.getpid()}"


@dataclass(frozen=True)
class LogSettings:
    """How the workers of a run log; travels with its plan.

    Attributes
    ----------
    driver : str
        In which process it is driven.
    process : int
        That process's number, on its machine.
    levels : dict of str to int
        By logger, "" for the root: levels that were set there.
    lines : int
        How many lines each process may send at a time.
    """

    driver: str
    process: int = 0
    levels: Mapping[str, int] = field(default_factory=dict)
    lines: int = MOST_LINES


@dataclass(slots=True)
class Logged:
    """Tasks logged something; an event for the driver, of which the machine never hears.

    Attributes
    ----------
    rows : list of dict
        Attributes of records.
    dropped : int
        How many older ones were not kept.
    worker : str
        Where.
    """

    rows: list[dict[str, Any]]
    dropped: int
    worker: str


def settings(processes: int) -> LogSettings:
    """Return how this process, a driver, logs.

    Parameters
    ----------
    processes : int
        How many workers there are.
    """
    return LogSettings(this_process(), os.getpid(), levels(), max(10, MOST_LINES * SHARED // max(SHARED, processes)))


def levels() -> dict[str, int]:
    """By logger, "" for the root: the levels that were set in this process."""
    root = logging.getLogger()
    found = {"": root.level}
    for name, logger in list(root.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and logger.level and _reaches_root(logger):
            found[name] = logger.level
    return found


def _reaches_root(logger: logging.Logger) -> bool:
    while logger.parent is not None:
        if not logger.propagate:
            return False
        logger = logger.parent
    return True


def leaving(text: str) -> str:
    """Return a text as it may leave a worker: every text that is logged or printed passes here first."""
    text = redact(text)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} … ({len(text) - LONGEST:,} more characters)"


# -- records that know where they come from ----------------------------------------------------------------------


class TaskRecord(logging.LogRecord):
    """A record that was made inside a task.

    What it knows of the task becomes part of its ``__dict__``, where formatters look, only when its message is made:
    ``logging`` refuses an ``extra=`` that would overwrite what is there before, and ``extra={"task": ...}`` shall work.
    """

    _origin: Mapping[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        try:
            return self._origin[name]
        except KeyError:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}") from None

    def getMessage(self) -> str:  # noqa: N802 - logging's name
        """Make the message."""
        for name, value in self._origin.items():
            self.__dict__.setdefault(name, value)
        return redact(super().getMessage())


def origin() -> dict[str, Any] | None:
    """Attributes that tell where a record of this thread comes from; None outside of tasks."""
    post = POST.get()
    if post is None:
        return None
    context = post.context()
    return {
        "run_id": context.run_id,
        "task": context.task_name,
        "child": context.index,
        "attempt": context.attempt,
        "worker": context.worker,
        "run_name": context.run_name,
    }


def _made_in_task(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        found = origin()
        if found is None:
            return record
        if type(record) is logging.LogRecord:
            record.__class__ = TaskRecord
            record.__dict__["_origin"] = found
        else:  # somebody's own class of records
            record.__dict__.update(found)
        return record

    return make_record


def configured(name: str) -> bool:
    """Whether somebody set up a handler for a logger in this process."""
    logger: logging.Logger | None = logging.getLogger(name)
    while logger is not None:
        if any(handler is not LOGS for handler in logger.handlers):
            return True
        logger = logger.parent if logger.propagate else None
    return False


# -- from a worker -------------------------------------------------------------------------------------------------


class Outlet:
    """Collects the records of one run in this process, and sends them.

    Parameters
    ----------
    send : callable
        Sends a ``Logged``.
    worker : str
        Where.
    lines : int
        How many are kept between two sendings.
    """

    def __init__(self, send: Callable[[Logged], None], worker: str, lines: int) -> None:
        self._send = send
        self._worker = worker
        self._lines = lines
        self._rows: deque[dict[str, Any]] = deque()
        self._characters = 0
        self._dropped = 0
        self._lock = threading.Lock()
        self._sending = threading.Lock()

    def add(self, row: dict[str, Any]) -> None:
        """Keep a row, and drop the oldest ones if it is one too many."""
        with self._lock:
            self._rows.append(row)
            self._characters += _length(row)
            while len(self._rows) > self._lines or self._characters > MOST_CHARACTERS:
                self._characters -= _length(self._rows.popleft())
                self._dropped += 1

    def flush(self) -> None:
        """Send what is there, after all that was there before: the watchdog and the end of a batch may meet here."""
        with self._sending:
            with self._lock:
                if not self._rows:
                    return
                logged = Logged(list(self._rows), self._dropped, self._worker)
                self._rows.clear()
                self._characters = self._dropped = 0
            self._send(logged)


def row_of(record: logging.LogRecord) -> dict[str, Any]:
    """A record as plain data that any process can read."""
    try:
        text = record.getMessage()
    except Exception as error:  # noqa: BLE001 - any argument may refuse to be formatted
        text = f"{record.msg} with arguments {record.args!r} ({type(error).__name__}: {error})"
    row = {name: _plain(value) for name, value in record.__dict__.items() if name != "_origin"}
    row.update(msg=leaving(text), args=None, exc_info=None)
    row.pop("message", None)
    if record.exc_info and record.exc_info[1] is not None and not record.exc_text:
        row["exc_text"] = leaving("".join(format_exception(record.exc_info[1])).rstrip("\n"))
    return row


def _plain(value: Any) -> Any:
    if isinstance(value, _PLAIN):
        return value
    return leaving(value if isinstance(value, str) else repr(value))


def _length(row: Mapping[str, Any]) -> int:
    return 500 + len(row["msg"]) + len(row["exc_text"] or "")


class Logs(logging.Handler):
    """The logging of this process, as far as runs have to do with it. A handler of the root logger while it must be."""

    def __init__(self) -> None:
        super().__init__()
        self._open: dict[str, int] = {}  # how often each run was opened here
        self._takers: dict[str, Outlet | Callable[[logging.LogRecord], None]] = {}
        self._levels: dict[str, Mapping[str, int]] = {}
        self._before: dict[str, int] = {}  # levels as they were
        self._factory: tuple[Any, Any] | None = None  # the one before, and ours
        self._muted: list[logging.Handler] = []
        self._change = threading.RLock()

    # -- runs ------------------------------------------------------------------------------------------------------

    def open(self, run_id: str, wanted: LogSettings | None = None, outlet: Outlet | None = None) -> None:
        """Begin to care for a run's tasks in this process; ``close`` as often.

        Parameters
        ----------
        run_id : str
            Which run.
        wanted : LogSettings, optional
            How its driver logs; None in the driver's process.
        outlet : Outlet, optional
            Leads to the driver; not used, if that is this process.
        """
        with self._change:
            self._open[run_id] = self._open.get(run_id, 0) + 1
            if self._factory is None:
                before = logging.getLogRecordFactory()
                self._factory = before, _made_in_task(before)
                logging.setLogRecordFactory(self._factory[1])
            if wanted is None or outlet is None or wanted.driver == this_process() or run_id in self._levels:
                return
            self._levels[run_id] = wanted.levels
            self._set_levels()
            self.take(run_id, outlet)

    def mute(self, wanted: LogSettings) -> None:
        """Keep what is sent to the driver from this process's own handlers, if they write to where the driver's do.

        That is so in a child process: it has run the driver's script, and imported its modules, so it has their
        handlers, and each record would be seen twice.
        """
        if wanted.process != os.getppid():
            return
        with self._change:
            for logger in (logging.root, *list(logging.root.manager.loggerDict.values())):
                for handler in logger.handlers if isinstance(logger, logging.Logger) else ():
                    if handler is not self and handler not in self._muted:
                        handler.addFilter(_stays)
                        self._muted.append(handler)

    def close_run(self, run_id: str) -> None:
        """Leave a run's tasks alone, and logging as it was found."""
        with self._change:
            self._open[run_id] -= 1
            if self._open[run_id]:
                return
            del self._open[run_id]
            self.flush_run(run_id)
            self.take(run_id, None)
            if self._levels.pop(run_id, None) is not None:
                self._set_levels()
            while self._muted and not self._levels:
                self._muted.pop().removeFilter(_stays)
            if not self._open and self._factory is not None:
                before, ours = self._factory
                if logging.getLogRecordFactory() is ours:  # else somebody built upon it, and it does no harm there
                    logging.setLogRecordFactory(before)
                self._factory = None

    def take(self, run_id: str, taker: Outlet | Callable[[logging.LogRecord], None] | None) -> None:
        """Give what a run's tasks log in this process to an outlet, or to a function; None: to nobody any more."""
        root = logging.getLogger()
        with self._change:
            if taker is not None:
                self._takers[run_id] = taker
            else:
                self._takers.pop(run_id, None)
            (root.addHandler if self._takers else root.removeHandler)(self)

    def _set_levels(self) -> None:
        """Let each logger be as talkative as the most talkative driver wants it; what no driver set is as it was."""
        for name in {*self._before, *(name for levels in self._levels.values() for name in levels)}:
            logger = logging.getLogger(name)
            self._before.setdefault(name, logger.level)
            wanted = [levels[name] for levels in self._levels.values() if name in levels]
            logger.setLevel(min(wanted) if wanted else self._before.pop(name))

    # -- records ---------------------------------------------------------------------------------------------------

    def ships(self) -> bool:
        """Whether what this thread logs is sent to another process."""
        return isinstance(self._taker(), Outlet)

    def _taker(self) -> Outlet | Callable[[logging.LogRecord], None] | None:
        post = POST.get()
        while post is not None:
            if (taker := self._takers.get(post.run_id)) is not None:
                return taker
            post = post.outer
        return None

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record of a task; of others, do what logging does for want of handlers, for this is not one."""
        taker = self._taker()
        if isinstance(taker, Outlet):
            taker.add(row_of(record))
            return
        if taker is not None:
            taker(record)
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and not configured(record.name):
            last.handle(record)

    def flush_run(self, run_id: str) -> None:
        """Send what a run's tasks have logged so far."""
        taker = self._takers.get(run_id)
        if isinstance(taker, Outlet):
            taker.flush()

    def flush(self) -> None:
        """Send what tasks of any run have logged so far."""
        for run_id in list(self._takers):
            self.flush_run(run_id)


LOGS = Logs()


def _stays(record: logging.LogRecord) -> bool:
    """Filter: whether a record is for this process's own handlers."""
    return not LOGS.ships()
