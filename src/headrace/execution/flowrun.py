"""What became of a run, as its users hold it. Values stay where they are until somebody asks."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Self

from headrace import pickling
from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.core.blame import blame
from headrace.core.events import Failure
from headrace.core.machine import RunMachine
from headrace.core.node import Node
from headrace.core.noderun import NO_BATCH, NodeRun
from headrace.core.slots import Const as ConstSlot
from headrace.core.slots import How, Ref, Slot, Slotted, build, follow, refs
from headrace.core.state import State
from headrace.core.summary import NodeSummary
from headrace.core.widths import why_not
from headrace.errors import RunCancelled, RunError, RunTimedOut, TriggerFailed, ValueReleased
from headrace.execution.failure import restore
from headrace.execution.hooks import HookError
from headrace.execution.signals import heeding
from headrace.execution.underway import Underway
from headrace.report.html import run_html


class FlowRun:
    """What became of one run of a flow.

    ``run["task name"]`` is what became of a node; ``run["task name"][3]`` of one child of a mapped node.

    Attributes
    ----------
    run_id : str
        Unique; begins with the time at which it started.
    flow_name : str
        Which flow.
    hook_errors : list of HookError
        Hooks that raised.
    """

    def __init__(
        self, run_id: str, flow_name: str, machine: RunMachine, underway: Underway, code: Bundle | None = None
    ) -> None:
        self._code = code
        self.run_id = run_id
        self.flow_name = flow_name
        self.hook_errors: list[HookError] = []
        self._machine = machine
        self._underway = underway
        self._tracebacks: dict[str, TracebackType | None] = {}
        self._known: dict[str, int] = {}
        self._seen = 0
        self._finalizer = weakref.finalize(self, underway.release)
        self._finalizer.atexit = False

    @property
    def state(self) -> State:
        """Where it stands; when it is over, how it ended."""
        return self._machine.state

    @property
    def elapsed(self) -> float:
        """Seconds since its start; when it is over, those that it took."""
        return self._underway.elapsed

    @property
    def done(self) -> bool:
        """Whether it is over, and its record is written."""
        return self._underway.over.is_set()

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until it is over.

        Ctrl-C meanwhile cancels it, as if it were driven here; it is raised when the clean-ups are done.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which to return in any case; then ``done`` tells.

        Raises
        ------
        ClusterLost, SetupError, ...
            What kept it from an end of its own, which a failed task does not.
        """
        if not self.done:
            with heeding(self._underway) as heeded:
                self._underway.over.wait(timeout)
            try:
                heeded.deal()
            except KeyboardInterrupt as error:
                attach(error, self)
                raise
        if self.done and self._underway.error is not None:
            raise self._underway.error
        return self

    def cancel(self) -> None:
        """Have it end: what runs is stopped, and what was set up is cleaned up.

        Returns at once; may be called from any thread. A second call ends it without waiting for clean-ups.
        """
        self._underway.cancel()

    def call_when_over(self, call: Callable[[], object]) -> None:
        """Call something when it is over; now, if it is.

        Parameters
        ----------
        call : callable
            Called in the thread that drives the run: be quick, and do not raise.
        """
        self._underway.call_when_over(call)

    def result(self) -> Any:
        """Wait until it is over, and fetch what the flow returned.

        Returns
        -------
        object
            With the values of nodes in the place of the nodes.

        Raises
        ------
        Exception
            If the run failed: the exception of the task that failed first, as it was raised there.
        RunCancelled
            If it was cancelled.
        RunTimedOut
            If it took longer than its flow's ``timeout``.
        """
        self.wait()
        if self.state is not State.SUCCESS:
            raise self._why_no_result()
        found = self._result(None)
        assert found is not None
        return found[0]

    @property
    def error(self) -> BaseException | None:
        """What ``result()`` raises because of how the run ended; None if it succeeded, or is not over."""
        if self._underway.error is not None:
            return self._underway.error
        return None if self.state is State.SUCCESS or not self.state.is_final else self._why_no_result()

    def _why_no_result(self) -> BaseException:
        if self.state is State.CANCELLED:
            return RunCancelled(f"run {self.run_id} of flow {self.flow_name!r} was cancelled, so it has no result")
        if self.state is State.TIMED_OUT:
            return RunTimedOut(
                f"run {self.run_id} of flow {self.flow_name!r} was out of time after {self.elapsed:.1f} s, clean-ups "
                "included; give the flow a longer timeout="
            )
        if (trouble := self._machine.trouble) is not None:
            return self._error(self._machine.nodes[trouble[0]], trouble[1])
        return self._first_error()

    def result_if_small(self, most: int) -> tuple[Any] | None:
        """The result in a tuple, or None if it is larger than so many bytes."""
        return self._result(most)

    def _result(self, most: int | None) -> tuple[Any] | None:
        slot = self._machine.plan.result
        needed = {ref.node for ref in refs(slot)}
        returned = self._machine.returned
        with active(self._code):
            known: dict[tuple[int, int], Any] = {
                (node, 0): pickling.loads(returned[node], "the result") for node in returned if node in needed
            }
        missing = [
            (node, child)
            for node in sorted(needed)
            for child in range(len(self._machine.nodes[node].states))
            if (node, child) not in known
        ]
        values = self._fetch(missing, most)
        if values is None:
            return None
        return (self._resolve(slot, {**known, **values}),)

    def _resolve(self, slot: Slot, values: dict[tuple[int, int], Any]) -> Any:
        if isinstance(slot, ConstSlot):
            return slot.value
        if isinstance(slot, Slotted):
            return build(slot, [self._resolve(item, values) for item in slot.items])
        assert isinstance(slot, Ref)
        assert slot.how is How.WHOLE
        run = self._machine.nodes[slot.node]
        if run.spec.mapped:
            return follow([values[slot.node, child] for child in range(len(run.states))], slot.path)
        value = values[slot.node, 0]
        return follow(value, slot.path) if run.clean else value  # of what stands in for a value there are no parts

    def _fetch(self, keys: list[tuple[int, int]], most: int | None = None) -> dict[tuple[int, int], Any] | None:
        """Bring values; what was settled without running has its stand-in."""
        wanted: dict[int, list[tuple[int, int]]] = {}
        found: dict[tuple[int, int], Any] = {}
        for node, child in keys:
            run = self._machine.nodes[node]
            batch = run.holders[child]
            if batch == NO_BATCH:
                skipped = run.states[child] == State.SKIPPED
                found[node, child] = None if skipped else self._error(run, child)
            else:
                wanted.setdefault(batch, []).append((node, child))
        executor = self._underway.executor
        fetched = executor.fetch(wanted, most) if executor is not None else {}
        if fetched is None:
            return None
        found.update(fetched)
        for node, child in keys:
            if (node, child) not in found:
                name = self._machine.plan.nodes[node].name
                raise ValueReleased(
                    f"the value of {name}[{child}] was let go of when its last consumer was done, because it is "
                    "large, or went with the worker that kept it; let the flow return it to keep it"
                )
        return found

    def _not_over(self, label: str, state: State) -> RunError:
        return RunError(
            f"task {label!r} of run {self.run_id} is not over ({state}), so it has no value yet; ask again when it "
            "is, or wait for the whole run with run.wait()"
        )

    # -- nodes ---------------------------------------------------------------------------------------------------

    @property
    def _names(self) -> dict[str, int]:
        """By name, the nodes that users know; more may join while the run goes on."""
        runs = self._machine.nodes
        seen = len(runs)
        for index in range(self._seen, seen):
            if not runs[index].spec.hidden:
                self._known[runs[index].spec.name] = index
        self._seen = seen
        return self._known

    def __getitem__(self, key: str | Node) -> NodeView:
        name = key.name if isinstance(key, Node) else key
        if name not in self._names:
            raise KeyError(f"run {self.run_id} has no task {name!r}; it has {', '.join(list(self._names)[:20])}")
        return NodeView(self, self._machine.nodes[self._names[name]])

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._names))  # a copy, for nodes may join meanwhile

    def __len__(self) -> int:
        return len(self._names)

    def _ipython_key_completions_(self) -> list[str]:
        return list(self._names)

    def summaries(self) -> list[NodeSummary]:
        """One line per node: counts by state, and time spent."""
        return self._machine.summaries()

    def failures(self) -> dict[str, Failure]:
        """By ``task`` or ``task[child]``: how it failed, in the order of the flow."""
        return {
            run.label(child): failure
            for run in self._machine.nodes
            if not run.spec.hidden
            for child, failure in sorted(dict(run.failures).items())  # a copy: the driver may be at it
        }

    @property
    def errors(self) -> dict[str, BaseException]:
        """By ``task`` or ``task[child]``: the exception that it ended with."""
        with active(self._code):
            return {label: restore(failure) for label, failure in self.failures().items()}

    def _first_error(self) -> BaseException:
        """The error that decided: of a node that decides and failed itself, else of what it waited for."""
        deciding = [run for run in self._machine.deciding() if run.failed]
        found = blame(self._machine.nodes, deciding)
        if found is not None:
            return self._error(*found)
        for run in deciding:  # nothing raised: a trigger asked for failures, and there were none
            return self._error(run, next(child for child, state in enumerate(run.states) if State(state).is_failure))
        return RunError(f"run {self.run_id} of flow {self.flow_name!r} ended as {self.state}")

    def _error(self, run: NodeRun, child: int) -> BaseException:
        """The exception of a task run that failed, with a note on where."""
        failure = run.failures.get(child)
        if failure is None and run.states[child] == State.CANCELLED:
            return RunCancelled(f"task {run.label(child)!r} was cancelled with run {self.run_id}", task=run.spec.name)
        if failure is None:
            why = why_not(run, self._machine.nodes, child)
            return TriggerFailed(f"task {run.label(child)!r} did not run: {why}", task=run.spec.name)
        with active(self._code):
            error = restore(failure)
        note = f"in task {run.label(child)!r} of flow {self.flow_name!r}, run {self.run_id}"
        notes = getattr(error, "__notes__", [])
        if note not in notes:
            _set(error, "__notes__", [*notes, note])
        # Each time it is raised, Python lengthens its traceback; people want the one that it came with.
        return error.with_traceback(self._tracebacks.setdefault(note, error.__traceback__))

    def release(self) -> None:
        """Let go of all values; also happens when the run is no longer referred to."""
        self._finalizer()

    def __repr__(self) -> str:
        done = sum(summary.done for summary in self.summaries())
        return f"<FlowRun {self.flow_name} {self.run_id}: {self.state}, {done} task runs in {self.elapsed:.2f} s>"

    def _repr_html_(self) -> str:
        errors = [f"{label}: {failure}" for label, failure in self.failures().items()]
        return run_html(self.run_id, self.flow_name, self.state, self.summaries(), self.elapsed, errors)


