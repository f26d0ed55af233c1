"""What headrace promises about flows: one row per behaviour, the same on every executor.

The rows stand in ``rows_*.py``, by topic; ``test_rows.py`` runs them all, everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import headrace as hr

S, F, T, K, C, LATE, X = "Success", "Failed", "TriggerFailed", "Skipped", "Cancelled", "TimedOut", "Crashed"
CACHED = "Cached"


@dataclass
class Row:
    """A flow with its parameters, and what must come of it; ``says`` holds patterns of messages by task run."""

    name: str
    flow: hr.Flow
    parameters: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    error: tuple[type[BaseException], str] | None = None
    states: dict[str, list[str]] = field(default_factory=dict)
    attempts: dict[str, list[int]] = field(default_factory=dict)
    ends: str | None = None
    says: dict[str, list[str]] = field(default_factory=dict)
    told: dict[str, list[str]] | None = None  # by what changed: what hooks were told; see tests.semantics.witness
    logged: dict[str, list[str]] | None = None  # by run name: what its task logged
    writes: list[str] | None = None  # the lines of the temporary file in the end, in order
    cancelled: str | None = None  # when this line is in the file, the run is cancelled

    @property
    def state(self) -> str:
        """How the run ends."""
        return self.ends or (F if self.error else S)


ROWS: list[Row] = []


def row(
    parameters: dict[str, Any] | None = None,
    *,
    result: Any = None,
    error: tuple[type[BaseException], str] | None = None,
    attempts: dict[str, list[int]] | None = None,
    ends: str | None = None,
    says: dict[str, list[str]] | None = None,
    told: dict[str, list[str]] | None = None,
    logged: dict[str, list[str]] | None = None,
    writes: list[str] | None = None,
    cancelled: str | None = None,
    **states: list[str],
) -> Callable[[Any], Any]:
    """Add the decorated flow function, or the flow, to the table."""

    def decorate(function: Any) -> Any:
        flow = function if isinstance(function, hr.Flow) else hr.flow(function)
        known = Row(
            flow.name, flow, parameters or {}, result, error, states, attempts or {}, ends, says or {}, told, logged,
            writes, cancelled,
        )  # fmt: skip
        ROWS.append(known)
        return function

    return decorate
