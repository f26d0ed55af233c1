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
from collections.abc import Sequence, Set

from headrace.core.costs import Costs
from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind, edge_children
from headrace.core.policy import Placement
from headrace.core.ready import Queue, Segment
from headrace.core.state import State
from headrace.core.strips import Strip

#: Seconds of work in a batch. A round trip costs some 10 ms, mostly hidden by the queue on the workers; a tenth of
#: a second keeps the rest below a few per cent, and people see progress ten times a second.
GRAIN = 0.1
#: Seconds that a batch keeps the driver and Dask's scheduler busy, each of which does one thing at a time.
PACE = 0.0002
#: Seconds from an order to its report, beyond the work itself.
ROUND_TRIP = 0.01
#: Below this many seconds, splitting ready work between threads costs more than it saves.
CRUMB = 0.002
#: A batch of known cost may take this many grains before its rest is given back: estimates are means, and half of
#: all batches take longer than the mean says.
PATIENCE = 2.0
#: Seconds after which the rest of an optimistic batch is given back.
TRIAL = GRAIN / 2
#: The most task runs in one batch, which bounds a message and what one crash puts in doubt.
MOST = 50_000
#: A batch's message holds so many bytes of long lists at most, or one element.
LOADED = 1 << 20


class Growth:
    """One batch while it grows."""

    def __init__(
        self, nodes: Sequence[NodeRun], costs: Costs, most: int, careful: bool, placement: Placement, heavy: Set[int]
    ) -> None:
        self.nodes = nodes
        self.placement = placement
        self.heavy = heavy
        self.brought = 0.0  # bytes of its part of long lists
        self.pulled: set[int] = set()  # heavy batches from which it takes values
        self.costs = costs
        self.careful = careful  # a killer is at large, or values are lost: stay with what is ready
        self.cost = 0.0
        self.count = 0
        self.most = most
        self.waiter: float | None = None  # if it began with coroutines: the cost of one
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
        if not self.count:
            self.waiter = self.cost_of(node) if self.nodes[node].awaits else None
        width = high - low
        if width > 1:  # of a range of millions, columns are only looked for where they could be taken
            width = max(1, min(width, most, self._fit(self.cost_of(node) or 0.0, budget)))
        column, unit = self._column(node, low, low + width)
        most = min(most, (self.most - self.count) // len(column), width)
        if unit > 0:
            most = min(most, self._fit(unit, budget))
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

    def _fit(self, unit: float, budget: float) -> int:
        """How many of a cost fit into what is left of a budget."""
        return int((budget - self.cost) / unit) if unit > 0 and budget < math.inf else self.most

    def descend(self) -> None:
        """Grow into what the batch itself makes ready, depth first, up to the grain."""
        stack = self._stack
        while stack and self.count < self.most:
            node, low, high = stack.pop()
            cost = self.cost_of(node)
            if cost is not None and self.cost + cost > GRAIN:
                continue
            width = high - low
            if self.nodes[node].brings * width > LOADED - self.brought:
                continue
            if self.nodes[node].takers and width > 1:
                stack.append((node, low + 1, high))
                width = 1
            if self.take((node, low, high), GRAIN, width) < width:
                return

    def alike(self, segment: Segment) -> int:
        """How many children of a ready segment may go into this batch, as far as their values are concerned.

        A batch runs in one place, so each heavy value that it takes beyond those that it takes anyway may have to
        be moved there. What takes others goes elsewhere, to where these lie.
        """
        node, low, high = segment
        if self.nodes[node].takers:
            high = low + 1  # child by child, so that what takes an item can follow it
        if brings := self.nodes[node].brings:
            high = min(high, low + max(int((LOADED - self.brought) / brings), not self.count))
            self.brought += brings * (high - low)
        if not self.heavy:
            return high - low
        if not self.count:
            self.pulled |= self._pulls(node, low)
        for child in range(low, high):
            if not self._pulls(node, child) <= self.pulled:
                return child - low
        return high - low

    def _pulls(self, node: int, child: int) -> set[int]:
        found: set[int] = set()
        for edge in self.nodes[node].spec.inputs:
            if edge.data:
                holders = self.nodes[edge.source].holders
                children = edge_children(edge, child, len(holders))
                found.update(holders[children.start : children.stop])
        return found & self.heavy

    def _column(self, node: int, low: int, high: int) -> tuple[list[int], float]:
        """The node, and the mapped descendants that follow it child by child; and the cost of one such column."""
        column = [node]
        total = self.cost_of(node) or 0.0
        if self.careful or not self.nodes[node].spec.mapped:
            return column, total
        for member in column:
            for edge in self.nodes[member].spec.outputs if not self.nodes[member].expands else ():
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
        if not run.opened or self.apart(run) or not run.all_in(State.PENDING, low, high):
            return False
        return all(
            edge.source in column or self.nodes[edge.source].all_final(low, high)
            for edge in run.spec.inputs
            if edge.kind is EdgeKind.CHILD
        )

    def apart(self, run: NodeRun) -> bool:
        """Whether a node's task runs belong into other batches.

        Among coroutines, so do those that compute for longer than these: a batch would hold few of both, and few would
        wait at the same time.
        """
        if run.placement != self.placement:
            return True
        if self.waiter is None or run.awaits:
            return False
        return (self.cost_of(run.spec.index) or 0.0) > self.waiter

    def _cover(self, node: int, low: int, count: int) -> None:
        """Note that more of a node is inside; what waits for just that, or now has all of the node, may follow."""
        run = self.nodes[node]
        if run.expands:
            return
        if run.takers and not self.careful:
            for item in range(low, low + count):
                for target in run.takers.get(item, ()):
                    self._serve(target)
        if count < run.unfinished:
            count = self._inside[node] = self._inside.get(node, 0) + count
        if count < run.unfinished or self.careful:
            return
        for _, target, kind, _, _ in run.spec.outputs:
            if kind is EdgeKind.NODE or kind is EdgeKind.AFTER:
                self._serve(target)

    def _serve(self, node: int) -> None:
        """Note that a node waits for one thing less in this batch."""
        run = self.nodes[node]
        left = self._waiting[node] = self._waiting.get(node, run.waiting) - 1
        if left or not run.width or run.opened or run.by_child or self.apart(run):
            return
        if run.all_in(State.PENDING, 0, run.width):  # else it runs in a gang already
            self._stack.append((node, 0, run.width))


def grain_for(threads: int) -> float:
    """Return the seconds of a batch at which so many threads can be supplied with batches."""
    return max(GRAIN, threads * PACE)


def budget_for(seconds: float, threads: int) -> float:
    """Return how many of the seconds of work that are ready one batch shall take.

    A fair share, up to the grain. Where a share is so small that handing one to each thread would take longer than
    executing it, fewer and longer batches are done sooner: ``n`` batches of ``seconds / n`` are all handed out after
    ``n * PACE``, and done a batch's length later. The sum is smallest where a batch is as long as handing out takes.

    Parameters
    ----------
    seconds : float
        Of all that is ready.
    threads : int
        How many there are.
    """
    return min(grain_for(threads), max(CRUMB, seconds / threads, math.sqrt(seconds * PACE)))


def short_rest(nodes: Sequence[NodeRun], costs: Costs) -> float:
    """Return ``ROUND_TRIP`` if all that is left of a flow takes no longer, as far as is known; else 0.

    Then one batch is quickest, because each further one in a row is a round trip.
    """
    left = 0.0
    for run in nodes:
        if run.unfinished or not run.opened:
            cost = costs.estimate(run.spec.task)
            if cost is None or run.width is None:
                return 0.0
            left += cost * run.unfinished
            if left > ROUND_TRIP:
                return 0.0
    return ROUND_TRIP


def grow(
    ready: Queue,
    nodes: Sequence[NodeRun],
    costs: Costs,
    idle: int,
    threads: int,
    suspects: dict[tuple[int, int], int],
    heavy: Set[int] = frozenset(),
    *,
    careful: bool = False,
    least: float = 0.0,
) -> tuple[list[Strip], float]:
    """Take one batch off the ready segments.

    Parameters
    ----------
    ready : Queue
        Ready task runs of one placement; what the batch takes is removed. Not empty.
    nodes : sequence of NodeRun
        The run.
    costs : Costs
        What is known of costs.
    idle, threads : int
        Threads without a batch, and all threads; at least 1.
    suspects : dict of (node, child) to int
        Task runs that were in a batch that killed its worker, with the largest batch that they may be in.
    heavy : set of int
        Batches whose values are expensive to move.
    careful : bool
        Whether to stay with what is ready, because values are lost that descendants may need.
    least : float
        Seconds of work that the batch may hold in any case.

    Returns
    -------
    strips : list of Strip
        The batch.
    limit : float
        Seconds after which the worker gives back the rest.
    """
    node, low, _ = ready.first
    if nodes[node].placement.apart:
        ready.take(1)
        return [Strip((node,), low, low + 1)], math.inf
    if suspects and (most := suspects.get((node, low))) is not None:
        return _grow_suspect(ready, nodes, costs, most, suspects)
    growth = Growth(nodes, costs, MOST, careful or bool(suspects), nodes[node].placement, heavy)
    if growth.cost_of(node) is None:
        share = -(-ready.waiting // max(idle, 1))
        _fill(growth, ready, math.inf, share, known=False, suspects=suspects)
        return growth.strips, TRIAL * (grain_for(threads) / GRAIN)
    grain = grain_for(threads)
    budget = max(least, budget_for(ready.seconds(costs, unknown=GRAIN), threads))
    _fill(growth, ready, budget, MOST, known=True, suspects=suspects)
    if not costs.measured(nodes[node].spec.task):
        grain = min(grain, growth.cost)
    return growth.strips, max(TRIAL, PATIENCE * grain)


def _fill(
    growth: Growth,
    ready: Queue,
    budget: float,
    most: int,
    *,
    known: bool,
    suspects: dict[tuple[int, int], int],
) -> None:
    """Take ready segments up to a budget, each followed by the descendants that it completes."""
    while ready and growth.cost < budget and most > 0 and growth.count < growth.most:
        node, low, _ = ready.first
        if growth.count and ((growth.cost_of(node) is not None) != known or growth.apart(growth.nodes[node])):
            return
        if suspects and (node, low) in suspects:
            return
        alike = growth.alike(ready.first)
        taken = growth.take(ready.first, budget, min(most, alike)) if alike else 0
        if not taken:
            return
        most -= taken
        ready.take(taken)
        growth.descend()


def _grow_suspect(
    ready: Queue,
    nodes: Sequence[NodeRun],
    costs: Costs,
    most: int,
    suspects: dict[tuple[int, int], int],
) -> tuple[list[Strip], float]:
    """A batch of suspects only, so that the one that kills is alone in the end and its neighbours are not."""
    strips: list[Strip] = []
    while ready and len(strips) < most:
        node, low, _ = ready.first
        if suspects.get((node, low)) != most:
            break
        strips.append(Strip((node,), low, low + 1))
        ready.take(1)
    return strips, math.inf
