"""What headrace adds to a Dask scheduler.

**It leaves the recovery of batches to the run that sent them.** Dask would execute a whole batch again when its worker
dies, also the task runs in it that were given back and ran elsewhere, and whether or not anybody still needs its
values. The run machine knows better (``core.ledger``). So for batches, and for nothing else on the scheduler:

* one death of a worker is told at once, instead of after several tries;
* values count as data that cannot be made again, so a loss is told and nothing is executed for it.

**It forgets reports.** The scheduler keeps the last events of each topic for people to look at, a hundred megabytes of
them for a long run, and a topic for ever. A report is of use to its run's driver only, and once.

**It says how many workers the runs want** (``execution.demand``).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Scheduler, SchedulerPlugin

from headrace.core.ready import Work
from headrace.execution.confided import name_for
from headrace.execution.demand import BACKLOG, MARK, Demand

#: What every event topic of a run begins with.
TOPIC = "headrace-"
#: The last event of a topic, which its driver logs.
OVER = b""
#: How many bundles of code stay that no run needs: who edits and runs again, back and forth, brings none anew.
KEPT = 3


def topic(run_id: str) -> str:
    """The event topic on which the workers report a run."""
    return TOPIC + run_id


class RunsPlugin(SchedulerPlugin):
    """Keeps the scheduler from executing batches again by itself and from keeping reports; tells it of backlogs."""

    name = "headrace-runs"
    idempotent = True

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None
        self.demand: Demand | None = None
        self.claims: OrderedDict[str, set[str]] = OrderedDict()  # by code: the runs that need it; the latest at the end

    async def start(self, scheduler: Scheduler) -> None:
        """Remember the scheduler."""
        self.scheduler = scheduler
        self.demand = Demand(scheduler)
        self.claiming = asyncio.Lock()

    def transition(self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any) -> None:
        """Mark a batch when it is sent to a worker, and its values when they are there."""
        if finish not in ("processing", "memory") or type(key) is not str or MARK not in key:
            return
        assert self.scheduler is not None
        task = self.scheduler.tasks.get(key)
        if task is None:
            return
        if finish == "processing":
            task.suspicious = self.scheduler.allowed_failures
        else:
            task.run_spec = None

    def log_event(self, topic: str, msg: Any) -> None:
        """Forget a report, for it was sent to its driver just now; and its topic, if nobody listens any more.

        So a straggler's report that comes after the end of its run leaves nothing either.
        """
        if topic != BACKLOG and not _is_run(topic):
            return
        assert self.scheduler is not None
        assert self.demand is not None
        topics = self.scheduler._broker._topics
        if topic == BACKLOG:
            del topics[topic]
            run, backlog = msg
            if run in topics:  # else it is over
                self.demand.note(run, tuple(Work(tuple(map(tuple, asked)), *rest) for asked, *rest in backlog))
        elif msg == OVER or not topics[topic].subscribers:
            self._close(topic)
        else:
            topics[topic].truncate()

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Forget the runs of a driver that is gone, unless it is back when Dask, too, loses its patience."""
        assert self.demand is not None
        runs = [run for run, topic in scheduler._broker._topics.items() if _is_run(run) and client in topic.subscribers]
        for run in runs:
            self.demand.forget(run)
        if runs:
            delay = parse_timedelta(dask.config.get("distributed.scheduler.events-cleanup-delay"))
            scheduler._ongoing_background_tasks.call_later(delay, self._bury, client, runs)

    async def _bury(self, client: str, runs: list[str]) -> None:
        assert self.scheduler is not None
        if client in self.scheduler.clients:
            return
        for run in runs:
            if run in self.scheduler._broker._topics:
                self._close(run)
            await forget_plan(run, self.scheduler)

    def unclaimed(self, run: str) -> list[str]:
        """Note that a run is gone; return the code that is to be forgotten, all but the last that nobody needs now."""
        for claims in self.claims.values():
            claims.discard(run)
        idle = [code for code, claims in self.claims.items() if not claims]
        gone = idle[: max(len(idle) - KEPT, 0)]
        for code in gone:
            del self.claims[code]
        return gone

    def _close(self, topic: str) -> None:
        assert self.scheduler is not None
        assert self.demand is not None
        del self.scheduler._broker._topics[topic]
        self.demand.forget(topic)


def _is_run(topic: Any) -> bool:
    return type(topic) is str and topic.startswith(TOPIC)


async def forget_plan(name: str, dask_scheduler: Any = None) -> None:
    """Take a run's plan from the scheduler and its workers. Runs on the scheduler.

    A worker that dies meanwhile has no plan any more, so it is no reason to leave the others with theirs.

    Parameters
    ----------
    name : str
        Of the plugin that brought the plan, and of the run's topic.
    dask_scheduler : distributed.Scheduler
        Filled in by Dask.
    """
    for plugin in (name, name_for(name)):
        await _remove(dask_scheduler, plugin)
    runs = dask_scheduler.plugins.get(RunsPlugin.name)
    if runs is not None:
        async with runs.claiming:
            for code in runs.unclaimed(name):
                await _remove(dask_scheduler, code)


async def _remove(scheduler: Any, name: str) -> None:
    if scheduler.worker_plugins.pop(name, None) is not None:
        await scheduler.broadcast(msg={"op": "plugin-remove", "name": name}, on_error="ignore")


async def claim_code(run: str, name: str, dask_scheduler: Any = None) -> bool:
    """Note that a run needs code, and return whether an earlier one brought it. Runs on the scheduler.

    Parameters
    ----------
    run : str
        Its topic.
    name : str
        Of the plugin that brings the code.
    dask_scheduler : distributed.Scheduler
        Filled in by Dask.
    """
    runs = dask_scheduler.plugins[RunsPlugin.name]
    async with runs.claiming:  # else what is being taken away just now would count as there
        runs.claims.setdefault(name, set()).add(run)
        runs.claims.move_to_end(name)
        return name in dask_scheduler.worker_plugins
