"""What is ready and waits for a thread: ranges of task runs, by placement, in the order in which they shall go.

Task runs that take values go before those that take none, and what became ready last goes first among them. So a
flow is executed depth first: what was made is used up before more of it is made, and memory holds little.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any, NamedTuple

from headrace.core.costs import Costs
from headrace.core.noderun import NodeRun
from headrace.core.policy import Placement

Segment = tuple[int, int, int]  # node, low, high


class Work(NamedTuple):
    """Work that waits, or is being done, and that workers of one kind may do.

    Attributes
    ----------
    resources : tuple of (str, float)
        What each task run asks for.
    seconds : float
        How long one thread is expected to need for all.
    task_runs : int
        How many threads could take part.
    """

    resources: tuple[tuple[str, float], ...]
    seconds: float
    task_runs: int

    @classmethod
    def of(cls, told: Sequence[Any]) -> Work:
        """Return it as it was before it travelled, in a message that knows no names and makes lists of tuples."""
        resources, seconds, task_runs = told
        return cls(tuple(map(tuple, resources)), seconds, task_runs)

    def threads(self, within: float) -> int:
        """How many threads get it done within so many seconds, but no more than could take part."""
        return min(math.ceil(self.seconds / within), self.task_runs)


#: What is ready and not done, by what it asks for.
Backlog = tuple[Work, ...]


def merged(works: Iterable[Work]) -> Backlog:
    """Sum up works that ask for the same."""
    sums: dict[tuple[tuple[str, float], ...], tuple[float, int]] = {}
    for resources, seconds, task_runs in works:
        before = sums.get(resources, (0.0, 0))
        sums[resources] = before[0] + seconds, before[1] + task_runs
    return tuple(Work(resources, *total) for resources, total in sums.items())


class Queue:
    """Ranges of one placement, in order, and a count that tells at any time how much work they are.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    segments : iterable of (node, low, high)
        What is in it.
    """

    def __init__(self, nodes: Sequence[NodeRun], segments: Iterable[Segment] = ()) -> None:
        self.nodes = nodes
        self._segments: deque[Segment] = deque()
        self._counts: dict[int, int] = {}  # by task
        for segment in segments:
            self.append(segment)

    def append(self, segment: Segment) -> None:
        """Add a range at the end."""
        self._count(segment[0], segment[2] - segment[1])
        self._segments.append(segment)

    def appendleft(self, segment: Segment) -> None:
        """Add a range at the front."""
        self._count(segment[0], segment[2] - segment[1])
        self._segments.appendleft(segment)

    def take(self, number: int) -> None:
        """Remove so many task runs from the first range."""
        node, low, high = self._segments[0]
        self._count(node, -number)
        if low + number == high:
            self._segments.popleft()
        else:
            self._segments[0] = (node, low + number, high)

    def clear(self) -> None:
        """Remove all."""
        self._segments.clear()
        self._counts.clear()

    def _count(self, node: int, number: int) -> None:
        task = self.nodes[node].spec.task
        count = self._counts.get(task, 0) + number
        if count:
            self._counts[task] = count
        else:
            del self._counts[task]

    @property
    def first(self) -> Segment:
        """The range at the front."""
        return self._segments[0]

    @property
    def waiting(self) -> int:
        """How many task runs there are."""
        return sum(self._counts.values())

    def seconds(self, costs: Costs, unknown: float) -> float:
        """Expected seconds of them all.

        Parameters
        ----------
        costs : Costs
            What is known of costs.
        unknown : float
            Seconds of a task run of which nothing is known.
        """
        total = 0.0
        for task, number in self._counts.items():
            cost = costs.estimate(task)
            total += number * (unknown if cost is None else cost)
        return total

    def demand(self, costs: Costs, unknown: float) -> float:
        """Seconds that they all count when the number of workers is chosen; as ``Costs.demand``."""
        return sum(costs.demand(task, number, unknown) for task, number in self._counts.items())

    def __iter__(self) -> Iterator[Segment]:
        return iter(self._segments)

    def __len__(self) -> int:
        return len(self._segments)


class Ready:
    """Ranges of ready task runs.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    """

    def __init__(self, nodes: Sequence[NodeRun]) -> None:
        self.nodes = nodes
        self.queues: dict[Placement, Queue] = {}
        self._fresh: list[Segment] = []
        self._aside: list[Segment] = []

    def add(self, node: int, low: int, high: int, *, alone: bool) -> None:
        """Add a range.

        Parameters
        ----------
        node, low, high : int
            Which task runs.
        alone : bool
            Whether it must not be joined with a neighbour.
        """
        last = self._fresh[-1] if self._fresh else None
        if last is not None and last[0] == node and last[2] == low and not alone:
            self._fresh[-1] = (node, last[1], high)
        else:
            self._fresh.append((node, low, high))

    def arrange(self) -> None:
        """Put what was added where it belongs."""
        first: list[Segment] = []
        for segment in self._fresh:
            run = self.nodes[segment[0]]
            if run.takes:
                first.append(segment)
            else:
                self._queue(run.placement).append(segment)
        for segment in reversed(first):
            self._queue(self.nodes[segment[0]].placement).appendleft(segment)
        self._fresh.clear()

    def put_aside(self, may_go: Callable[[int, int], bool]) -> None:
        """Put task runs aside until the next call.

        Parameters
        ----------
        may_go : callable
            Gets a node and a child, and says whether this one need not be put aside.
        """
        aside, self._aside = self._aside, []
        for segment in reversed(aside):
            self._queue(self.nodes[segment[0]].placement).appendleft(segment)
        for queue in self.queues.values():
            segments = list(queue)
            queue.clear()
            for node, low, high in segments:
                for free, children in groupby(range(low, high), key=partial(may_go, node)):
                    part = list(children)
                    (queue if free else self._aside).append((node, part[0], part[-1] + 1))

    @property
    def has_aside(self) -> bool:
        """Whether something was put aside."""
        return bool(self._aside)

    def _queue(self, placement: Placement) -> Queue:
        queue = self.queues.get(placement)
        if queue is None:
            self.queues[placement] = queue = Queue(self.nodes)
            self.queues = dict(sorted(self.queues.items(), key=lambda entry: -entry[0].priority))
        return queue

    def clear(self) -> None:
        """Forget all."""
        self.queues.clear()
        self._fresh.clear()
        self._aside.clear()

    def __bool__(self) -> bool:
        return any(self.queues.values())
