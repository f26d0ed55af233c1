"""The driver: joins a machine and an executor for one run. The hot loop is ``Drive._drive``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from headrace.core.costs import means_of, prior_of
from headrace.core.events import CancelRequested, Wake
from headrace.core.machine import RunMachine
from headrace.core.plan import Plan
from headrace.core.state import State
from headrace.core.summary import Observer
from headrace.execution.base import Executor
from headrace.execution.dynamic import Unpacker
from headrace.execution.failure import capture
from headrace.execution.flowrun import FlowRun
from headrace.execution.outcome import outcome_of

#: Seconds between two calls of an observer.
SHOW = 0.1


class Record(Protocol):
    """Where a run writes what it did."""

    run_id: str

    def earlier_costs(self) -> Mapping[str, float]:
        """Return seconds per task run in earlier runs of the flow, by ``core.costs.key_of``, at once; a hint."""

    def finish(
        self, outcome: dict[str, Any], result_pickle: bytes | None, costs: Mapping[str, float] | None = None
    ) -> None:
        """Write how it ended, and, as a hint for the next run, seconds per task run."""


class Drive:
    """One run on its way."""

    def __init__(
        self,
        flow_name: str,
        record: Record,
        plan: Plan,
        plan_bytes: bytes,
        executor: Executor,
        observers: Sequence[Observer],
    ) -> None:
        self.flow_name = flow_name
        self.record = record
        self.plan = plan
        self.plan_bytes = plan_bytes
        self.executor = executor
        self.observers = observers
        self.machine = RunMachine(plan)
        executor.backlog = self.machine.backlog
        self.began = time.monotonic()
        self.shown = 0.0

    def run(self) -> FlowRun:
        """Drive the run to its end, and write down how it ended."""
        for observer in self.observers:
            observer.on_start(self.record.run_id, self.flow_name, self.machine.summaries())
        try:
            self.machine.threads = self.executor.start(self.record.run_id, self.plan_bytes, self.plan)
            self.machine.gangs = self.executor.mails
            self.machine.costs.earlier = self.record.earlier_costs()
            self.machine.costs.prior = prior_of(self.plan.tasks, self.machine.costs.earlier)
            self._drive()
        except BaseException as error:
            self._abort(error)
            raise
        self.executor.finish()
        elapsed = time.monotonic() - self.began
        run = FlowRun(self.record.run_id, self.flow_name, self.machine, self.executor, elapsed)
        self.record.finish(*outcome_of(run), means_of(self.plan.tasks, self.machine.nodes))
        self._end()
        return run

    def _drive(self) -> None:
        """The hot loop: events in, commands out, until the machine is finished."""
        machine, executor, unpacker = self.machine, self.executor, Unpacker()
        commands = machine.start(time.monotonic())
        while not machine.finished:
            executor.send(commands)
            wake = next((command.time for command in commands if isinstance(command, Wake)), None)
            now = time.monotonic()
            timeout = SHOW if self.observers else 60.0
            if wake is not None:
                timeout = min(timeout, max(wake - now, 0.0))
            events = executor.wait(timeout)
            unpacker.unpack(events)
            now = time.monotonic()
            commands = machine.handle(now, events)
            if self.observers and now - self.shown >= SHOW:
                self.shown = now
                self._show()
        executor.send(commands)  # the last values that nobody needs any more are released

    def _show(self) -> None:
        summaries, elapsed = self.machine.summaries(), time.monotonic() - self.began
        for observer in self.observers:
            observer.on_progress(summaries, elapsed)

    def _end(self) -> None:
        if not self.observers:
            return
        summaries, elapsed = self.machine.summaries(), time.monotonic() - self.began
        for observer in self.observers:
            observer.on_end(summaries, self.machine.state, elapsed)

    def _abort(self, error: BaseException) -> None:
        """Leave nothing running and no run without an outcome, whatever broke."""
        if self.machine.state is State.PENDING:
            self.machine.state = State.RUNNING
        commands = self.machine.handle(time.monotonic(), [CancelRequested()])
        try:
            self.executor.send(commands)
            self.executor.finish()
        finally:
            self.executor.release()
            failure, _ = capture(error)
            state = State.CANCELLED if isinstance(error, KeyboardInterrupt) else State.CRASHED
            self.record.finish(
                {
                    "state": state.label,
                    "nodes": [],
                    "elapsed": time.monotonic() - self.began,
                    "errors": [
                        {
                            "node": None,
                            "type": failure.type_name,
                            "message": failure.message,
                            "traceback": failure.traceback,
                        }
                    ],
                },
                None,
            )
            self._end()
