"""Growing batches: which ready task runs, and which of their descendants, become one Dask task.

How to think about it. Dispatching costs milliseconds, a Python call a microsecond. So a batch shall be as long as
the *grain*, and no longer than its fair share of what is ready, or threads would idle. From the ready task runs
that it starts with, a batch grows depth first into descendants whose other parents are final or inside. This one
rule gives chains, chunks of maps, map-over-map pipelines and sub-trees; none of them is a special case.

What a task run costs is known from those that ran (``core.costs``). A task that never ran is tried optimistically,
in a batch with its fair share of the others; the limit that goes with the batch makes the worker give back the rest
as soon as the optimism proves wrong. What only earlier runs tell of a task is believed, but may be a lie: then the
limit is in proportion to what was told, so that tasks told to be short waste no more than optimism would.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from itertools import islice

from headrace.core.costs import Costs
from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind
from headrace.core.state import State
from headrace.core.strips import Strip

#: Seconds of work in a batch. A round trip costs some 10 ms, mostly hidden by the queue on the workers; a tenth of
#: a second keeps the rest below a few per cent, and people see progress ten times a second.
GRAIN = 0.1
#: Below this many seconds, splitting ready work between threads costs more than it saves.
CRUMB = 0.002
#: A batch of known cost may take this many grains before its rest is given back: estimates are means, and half of
#: all batches take longer than the mean says.
PATIENCE = 2.0
#: Seconds after which the rest of an optimistic batch is given back.
TRIAL = GRAIN / 2
#: The most task runs in one batch, which bounds a message and what one crash puts in doubt.
MOST = 50_000
#: How many ready segments are looked at to estimate the ready work; the rest is extrapolated.
SAMPLE = 500

Segment = tuple[int, int, int]  # node, low, high


class Growth:
    """One batch while it grows."""

    def __init__(self, nodes: Sequence[NodeRun], costs: Costs, most: int, careful: bool) -> None:
        self.nodes = nodes
        self.costs = costs
        self.careful = careful  # a killer is at large: stay with what is ready
        self.cost = 0.0
        self.count = 0
        self.most = most
        self._strips: list[Strip] = []
        self._singles: list[int] = []  # nodes of the strip that is being written, each with its child 0
        self._stack: list[Segment] = []
        self._inside: dict[int, int] = {}  # node → how many of its task runs are in the batch
        self._waiting: dict[int, int] = {}  # node → what it waits for beyond this batch

    @property
    def strips(self) -> list[Strip]:
        """What is in the batch; single task runs in a row share a strip."""
        if self._singles:
            self._strips.append(Strip(tuple(self._singles), 0, 1))
            self._singles = []
        return self._strips

    def cost_of(self, node: int) -> float | None:
        """Expected seconds of a task run of a node; None if unknown."""
        return self.costs.estimate(self.nodes[node].spec.task)

    def take(self, segment: Segment, budget: float, most: int) -> int:
        """Take children of a segment, with the columns that hang on them; return how many."""
        node, low, high = segment
        column, unit = self._column(node, low, high)
        most = min(most, (self.most - self.count) // len(column), high - low)
        if unit > 0 and budget < math.inf:
            most = min(most, int((budget - self.cost) / unit))
        if most < 1:
            if self.count:
                return 0
            most = 1
            if len(column) > self.most:
                column = column[: self.most]
        if low == 0 and most == 1:
            self._singles += column
        else:
            self.strips.append(Strip(tuple(column), low, low + most))
        self.cost += unit * most
        self.count += most * len(column)
        for member in column:
            self._cover(member, low, most)
        return most

    def descend(self) -> None:
        """Grow into what the batch itself makes ready, depth first, up to the grain."""
        stack = self._stack
        while stack and self.count < self.most:
            segment = stack.pop()
            cost = self.cost_of(segment[0])
            if cost is not None and self.cost + cost > GRAIN:
                continue
            width = segment[2] - segment[1]
            if self.take(segment, GRAIN, width) < width:
                return

    def _column(self, node: int, low: int, high: int) -> tuple[list[int], float]:
        """The node, and the mapped descendants that follow it child by child; and the cost of one such column."""
        column = [node]
        total = self.cost_of(node) or 0.0
        if self.careful or not self.nodes[node].spec.mapped:
            return column, total
        for member in column:
            for edge in self.nodes[member].spec.outputs:
                target = edge.target
                if edge.kind is not EdgeKind.CHILD or target in column:
                    continue
                cost = self.cost_of(target) or 0.0
                if total + cost <= GRAIN and self._joins(target, column, low, high):
                    column.append(target)
                    total += cost
        return column, total

    def _joins(self, target: int, column: list[int], low: int, high: int) -> bool:
        run = self.nodes[target]
        if not run.opened or not run.all_in(State.PENDING, low, high):
            return False
        return all(
            edge.source in column or self.nodes[edge.source].all_final(low, high)
            for edge in run.spec.inputs
            if edge.kind is EdgeKind.CHILD
        )

    def _cover(self, node: int, low: int, count: int) -> None:
        """Note that more of a node is inside; what waits for just that, or now has all of the node, may follow."""
        run = self.nodes[node]
        if run.takers and not self.careful:
            for item in range(low, low + count):
                for target in run.takers.get(item, ()):
                    self._serve(target)
        if count < run.unfinished:
            count = self._inside[node] = self._inside.get(node, 0) + count
        if count < run.unfinished or self.careful:
            return
        for _, target, kind, _, _ in run.spec.outputs:
            if kind is EdgeKind.NODE:
                self._serve(target)

    def _serve(self, node: int) -> None:
        """Note that a node waits for one thing less in this batch."""
        run = self.nodes[node]
        left = self._waiting[node] = self._waiting.get(node, run.waiting) - 1
        if left == 0 and run.width and not run.opened and not run.by_child:
            self._stack.append((node, 0, run.width))


def expected_seconds(ready: deque[Segment], nodes: Sequence[NodeRun], costs: Costs) -> float:
    """Expected seconds of all that is ready, extrapolated from a sample; unknown tasks count as a grain."""
    total = 0.0
    for node, low, high in islice(ready, SAMPLE):
        cost = costs.estimate(nodes[node].spec.task)
        total += (GRAIN if cost is None else cost) * (high - low)
    return total * max(1.0, len(ready) / SAMPLE)


def grow(
    ready: deque[Segment],
    nodes: Sequence[NodeRun],
    costs: Costs,
    idle: int,
    threads: int,
    suspects: dict[tuple[int, int], int],
) -> tuple[list[Strip], float]:
    """Take one batch off the ready segments.

    Parameters
    ----------
    ready : deque of (node, low, high)
        Ready task runs; what the batch takes is removed. Not empty.
    nodes : sequence of NodeRun
        The run.
    costs : Costs
        What is known of costs.
    idle, threads : int
        Threads without a batch, and all threads; at least 1.
    suspects : dict of (node, child) to int
        Task runs that were in a batch that killed its worker, with the largest batch that they may be in.

    Returns
    -------
    strips : list of Strip
        The batch.
    limit : float
        Seconds after which the worker gives back the rest.
    """
    node, low, _ = ready[0]
    if suspects and (most := suspects.get((node, low))) is not None:
        return _grow_suspect(ready, nodes, costs, most, suspects)
    growth = Growth(nodes, costs, MOST, careful=bool(suspects))
    if growth.cost_of(node) is None:
        waiting = sum(high - low for _, low, high in ready)
        share = -(-waiting // max(idle, 1))
        _fill(growth, ready, math.inf, share, known=False, suspects=suspects)
        return growth.strips, TRIAL
    share_seconds = expected_seconds(ready, nodes, costs) / threads
    _fill(growth, ready, max(CRUMB, min(GRAIN, share_seconds)), MOST, known=True, suspects=suspects)
    grain = GRAIN if costs.measured(nodes[node].spec.task) else min(GRAIN, growth.cost)
    return growth.strips, max(TRIAL, PATIENCE * grain)


def _fill(
    growth: Growth,
    ready: deque[Segment],
    budget: float,
    most: int,
    *,
    known: bool,
    suspects: dict[tuple[int, int], int],
) -> None:
    """Take ready segments up to a budget, each followed by the descendants that it completes."""
    while ready and growth.cost < budget and most > 0 and growth.count < growth.most:
        node, low, high = ready[0]
        if growth.count and (growth.cost_of(node) is not None) != known:
            return
        if suspects and (node, low) in suspects:
            return
        taken = growth.take((node, low, high), budget, most)
        if not taken:
            return
        most -= taken
        if low + taken == high:
            ready.popleft()
        else:
            ready[0] = (node, low + taken, high)
        growth.descend()


def _grow_suspect(
    ready: deque[Segment],
    nodes: Sequence[NodeRun],
    costs: Costs,
    most: int,
    suspects: dict[tuple[int, int], int],
) -> tuple[list[Strip], float]:
    """A batch of suspects only, so that the one that kills is alone in the end and its neighbours are not."""
    strips: list[Strip] = []
    while ready and len(strips) < most:
        node, low, high = ready[0]
        if suspects.get((node, low)) != most:
            break
        strips.append(Strip((node,), low, low + 1))
        if low + 1 == high:
            ready.popleft()
        else:
            ready[0] = (node, low + 1, high)
    return strips, math.inf
