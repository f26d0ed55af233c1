"""Many nodes as few rows: what the reports show when a flow is wider than a screen. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from headrace.core.state import State
from headrace.core.summary import NodeSummary

#: in a node's name, the suffix that repeated calls of its task get, and the child that went on as a flow.
_REPEATED = re.compile(r"-\d+(?=$|/|\[)|\[\d+\](?=/)")

#: states in which nothing has happened yet; reports draw them as the empty part of a bar.
WAITING = frozenset({State.PENDING, State.READY})

#: the order of urgency in which rows are kept when not all fit.
_URGENCY = {
    State.CRASHED: 0,
    State.FAILED: 0,
    State.TIMED_OUT: 0,
    State.TRIGGER_FAILED: 1,
    State.CANCELLED: 1,
    State.RUNNING: 2,
    State.RETRYING: 2,
    State.READY: 3,
    State.PENDING: 3,
    State.SKIPPED: 4,
    State.SUCCESS: 4,
    State.CACHED: 4,
}


class Totals(NamedTuple):
    """A whole run in numbers.

    Attributes
    ----------
    done : int
        Task runs that are final.
    width : int
        Task runs that are known so far.
    exact : bool
        Whether all of them are known.
    running, failures : int
        Task runs that are executing, and that ended badly.
    seconds : float
        Time spent in tasks, summed.
    """

    done: int
    width: int
    exact: bool
    running: int
    failures: int
    seconds: float


def totals(nodes: Iterable[NodeSummary]) -> Totals:
    """Return a whole run in numbers."""
    done = width = running = failures = 0
    exact, seconds = True, 0.0
    for node in nodes:
        done += node.done
        width += sum(node.counts.values()) if node.width is None else node.width
        exact = exact and node.width is not None
        running += node.counts.get(State.RUNNING, 0)
        failures += node.failures
        seconds += node.seconds
    return Totals(done, width, exact, running, failures, seconds)


def grouped(nodes: Sequence[NodeSummary]) -> list[NodeSummary]:
    """Return one summary per task name: ``add``, ``add-2``, ``add-3`` become one of that name.

    So do nodes of flows that task runs went on as: ``plan[0]/add``, ``plan[1]/add-2``.
    """
    groups: dict[str, list[NodeSummary]] = {}
    for node in nodes:
        groups.setdefault(_REPEATED.sub("", node.name), []).append(node)
    return [members[0] if len(members) == 1 else _merged(base, members) for base, members in groups.items()]


def _merged(base: str, members: Sequence[NodeSummary]) -> NodeSummary:
    counts: dict[State, int] = {}
    width: int | None = 0
    for member in members:
        for state, count in member.counts.items():
            counts[state] = counts.get(state, 0) + count
        width = None if width is None or member.width is None else width + member.width
    seconds = sum(member.seconds for member in members)
    return NodeSummary(f"{base} \u00d7{len(members):,}", any(one.mapped for one in members), width, counts, seconds)


def fit(nodes: Sequence[NodeSummary], limit: int) -> tuple[list[NodeSummary], str]:
    """Return at most ``limit`` rows, and a line about what they leave out.

    All nodes, if they fit; else one row per task name; else of those the most urgent ones (failed, running,
    pending), in the order of the flow.

    Parameters
    ----------
    nodes : sequence of NodeSummary
        All nodes of the run.
    limit : int
        How many rows there is room for.
    """
    if len(nodes) <= limit:
        return list(nodes), ""
    rows = grouped(nodes)
    if len(rows) <= limit:
        return rows, ""
    urgent = sorted(range(len(rows)), key=lambda at: _URGENCY[rows[at].state])
    kept = set(urgent[: max(limit, 0)])
    hidden = [row for at, row in enumerate(rows) if at not in kept]
    kinds = [
        (sum(row.state == State.PENDING for row in hidden), "pending"),
        (sum(row.done == row.width for row in hidden), "finished"),
    ]
    kinds.append((len(hidden) - kinds[0][0] - kinds[1][0], "active"))
    rest = ", ".join(f"{count:,} {kind}" for count, kind in kinds if count)
    return [row for at, row in enumerate(rows) if at in kept], f"and {len(hidden):,} more: {rest}"


def share_out(counts: dict[State, int], width: int | None, cells: int) -> list[tuple[State, int]]:
    """Share the cells of a bar out among states; whatever happened at all gets a cell, failures first.

    Parameters
    ----------
    counts : dict of State to int
        Task runs per state.
    width : int or None
        All task runs; None while unknown.
    cells : int
        The length of the bar.

    Returns
    -------
    list of (State, int)
        In drawing order: done well, skipped, failed, retrying, running. What remains waits.
    """
    whole = max(width or 0, sum(counts.values()))
    if not whole or cells <= 0:
        return []
    order = [state for state in State if state.is_failure]
    order += [State.RUNNING, State.RETRYING, State.SKIPPED, State.CACHED, State.SUCCESS]
    left, shares = cells, {}
    for state in order:
        count = counts.get(state, 0)
        if count and left:
            shares[state] = min(left, max(1, int(cells * count / whole)))
            left -= shares[state]
    # Rounding down must not leave a finished bar short.
    if left and width is not None and sum(counts.get(state, 0) for state in order) == whole:
        widest = max(shares, key=lambda state: shares[state])
        shares[widest] += left
    drawn = [State.SUCCESS, State.CACHED, State.SKIPPED, *(state for state in State if state.is_failure)]
    drawn += [State.RETRYING, State.RUNNING]
    return [(state, shares[state]) for state in drawn if state in shares]


def progress(node: NodeSummary) -> str:
    """Return ``done/width`` as people write it."""
    return f"{node.done:,}/{'?' if node.width is None else format(node.width, ',')}"


def duration(seconds: float) -> str:
    """Return a duration as people say it."""
    if seconds < 0.001:
        return "< 1 ms" if seconds > 0 else "0 s"
    if seconds < 0.9995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"
