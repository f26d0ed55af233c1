"""What tasks logged, in the driver: to its loggers, and to observers that ask for it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from headrace.core.summary import Observer
from headrace.execution.aside import Aside
from headrace.execution.logs import LOGS, Logged
from headrace.execution.prints import deliver

#: Messages that may wait for the driver's handlers. More are dropped, and counted, before they fill the memory.
MOST_WAITING = 200

_LOGGER = logging.getLogger("headrace.logs")


class Reading:
    """Delivers what the tasks of one run log, in a thread of its own.

    Parameters
    ----------
    run_id : str
        Which run.
    observers : sequence of Observer
        Those that want logs are told.
    """

    def __init__(self, run_id: str, observers: Sequence[Observer]) -> None:
        self._run_id = run_id
        self._observers = [observer for observer in observers if observer.wants_logs]
        self._aside = Aside("headrace-logs")
        self._dropped = 0
        if self._observers:
            LOGS.take(run_id, self._seen_here)

    def sift(self, events: Iterable[Any]) -> list[Any]:
        """Take out what was logged, and return the rest."""
        rest = []
        for event in events:
            if type(event) is not Logged:
                rest.append(event)
            elif self._aside.waiting < MOST_WAITING:
                event.dropped += self._dropped
                self._dropped = 0
                self._aside.put(self._deliver, event)
            else:
                self._dropped += len(event.rows) + event.dropped
        return rest

    def close(self) -> None:
        """Wait until all is delivered."""
        if self._dropped:
            self._aside.put(self._deliver, Logged([], self._dropped, ""))
            self._dropped = 0
        if self._observers:
            LOGS.take(self._run_id, None)
        self._aside.close()

    def _deliver(self, logged: Logged) -> None:
        try:
            if logged.dropped:
                _LOGGER.warning(
                    "%s log lines of run %s were dropped%s, because they came faster than they can be passed on; let "
                    "tasks log less, or into a file",
                    f"{logged.dropped:,}",
                    self._run_id,
                    f" at {logged.worker}" if logged.worker else "",
                )
            for row in logged.rows:
                record = logging.makeLogRecord(row)
                deliver(record)
                self._tell(record)
        except Exception:  # a user's filter may raise anything
            _LOGGER.exception("what tasks of run %s logged could not be delivered", self._run_id)

    def _seen_here(self, record: logging.LogRecord) -> None:
        """Tell of a record that this process's own handlers have got already."""
        record.getMessage()  # completes its attributes while it is known where it comes from
        self._aside.put(self._tell, record)

    def _tell(self, record: logging.LogRecord) -> None:
        for observer in self._observers:
            try:
                observer.on_log(record)
            except Exception:  # it must not, but then the other observers shall hear all the same
                _LOGGER.exception("%s.on_log raised", type(observer).__qualname__)
