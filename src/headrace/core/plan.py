"""Plans: a graph made ready to run, with integers for names.

The plan is what the machine steers by (edges, widths) and what a worker executes by (tasks, argument slots); it
travels to each worker once per run. A *task run* is a pair ``(node, child)``; the single run of a node that is not
mapped is child 0. Four kinds of edges say what a task run waits for:

* ``NODE``: the whole source node, with all its children.
* ``CHILD``: only the source's child of the same index (a map over a map).
* ``ITEM``: only one child of the source, always the same (``mapped[3]``).
* ``AFTER``: the whole source node, like ``NODE``, but not how it ended: it is no upstream of the target's trigger.

The *width* of a mapped node is known from the plan (a constant list), or equals another node's (a map over a map),
or is measured by the worker that computes the value that is mapped over.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, NamedTuple, overload

from headrace.core.naming import label
from headrace.core.policy import Policy
from headrace.core.slots import Const, EachOf, How, Ref, Slot, Slotted
from headrace.core.task import Task

TaskRun = tuple[int, int]  # node, child


class EdgeKind(IntEnum):
    """How much of its source an edge waits for."""

    NODE = 0
    CHILD = 1
    ITEM = 2
    AFTER = 3


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
    if edge.kind is EdgeKind.NODE or edge.kind is EdgeKind.AFTER:
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
    strict : bool
        Whether all widths must agree; else the least one counts.
    gates : tuple of int
        Nodes that must have succeeded for it to run, whatever its trigger says.
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
    strict: bool = True
    gates: tuple[int, ...] = ()
    outer: TaskRun | None = None
    stands_for: TaskRun | None = None
    hidden: bool = False

    def label(self, child: int) -> str:
        """A task run's name for people: ``task``, or ``task[child]``."""
        return label(self.name, child if self.mapped else None)

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
    constants : sequence of object
        Large ones, by number; they do not travel with it (``core.constants``).
    flow : str
        The flow's name.
    parameters : mapping
        The run's parameters, for tasks that ask for them.
    deciding : tuple of int, optional
        Which nodes decide how the run ends. Default: those that are returned, and those that no other waits for.
    pickles : bool
        Whether tasks may keep their values as pickles, beyond the run.
    signing : tuple of str, optional
        Where workers find the keys that sign such values; empty: in their own variable. None: they may have none.
    numbers : dict of int to int
        By ``id`` of a task, its number; known where the plan was made.
    """

    tasks: Sequence[Task[..., Any]]
    nodes: Sequence[PlanNode]
    result: Slot
    constants: Sequence[Any] = ()
    flow: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    deciding: tuple[int, ...] | None = None
    pickles: bool = True
    signing: tuple[str, ...] | None = None
    numbers: dict[int, int] = field(default_factory=dict, repr=False, compare=False)

    def policy(self, node: int) -> Policy:
        """The policy of a node's task."""
        return self.tasks[self.nodes[node].task].policy

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel as rows of plain data, of which nodes are made when they are asked for.

        Every run pays for pickling and loading, on each worker, and a worker needs those nodes only that its batches
        touch. Hooks stay behind: what they import need not be where tasks run.
        """
        tasks = [task.without_hooks() for task in self.tasks]
        more = {
            "deciding": self.deciding, "flow": self.flow, "parameters": self.parameters, "pickles": self.pickles,
            "signing": self.signing,
        }  # fmt: skip
        return _from_rows, (tasks, [row_of(node) for node in self.nodes], self.result, more)


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


#: Entries of the row of a node that is not mapped, and has neither keyword arguments, nor measures, nor gates.
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
    if not (node.mapped or node.kwargs or node.measures or node.gates):
        return row
    kwargs = {key: _short(slot) for key, slot in node.kwargs.items()}
    return (*row, node.mapped, kwargs, node.widths, node.widths_from, node.measures, node.strict, node.gates)


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
    mapped, kwargs, widths, widths_from, measures, strict, gates = rest or (False, {}, (1,), (), (), True, ())
    node = EdgeKind.NODE
    sources = tuple([Edge(edge, index, node, True) if type(edge) is int else _long_edge(edge) for edge in inputs])
    targets = tuple([Edge(index, edge, node, True) if type(edge) is int else _long_edge(edge) for edge in outputs])
    slots = tuple(map(_long, args))
    named = {key: _long(slot) for key, slot in kwargs.items()}
    return PlanNode(
        index, name, task, mapped, slots, named, sources, targets, widths, widths_from, measures, returned, strict,
        gates,
    )  # fmt: skip


def _from_rows(tasks: list[Task[..., Any]], rows: list[tuple[Any, ...]], result: Slot, more: dict[str, Any]) -> Plan:
    """Make the plan again."""
    return Plan(tasks, Rows(rows), result, **more)
