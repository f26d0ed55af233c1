"""Plans: a graph made ready to run, with integers for names.

The plan is what the machine steers by (edges, widths) and what a worker executes by (tasks, argument slots); it
travels to each worker once per run. A *task run* is a pair ``(node, child)``; the single run of a node that is not
mapped is child 0. Three kinds of edges say what a task run waits for:

* ``NODE``: the whole source node, with all its children.
* ``CHILD``: only the source's child of the same index (a map over a map).
* ``ITEM``: only one child of the source, always the same (``mapped[3]``).

The *width* of a mapped node is known from the plan (a constant list), or equals another node's (a map over a map),
or is measured by the worker that computes the value that is mapped over.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, overload

from headrace.core.graph import Graph, NodeSpec
from headrace.core.loops import Loop
from headrace.core.policy import Policy
from headrace.core.slots import Const, EachConst, EachOf, EachSent, How, Ref, Slot, Slotted, refs
from headrace.core.task import Task
from headrace.errors import FlowError

TaskRun = tuple[int, int]  # node, child


class EdgeKind(IntEnum):
    """How much of its source an edge waits for."""

    NODE = 0
    CHILD = 1
    ITEM = 2


class Edge(NamedTuple):
    """One dependency between two nodes; ``data`` says whether values flow along it, or only order.

    ``item`` is the source's child that an ITEM edge waits for.
    """

    source: int
    target: int
    kind: EdgeKind
    data: bool
    item: int = 0


def edge_children(edge: Edge, child: int, width: int) -> range:
    """Return the source's children that an edge waits for.

    Parameters
    ----------
    edge : Edge
        Which edge.
    child : int
        The child of the target that waits.
    width : int
        Of the source.
    """
    if edge.kind is EdgeKind.NODE:
        return range(width)
    return range(child, child + 1) if edge.kind is EdgeKind.CHILD else range(edge.item, min(edge.item + 1, width))


class Measure(NamedTuple):
    """A length that a worker reports, because a later map is as wide as that.

    ``flat`` asks for the sum of the lengths of the elements; of a mapped node, each child reports its own length.
    """

    path: tuple[Any, ...]
    flat: bool


class WidthFrom(NamedTuple):
    """Where a mapped node's width comes from: another node's width, or a measure of its value(s)."""

    source: int
    measure: int | None


@dataclass(slots=True)
class PlanNode:
    """One node of a plan.

    Attributes
    ----------
    index : int
        Its number.
    name : str
        Its unique name.
    task : int
        Index into ``Plan.tasks``.
    mapped : bool
        Whether it has one child per element.
    args, kwargs : tuple and dict of Slot
        What each task run calls the function with.
    inputs, outputs : tuple of Edge
        What it waits for, and what waits for it.
    widths : tuple of int
        Widths that the plan knows.
    widths_from : tuple of WidthFrom
        Widths that the run will tell; all must agree.
    measures : tuple of Measure
        What its task runs report the length of.
    returned : bool
        Whether the flow returns (a part of) its value.
    outer : (int, int) or None
        The task run that became a flow, this node in it; see ``core.expansion``.
    stands_for : (int, int) or None
        The task run whose value this one makes.
    hidden : bool
        Whether it is nothing that a user wrote.
    """

    index: int
    name: str
    task: int
    mapped: bool
    args: tuple[Slot, ...]
    kwargs: dict[str, Slot]
    inputs: tuple[Edge, ...]
    outputs: Sequence[Edge]
    widths: tuple[int, ...]
    widths_from: tuple[WidthFrom, ...]
    measures: tuple[Measure, ...]
    returned: bool
    outer: TaskRun | None = None
    stands_for: TaskRun | None = None
    hidden: bool = False

    def slots(self) -> Iterator[Slot]:
        """All arguments."""
        yield from self.args
        yield from self.kwargs.values()


@dataclass(slots=True)
class Plan:
    """A graph made ready to run.

    Attributes
    ----------
    tasks : list of Task
        Each task once, however many nodes call it.
    nodes : sequence of PlanNode
        In the order of the graph's nodes.
    result : Slot
        What the flow returns.
    numbers : dict of int to int
        By ``id`` of a task, its number; known where the plan was made.
    """

    tasks: Sequence[Task[..., Any]]
    nodes: Sequence[PlanNode]
    result: Slot
    numbers: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def policy(self, node: int) -> Policy:
        """The policy of a node's task."""
        return self.tasks[self.nodes[node].task].policy

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as rows of plain data, of which nodes are made when they are asked for.

        Every run pays for pickling and loading, on each worker, and a worker needs those nodes only that its batches
        touch.
        """
        return _from_rows, (self.tasks, [row_of(node) for node in self.nodes], self.result)


class Rows(Sequence[PlanNode]):
    """The nodes of a plan that has travelled; each is made once."""

    __slots__ = ("_made", "rows")

    def __init__(self, rows: Sequence[tuple[Any, ...]]) -> None:
        self.rows = rows
        self._made: list[PlanNode | None] = [None] * len(rows)

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> PlanNode: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlanNode]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        node = self._made[index]
        if node is None:
            index = range(len(self))[index]
            node = self._made[index] = from_row(index, self.rows[index])
        return node


class Plain(NamedTuple):
    """What there is to know of a node that is called with whole values and constants, and passes its value on whole.

    Attributes
    ----------
    task : int
        Index into ``Plan.tasks``.
    args : list of int or (object,)
        Numbers of the nodes whose values it takes, and constants in tuples.
    outputs : list of int
        Which nodes take its value.
    returned : bool
        Whether the flow returns it.
    """

    task: int
    args: list[Any]
    outputs: list[int]
    returned: bool


def plain(nodes: Sequence[PlanNode], index: int) -> Plain | None:
    """Return a node as a plain one, if it is; most are, and this costs a tenth of making the node.

    Parameters
    ----------
    nodes : sequence of PlanNode
        Of a plan, travelled or not.
    index : int
        Which.
    """
    if not isinstance(nodes, Rows):
        return None
    rows = nodes.rows
    _, task, args, inputs, outputs, returned, *more = rows[index]
    if more or any(type(edge) is not int for edge in inputs):
        return None
    for arg in args:
        if type(arg) is int:
            if len(rows[arg]) > _SHORT:
                return None
        elif type(arg) is not tuple or len(arg) > 1:
            return None
    for target in outputs:
        if type(target) is not int or len(rows[target]) > _SHORT:
            return None
    return Plain(task, args, outputs, returned)


#: Entries of the row of a node that is not mapped, and has neither keyword arguments nor measures.
_SHORT = 6


def row_of(node: PlanNode) -> tuple[Any, ...]:
    """Return a node as plain data; what most nodes have none of stands together at the end, or not at all."""
    # Of the most common edge, along which values of a whole node flow, the other end is enough.
    plain = EdgeKind.NODE
    args = [_short(slot) for slot in node.args]
    inputs = [
        source if kind is plain and data else (source, target, int(kind), data, item)
        for source, target, kind, data, item in node.inputs
    ]
    outputs = [
        target if kind is plain and data else (source, target, int(kind), data, item)
        for source, target, kind, data, item in node.outputs
    ]
    row = (node.name, node.task, args, inputs, outputs, node.returned)
    if not (node.mapped or node.kwargs or node.measures):
        return row
    kwargs = {key: _short(slot) for key, slot in node.kwargs.items()}
    return (*row, node.mapped, kwargs, node.widths, node.widths_from, node.measures)


def _long_edge(short: Any) -> Edge:
    source, target, kind, data, item = short
    return Edge(source, target, EdgeKind(kind), data, item)


def _short(slot: Slot) -> Any:
    """The common slots without their classes, told apart by type and length."""
    if isinstance(slot, Ref):
        node, path, how = slot
        return [node, path, int(how)] if path or how is not How.WHOLE else node
    if isinstance(slot, Const):
        return tuple(slot)
    if isinstance(slot, EachOf):
        return None, [_short(item) for item in slot.items]
    if isinstance(slot, Slotted):
        return slot.kind, [_short(item) for item in slot.items], slot.keys
    return slot


def _long(short: Any) -> Slot:
    kind = type(short)
    if kind is int:
        return Ref(short)
    if kind is list:
        node, path, how = short
        return Ref(node, path, How(how))
    if kind is not tuple:
        return short  # type: ignore[no-any-return]
    if len(short) == 1:
        return Const(*short)
    items = tuple(map(_long, short[1]))
    return EachOf(items) if len(short) == 2 else Slotted(short[0], items, short[2])


def from_row(index: int, row: tuple[Any, ...]) -> PlanNode:
    """Return the node of a row."""
    name, task, args, inputs, outputs, returned, *rest = row
    mapped, kwargs, widths, widths_from, measures = rest or (False, {}, (1,), (), ())
    node = EdgeKind.NODE
    sources = tuple([Edge(edge, index, node, True) if type(edge) is int else _long_edge(edge) for edge in inputs])
    targets = tuple([Edge(index, edge, node, True) if type(edge) is int else _long_edge(edge) for edge in outputs])
    slots = tuple(map(_long, args))
    named = {key: _long(slot) for key, slot in kwargs.items()}
    return PlanNode(
        index, name, task, mapped, slots, named, sources, targets, widths, widths_from, measures, returned
    )  # fmt: skip


def _from_rows(tasks: list[Task[..., Any]], rows: list[tuple[Any, ...]], result: Slot) -> Plan:
    """Make the plan again."""
    return Plan(tasks, Rows(rows), result)


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
    plan = Plan([], [], graph.result)
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
                    edges, (), widths, widths_from, (), index in returned,
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
    """One edge per source: CHILD if every use of it is child by child, ITEMs if every use is one child, else NODE."""
    used: list[Ref] = []
    for slot in (*spec.args, *spec.kwargs.values()):
        used += (slot,) if isinstance(slot, Ref) else refs(slot)
    sources = {ref.node for ref in used}
    if not spec.upstream and mapped.isdisjoint(sources):
        return tuple([Edge(source, index, EdgeKind.NODE, True) for source in sorted(sources)])
    kinds: dict[int, EdgeKind] = dict.fromkeys(spec.upstream, EdgeKind.NODE)
    items: dict[int, set[int]] = {}
    for ref in used:
        kind = _kind_of(ref, ref.node in mapped)
        known = kinds.setdefault(ref.node, kind)
        if known is not kind:
            kinds[ref.node] = EdgeKind.NODE
        items.setdefault(ref.node, set()).add(ref.path[0] if kind is EdgeKind.ITEM else 0)
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
    one = ref.how is How.WHOLE and bool(ref.path) and type(ref.path[0]) is int and ref.path[0] >= 0
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
    if len(set(known)) > 1:
        raise FlowError(
            f"node {spec.name!r} maps over sequences of different lengths: {', '.join(map(str, known))}; "
            "give sequences of one length, or wrap what every child shall receive in hr.unmapped(...)"
        )
    return tuple(known), tuple(later)
