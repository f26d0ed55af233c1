"""The runner: joins a flow, a machine and an executor for one run. The hot loop is ``_drive``."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any, Protocol

from headrace import parameters as params
from headrace import pickling
from headrace._version import __version__
from headrace.core.events import CancelRequested, Wake
from headrace.core.flow import FlowDefinition, draw_twice, unstable
from headrace.core.graph import Graph
from headrace.core.machine import RunMachine
from headrace.core.plan import Plan, make_plan
from headrace.core.state import State
from headrace.core.summary import Observer
from headrace.execution.base import Executor
from headrace.execution.failure import capture
from headrace.execution.flowrun import FlowRun
from headrace.execution.outcome import outcome_of

#: Seconds between two calls of an observer.
SHOW = 0.1


class Record(Protocol):
    """Where a run writes what it did."""

    run_id: str

    def finish(self, outcome: dict[str, Any], result_pickle: bytes | None) -> None:
        """Write how it ended."""


class FlowRunner:
    """A way to run one stored flow, in this process or on an executor.

    Parameters
    ----------
    flow : FlowDefinition
        As loaded.
    location : str
        Where it was loaded from.
    record : callable
        ``record(facts) -> Record`` begins the record of a run.
    drawn : (dict, str), optional
        Parameters, as JSON data, for which the flow was drawn when it was stored, and the digest of that graph.
    """

    def __init__(
        self,
        flow: FlowDefinition,
        location: str,
        record: Callable[[dict[str, Any]], Record],
        *,
        drawn: tuple[dict[str, Any], str] | None = None,
    ) -> None:
        self.flow = flow
        self.drawn = drawn
        self.location = location
        self._record = record

    def __repr__(self) -> str:
        return f"<FlowRunner {self.location}>"

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        executor: Executor | None = None,
        environment: Mapping[str, Any] | None = None,
        observers: Sequence[Observer] = (),
        strings: bool = False,
        run_id: str | None = None,
    ) -> FlowRun:
        """Run the flow, and return when it is over.

        Parameters
        ----------
        parameters : mapping, optional
            Values by parameter name; those with a default may be left out.
        executor : Executor, optional
            Default: batches run in this thread.
        environment : mapping, optional
            Plain data that describes where it runs, for the record.
        observers : sequence of Observer
            Told how the run goes on.
        strings : bool, default False
            Whether the values are text, as from a command line.
        run_id : str, optional
            Default: made from the time.

        Returns
        -------
        FlowRun
            What became of it; a failed task is told there, not raised.

        Raises
        ------
        ParameterError
            If a parameter is unknown, missing or wrong.
        FlowError
            If the flow cannot be drawn.
        NotPicklable
            If a task or a constant cannot travel.
        """
        if executor is None:
            from headrace.execution.inline import InlineExecutor

            executor = InlineExecutor()
        values = params.validate(self.flow, parameters or {}, strings=strings)
        graph, digest = self._draw(values, params.to_json(values))
        plan = make_plan(graph)
        plan_bytes = pickling.dumps(plan, f"flow {self.flow.name!r}")
        record = self._record(
            {
                "run_id": run_id,
                "flow": self.flow.name,
                "location": self.location,
                "parameters": params.to_json(values),
                "environment": dict(environment or {"type": executor.kind}),
                "versions": versions(),
                "digest": digest,
            }
        )
        return Drive(self.flow.name, record, plan, plan_bytes, executor, observers).run()

    def _draw(self, values: Mapping[str, Any], as_json: dict[str, Any]) -> tuple[Graph, str]:
        """Draw the graph, and make sure that it depends on nothing but the parameters.

        Flows that could be drawn when they were stored were drawn twice then, and here are compared with that;
        the others are drawn twice now.
        """
        if self.drawn is None:
            graph = draw_twice(self.flow, values)
            return graph, graph.digest()
        graph = self.flow.draw(values)
        digest = graph.digest()
        example, expected = self.drawn
        if example == as_json and digest != expected:
            raise unstable(self.flow.name, "draws another graph now than when it was stored, for the same parameters")
        return graph, digest


def versions() -> dict[str, str]:
    """Versions that a run's record names."""
    return {
        "headrace": __version__,
        "python": platform.python_version(),
        "dask": version("dask"),
        "distributed": version("distributed"),
        "cloudpickle": version("cloudpickle"),
    }


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
        self.began = time.monotonic()
        self.shown = 0.0

    def run(self) -> FlowRun:
        """Drive the run to its end, and write down how it ended."""
        for observer in self.observers:
            observer.on_start(self.record.run_id, self.flow_name, self.machine.summaries())
        try:
            self.machine.threads = self.executor.start(self.record.run_id, self.plan_bytes)
            self._drive()
        except BaseException as error:
            self._abort(error)
            raise
        self.executor.finish()
        elapsed = time.monotonic() - self.began
        run = FlowRun(self.record.run_id, self.flow_name, self.machine, self.executor, elapsed)
        self.record.finish(*outcome_of(run))
        self._end()
        return run

    def _drive(self) -> None:
        """The hot loop: events in, commands out, until the machine is finished."""
        machine, executor = self.machine, self.executor
        commands = machine.start(time.monotonic())
        while not machine.finished:
            executor.send(commands)
            wake = next((command.time for command in commands if isinstance(command, Wake)), None)
            now = time.monotonic()
            timeout = SHOW if self.observers else 60.0
            if wake is not None:
                timeout = min(timeout, max(wake - now, 0.0))
            events = executor.wait(timeout)
            now = time.monotonic()
            commands = machine.handle(now, events)
            if self.observers and now - self.shown >= SHOW:
                self.shown = now
                self._show()

    def _show(self) -> None:
        summaries, elapsed = self.machine.summaries(), time.monotonic() - self.began
        for observer in self.observers:
            observer.on_progress(summaries, elapsed)

    def _end(self) -> None:
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
