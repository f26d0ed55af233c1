"""What headrace adds to a Dask scheduler.

**It leaves the recovery of batches to the run that sent them.** Dask would execute a whole batch again when its worker
dies, also the task runs in it that were given back and ran elsewhere, and whether or not anybody still needs its
values. The run machine knows better (``core.ledger``). So for batches, and for nothing else on the scheduler:

* one death of a worker is told at once, instead of after several tries, and whether it said good-bye: it was evicted
  then, or the cluster is made smaller, and no task is at fault;
* values count as data that cannot be made again, so a loss is told and nothing is executed for it.

Dask logs both as errors, which they are not (``execution.alarms``).

**It passes reports on itself** (``execution.switchboard``), and keeps what a driver needs whose connection broke. The
scheduler would keep the last events of each topic for people to look at, a hundred megabytes of them for a long run,
and a topic for ever. A report is of use to its run's driver only, and once.

**It says how many workers the runs want** (``execution.demand``).
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import Any, NamedTuple

from distributed import Scheduler, SchedulerPlugin

from headrace.core.ready import Work
from headrace.execution.alarms import LOGGER, FalseAlarms
from headrace.execution.confided import name_for
from headrace.execution.demand import BACKLOG, MARK, Demand
from headrace.execution.switchboard import OVER, TOPIC, Switchboard

#: What is noted of a worker that leaves of its own accord.
LEFT = "headrace-left"
#: How many bundles of code stay that no run needs: who edits and runs again, back and forth, brings none anew.
KEPT = 3


class Opened(NamedTuple):
    """What a scheduler says to the driver of a run.

    Attributes
    ----------
    scheduler : str
        Its id.
    address : str
        Where it listens.
    nthreads : dict of str to int
        By address of a worker: its threads.
    known : bool
        Whether the run was known, so that its plan is there.
    """

    scheduler: str
    address: str
    nthreads: dict[str, int]
    known: bool


class RunsPlugin(SchedulerPlugin):
    """Keeps the scheduler from executing batches again by itself; passes reports on, and tells it of backlogs."""

    name = "headrace-runs"
    idempotent = True

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None
        self.demand: Demand | None = None
        self.switchboard: Switchboard | None = None
        self.claims: OrderedDict[str, set[str]] = OrderedDict()  # by code: the runs that need it; the latest at the end

    async def start(self, scheduler: Scheduler) -> None:
        """Remember the scheduler."""
        self.scheduler = scheduler
        self.demand = Demand(scheduler)
        self.switchboard = Switchboard(scheduler, partial(_forget, scheduler=scheduler))
        self.alarms = FalseAlarms(self.switchboard.makes_again)
        LOGGER.addFilter(self.alarms)
        self.claiming = asyncio.Lock()

    async def close(self) -> None:
        """Leave the log as it was; others may be in this process, and log there."""
        LOGGER.removeFilter(self.alarms)

    def transition(self, key: Any, start: str, finish: str, *args: Any, stimulus_id: str, **kwargs: Any) -> None:
        """Mark a batch when it is sent to a worker, or waits for any to come, and its values when they are there."""
        if finish not in ("processing", "memory", "no-worker") or type(key) is not str or MARK not in key:
            return
        assert self.scheduler is not None
        task = self.scheduler.tasks.get(key)
        if task is None:
            return
        if finish == "processing":
            task.suspicious = self.scheduler.allowed_failures
        elif finish == "memory":
            task.run_spec = None
        elif task.loose_restrictions:
            # It may run elsewhere than where it was to, but workers that come later Dask does not count among these.
            task.worker_restrictions = None

    def log_event(self, topic: str, msg: Any) -> None:
        """Pass a report on, and forget it and its topic; note which workers leave of their own accord."""
        assert self.scheduler is not None
        if type(msg) is dict and msg.get("action") == "closing-worker" and topic in self.scheduler.workers:
            self.scheduler.workers[topic].extra[LEFT] = True  # `KilledWorker` tells it to the driver
        if topic != BACKLOG and not _is_run(topic):
            return
        assert self.demand is not None
        assert self.switchboard is not None
        del self.scheduler._broker._topics[topic]
        if topic == BACKLOG:
            run, backlog = msg
            if run in self.switchboard.runs and not self.switchboard.runs[run].over:
                self.demand.note(run, tuple(map(Work.of, backlog)))
        elif topic in self.switchboard.runs:  # else a straggler's, of a run that is forgotten
            self.switchboard.report(topic, msg)
            if msg == OVER:
                self.demand.forget(topic)

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Note that the drivers know of other workers than there are."""
        assert self.switchboard is not None
        self.switchboard.changes += 1

    def remove_worker(self, scheduler: Scheduler, worker: str, **kwargs: Any) -> None:
        """Note that the drivers know of other workers than there are."""
        self.add_worker(scheduler, worker)

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """Give back what was held for a driver that was cut off."""
        assert self.switchboard is not None
        self.switchboard.welcome(client)

    def remove_client(self, scheduler: Scheduler, client: str) -> None:
        """Forget the runs of a driver that has said good-bye; what the others leave undone, nobody needs just now."""
        assert self.demand is not None
        assert self.switchboard is not None
        for run in self.switchboard.of(client):
            self.demand.forget(run)
            if not self.switchboard.runs[run].held and not scheduler._ongoing_background_tasks.closed:
                scheduler._ongoing_background_tasks.call_soon(_forget, run, scheduler)

    def unclaimed(self, run: str) -> list[str]:
        """Note that a run is gone; return the code that is to be forgotten, all but the last that nobody needs now."""
        for claims in self.claims.values():
            claims.discard(run)
        idle = [code for code, claims in self.claims.items() if not claims]
        gone = idle[: max(len(idle) - KEPT, 0)]
        for code in gone:
            del self.claims[code]
        return gone


