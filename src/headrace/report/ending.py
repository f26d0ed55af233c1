"""What became of a run that ended before it was done, in a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.core.state import State
from headrace.core.summary import NodeSummary


def early_end(nodes: Sequence[NodeSummary]) -> list[str]:
    """Say what was cancelled, what was cleaned up, and what was not.

    Parameters
    ----------
    nodes : sequence of NodeSummary
        Of the run.

    Examples
    --------
    >>> early_end([NodeSummary("load", True, 3, {State.SUCCESS: 1, State.CANCELLED: 2}, 0.0)])
    ['cancelled: load (2 of 3)']
    """
    cleaning = [node for node in nodes if node.cleans]
    lines = {
        "cancelled": (
            f"{node.name} ({node.counts[State.CANCELLED]:,} of {node.width:,})" if node.mapped else node.name
            for node in nodes
            if not node.cleans and State.CANCELLED in node.counts
        ),
        "cleaned up": (node.name for node in cleaning if State.SUCCESS in node.counts),
        "not cleaned up": (node.name for node in cleaning if node.failures),
    }
    return [line for what, names in lines.items() if (line := _line(what, names))]


def _line(what: str, names: Iterable[str], most: int = 10) -> str:
    found = list(names)
    more = f" and {len(found) - most:,} more" if len(found) > most else ""
    return f"{what}: {', '.join(found[:most])}{more}" if found else ""