def attach(error: BaseException, run: FlowRun) -> None:
    """Let an error tell of which run it is: ``error.run``.

    Parameters
    ----------
    error : BaseException
        Of any type.
    run : FlowRun
        The run.
    """
    _set(error, "run", run)


def _set(error: BaseException, name: str, value: Any) -> None:
    """Set an attribute, also of a type that forbids it, such as a frozen dataclass."""
    BaseException.__setattr__(error, name, value)


class NodeView:
    """What became of one node of a run; of a mapped node, also its children by index."""

    def __init__(self, run: FlowRun, node: NodeRun) -> None:
        self._run = run
        self._node = node

    @property
    def name(self) -> str:
        """The node's name."""
        return self._node.spec.name

    @property
    def state(self) -> State:
        """One state for the node: of a mapped node, its worst failure if there is one."""
        return self._node.summary().state

    @property
    def states(self) -> list[State]:
        """Each task run's state; one, if the node is not mapped."""
        return [State(state) for state in self._node.states]

    @property
    def durations(self) -> list[float]:
        """Each task run's seconds in the task's function."""
        return list(self._node.seconds)

    @property
    def duration(self) -> float:
        """Seconds in the task's function, summed."""
        return sum(self._node.seconds)

    @property
    def errors(self) -> dict[int, BaseException]:
        """By child: the exception that it ended with."""
        return {child: self._run._error(self._node, child) for child in sorted(self._node.failures)}

    def __len__(self) -> int:
        return len(self._node.states)

    def __getitem__(self, child: int) -> TaskRunView:
        width = len(self._node.states)
        if not -width <= child < width:
            raise IndexError(f"task {self.name!r} has {width} task runs, so there is none with index {child}")
        return TaskRunView(self._run, self._node, child % width)

    def __iter__(self) -> Iterator[TaskRunView]:
        return (self[child] for child in range(len(self)))

    def result(self) -> Any:
        """Fetch the value; of a mapped node, the list of all children's values.

        Raises
        ------
        Exception
            If a task run failed: its exception.
        RunError
            If it is not over.
        """
        for child, state in enumerate(self._node.states):
            if State(state).is_failure:
                raise self._run._error(self._node, child)
        if not self._node.finished:
            raise self._run._not_over(self._node.spec.name, self.state)
        index = self._node.spec.index
        values = self._run._fetch([(index, child) for child in range(len(self))])
        assert values is not None
        children = [values[index, child] for child in range(len(self))]
        return children if self._node.spec.mapped else children[0]

    def __repr__(self) -> str:
        summary = self._node.summary()
        return f"<{self.name}: {summary.state}, {summary.done} of {summary.width} done>"


