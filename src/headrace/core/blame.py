"""Which task run is to blame for a failure: the first that failed by itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind


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
    queue = list(deciding)
    seen: set[int] = set()
    for run in queue:
        if run.failures:
            return run, min(run.failures)
        seen.add(run.spec.index)
        queue.extend(
            nodes[edge.source]
            for edge in run.spec.inputs
            if edge.kind is not EdgeKind.AFTER and nodes[edge.source].failed and edge.source not in seen
        )
    return None
