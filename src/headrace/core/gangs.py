"""Gangs: batches that run at the same time and send each other values.

How to think about it. In a graph that is coupled at each step, such as a stencil, no batch can grow: each step needs
values from all around, so each step would be a round trip through the driver. A gang takes many steps at once. Its
task runs are dealt out to *seats*, one thread each; each seat is a batch, and a value that another seat needs is mailed
from worker to worker as soon as it is made.

A gang is formed when what is ready is little, what follows from it is much, and nothing else is out. It is worth it if
the seats together, mail included, are expected to be clearly quicker than one thread alone; else the one thread gets it
all, because a batch that waits for nobody is quicker than batches that wait for each other.

Nodes are dealt out level by level. Each seat gets its share of a level's work, and of that what needs the least mail:
a node goes to where most of its parents are, unless that seat has its share already.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby

from headrace.core import batching
from headrace.core.costs import Costs
from headrace.core.noderun import NodeRun
from headrace.core.policy import ANYWHERE
from headrace.core.ready import Queue
from headrace.core.state import State

#: Seconds until a mailed value is with its reader.
LINK = 0.0003
#: A gang is worth it if it is expected to take at most this share of the time that one thread would take.
WORTH = 0.75
#: Work of so few seconds is done by one thread before a gang has met.
LITTLE = 0.005
#: Seconds of work for each seat of a gang. A gang ends with a round trip for all, and values that move: some 20 ms.
SPAN = 2 * batching.GRAIN
#: The most task runs in one gang.
MOST = 10_000


class Gang:
    """Nodes dealt out to seats.

    Attributes
    ----------
    seats : list of list of int
        The nodes of each seat, in the order in which it executes them. None is empty.
    seat_of : dict of int to int
        By node: its seat.
    exports : list of dict of int to set of int
        For each seat, by node of it: the seats that wait for its value.
    imports : list of dict of int to int
        For each seat, by node of others that it waits for: the seat that sends its value.
    seconds : float
        How long the gang is expected to take.
    """

    def __init__(self, seats: list[list[int]], nodes: Sequence[NodeRun], seconds: float = 0.0) -> None:
        self.seats = seats
        self.seconds = seconds
        self.seat_of = {node: seat for seat, members in enumerate(seats) for node in members}
        self.exports: list[dict[int, set[int]]] = [{} for _ in seats]
        self.imports: list[dict[int, int]] = [{} for _ in seats]
        for node, seat in self.seat_of.items():
            for edge in nodes[node].spec.inputs:
                sender = self.seat_of.get(edge.source, seat)
                if sender != seat:
                    self.exports[sender].setdefault(edge.source, set()).add(seat)
                    self.imports[seat][edge.source] = sender


def form(
    ready: Queue, nodes: Sequence[NodeRun], costs: Costs, threads: int, seats_before: Mapping[int, int]
) -> Gang | None:
    """Form a gang of what is ready and what follows from it, if that makes sense.

    Parameters
    ----------
    ready : Queue
        All that is ready. Nothing is removed.
    nodes : sequence of NodeRun
        The run.
    costs : Costs
        What is known of costs.
    threads : int
        How many threads wait for work; at least 2.
    seats_before : mapping of int to int
        By batch of gangs before: its seat. Who takes its values had best sit there again.

    Returns
    -------
    Gang or None
        Holds all that is ready. A gang of one seat is a batch. None if batches should grow one by one.
    """
    seconds = ready.seconds(costs, unknown=math.inf)
    if seconds >= threads * batching.GRAIN or len(ready) > MOST // 2:
        return None
    if any(nodes[node].spec.mapped or nodes[node].awaits for node, _, _ in ready):
        return None
    known = {task: costs.estimate(task) for task in {run.spec.task for run in nodes}}
    if sum((known[run.spec.task] or 0.0) * run.unfinished for run in nodes) < LITTLE:
        return None  # as most flows of tiny tasks; this is quicker than to look at them
    window = _Window(ready, nodes, known, threads * SPAN)
    if window.total < (LITTLE if _is_the_rest(window, nodes) else max(LITTLE, 2 * seconds)):
        return None
    seats = [seat for seat in _deal(window, nodes, threads, seats_before) if seat]
    gang = Gang(seats, nodes)
    levels = window.levels
    for members, out in zip(seats, gang.exports, strict=True):
        # What others wait for goes first, so that its mail travels while the rest is done.
        members.sort(key=lambda node, out=out: (levels[node], node not in out))  # type: ignore[misc]
    gang.seconds = _makespan(gang, window, nodes)
    return gang if gang.seconds <= WORTH * window.total else _alone(window, len(ready), nodes)


def _is_the_rest(window: _Window, nodes: Sequence[NodeRun]) -> bool:
    """Whether a window holds all that is left of a flow, in task runs so short that it can be dealt out evenly.

    Then a gang saves the last round trip, even if what follows from what is ready is little.
    """
    left = sum(1 for run in nodes if run.unfinished or not run.opened)
    return len(window.order) == left and max(window.prices.values()) <= batching.GRAIN / 10


def _alone(window: _Window, least: int, nodes: Sequence[NodeRun]) -> Gang:
    """One seat, which takes what is ready, and of the rest what fits into the grain."""
    seat: list[int] = []
    seconds = 0.0
    for node in window.order:
        cost = window.prices[node]
        if len(seat) >= least and seconds + cost > batching.GRAIN:
            break
        seconds += cost
        seat.append(node)
    return Gang([seat], nodes, seconds)


class _Window:
    """What is ready and what follows from it, breadth first, up to a budget or half as much more, if that is all.

    Attributes
    ----------
    order : list of int
        Its nodes.
    levels : dict of int to int
        By node: how many others must run before it, one after the other.
    prices : dict of int to float
        By node: expected seconds.
    total : float
        Expected seconds of all.
    """

    def __init__(
        self, ready: Queue, nodes: Sequence[NodeRun], known: Mapping[int, float | None], budget: float
    ) -> None:
        found = [node for node, _, _ in ready]
        levels = dict.fromkeys(found, 0)
        prices: dict[int, float] = {}
        waiting: dict[int, int] = {}
        total, end, level = 0.0, -1, 0
        for number, node in enumerate(found):
            if levels[node] > level:
                level = levels[node]
                if end < 0 and (total >= budget or number >= MOST):
                    end = number  # whole levels, so that the next gang begins with one
                if end >= 0 and (total >= 1.5 * budget or number >= 1.5 * MOST):
                    break
            price = prices[node] = known[nodes[node].spec.task] or 0.0
            total += price
            for _, target, _, _, _ in nodes[node].spec.outputs if not nodes[node].expands else ():
                run = nodes[target]
                left = waiting[target] = waiting.get(target, run.waiting) - 1
                if left or run.spec.mapped or run.awaits or run.opened or run.placement != ANYWHERE:
                    continue
                if run.states[0] == State.PENDING and known[run.spec.task] is not None:
                    levels[target] = levels[node] + 1
                    found.append(target)
        else:
            end = len(found)
        self.order = found[:end]
        self.levels = levels
        self.prices = prices
        self.total = sum(prices[node] for node in self.order)


def _deal(window: _Window, nodes: Sequence[NodeRun], seats: int, seats_before: Mapping[int, int]) -> list[list[int]]:
    """Deal nodes out to seats, level by level."""
    members: list[list[int]] = [[] for _ in range(seats)]
    load = [0.0] * seats
    seat_of: dict[int, int] = {}
    quota = 0.0
    levels, prices = window.levels, window.prices
    for _, group in groupby(sorted(window.order, key=lambda node: (levels[node], node)), key=levels.__getitem__):
        level = list(group)
        quota += sum(map(prices.__getitem__, level)) / seats
        for position, node in enumerate(level):
            near: dict[int, float] = {position * seats // len(level): 0.5}  # neighbours stay neighbours
            for source, _, _, _, _ in nodes[node].spec.inputs:
                where = seat_of.get(source)
                if where is None and len(nodes[source].holders) == 1:
                    where = seats_before.get(nodes[source].holders[0])
                if where is not None and where < seats:
                    near[where] = near.get(where, 0.0) + 1
            price = prices[node]
            fitting = [seat for seat in near if load[seat] + price / 2 <= quota]
            seat = max(fitting, key=near.__getitem__) if fitting else min(range(seats), key=load.__getitem__)
            load[seat] += price
            seat_of[node] = seat
            members[seat].append(node)
    return members


def _makespan(gang: Gang, window: _Window, nodes: Sequence[NodeRun]) -> float:
    """When the last seat is expected to be done."""
    done: dict[int, float] = {}
    free = [0.0] * len(gang.seats)
    seat_of = gang.seat_of
    for node in sorted(window.order, key=window.levels.__getitem__):
        seat = seat_of[node]
        begin = free[seat]
        for source, _, _, _, _ in nodes[node].spec.inputs:
            if source in done:
                there = done[source] if seat_of[source] == seat else done[source] + LINK
                begin = max(begin, there)
        free[seat] = done[node] = begin + window.prices[node]
    return max(free)
