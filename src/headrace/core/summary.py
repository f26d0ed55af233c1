"""What a run looks like from outside: one line per node. Pure values, made by the machine, read by reports."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

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
    """

    name: str
    mapped: bool
    width: int | None
    counts: dict[State, int]
    seconds: float

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


class Observer(Protocol):
    """Watches a run from the process that drives it. Called often: be quick, and never raise."""

    def on_start(self, run_id: str, flow_name: str, nodes: Sequence[NodeSummary]) -> None:
        """The run begins."""

    def on_progress(self, nodes: Sequence[NodeSummary], elapsed: float) -> None:
        """Something happened; called at most about ten times a second, ``elapsed`` seconds after the start."""

    def on_end(self, nodes: Sequence[NodeSummary], state: State, elapsed: float) -> None:
        """The run is over."""
