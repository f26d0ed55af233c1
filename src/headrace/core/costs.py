"""How long task runs take, learnt from those that ran. Per task, not per node: a loop that draws a thousand nodes
of one task has one estimate.

What earlier runs of the flow learnt is a *prior*: it counts until a task run of this run was measured, and not at
all from then on. It may be wrong by any factor, because parameters, data and machines change between runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import compress
from typing import Any

from headrace.core.noderun import NodeRun
from headrace.core.state import State
from headrace.core.task import Task

#: A mean that moved by less than this factor is not worth writing down: batches would hardly differ.
MOVED = 1.5
#: Seconds below which all means are alike: so many calls fill a batch that its length hardly matters.
TINY = 1e-5


class Costs:
    """Running means of seconds per task run.

    The mean of a report counts for half as soon as it arrives, however many task runs it speaks of, so that an
    estimate follows a flow whose later elements are harder.

    Parameters
    ----------
    tasks : int
        How many tasks there are.
    prior : mapping of int to float, optional
        By task: seconds per task run in earlier runs. May come later, as the attribute.
    """

    __slots__ = ("_finished", "_lasting", "_means", "earlier", "prior")

    def __init__(self, tasks: int, prior: Mapping[int, float] | None = None) -> None:
        self._means: list[float | None] = [None] * tasks
        self._finished: set[int] = set()
        self._lasting: dict[int, float] = {}
        self.prior: Mapping[int, float] = prior or {}
        self.earlier: Mapping[str, float] = {}  # the same by `key_of` the task, for tasks that come while it runs

    def extend(self, tasks: Sequence[Task[..., Any]]) -> None:
        """Learn of tasks that were added to the plan; ``tasks`` are all of them."""
        known = len(self._means)
        if len(tasks) > known:
            told = prior_of(tasks[known:], self.earlier)
            self.prior = {**self.prior, **{known + task: mean for task, mean in told.items()}}
            self._means += [None] * (len(tasks) - known)

    def learn(self, task: int, seconds: float, count: int) -> None:
        """Take in that ``count`` task runs took ``seconds`` together."""
        self._finished.add(task)
        mean, known = seconds / count, self._means[task]
        self._means[task] = mean if known is None else 0.5 * (known + mean)

    def at_least(self, task: int, seconds: float) -> None:
        """Take in that one unfinished task run has taken this long already."""
        known = self.estimate(task)
        if known is None or known < seconds:
            self._means[task] = seconds

    def lasts(self, task: int, seconds: float) -> None:
        """Take in how long one unfinished task run has been running; it counts until the first one has finished."""
        if task not in self._finished:
            self._lasting[task] = max(self._lasting.get(task, 0.0), seconds)

    def measured(self, task: int) -> bool:
        """Whether the estimate comes from this run."""
        return self._means[task] is not None

    def estimate(self, task: int) -> float | None:
        """Seconds that a task run is expected to take; None if none was seen."""
        mean = self._means[task]
        return self.prior.get(task) if mean is None else mean

    def demand(self, task: int, number: int, unknown: float) -> float:
        """Seconds that task runs count when the number of workers is chosen.

        Those of which nothing is known count as one batch, for they may be tiny. The estimate, by which batches are
        made, does not grow while the very first task runs of a task are running; this does, because more workers are
        worth it the longer those take.

        Parameters
        ----------
        task : int
            Of which task.
        number : int
            How many.
        unknown : float
            Seconds of a batch of which nothing is known.
        """
        estimate = self.estimate(task)
        lasting = None if task in self._finished else self._lasting.get(task)
        if estimate is None and lasting is None:
            return unknown
        return number * max(estimate or 0.0, lasting or 0.0)


def key_of(task: Task[..., Any]) -> str:
    """Return what a task is called in every version of a flow: where its function is defined, and its name."""
    return f"{task.qualified_name} {task.name}"


def prior_of(tasks: Iterable[Task[..., Any]], means: Mapping[str, float]) -> dict[int, float]:
    """Return what earlier runs learnt, by number of the task.

    Parameters
    ----------
    tasks : iterable of Task
        Of the plan.
    means : mapping of str to float
        Seconds per task run, as `means_of` returned them.
    """
    if not means:
        return {}
    keys = map(key_of, tasks)
    return {task: means[key] for task, key in enumerate(keys) if key in means}


def means_of(tasks: Sequence[Task[..., Any]], nodes: Iterable[NodeRun]) -> dict[str, float]:
    """Return seconds per task run that succeeded, by `key_of` its task; tasks of which none did are left out.

    Parameters
    ----------
    tasks : sequence of Task
        Of the plan.
    nodes : iterable of NodeRun
        The run.
    """
    keys = [key_of(task) for task in tasks]
    totals: dict[str, tuple[float, int]] = {}
    for run in nodes:
        done = run.states.count(State.SUCCESS)
        if done:
            whole = done == len(run.states)
            seconds = sum(run.seconds if whole else compress(run.seconds, map(State.SUCCESS.__eq__, run.states)))
            before, number = totals.get(keys[run.spec.task], (0.0, 0))
            totals[keys[run.spec.task]] = before + seconds, number + done
    return {key: seconds / number for key, (seconds, number) in totals.items()}


def moved(before: Mapping[str, float], now: Mapping[str, float]) -> bool:
    """Whether there is anything in ``now`` that the next run should know and that ``before`` does not tell it."""
    return any(
        key not in before or not 1 / MOVED <= max(mean, TINY) / max(before[key], TINY) <= MOVED
        for key, mean in now.items()
    )
