"""Strips: which task runs, in which order, written down in a few integers.

A strip is a *column of nodes* times a *range of children*: for each child of the range, its nodes in order. The
strip ``((4, 5), 0, 1000)`` says: for each child from 0 to 999, run node 4, then node 5, so a map over a map goes
depth first and costs three integers instead of two thousand. A node that is not mapped has the strip
``((7,), 0, 1)``.

The task runs of a list of strips have *positions* 0, 1, 2 … in that order. Batches, progress and hand-backs all
speak of positions: "done up to 120, the rest from 121 on comes back".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple


class Strip(NamedTuple):
    """A column of nodes times a range of children."""

    nodes: tuple[int, ...]
    low: int
    high: int

    @property
    def size(self) -> int:
        """How many task runs it holds."""
        return len(self.nodes) * (self.high - self.low)


def count(strips: Iterable[Strip]) -> int:
    """How many task runs the strips hold together."""
    return sum(len(nodes) * (high - low) for nodes, low, high in strips)


def cut(strips: Iterable[Strip], start: int, stop: int) -> Iterator[Strip]:
    """Yield strips that hold exactly the positions ``start`` to ``stop - 1``, in order.

    Parameters
    ----------
    strips : iterable of Strip
        The whole order.
    start, stop : int
        Positions; what lies beyond the end is ignored.
    """
    offset = 0
    for nodes, low, high in strips:
        depth = len(nodes)
        size = depth * (high - low)
        first, last = max(start - offset, 0), min(stop - offset, size)
        offset += size
        if first >= last:
            continue
        if first == 0 and last == size:
            yield Strip(nodes, low, high)
            continue
        (row, skip), (end, rest) = divmod(first, depth), divmod(last, depth)
        if row == end:
            yield Strip(nodes[skip:rest], low + row, low + row + 1)
            continue
        if skip:
            yield Strip(nodes[skip:], low + row, low + row + 1)
            row += 1
        if row < end:
            yield Strip(nodes, low + row, low + end)
        if rest:
            yield Strip(nodes[:rest], low + end, low + end + 1)


def locate(strips: Iterable[Strip], position: int) -> tuple[int, int]:
    """Return the node and the child at a position."""
    for nodes, low, high in strips:
        size = len(nodes) * (high - low)
        if position < size:
            row, at = divmod(position, len(nodes))
            return nodes[at], low + row
        position -= size
    raise IndexError("position beyond the end of the strips")


def runs(strips: Iterable[Strip]) -> Iterator[tuple[int, int]]:
    """Yield each node and child in order."""
    for nodes, low, high in strips:
        for child in range(low, high):
            for node in nodes:
                yield node, child