class TaskRunView:
    """What became of one task run."""

    def __init__(self, run: FlowRun, node: NodeRun, child: int) -> None:
        self._run = run
        self._node = node
        self._child = child

    @property
    def state(self) -> State:
        """How it ended."""
        return State(self._node.states[self._child])

    @property
    def duration(self) -> float:
        """Seconds in the task's function, over all attempts."""
        return float(self._node.seconds[self._child])

    @property
    def attempts(self) -> int:
        """How many attempts it took; 0 if it was skipped or refused by its trigger."""
        ran = self._node.holders[self._child] != NO_BATCH
        return self._node.attempts.get(self._child, int(ran))

    @property
    def error(self) -> BaseException | None:
        """The exception that it ended with, if it failed."""
        return self._run._error(self._node, self._child) if self.state.is_failure else None

    @property
    def message(self) -> str:
        """Why it ended as it did, in words: of an error its text, of a task run that skipped itself its reason."""
        told = self._node.failures.get(self._child) or self._node.reasons.get(self._child)
        return told.message if told is not None else str(self.error or "")

    def result(self) -> Any:
        """Fetch the value.

        Raises
        ------
        Exception
            If it failed: its exception.
        RunError
            If it is not over.
        """
        if self.error is not None:
            raise self.error
        if not self.state.is_final:
            raise self._run._not_over(self._node.label(self._child), self.state)
        key = (self._node.spec.index, self._child)
        values = self._run._fetch([key])
        assert values is not None
        return values[key]

    def __repr__(self) -> str:
        why = f", {self.message.splitlines()[0]}" if self.message else ""
        return f"<{self._node.label(self._child)}: {self.state}{why}>"
