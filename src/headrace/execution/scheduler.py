"""What headrace adds to a Dask scheduler: it leaves the recovery of batches to the run that sent them.

Dask would execute a whole batch again when its worker dies, also the task runs in it that were given back and ran
elsewhere, and whether or not anybody still needs its values. The run machine knows better (``core.ledger``). So for
batches, and for nothing else on the scheduler:

* one death of a worker is told at once, instead of after several tries;
* values count as data that cannot be made again, so a loss is told and nothing is executed for it.
"""

from __future__ import annotations

from typing import Any

from distributed import Scheduler, SchedulerPlugin

#: What every key of a batch has in it.
MARK = "-hr-"


class RecoveryPlugin(SchedulerPlugin):
    """Tells the scheduler not to execute batches again by itself."""

    name = "headrace-recovery"
    idempotent = True

    def __init__(self) -> None:
        self.scheduler: Scheduler | None = None

    async def start(self, scheduler: Scheduler) -> None:
        """Remember the scheduler."""
        self.scheduler = scheduler

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
