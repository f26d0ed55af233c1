"""What earlier runs of a flow learnt about how long its tasks take: a hint, kept beside the flow.

One small JSON object per flow, which each run may replace. It may be absent, out of date, rubbish, or lose what
another run wrote at the same time: the next run is a little slower to find its pace then, and nothing else. So
nothing here raises, and nobody waits for it longer than an instant: it is read while the run begins, and written
while its outcome is.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple

from headrace.core.costs import moved
from headrace.errors import DamagedObject, NotFound, UntrustedObject
from headrace.storage.files import Files
from headrace.storage.records import read_record, to_bytes

FORMAT = 1
#: How many tasks are kept, those that ran last.
MOST = 1000
#: Seconds per task run beyond which an entry is rubbish (thirty years), and cannot become a float, say.
LONGEST = 1e9
#: Seconds that a run waits for the hint when it is otherwise ready to start, or has ended. A store that answers
#: takes less; it had the time of one write already.
INSTANT = 0.3

_LOG = logging.getLogger(__name__)


class Entry(NamedTuple):
    """What is kept of one task: seconds per task run, and when that was measured (ISO, UTC)."""

    seconds: float
    time: str


class StoredCosts:
    """The costs of a flow's tasks, as earlier runs left them. Begins to read them at once, in another thread.

    Parameters
    ----------
    files : Files
        Where they lie.
    flow : str
        Name of the flow.
    """

    def __init__(self, files: Files, flow: str) -> None:
        self._files = files
        self.key = f"flows/{flow}/costs.json"
        self._entries: dict[str, Entry] | None = None  # None: not known, so not to be replaced either
        self._read_it = _aside(self._read)

    def means(self) -> dict[str, float]:
        """Return seconds per task run by key of the task; waits an instant, and returns nothing rather than longer."""
        self._read_it.wait(INSTANT)
        return {key: entry.seconds for key, entry in (self._entries or {}).items()}

    def keep(self, means: Mapping[str, float]) -> threading.Event | None:
        """Write down what a run learnt, if it tells the next one anything, in another thread.

        Parameters
        ----------
        means : mapping of str to float
            Seconds per task run by key of the task.

        Returns
        -------
        Event or None
            Set when it is written, or could not be; None if there is nothing to write. Who waits for it waits no
            longer than `INSTANT`.
        """
        entries = self._entries
        if entries is None or not moved({key: entry.seconds for key, entry in entries.items()}, means):
            return None
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        facts = to_facts({**entries, **{key: Entry(mean, now) for key, mean in means.items()}})
        return _aside(lambda: self._files.replace(self.key, to_bytes(facts, self.key, self._files.seal)))

    def _read(self) -> None:
        try:
            self._entries = from_facts(read_record(self._files, self.key))
        except (NotFound, DamagedObject, UntrustedObject):
            self._entries = {}


def to_facts(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """Return entries as JSON data; of too many, the newest."""
    newest = sorted(entries.items(), key=lambda item: item[1].time, reverse=True)[:MOST]
    tasks = {key: {"seconds": float(f"{seconds:.4g}"), "time": time} for key, (seconds, time) in newest}
    return {"format": FORMAT, "tasks": tasks}


def from_facts(found: Mapping[str, Any]) -> dict[str, Entry]:
    """Return the entries in JSON data; without those, or all, that nobody can use."""
    tasks = found.get("tasks") if found.get("format") == FORMAT else None
    if not isinstance(tasks, dict):
        return {}
    entries = {key: entry for key, row in tasks.items() if (entry := _entry(row)) is not None}
    return dict(list(entries.items())[:MOST])


def _entry(row: Any) -> Entry | None:
    seconds = row.get("seconds") if isinstance(row, dict) else None
    if not isinstance(seconds, (int, float)) or not 0 <= seconds <= LONGEST:
        return None
    return Entry(float(seconds), str(row.get("time", "")))


def _aside(function: Callable[[], None]) -> threading.Event:
    """Call a function in another thread; return what is set when it is over. Failures go to the log."""
    over = threading.Event()

    def call() -> None:
        try:
            function()
        except Exception as error:  # noqa: BLE001 - it is about a hint, so whatever it is, the run is none the worse
            _LOG.debug("what tasks cost is not kept: %s", error)
        finally:
            over.set()

    try:  # a daemon, so that a silent store cannot keep the process from ending
        threading.Thread(target=call, name="headrace-costs", daemon=True).start()
    except RuntimeError as error:  # no more threads, or the interpreter is ending
        _LOG.debug("what tasks cost is not kept: %s", error)
        over.set()
    return over
