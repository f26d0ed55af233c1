"""Nodes that joined a plan while it ran, on their way to a worker: each batch brings the rows of those that it touches.

A worker's plan is as old as the run. So a batch that executes newer nodes brings their rows, and of their neighbours
what it must know beyond "one task run, whole values": that is the default. The rows serve for this batch only.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from headrace.core.plan import Plan, PlanNode, Rows, TaskRun, from_row, row_of
from headrace.core.strips import Strip
from headrace.core.task import Task

#: of a neighbour of which nothing special is to be known
_PLAIN: tuple[Any, ...] = ("a task of a flow that a task returned", -1, [], [], [], False)


class Grown(NamedTuple):
    """What a batch must know of newer nodes.

    Attributes
    ----------
    rows : dict of int to row
        By node.
    tasks : set of int
        The numbers of the tasks of those that it executes, or of which something is to be told.
    stand_for : dict of int to (int, int)
        By node: the task run whose value it makes.
    """

    rows: dict[int, tuple[Any, ...]]
    tasks: set[int]
    stand_for: dict[int, TaskRun]


def grown(plan: Plan, base: int, strips: Iterable[Strip], outside: Iterable[int]) -> Grown | None:
    """Return what a batch must know of newer nodes; None if it executes none and waits for none.

    Parameters
    ----------
    plan : Plan
        As it is now.
    base : int
        How many nodes workers know.
    strips : iterable of Strip
        The batch.
    outside : iterable of int
        Nodes that it waits for and of which something is to be told.
    """
    own = {node for nodes, _, _ in strips for node in nodes if node >= base}
    near = {node for node in outside if node >= base} - own
    if not own and not near:
        return None
    tasks = {plan.nodes[index].task for index in own | near}
    rows, stand_for = {}, {}
    for index in own:
        node = plan.nodes[index]
        rows[index] = row_of(node)
        if node.stands_for is not None:
            stand_for[index] = node.stands_for
            near.add(node.stands_for[0])
        ends = [edge.source for edge in node.inputs] + [edge.target for edge in node.outputs]
        near.update(end for end in ends if plan.nodes[end].mapped)
    for index in near.difference(own):
        if index >= base:
            node = plan.nodes[index]
            rows[index] = row_of(replace(node, args=(), kwargs={}, inputs=(), outputs=(), measures=(), gates=()))
    return Grown(rows, tasks, stand_for)


class _GrownRows(Rows):
    """The rows of a plan as a worker knows it, and of some newer nodes."""

    __slots__ = ("base", "made", "more")

    def __init__(self, base: Rows, more: dict[int, tuple[Any, ...]]) -> None:
        self.base = base
        self.rows = _Joined(base.rows, more, _PLAIN)
        self.made: dict[int, PlanNode] = {}

    def __getitem__(self, index: Any) -> Any:
        if index < len(self.base):
            return self.base[index]
        node = self.made.get(index)
        if node is None:
            node = self.made[index] = from_row(index, self.rows[index])
        return node


class _Joined(Sequence[Any]):
    """A sequence and what follows it, with gaps."""

    def __init__(self, base: Sequence[Any], more: dict[int, Any], gap: Any = None) -> None:
        self.base, self.more, self.gap = base, more, gap

    def __len__(self) -> int:
        return len(self.base)

    def __getitem__(self, index: Any) -> Any:
        return self.base[index] if index < len(self.base) else self.more.get(index, self.gap)


def join(plan: Plan, rows: dict[int, tuple[Any, ...]], tasks: dict[int, Task[..., Any]]) -> Plan:
    """Return a worker's plan with newer nodes and their tasks; the plan itself stays as it is.

    Parameters
    ----------
    plan : Plan
        As it travelled.
    rows : dict of int to row
        As in ``Grown``.
    tasks : dict of int to Task
        By number.
    """
    assert isinstance(plan.nodes, Rows)
    return replace(plan, tasks=_Joined(plan.tasks, tasks), nodes=_GrownRows(plan.nodes, rows))
