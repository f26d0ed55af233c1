"""How wide a mapped node is, once the run can tell; or why it can have no width."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from headrace.core.events import Failure
from headrace.core.noderun import NodeRun
from headrace.core.plan import WidthFrom
from headrace.core.rules import Decision, decide
from headrace.core.state import State
from headrace.errors import FlowError


class Problem(NamedTuple):
    """What a mapped node without a width ends as."""

    state: State
    failure: Failure | None = None


def width_of(run: NodeRun, nodes: Sequence[NodeRun]) -> int | Problem | None:
    """Return the width of a mapped node whose width the plan does not know.

    Parameters
    ----------
    run : NodeRun
        The node; all that it waits for as a whole is finished.
    nodes : sequence of NodeRun
        The run.

    Returns
    -------
    int, Problem or None
        None while a node that it maps over child by child has no width either.
    """
    widths: set[int] = set(run.spec.widths)
    for origin in run.spec.widths_from:
        found = _told_by(run, nodes[origin.source], origin)
        if not isinstance(found, int):
            return found
        widths.add(found)
    if len(widths) > 1:
        return _refused(f"node {run.spec.name!r} maps over sequences of different lengths: {sorted(widths)}")
    return widths.pop()


def _told_by(run: NodeRun, source: NodeRun, origin: WidthFrom) -> int | Problem | None:
    if origin.measure is None and not source.widthless:
        return source.width if source.opened else None
    if not source.clean:
        policy = run.policy
        decision = decide(policy.trigger, policy.skip_on_upstream_skip, source.upstream())
        return Problem(State.SKIPPED if decision is Decision.SKIP else State.TRIGGER_FAILED)
    assert origin.measure is not None  # a node without a width is not clean
    sizes = source.sizes[origin.measure]
    if any(size < 0 for size in sizes.values()):
        return _refused(
            f"node {run.spec.name!r} maps over the value of {source.spec.name!r}, which is not a sequence; "
            "return a list from that task"
        )
    return sum(sizes.values())


def _refused(text: str) -> Problem:
    return Problem(State.FAILED, Failure("headrace.errors.FlowError", text, exception=FlowError(text)))
