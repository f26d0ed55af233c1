"""Demand: how many workers the work deserves that still waits with the drivers.

Dask's adaptive clusters ask the scheduler how many workers it wants, and the scheduler goes by the tasks that it has.
Of headrace it has two batches per thread, a fifth of a second of work, so it would never want more. The drivers tell
it what else is ready, and this adds it, by Dask's own rule: so many threads that all is done within the
``target_duration`` of the one who asks, but no more than could take part.

Nothing else on the scheduler sees it. Were it written where Dask counts its tasks, Dask would also believe it when it
chooses workers and when it steals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Scheduler

from headrace.core.ready import Backlog

#: The event topic on which drivers tell their backlogs, as (topic of the run, seconds, task runs).
BACKLOG = "headrace_backlog"


class Demand:
    """Answers for the scheduler of how many workers there should be.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Whose answer is added to.
    """

    def __init__(self, scheduler: Scheduler) -> None:
        self.scheduler = scheduler
        self._backlogs: dict[str, Backlog] = {}
        self._without: Callable[..., int] = scheduler.adaptive_target
        scheduler.adaptive_target = self.target  # type: ignore[method-assign]  # asked by HTTP
        scheduler.handlers["adaptive_target"] = self.target  # asked by a cluster object

    def note(self, run: str, backlog: Backlog) -> None:
        """Take in what a driver told of its run."""
        self._backlogs[run] = backlog

    def forget(self, run: str) -> None:
        """Forget a run that is over, or whose driver is gone."""
        self._backlogs.pop(run, None)

    def target(self, target_duration: Any = None) -> int:
        """How many workers there should be; as ``distributed.Scheduler.adaptive_target``.

        Parameters
        ----------
        target_duration : str or float, optional
            Seconds within which all work shall be done. Default: Dask's configuration.
        """
        wanted = self._without(target_duration)
        if not self._backlogs:
            return wanted
        scheduler = self.scheduler
        if target_duration is None:
            target_duration = dask.config.get("distributed.adaptive.target-duration")
        known = len(scheduler.queued) + len(scheduler.unrunnable)
        known += sum(len(worker.processing) for worker in scheduler.workers.values())
        seconds = scheduler.total_occupancy + sum(backlog.seconds for backlog in self._backlogs.values())
        takers = known + sum(backlog.task_runs for backlog in self._backlogs.values())
        threads: int = min(math.ceil(seconds / parse_timedelta(target_duration)), takers)
        per_worker: float = scheduler.total_nthreads / len(scheduler.workers) if scheduler.workers else 1
        return max(wanted, math.ceil(threads / per_worker))
