"""Bulky values of a batch: which of them others will need, and when those that nobody else needs can go.

A pipeline of large arrays runs best as one batch, in which each array is dropped as soon as the next is made. So a
large value that only task runs of the same batch take is a *temporary*: it does not end the batch, it goes when the
last of them is done, and it is not in the batch's result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headrace.core.plan import EdgeKind, Plan, edge_children, plain
from headrace.core.strips import Strip

#: Values from here on, in bytes, are looked after one by one. Below, looking would cost more than it saves.
BULKY = 1 << 14

Ranges = dict[int, list[tuple[int, int]]]
_WHOLE = 1 << 62  # stands for the width of a node, where a child that is in it is looked for


def inside(strips: Iterable[Strip]) -> Ranges:
    """Return, by node, which ranges of its children the strips hold."""
    ranges: Ranges = {}
    for nodes, low, high in strips:
        for node in nodes:
            ranges.setdefault(node, []).append((low, high))
    return ranges


def takers(plan: Plan, node: int, low: int, high: int, ranges: Ranges) -> int | None:
    """How many task runs take each of some values, if all of them are inside of a batch; None if others need one.

    Parameters
    ----------
    plan : Plan
        The plan.
    node, low, high : int
        Whose values.
    ranges : dict of node to list of (low, high)
        What is inside.
    """
    short = plain(plan.nodes, node)
    if short is not None:
        inner = not short.returned and short.outputs and all(target in ranges for target in short.outputs)
        return len(short.outputs) if inner else None
    spec = plan.nodes[node]
    if spec.returned or not spec.outputs:
        return None
    number = 0
    for edge in spec.outputs:
        if not edge.data or (edge.kind is EdgeKind.ITEM and not low <= edge.item < high):
            continue
        target = plan.nodes[edge.target]
        parts = ranges.get(edge.target, ())
        if edge.kind is EdgeKind.CHILD:
            if not any(first <= low and high <= last for first, last in parts):
                return None
            number += 1
            continue
        width = sum(last - first for first, last in parts)
        if width != (1 if not target.mapped else target.widths[0] if target.widths else -1):
            return None
        number += width
    return number


class Bulk:
    """The bulky values that a batch holds.

    Parameters
    ----------
    plan : Plan
        The plan.
    strips : sequence of Strip
        What the batch is to execute.
    """

    def __init__(self, plan: Plan, strips: Sequence[Strip]) -> None:
        self.plan = plan
        self.sizes: dict[tuple[int, int], int] = {}
        self.needed = 0  # bytes that others need
        self.temporary = 0  # bytes that only this batch needs
        self._strips = strips
        self._ranges: Ranges | None = None
        self._left: dict[tuple[int, int], int] = {}  # of each temporary: task runs that are still to take it

    def add(self, node: int, child: int, size: int) -> None:
        """Note a value that was just made."""
        if self._ranges is None:
            self._ranges = inside(self._strips)
        self.sizes[node, child] = size
        left = takers(self.plan, node, child, child + 1, self._ranges)
        if left is None:
            self.needed += size
        else:
            self.temporary += size
            self._left[node, child] = left

    def spent(self, node: int, child: int) -> list[tuple[int, int]]:
        """Note that a task run is final; return the values that it was the last to take."""
        gone = []
        for edge in self.plan.nodes[node].inputs:
            for key in [key for key in self._left if key[0] == edge.source] if edge.data else ():
                if key[1] not in edge_children(edge, child, _WHOLE):
                    continue
                self._left[key] -= 1
                if self._left[key] <= 0:
                    del self._left[key]
                    self.temporary -= self.sizes.pop(key)
                    gone.append(key)
        return gone

    def __bool__(self) -> bool:
        return bool(self._left)
