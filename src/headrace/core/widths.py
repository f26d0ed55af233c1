"""How wide a mapped node is, once the run can tell; or why it can have no width."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from headrace.core.events import Failure, Size
from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind, WidthFrom
from headrace.core.rules import Decision, Upstream, behind_gates, decide, name_of, upstream_of
from headrace.core.state import State
from headrace.core.strips import Strip, locate
from headrace.errors import FlowError


def note_sizes(nodes: Sequence[NodeRun], sizes: Iterable[Size], strips: Sequence[Strip]) -> None:
    """Note lengths that a batch reports; those of what makes a task run's value are the task run's, too.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    sizes : iterable of Size
        As reported.
    strips : sequence of Strip
        The batch.
    """
    for position, measure, size in sizes:
        node, child = locate(strips, position)
        nodes[node].sizes[measure][child] = size
        outer = nodes[node].spec.stands_for
        if outer is not None and measure < len(nodes[outer[0]].sizes):
            nodes[outer[0]].sizes[measure][outer[1]] = size


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
        if isinstance(found, Problem):
            return _refusal(behind_gates(gate_states(run, nodes))) or found
        if found is None:
            return None
        widths.add(found)
    if len(widths) > 1 and run.spec.strict:
        return _refusal(behind_gates(gate_states(run, nodes))) or _refused(
            f"node {run.spec.name!r} maps over sequences of different lengths: {sorted(widths)}; give sequences of one "
            "length, or strict=False to stop at the shortest"
        )
    return min(widths)


def _refusal(decision: Decision) -> Problem | None:
    if decision is Decision.RUN:
        return None
    return Problem(State.SKIPPED if decision is Decision.SKIP else State.TRIGGER_FAILED)


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


def empty(run: NodeRun, nodes: Sequence[NodeRun]) -> Problem | None:
    """Return what a mapped node without elements ends as, if its task runs would not have been let run.

    So a failure, or a skip, of what it waits for is not lost with the task runs that there are not.

    Parameters
    ----------
    run : NodeRun
        The node; all that it waits for as a whole is finished.
    nodes : sequence of NodeRun
        The run.
    """
    decision = behind_gates(gate_states(run, nodes))
    if decision is Decision.RUN:
        decision = decide(run.policy.trigger, run.policy.skip_on_upstream_skip, whole_upstream(run, nodes))
    return _refusal(decision)


def gate_states(run: NodeRun, nodes: Sequence[NodeRun]) -> set[State]:
    """Return the states in which a node's gates ended."""
    return {State(state) for gate in run.spec.gates for state in nodes[gate].states}


def whole_upstream(run: NodeRun, nodes: Sequence[NodeRun]) -> Upstream:
    """Count what a node waits for beside its gates, and not child by child."""
    found = Upstream(0, 0, 0)
    for edge in run.spec.inputs:
        if edge.kind not in (EdgeKind.CHILD, EdgeKind.AFTER) and edge.source not in run.spec.gates:
            source = nodes[edge.source]
            part = source.upstream() if edge.kind is EdgeKind.NODE else source.upstream_of_item(edge.item)
            found = Upstream(*map(sum, zip(found, part, strict=True)))
    return found


def why_not(run: NodeRun, nodes: Sequence[NodeRun], child: int) -> str:
    """Say why a trigger, or a gate, did not let a task run start.

    Parameters
    ----------
    run : NodeRun
        The node, with all that it waits for finished.
    nodes : sequence of NodeRun
        The run.
    child : int
        Which of its task runs.
    """
    closed = [nodes[gate].spec.name for gate in run.spec.gates if nodes[gate].failed]
    if closed:
        return f"{closed[0]!r}, on which it depends in any case, failed"
    by_child = [nodes[edge.source] for edge in run.spec.inputs if edge.kind is EdgeKind.CHILD]
    up = upstream_of(
        whole_upstream(run, nodes), [State(source.states[child]) for source in by_child if child < len(source.states)]
    )
    told = f"its trigger {name_of(run.policy.trigger)}"
    if callable(run.policy.trigger):
        try:
            run.policy.trigger(up)
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            told += f", which raised {type(error).__name__}: {error}"
    counts = f"{up.successful} successful, {up.failed} failed, {up.skipped} skipped"
    return f"how its upstream ended ({counts}) does not satisfy {told}"


def _refused(text: str) -> Problem:
    error = FlowError(text)
    told = Failure("headrace.errors.FlowError", text, pickled=pickle.dumps((error, None)), exception=error)
    return Problem(State.FAILED, told)
