"""Which task run is to blame for a failure: the first that failed by itself."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind
from headrace.core.state import State


def blame(nodes: Sequence[NodeRun], deciding: Iterable[NodeRun]) -> tuple[NodeRun, int] | None:
    """Return the task run that failed by itself: of nodes that decide, else of what they waited for.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    deciding : iterable of NodeRun
        Some of them, each with a task run that failed.

    Returns
    -------
    (NodeRun, int) or None
        The node and the child; None if none failed by itself: a trigger asked for failures, and there were none.
    """
    return next(((run, min(run.failures)) for run in _behind(nodes, deciding) if run.failures), None)


def stopped(nodes: Sequence[NodeRun], deciding: Iterable[NodeRun]) -> bool:
    """Whether a task run was cancelled: of nodes that decide, or of what they waited for.

    Parameters
    ----------
    nodes, deciding
        As for ``blame``.
    """
    return any(State.CANCELLED in run.states for run in _behind(nodes, deciding))


def _behind(nodes: Sequence[NodeRun], deciding: Iterable[NodeRun]) -> Iterator[NodeRun]:
    """Return nodes, and those with failures that they waited for."""
    queue = list(deciding)
    seen: set[int] = set()
    for run in queue:
        yield run
        seen.add(run.spec.index)
        queue.extend(
            nodes[edge.source]
            for edge in run.spec.inputs
            if edge.kind is not EdgeKind.AFTER and nodes[edge.source].failed and edge.source not in seen
        )
