"""Orders: what a worker must know of a batch beyond the plan."""

from __future__ import annotations

from collections.abc import Sequence

from headrace.core.events import NO_WIDTH, Dispatch, Input, Links
from headrace.core.noderun import NO_BATCH, NodeRun
from headrace.core.plan import EdgeKind
from headrace.core.state import GOOD, State
from headrace.core.strips import Strip

#: states of task runs that ended with an exception of their own
_RAISED = (State.FAILED, State.TIMED_OUT)


def write_order(
    nodes: Sequence[NodeRun],
    number: int,
    strips: tuple[Strip, ...],
    limit: float,
    whole: bool,
    links: Links | None = None,
) -> Dispatch:
    """Write the order of a batch.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run; the holders of the batch's task runs name it already.
    number : int
        Of the batch.
    strips : tuple of Strip
        What it executes.
    limit : float
        Seconds after which what has not started is given back.
    whole : bool
        Whether nothing may be given back or put off.
    links : Links, optional
        What it exchanges with others while it runs; so these are not among its inputs.
    """
    inputs: set[int] = set()
    outside: set[Input] = set()
    widths: dict[int, int] = {}
    attempts: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, bool, int]] = set()
    for column, low, high in strips:
        for node in column:
            run = nodes[node]
            for child in [child for child in run.attempts if low <= child < high]:
                attempts[node, child] = run.attempts[child]
            for edge in run.spec.inputs:
                if edge.kind is EdgeKind.AFTER and not edge.data:
                    continue  # it is over, and that is all
                source, takes = nodes[edge.source], edge.data
                if edge.kind is EdgeKind.CHILD:
                    first, last = low, high
                else:
                    item = edge.item if edge.kind is EdgeKind.ITEM else -1
                    if (edge.source, edge.data, item) in seen:
                        continue
                    seen.add((edge.source, edge.data, item))
                    if source.spec.mapped and source.width is not None:
                        widths[edge.source] = NO_WIDTH if source.widthless else source.width
                    # What takes an item that there is not is decided by all of its source, and gets no value of it.
                    beyond = item >= len(source.states)
                    first, last = (0, len(source.states)) if item < 0 or beyond else (item, item + 1)
                    takes = takes and not beyond
                if takes:
                    inputs.update(source.holders[first:last])
                if not source.clean:
                    outside.update(_odd(edge.source, source, first, last))
    inputs -= {NO_BATCH, number}
    if links is not None:
        inputs.difference_update(links.gang)
    failures = {
        (node, child): nodes[node].failures[child]
        for node, child, state in outside
        if state in _RAISED and nodes[node].holders[child] == NO_BATCH and child in nodes[node].failures
    }
    return Dispatch(
        number, strips, tuple(sorted(inputs)), tuple(sorted(outside)), widths, attempts, limit, failures, whole, links
    )


def _odd(node: int, run: NodeRun, first: int, last: int) -> list[Input]:
    """Those of a range that ended, and did not succeed."""
    states = enumerate(run.states[first:last], first)
    return [Input(node, child, State(state)) for child, state in states if state > State.SUCCESS and state not in GOOD]
