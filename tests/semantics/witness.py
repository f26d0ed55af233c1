"""Sees what hooks are told and what tasks log, in the process that drives the runs."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import headrace as hr


class Witness(logging.Handler):
    """What was seen, in order, by task run."""

    def __init__(self) -> None:
        super().__init__()
        self.told: dict[str, list[str]] = {}
        self.logged: dict[str, list[str]] = {}
        self.records: list[logging.LogRecord] = []
        self.changes: list[hr.Change] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not hasattr(record, "run_id"):
            return
        line = f"{record.levelname} {record.name}: {self.format(record)}"
        self.logged.setdefault(record.run_name, []).append(line)  # type: ignore[attr-defined]
        self.records.append(record)

    def note(self, change: hr.Change, text: str) -> None:
        label = str(change).rpartition(":")[0]
        self.told.setdefault(label, []).append(text)
        self.changes.append(change)


_WITNESSES: list[Witness] = []


@contextmanager
def witness() -> Iterator[Witness]:
    seen = Witness()
    _WITNESSES.append(seen)
    logging.getLogger().addHandler(seen)
    try:
        yield seen
    finally:
        logging.getLogger().removeHandler(seen)
        _WITNESSES.remove(seen)


def tell(change: hr.Change, old: hr.State, new: hr.State) -> None:
    """An ``on_state`` hook."""
    assert change.state is new
    _WITNESSES[-1].note(change, f"{old} > {new}")


def tell_failure(change: hr.Change, error: Any) -> None:
    """An ``on_failure`` hook."""
    assert change.error is error
    text = "nothing" if error is None else f"{type(error).__name__}: {error}"
    _WITNESSES[-1].note(change, f"{change.state} at attempt {change.attempts}, {text}")
