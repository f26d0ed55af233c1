"""Making plans: nodes and edges as integers, of graphs as they were drawn; before a run, and while it goes on."""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from headrace.core.graph import Graph, NodeSpec
from headrace.core.loops import Loop
from headrace.core.plan import Edge, EdgeKind, Measure, Plan, PlanNode, WidthFrom
from headrace.core.slots import EachConst, EachOf, EachSent, How, Ref, refs
from headrace.core.task import Task
from headrace.errors import FlowError


def make_plan(graph: Graph) -> Plan:
    """Make a plan of a graph whose parameters are bound.

    Parameters
    ----------
    graph : Graph
        As drawn, or as bound.

    Raises
    ------
    FlowError
        If a mapped node could have no width.
    """
    plan = Plan([], [], graph.result, deciding=graph.deciding)
    extend(plan, graph.nodes, {ref.node for ref in refs(graph.result)})
    return plan


def extend(plan: Plan, specs: Sequence[NodeSpec], returned: Set[int] = frozenset()) -> None:
    """Add nodes to a plan.

    Parameters
    ----------
    plan : Plan
        Grows; its nodes are a list.
    specs : sequence of NodeSpec
        Their references are numbers in the grown plan. Whatever of an older node is mapped over was measured.
    returned : set of int
        Which of them the flow returns.

    Raises
    ------
    FlowError
        If a mapped node could have no width.
    """
    nodes = plan.nodes
    assert isinstance(nodes, list)  # as it is where plans are made
    base = len(nodes)
    outputs: list[list[Edge]] = [[] for _ in specs]
    measures: dict[int, list[Measure]] = {index: [] for index in range(base, base + len(specs))}
    older: list[Edge] = []  # from nodes that were there before
    mapped = {index for index, spec in enumerate(specs, base) if spec.mapped}
    if base:
        mapped.update(old for spec in specs for old in spec.sources() if old < base and nodes[old].mapped)
    try:
        for index, spec in enumerate(specs, base):
            edges = _edges(mapped, index, spec)
            for edge in edges:
                (outputs[edge.source - base] if edge.source >= base else older).append(edge)
            widths, widths_from = _widths(nodes, spec, measures) if spec.mapped else ((1,), ())
            nodes.append(
                PlanNode(
                    index, spec.name, _number(plan, spec.task), spec.mapped, spec.args, spec.kwargs,
                    edges, (), widths, widths_from, (), index in returned, spec.strict, spec.gates,
                )
            )  # fmt: skip
    except FlowError:
        del nodes[base:]
        raise
    for node, out, measured in zip(nodes[base:], outputs, measures.values(), strict=True):
        node.outputs = tuple(out)
        node.measures = tuple(measured)
    for edge in older:
        source = nodes[edge.source]
        if not isinstance(source.outputs, list):
            source.outputs = list(source.outputs)
        source.outputs.append(edge)


def _number(plan: Plan, task: Task[..., Any]) -> int:
    """The number of a task, which joins the plan if it is new, with the tasks that it will call if it is a loop."""
    number = plan.numbers.setdefault(id(task), len(plan.tasks))
    if number == len(plan.tasks):
        assert isinstance(plan.tasks, list)
        plan.tasks.append(task)
        for inner in task.function.tasks if isinstance(task.function, Loop) else ():
            _number(plan, inner)
    return number


def _edges(mapped: Set[int], index: int, spec: NodeSpec) -> tuple[Edge, ...]:
    """One edge per source: CHILD if every use of it is child by child, ITEMs if every use is one child, else NODE.

    Of what is only to be over first, it is AFTER, with or without values.
    """
    used: list[Ref] = []
    for slot in (*spec.args, *spec.kwargs.values()):
        used += (slot,) if isinstance(slot, Ref) else refs(slot)
    sources = {ref.node for ref in used}
    if not (spec.upstream or spec.gates or spec.after) and mapped.isdisjoint(sources):
        return tuple([Edge(source, index, EdgeKind.NODE, True) for source in sorted(sources)])
    kinds: dict[int, EdgeKind] = dict.fromkeys((*spec.upstream, *spec.gates), EdgeKind.NODE)
    items: dict[int, set[int]] = {}
    for ref in used:
        kind = _kind_of(ref, ref.node in mapped)
        known = kinds.setdefault(ref.node, kind)
        if known is not kind:
            kinds[ref.node] = EdgeKind.NODE
        items.setdefault(ref.node, set()).add(ref.path[0] if kind is EdgeKind.ITEM else 0)
    kinds.update(dict.fromkeys(spec.after, EdgeKind.AFTER))
    edges: list[Edge] = []
    for source, kind in sorted(kinds.items()):
        wanted = sorted(items[source]) if kind is EdgeKind.ITEM else (0,)
        edges += (Edge(source, index, kind, source in items, item) for item in wanted)
    return tuple(edges)


def _kind_of(ref: Ref, mapped: bool) -> EdgeKind:
    """How much of its source one reference takes."""
    if not mapped:
        return EdgeKind.NODE
    if ref.how is How.EACH:
        return EdgeKind.CHILD
    one = ref.how in (How.WHOLE, How.STATE) and bool(ref.path) and type(ref.path[0]) is int and ref.path[0] >= 0
    return EdgeKind.ITEM if one else EdgeKind.NODE


def _widths(
    nodes: Sequence[PlanNode], spec: NodeSpec, measures: dict[int, list[Measure]]
) -> tuple[tuple[int, ...], tuple[WidthFrom, ...]]:
    known: list[int] = []
    later: list[WidthFrom] = []

    def measured(ref: Ref, flat: bool) -> WidthFrom:
        measure = Measure(ref.path, flat)
        # Of an older node, it was measured if it is mapped over; a loop's turns see to that.
        wanted = measures[ref.node] if ref.node in measures else list(nodes[ref.node].measures)
        if measure not in wanted:
            wanted.append(measure)
        return WidthFrom(ref.node, wanted.index(measure))

    for slot in spec.slots():
        match slot:
            case EachConst(values) | EachSent(values=values):
                known.append(len(values or ()))
            case EachOf(items):
                known.append(len(items))
            case Ref(node, path, How.EACH) if nodes[node].mapped:
                if path:
                    raise FlowError(
                        f"node {spec.name!r} maps over {nodes[node].name!r}{list(path)!r}, an item of a mapped "
                        "node; take the item in a task and map over what that returns"
                    )
                later.append(WidthFrom(node, None))
            case Ref(node, path, How.EACH):
                later.append(measured(slot, flat=False))
            case Ref(node, path, How.FLAT):
                if path and nodes[node].mapped:
                    raise FlowError(f"node {spec.name!r} flattens an item of a mapped node; take the item in a task")
                later.append(measured(slot, flat=not nodes[node].mapped))
            case _:
                pass
    return _agreed(spec, known), tuple(later)


def _agreed(spec: NodeSpec, known: list[int]) -> tuple[int, ...]:
    """The widths that are known, if they agree or need not."""
    if known and not spec.strict:
        return (min(known),)
    if len(set(known)) > 1:
        raise FlowError(
            f"node {spec.name!r} maps over sequences of different lengths: {', '.join(map(str, known))}; "
            "give sequences of one length, or strict=False to stop at the shortest, or wrap what every child shall "
            "receive in hr.unmapped(...)"
        )
    return tuple(known)
