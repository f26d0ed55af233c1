"""Hooks: functions of a task or a flow that are called when its state changes, in the process that drives the run.

They are called one after the other in a thread of their own, in the order of the changes, and are all done before the
run is over for its caller. A hook that raises changes nothing: it is logged, and listed in ``run.hook_errors``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.core.moves import Move
from headrace.core.naming import label
from headrace.core.plan import Plan
from headrace.core.policy import FlowPolicy, Policy
from headrace.core.state import State
from headrace.core.summary import NodeSummary, Observer
from headrace.execution.aside import Aside
from headrace.execution.failure import restore

_LOGGER = logging.getLogger("headrace.hooks")
#: Ends of a task run of which ``on_failure`` is told: it went wrong itself, and no attempt is left.
_WENT_WRONG = frozenset({State.FAILED, State.TIMED_OUT, State.CRASHED})


@dataclass(frozen=True, slots=True)
class Change:
    """A task run, or a run, whose state changed; what hooks get.

    Attributes
    ----------
    run_id, flow_name : str
        Of the run.
    task_name : str or None
        The node's name; None for the run as a whole.
    index : int or None
        Which child of a mapped node.
    state : State
        The new state.
    attempts : int
        How many attempts it has made.
    seconds : float
        Once it is final: time in the task's function; of a run, from start to end.
    error : BaseException or None
        With what the last attempt, or the run, ended.
    tags : tuple of str
        The task's.
    """

    run_id: str
    flow_name: str
    task_name: str | None
    index: int | None
    state: State
    attempts: int = 0
    seconds: float = 0.0
    error: BaseException | None = None
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        what = self.flow_name if self.task_name is None else label(self.task_name, self.index)
        return f"{what}: {self.state}"


@dataclass(frozen=True, slots=True)
class HookError:
    """A hook that raised.

    Attributes
    ----------
    change : Change
        Of what it was told.
    hook : str
        Its name.
    error : BaseException
        What it raised.
    """

    change: Change
    hook: str
    error: BaseException


class Hooks(Observer):
    """Calls the hooks of one run.

    Parameters
    ----------
    plan : Plan
        With the tasks' policies.
    policy : FlowPolicy
        The flow's.
    code : Bundle, optional
        The first-party code of the flow.
    """

    def __init__(self, plan: Plan, policy: FlowPolicy, code: Bundle | None = None) -> None:
        self._code = code
        self.errors: list[HookError] = []
        self._plan = plan
        self._policy = policy
        self._aside = Aside("headrace-hooks")
        self._run_id = ""
        self._start = 0.0

    @property
    def began(self) -> bool:
        """Whether it was told that the run begins."""
        return bool(self._run_id)

    @property
    def wanted(self) -> bool:
        """Whether there is anything to call, as far as is known when the run begins."""
        return has_hooks(self._policy) or any(has_hooks(task.policy) for task in self._plan.tasks)

    def on_start(self, run_id: str, flow_name: str, nodes: Sequence[NodeSummary]) -> None:
        """The run begins."""
        self._run_id = run_id
        self._start = time.monotonic()
        self._put(self._policy, Change(run_id, flow_name, None, None, State.RUNNING), State.PENDING)

    def wants_moves(self, policy: Policy) -> bool:
        """Whether a task has hooks."""
        return has_hooks(policy)

    def on_moves(self, moves: Sequence[Move]) -> None:
        """Task runs moved."""
        for move in moves:
            if has_hooks(self._plan.policy(move.node)):
                self._aside.put(self._moved, move)

    def over(self, state: State, error: BaseException | None) -> None:
        """The run is over; wait until all hooks are done."""
        if self._run_id:
            seconds = time.monotonic() - self._start
            change = Change(self._run_id, self._plan.flow, None, None, state, seconds=seconds, error=error)
            self._put(self._policy, change, State.RUNNING)
        self._aside.close()

    def _put(self, policy: FlowPolicy, change: Change, old: State) -> None:
        if has_hooks(policy):
            self._aside.put(self._call, policy, change, old, change.state.is_failure)

    def _moved(self, move: Move) -> None:
        policy = self._plan.policy(move.node)
        spec = self._plan.nodes[move.node]
        with active(self._code):
            error = restore(move.failure) if move.failure is not None else None
        for child in range(move.low, move.high):
            change = Change(
                self._run_id,
                self._plan.flow,
                spec.name,
                child if spec.mapped else None,
                move.new,
                move.attempts,
                float(move.seconds[child - move.low]) if move.seconds else 0.0,
                error,
                tuple(policy.tags),
            )
            self._call(policy, change, move.old, move.new in _WENT_WRONG)

    def _call(self, policy: Policy | FlowPolicy, change: Change, old: State, went_wrong: bool) -> None:
        if policy.on_state is not None:
            self._guarded(policy.on_state, change, old, change.state)
        if policy.on_failure is not None and went_wrong:
            self._guarded(policy.on_failure, change, change.error)

    def _guarded(self, hook: Callable[..., object], change: Change, *args: Any) -> None:
        try:
            with active(self._code):
                hook(change, *args)
        except BaseException as error:  # whatever it raises, the other hooks shall be called
            name = getattr(hook, "__qualname__", repr(hook))
            self.errors.append(HookError(change, name, error))
            _LOGGER.exception("hook %s raised, told of %s in run %s", name, change, self._run_id)


def has_hooks(policy: Policy | FlowPolicy) -> bool:
    """Whether there is anything to call."""
    return policy.on_state is not None or policy.on_failure is not None