def _is_run(topic: Any) -> bool:
    return type(topic) is str and topic.startswith(TOPIC)


async def open_run(name: str, client: str, patience: float, token: str, dask_scheduler: Any = None) -> Opened:
    """Introduce a run and its driver to the scheduler. Runs there.

    Parameters
    ----------
    name : str
        The run's topic.
    client : str
        The driver's client.
    patience : float
        Seconds for which the scheduler waits for the driver, when that is cut off.
    token : str
        By which the driver is known when it is back.
    dask_scheduler : distributed.Scheduler
        Filled in by Dask.
    """
    if RunsPlugin.name not in dask_scheduler.plugins:
        await dask_scheduler.register_scheduler_plugin(RunsPlugin(), idempotent=True)
    known = dask_scheduler.plugins[RunsPlugin.name].switchboard.open(name, client, patience, token)
    return Opened(dask_scheduler.id, dask_scheduler.address, dask_scheduler.get_ncores(), known)


async def forget_plan(name: str, dask_scheduler: Any = None) -> bool:
    """Forget a run: take its plan from the scheduler and its workers. Runs on the scheduler.

    A worker that dies meanwhile has no plan any more, so it is no reason to leave the others with theirs.

    Parameters
    ----------
    name : str
        Of the plugin that brought the plan, and of the run's topic.
    dask_scheduler : distributed.Scheduler
        Filled in by Dask.

    Returns
    -------
    bool
        Whether it was known; its driver is told that it is over, then.
    """
    runs = dask_scheduler.plugins.get(RunsPlugin.name)
    known = False
    if runs is not None:
        known = runs.switchboard.forget(name)
        runs.demand.forget(name)  # told when it was cut off already, perhaps, on a connection that was not
    for plugin in (name, name_for(name)):
        await _remove(dask_scheduler, plugin)
    if runs is not None:
        async with runs.claiming:
            for code in runs.unclaimed(name):
                await _remove(dask_scheduler, code)
    return known


async def _forget(name: str, scheduler: Scheduler) -> None:
    await forget_plan(name, scheduler)


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
