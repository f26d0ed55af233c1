"""The driver: joins a machine and an executor for one run. The hot loop is ``Drive._drive``."""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.core.costs import means_of, prior_of
from headrace.core.events import CancelRequested, Event, Wake
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
from headrace.execution.flowrun import FlowRun, attach
from headrace.execution.hooks import Hooks
from headrace.execution.outcome import outcome_of
from headrace.execution.reading import Reading
from headrace.execution.signals import Heeded, heeding
from headrace.execution.underway import Underway

#: Seconds between two calls of an observer.
SHOW = 0.1


class Record(Protocol):
    """Where a run writes what it did."""

    run_id: str

    def earlier_costs(self) -> Mapping[str, float]:
        """Return seconds per task run in earlier runs of the flow, by ``core.costs.key_of``, at once; a hint."""

    def found(self, environment: Mapping[str, Any]) -> None:
        """Write down what was not known of the environment at the beginning."""

    def pack(self, result: Any) -> bytes:
        """Return a flow's result as it is kept; raises what it likes if it cannot be."""

    def finish(self, outcome: dict[str, Any], result: bytes | None, costs: Mapping[str, float] | None = None) -> None:
        """Write how it ended, and, as a hint for the next run, seconds per task run."""


class Drive:
    """One run on its way.

    Parameters
    ----------
    flow_name : str
        Which flow.
    record : Record
        Where it writes what it did.
    plan : Plan
        What to run.
    plan_bytes : bytes
        The same, pickled.
    executor : callable
        Brings up and returns where it executes.
    observers : sequence of Observer
        Told how it goes on.
    policy : FlowPolicy
        How the flow's runs are treated.
    hooks : Hooks, optional
        What the flow and its tasks want to be called; one of the observers.
    code : Bundle, optional
        The first-party code of the flow.
    """

    def __init__(
        self,
        flow_name: str,
        record: Record,
        plan: Plan,
        plan_bytes: bytes,
        executor: Callable[[], Executor],
        observers: Sequence[Observer],
        policy: FlowPolicy,
        hooks: Hooks,
        code: Bundle | None = None,
    ) -> None:
        self.code = code
        self.record = record
        self.plan = plan
        self.plan_bytes = plan_bytes
        self.observers = [hooks, *observers] if hooks.wanted else list(observers)
        self.showing = [
            observer for observer in self.observers if type(observer).on_progress is not Observer.on_progress
        ]
        self.machine = RunMachine(plan, limits=policy.max_running, timeout=policy.timeout)
        self.moves: list[Move] = []
        self.reading = Reading(record.run_id, self.observers)
        for node in self.machine.nodes if self.observers else ():
            self._listen(node)
        self.machine.expansions.deepest = policy.max_depth
        self._unpacker = Unpacker(code)
        self.shown = 0.0
        self.shown_workers: tuple[int, int] | None = None
        self.underway = Underway()
        self.flow_run = FlowRun(record.run_id, flow_name, self.machine, self.underway, code)
        self.flow_run.hook_errors = hooks.errors
        self._bring_up = executor
        self._hooks = hooks
        self._interruption: KeyboardInterrupt | None = None

    def start(self) -> FlowRun:
        """Drive the run in a thread of its own; what keeps it from its end is raised by who waits for it."""
        context = contextvars.copy_context()
        # Not a daemon: a process that ends waits for its runs, as their clean-ups would not be done else.
        thread = threading.Thread(target=context.run, args=(self._run_aside,), name=f"headrace-{self.record.run_id}")
        try:
            thread.start()
        except KeyboardInterrupt:  # it may have begun, and who asked for it never gets hold of it
            self.underway.cancel()
            raise
        return self.flow_run

    def _run_aside(self) -> None:
        try:
            self._see_through()
        except BaseException as error:  # noqa: BLE001 - raised by who waits for the run
            self.underway.finish(error)
        else:
            self.underway.finish(None)

    def _listen(self, node: NodeRun) -> None:
        """Have a node tell its moves, if an observer wants to hear of them."""
        if not node.spec.hidden and any(observer.wants_moves(node.policy) for observer in self.observers):
            node.teller = Teller(node.spec.index, node.spec.name, self.moves)

    def _joined(self, node: NodeRun) -> None:
        """A node has joined the run while it goes on, perhaps the first one with hooks."""
        if self._hooks not in self.observers and self._hooks.wants_moves(node.policy):
            self.observers.append(self._hooks)
            self._hooks.on_start(self.record.run_id, self.flow_run.flow_name, ())
        self._listen(node)

    def run(self) -> FlowRun:
        """Drive the run to its end in this thread, and write down how it ended."""
        broken: Exception | None = None  # not an interruption: that is the caller's, and the run has an end of its own
        try:
            self._see_through()
        except Exception as error:
            broken = error
            raise
        finally:
            self.underway.finish(broken)
        return self.flow_run

    def _see_through(self) -> None:
        try:
            with heeding(self.underway) as heeded:
                self._run(heeded.installed)
            interruption, self._interruption = self._interruption, None
            self._deal(interruption, heeded)
        except BaseException as error:
            attach(error, self.flow_run)
            raise

    def _deal(self, interruption: KeyboardInterrupt | None, heeded: Heeded) -> None:
        """Raise what asked for the end, now that it has come."""
        if interruption is not None:
            raise interruption
        heeded.deal()

    def _run(self, heeded: bool) -> None:
        run, executor, hooks = self.flow_run, None, self._hooks
        try:
            for observer in self.observers:
                observer.on_start(run.run_id, run.flow_name, self.machine.summaries())
            executor = self._bring_up()
            executor.heeded, executor.code = heeded, self.code
            self.machine.threads = executor.start(run.run_id, self.plan_bytes, self.plan)
            self.machine.dispatcher.gangs = executor.mails
            self.machine.costs.earlier = self.record.earlier_costs()
            self.machine.costs.prior = prior_of(self.plan.tasks, self.machine.costs.earlier)
            with self._lent(executor):
                self._drive(executor)
        except BaseException as error:
            state = State.CANCELLED if isinstance(error, KeyboardInterrupt) else State.CRASHED
            try:
                self._abort(error, executor, state)
            finally:
                if hooks.began:
                    hooks.over(state, error)
            raise
        try:
            executor.finish()
            self.reading.close()
            self.underway.stop_clock()
            early = self.machine.ending.state is not None  # then its last task runs did not end, and would be missing
            costs = None if early else means_of(self.plan.tasks, self.machine.nodes)
            self.record.finish(*outcome_of(run, self._pack), costs)
            self._end(run.state)
        finally:  # their thread ends with the run, also if an observer raises
            if hooks.began:
                hooks.over(run.state, run.error)

    def _pack(self, result: Any) -> bytes:
        with active(self.code):
            return self.record.pack(result)

    @contextmanager
    def _lent(self, executor: Executor) -> Iterator[None]:
        """Let the executor ask the machine, and the machine tell the driver, while that drives and no longer.

        Who holds the run holds both, and an executor outlives its run: else none of them would ever be let go of.
        """
        executor.backlog, self.machine.expansions.joined = self.machine.backlog, self._joined
        try:
            yield
        finally:
            executor.backlog, self.machine.expansions.joined = tuple, id

    def _drive(self, executor: Executor) -> None:
        """The hot loop: events in, commands out, until the machine is finished."""
        machine = self.machine
        if self.underway.enter(executor):
            machine.handle(time.monotonic(), [CancelRequested()])
            return
        commands = machine.start(time.monotonic())
        while not machine.finished:
            executor.send(commands)
            wake = next((command.time for command in commands if isinstance(command, Wake)), None)
            now = time.monotonic()
            timeout = SHOW if self.showing else 60.0
            if wake is not None:
                timeout = min(timeout, max(wake - now, 0.0))
            events = self._hear(executor, timeout)
            commands = machine.handle(time.monotonic(), events)
        executor.send(commands)  # the last values that nobody needs any more are released
        self._tell()

    def _hear(self, executor: Executor, timeout: float) -> list[Event]:
        """Tell what happened, and wait for more; to be interrupted is to be asked for the end."""
        try:
            if self.moves:
                self._tell()
            if self.showing and time.monotonic() - self.shown >= SHOW:
                self.shown = time.monotonic()
                self._show(executor)
            events = self.reading.sift(executor.wait(timeout))
        except KeyboardInterrupt as error:
            self._interruption = self._interruption or error
            self.underway.cancel()
            return []
        self._unpacker.unpack(events, executor.check)
        return events

    def _show(self, executor: Executor) -> None:
        summaries, elapsed, workers = self.machine.summaries(), self.underway.elapsed, executor.workers()
        for observer in self.showing:
            if workers is not None and workers != self.shown_workers:
                observer.on_workers(*workers)
            observer.on_progress(summaries, elapsed)
        self.shown_workers = workers

    def _tell(self) -> None:
        """Tell what moved, if somebody asked for it."""
        moves, self.moves[:] = self.moves[:], ()
        for observer in self.observers if moves else ():
            observer.on_moves(moves)

    def _end(self, state: State) -> None:
        if not self.observers:
            return
        summaries = self.machine.summaries()
        for observer in self.observers:
            observer.on_end(summaries, state, self.underway.elapsed)

    def _abort(self, error: BaseException, executor: Executor | None, state: State) -> None:
        """Leave nothing running and no run without an outcome, whatever broke."""
        try:
            commands = self.machine.abort(time.monotonic(), state)
            if executor is not None:
                executor.send(commands)
                executor.finish()
            self._tell()
        finally:
            if executor is not None:
                executor.release()
            self.reading.close()
            self.underway.stop_clock()
            failure, _ = capture(error)
            outcome, _ = outcome_of(self.flow_run, self._pack, failure)
            self.record.finish({**outcome, "state": state.label}, None)
            self._end(state)
