"""Limits: how many task runs of a task, or with a tag, may run at the same time.

A limit is part of the placement, so task runs with different limits never share a batch. A batch executes one task
run after the other, and so takes one place, unless it has coroutines: of these, as many run at the same time as it
has places, which is its thread's share of those that are free. Batches that wait on a worker count, too, because
nobody knows when they will start; so they go before others (``Dispatch.urgent``). What a limit says is never
exceeded, and a place is free for a round trip between two batches.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from headrace.core.policy import NO_LIMIT, Placement
from headrace.core.task import Task

T = TypeVar("T")


class Placements(list[Placement]):
    """The placement of each of the plan's tasks, by number.

    Parameters
    ----------
    by_tag : mapping of str to int
        The flow's limits.
    tasks : sequence of Task
        Those of the plan.
    """

    def __init__(self, by_tag: Mapping[str, int], tasks: Sequence[Task[..., Any]]) -> None:
        super().__init__()
        self.by_tag = by_tag
        # The first task of a function, for all tasks that differ in options only. What comes from workers while the
        # run goes on are other functions each time; what counts of these is where they were defined.
        self._first: dict[int | str, int] = {}
        self._extend(tasks, joining=False)

    def join(self, tasks: Sequence[Task[..., Any]]) -> None:
        """Learn of tasks that came while the run goes on; ``tasks`` are all of the plan."""
        self._extend(tasks, joining=True)

    def _extend(self, tasks: Sequence[Task[..., Any]], *, joining: bool) -> None:
        for number in range(len(self), len(tasks)):
            task = tasks[number]
            policy = task.policy
            tags = sorted(set(policy.tags)) if policy.tags else ()
            limits: list[tuple[str | int, int]] = [(tag, self.by_tag[tag]) for tag in tags if tag in self.by_tag]
            if policy.max_running is not None:
                first = self._first.setdefault(task.qualified_name, number)
                if not joining:
                    first = self._first.setdefault(id(task.function), number)
                limits.append((first, policy.max_running))
            self.append(policy.placement._replace(limits=tuple(limits)) if limits else policy.placement)


class Room:
    """How many places are free, and so how many batches may still go out.

    Attributes
    ----------
    out : Counter of Placement
        How many batches of each placement are out.
    """

    def __init__(self) -> None:
        self.out: Counter[Placement] = Counter()
        self._limited: Counter[str | int] = Counter()  # by limit: places that are taken
        self._reserved: Counter[str | int] = Counter()
        self._served: dict[Placement, int] = {}  # when the latest batch of a placement with limits went out
        self._turn = 0

    def share(self, placement: Placement, threads: int) -> int:
        """How many places are one thread's part of those that are free."""
        return max(1, -(-self.left(placement) // max(1, min(threads, placement.most) - self.out[placement])))

    def take(self, placement: Placement, places: int = 1) -> None:
        """Note that a batch goes out."""
        self.out[placement] += 1
        if placement.limits:
            self._turn += 1
            self._served[placement] = self._turn
            self._limited.update({limit: places for limit, _ in placement.limits})

    def free(self, placement: Placement, places: int = 1) -> None:
        """Note that a batch is over."""
        self.out[placement] -= 1
        self._limited.subtract({limit: places for limit, _ in placement.limits})

    def left(self, placement: Placement) -> int:
        """How many more places a placement's limits allow."""
        taken, reserved = self._limited, self._reserved
        return min((most - taken[limit] - reserved[limit] for limit, most in placement.limits), default=NO_LIMIT)

    def in_turn(self, queues: Mapping[Placement, T]) -> Iterable[tuple[Placement, T]]:
        """Return queues by priority; of those with limits, who has not had a turn for the longest time comes first."""
        self._reserved.clear()
        if not any(placement.limits for placement in queues):
            return queues.items()
        return sorted(queues.items(), key=lambda entry: (-entry[0].priority, self._served.get(entry[0], 0)))

    def reserve(self, placement: Placement) -> None:
        """Let none that come later in this turn take what a placement waits for, if it has nothing out.

        Else, what needs room under two limits at once would wait for ever for others, each of which needs one only.
        """
        if not self.out[placement]:
            self._reserved.update(limit for limit, _ in placement.limits)

    def clear(self) -> None:
        """Forget all."""
        self.out.clear()
        self._limited.clear()
