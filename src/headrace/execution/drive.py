"""The driver: joins a machine and an executor for one run. The hot loop is ``Drive._drive``."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from headrace.core.costs import means_of, prior_of
from headrace.core.events import CancelRequested, Wake
from headrace.core.machine import RunMachine
from headrace.core.moves import Move, Teller
from headrace.core.noderun import NodeRun
from headrace.core.plan import Plan
from headrace.core.policy import FlowPolicy
from headrace.core.state import State
from headrace.core.summary import Observer
from headrace.execution.base import Executor
from headrace.execution.dynamic import Unpacker
from headrace.execution.failure import capture
from headrace.execution.flowrun import FlowRun
from headrace.execution.hooks import Hooks
from headrace.execution.outcome import outcome_of
from headrace.execution.reading import Reading

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
        policy: FlowPolicy,
        hooks: Hooks,
    ) -> None:
        self.flow_name = flow_name
        self.record = record
        self.plan = plan
        self.plan_bytes = plan_bytes
        self.executor = executor
        self.observers = [*observers, hooks] if hooks.wanted else list(observers)
        self.hooks = hooks
        self.showing = [
            observer for observer in self.observers if type(observer).on_progress is not Observer.on_progress
        ]
        self.machine = RunMachine(plan, limits=policy.max_running)
        self.moves: list[Move] = []
        self.reading = Reading(record.run_id, self.observers)
        for node in self.machine.nodes if self.observers else ():
            self._listen(node)
        self.machine.expansions.joined = self._joined
        executor.backlog = self.machine.backlog
        self.began = time.monotonic()
        self.shown = 0.0

    def _listen(self, node: NodeRun) -> None:
        """Have a node tell its moves, if an observer wants to hear of them."""
        if not node.spec.hidden and any(observer.wants_moves(node.policy) for observer in self.observers):
            node.teller = Teller(node.spec.index, self.moves)

    def _joined(self, node: NodeRun) -> None:
        """A node has joined the run while it goes on, perhaps the first one with hooks."""
        if self.hooks not in self.observers and self.hooks.wants_moves(node.policy):
            self.observers.append(self.hooks)
            self.hooks.on_start(self.record.run_id, self.flow_name, ())
        self._listen(node)

    def run(self) -> FlowRun:
        """Drive the run to its end, and write down how it ended."""
        try:
            for observer in self.observers:
                observer.on_start(self.record.run_id, self.flow_name, self.machine.summaries())
            self.machine.threads = self.executor.start(self.record.run_id, self.plan_bytes, self.plan)
            self.machine.gangs = self.executor.mails
            self.machine.costs.earlier = self.record.earlier_costs()
            self.machine.costs.prior = prior_of(self.plan.tasks, self.machine.costs.earlier)
            self._drive()
        except BaseException as error:
            self._abort(error)
            raise
        self.executor.finish()
        self.reading.close()
        elapsed = time.monotonic() - self.began
        run = FlowRun(self.record.run_id, self.flow_name, self.machine, self.executor, elapsed)
        self.record.finish(*outcome_of(run), means_of(self.plan.tasks, self.machine.nodes))
        self._end(run.state)
        return run

    def _drive(self) -> None:
        """The hot loop: events in, commands out, until the machine is finished."""
        machine, executor, unpacker = self.machine, self.executor, Unpacker()
        commands = machine.start(time.monotonic())
        self._tell()
        while not machine.finished:
            executor.send(commands)
            wake = next((command.time for command in commands if isinstance(command, Wake)), None)
            now = time.monotonic()
            timeout = SHOW if self.showing else 60.0
            if wake is not None:
                timeout = min(timeout, max(wake - now, 0.0))
            events = self.reading.sift(executor.wait(timeout))
            unpacker.unpack(events)
            now = time.monotonic()
            commands = machine.handle(now, events)
            if self.moves:
                self._tell()
            if self.showing and now - self.shown >= SHOW:
                self.shown = now
                self._show()
        executor.send(commands)  # the last values that nobody needs any more are released

    def _show(self) -> None:
        summaries, elapsed = self.machine.summaries(), time.monotonic() - self.began
        for observer in self.showing:
            observer.on_progress(summaries, elapsed)

    def _tell(self) -> None:
        """Tell what moved, if somebody asked for it."""
        moves, self.moves[:] = self.moves[:], ()
        for observer in self.observers if moves else ():
            observer.on_moves(moves)

    def _end(self, state: State) -> None:
        if not self.observers:
            return
        summaries, elapsed = self.machine.summaries(), time.monotonic() - self.began
        for observer in self.observers:
            observer.on_end(summaries, state, elapsed)

    def _abort(self, error: BaseException) -> None:
        """Leave nothing running and no run without an outcome, whatever broke."""
        if self.machine.state is State.PENDING:
            self.machine.state = State.RUNNING
        commands = self.machine.handle(time.monotonic(), [CancelRequested()])
        try:
            self.executor.send(commands)
            self.executor.finish()
            self._tell()
        finally:
            self.executor.release()
            self.reading.close()
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
            self._end(state)
