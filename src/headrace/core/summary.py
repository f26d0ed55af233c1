"""What a run looks like from outside: one line per node, and who watches it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from headrace.core.moves import Move
from headrace.core.policy import Policy
from headrace.core.state import FAILURES, State


class NodeSummary(NamedTuple):
    """Where one node of a run stands.

    Attributes
    ----------
    name : str
        The node's name.
    mapped : bool
        Whether it has children.
    width : int or None
        How many task runs it has; None while a run has yet to tell.
    counts : dict of State to int
        How many of them stand where; states with none are left out.
    seconds : float
        Time spent in the task's function so far, summed over task runs.
    cleans : bool
        Whether it cleans up what another one set up.
    """

    name: str
    mapped: bool
    width: int | None
    counts: dict[State, int]
    seconds: float
    cleans: bool = False

    @property
    def done(self) -> int:
        """How many task runs are final."""
        return sum(count for state, count in self.counts.items() if state.is_final)

    @property
    def state(self) -> State:
        """One state for the node: its worst failure if there is one, else how far it is."""
        if len(self.counts) == 1:
            (state,) = self.counts
            if state.is_final and self.counts[state] == self.width:
                return state
        for state in (State.CRASHED, State.FAILED, State.TIMED_OUT, State.TRIGGER_FAILED, State.CANCELLED):
            if self.counts.get(state):
                return state
        if self.width is None or self.done < self.width:
            started = self.done or self.counts.get(State.RUNNING) or self.counts.get(State.RETRYING)
            return State.RUNNING if started else State.PENDING
        skipped = self.counts.get(State.SKIPPED, 0)
        return State.SKIPPED if skipped and skipped == self.width else State.SUCCESS

    @property
    def failures(self) -> int:
        """How many task runs ended neither well nor by being skipped."""
        return sum(self.counts.get(state, 0) for state in FAILURES)


class Observer:
    """Watches a run from the process that drives it; subclass it, and give it to ``flow.run(observers=[...])``.

    Each method is empty here, so write those only that you want. All but ``on_log`` are called by the thread that
    drives the run, often: be quick, and never raise.
    """

    #: whether ``on_log`` shall be called
    wants_logs: bool = False

    def on_start(self, run_id: str, flow_name: str, nodes: Sequence[NodeSummary]) -> None:
        """The run begins."""

    def on_progress(self, nodes: Sequence[NodeSummary], elapsed: float) -> None:
        """Something happened; called at most about ten times a second, ``elapsed`` seconds after the start."""

    def on_workers(self, present: int, wanted: int) -> None:
        """There are so many workers, or so many are wanted, other than before.

        Called before ``on_progress``, and of those observers only that have that.
        """

    def wants_moves(self, policy: Policy) -> bool:
        """Whether ``on_moves`` shall be called for the task runs of tasks with this policy; asked once per node."""
        return False

    def on_moves(self, moves: Sequence[Move]) -> None:
        """Task runs moved to other states, in this order; ``move.name`` is the node's name, as in ``on_start``.

        What several observers asked for is told to all of them.
        """

    def on_log(self, record: Any) -> None:
        """A task logged a ``logging.LogRecord``; called by a thread of its own, in the order of arrival."""

    def on_end(self, nodes: Sequence[NodeSummary], state: State, elapsed: float) -> None:
        """The run is over."""
