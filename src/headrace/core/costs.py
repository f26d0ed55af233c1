"""How long task runs take, learnt from those that ran. Per task, not per node: a loop that draws a thousand nodes
of one task has one estimate.
"""

from __future__ import annotations


class Costs:
    """Running means of seconds per task run.

    The mean of a report counts for half as soon as it arrives, however many task runs it speaks of, so that an
    estimate follows a flow whose later elements are harder.
    """

    __slots__ = ("_means",)

    def __init__(self, tasks: int) -> None:
        self._means: list[float | None] = [None] * tasks

    def learn(self, task: int, seconds: float, count: int) -> None:
        """Take in that ``count`` task runs took ``seconds`` together."""
        mean, known = seconds / count, self._means[task]
        self._means[task] = mean if known is None else 0.5 * (known + mean)

    def at_least(self, task: int, seconds: float) -> None:
        """Take in that one unfinished task run has taken this long already."""
        known = self._means[task]
        self._means[task] = seconds if known is None else max(known, seconds)

    def estimate(self, task: int) -> float | None:
        """Seconds that a task run is expected to take; None if none was seen."""
        return self._means[task]
