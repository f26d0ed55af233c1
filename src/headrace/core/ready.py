"""What is ready and waits for a thread: ranges of task runs, by placement, in the order in which they shall go.

Task runs that take values go before those that take none, and what became ready last goes first among them. So a
flow is executed depth first: what was made is used up before more of it is made, and memory holds little.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from headrace.core.noderun import NodeRun
from headrace.core.task import Placement

Segment = tuple[int, int, int]  # node, low, high


class Ready:
    """Ranges of ready task runs.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    """

    def __init__(self, nodes: Sequence[NodeRun]) -> None:
        self.nodes = nodes
        self.queues: dict[Placement, deque[Segment]] = {}
        self._fresh: list[Segment] = []

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

    def _queue(self, placement: Placement) -> deque[Segment]:
        queue = self.queues.get(placement)
        if queue is None:
            self.queues[placement] = queue = deque()
            self.queues = dict(sorted(self.queues.items(), key=lambda entry: -entry[0].priority))
        return queue

    def clear(self) -> None:
        """Forget all."""
        self.queues.clear()
        self._fresh.clear()

    def __bool__(self) -> bool:
        return any(self.queues.values())
