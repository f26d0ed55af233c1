"""Demand: what the scheduler tells those who scale its cluster.

Dask's adaptive clusters ask the scheduler how many workers it wants, and the scheduler goes by the tasks that it has.
Of headrace it has two batches per thread, a fifth of a second of work, so it would never want more. The drivers tell
it what is ready and not done, and this adds it, by Dask's own rule: so many threads that all is done within the
``target_duration`` of the one who asks, but no more than could take part.

Nothing else on the scheduler sees it. Were it written where Dask counts its tasks, Dask would also believe it when it
chooses workers and when it steals.

An environment that scales its cluster itself asks for more: ``Demand.look`` tells what workers there are and what the
work asks for, and ``Demand.retire`` lets idle ones go. The scheduler does both, so that all drivers of a cluster are
seen, and that no batch comes to a worker between the look that finds it idle and its end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, NamedTuple

import dask
from dask.utils import parse_timedelta
from distributed import Scheduler
from distributed.core import Status
from distributed.scheduler import TaskState, WorkerState

from headrace.core.ready import Backlog, Work, merged

#: What every key of a batch has in it.
MARK = "-hr-"
#: The event topic on which drivers tell their backlogs, as (topic of the run, works as plain tuples).
BACKLOG = "headrace_backlog"
#: What the scheduler is asked for by those who scale its cluster; the names among Dask's own requests.
WORKERS, RETIRE = "headrace_workers", "headrace_retire"
#: What a worker's tasks are in while a thread of it is taken.
TAKEN = ("executing", "long-running", "cancelled", "resumed")
#: Share of the memory of the workers that stay, up to which they may be filled with values of those that go.
FULL = 0.6


class Seen(NamedTuple):
    """A worker that takes tasks.

    Attributes
    ----------
    address : str
        Where it listens.
    name : str or int
        As the cluster calls it.
    threads : int
        How many it has.
    resources : dict of str to float
        What it offers.
    idle : bool
        Whether it has nothing to do.
    """

    address: str
    name: Any
    threads: int
    resources: dict[str, float]
    idle: bool


class Demand:
    """Knows how much work there is for a scheduler's workers, and answers how many of them there should be.

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
        scheduler.handlers.update({WORKERS: self.look, RETIRE: self.retire})

    def note(self, run: str, backlog: Backlog) -> None:
        """Take in what a driver told of its run."""
        self._backlogs[run] = backlog

    def forget(self, run: str) -> None:
        """Forget a run that is over, or whose driver is gone."""
        self._backlogs.pop(run, None)

    def works(self) -> Backlog:
        """What waits with the drivers, and what the scheduler has itself."""
        told = (work for backlog in self._backlogs.values() for work in backlog)
        return merged([*told, *in_hand(self.scheduler)])

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
        within = parse_timedelta(target_duration)
        threads = sum(work.threads(within) for work in self.works())
        per_worker: float = scheduler.total_nthreads / len(scheduler.workers) if scheduler.workers else 1
        return max(wanted, math.ceil(threads / per_worker))

    def look(self) -> tuple[Backlog, list[Seen]]:
        """Tell what work there is, and who takes it."""
        seen = [
            Seen(worker.address, worker.name, worker.nthreads, dict(worker.resources), not _is_busy(worker))
            for worker in self.scheduler.workers.values()
            if worker.status in (Status.running, Status.paused)
        ]
        return self.works(), seen

    async def retire(self, units: list[list[str]], ends: bool) -> list[str]:
        """Let idle workers go: they get no more tasks, and others take over what they hold.

        Those that got something to do meanwhile stay, and so many as are needed to hold all values.

        Parameters
        ----------
        units : list of list of str
            Addresses; each list together or not at all.
        ends : bool
            Whether they shall end by themselves. Else the cluster will end them, which has to follow.

        Returns
        -------
        list of str
            Addresses of those that hold nothing any more, and take nothing.
        """
        workers = self.scheduler.workers
        going = [[workers[address] for address in unit if address in workers] for unit in units]
        going = [unit for unit in going if unit and not any(map(_is_busy, unit))]
        going.sort(key=lambda unit: sum(worker.nbytes for worker in unit))
        while going and not _can_hold(self.scheduler, going):
            going.pop()
        addresses = [worker.address for unit in going for worker in unit]
        if not addresses:
            return []
        return list(await self.scheduler.retire_workers(workers=addresses, close_workers=ends, remove=ends))


def in_hand(scheduler: Scheduler) -> Iterator[Work]:
    """The scheduler's tasks, but for batches, which their drivers know better, and those that wait for other tasks."""
    for worker in scheduler.workers.values():
        yield from map(partial(_work, scheduler), filter(_is_foreign, worker.processing))
    yield from map(partial(_work, scheduler), filter(_is_foreign, scheduler.unrunnable))
    if foreign := sum(map(_is_foreign, scheduler.queued)):  # they ask for nothing, and may be very many of few kinds
        yield _work(scheduler, next(filter(_is_foreign, scheduler.queued)), foreign)


def _is_foreign(task: TaskState) -> bool:
    return type(task.key) is not str or MARK not in task.key


def _work(scheduler: Scheduler, task: TaskState, number: int = 1) -> Work:
    resources = tuple(sorted((task.resource_restrictions or {}).items()))
    return Work(resources, number * scheduler._get_prefix_duration(task.prefix), number)


def _is_busy(worker: WorkerState) -> bool:
    """Whether anything would be lost or done twice without it; also a batch that was told to stop, and has not yet."""
    counts = worker.metrics.get("task_counts", {})
    return bool(worker.processing or worker.long_running or worker.actors or any(map(counts.get, TAKEN)))


def _can_hold(scheduler: Scheduler, going: Iterable[Iterable[WorkerState]]) -> bool:
    """Whether those that stay have room for what is held by those that go."""
    leaving = {worker for unit in going for worker in unit}
    if not any(worker.has_what for worker in leaving):
        return True
    rest = scheduler.running - leaving
    room = sum(FULL * worker.memory_limit - worker.nbytes for worker in rest)
    unlimited = any(not worker.memory_limit for worker in rest)
    return bool(rest) and (unlimited or sum(worker.nbytes for worker in leaving) <= room)
