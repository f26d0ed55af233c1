"""How a run ends before it is done: because it is cancelled, or out of time, or would go on with wrong values.

How to think about it. What runs is stopped, and what is not final becomes Cancelled; of a batch that is stopped, what
it had done by then counts, so its report is waited for, ``STOPPING`` seconds at most. But what was set up is cleaned
up: task runs with the trigger ``cleanup`` whose set-up succeeded still run, in the usual way, when all of their block
is over, and the run is over when they are. When somebody asks a second time, or ``GRACE`` seconds later, it is over at
once, and what was not cleaned up is told as an error of the task run that should have done so.

Set-ups and clean-ups are batches of their own (``Placement.apart``). So it is known of each whether it was done, and
those that are running are not stopped with the rest: a set-up may end, and is cleaned up then.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

from headrace.core.dispatcher import Dispatcher
from headrace.core.events import Command, Deadline, Failure, Stop, Wake
from headrace.core.noderun import NO_BATCH, NodeRun
from headrace.core.plan import EdgeKind
from headrace.core.rules import CLEANUP
from headrace.core.state import State
from headrace.core.strips import cut, runs
from headrace.core.task import Task
from headrace.errors import NotCleanedUp

#: Seconds that a run that was told to end may take for that. Long enough to drop a table or to stop a service, and
#: less than the ten seconds after which those who sent SIGTERM (Docker, Dask's nannies) kill.
GRACE = 5.0

#: Seconds within which a batch that was stopped has to report. On a cluster, a task that waits in a C function loses
#: its thread after one second, and cleaning up begins then.
STOPPING = 1.2

#: (when it is due, node, child) of what waits for its next attempt.
Due = tuple[float, int, int]


def set_apart(new: Iterable[NodeRun], nodes: Sequence[NodeRun], tasks: Iterable[Task[..., Any]]) -> None:
    """Mark what sets up: all that clean-ups ask.

    Parameters
    ----------
    new : iterable of NodeRun
        Those among which clean-ups are looked for.
    nodes : sequence of NodeRun
        The run.
    tasks : iterable of Task
        Of the plan. Most plans have no clean-ups, and then this looks at tasks only.
    """
    if not any(task.policy.trigger == CLEANUP for task in tasks):
        return
    for run in new:
        if run.cleans:
            for source in _asked(run, nodes):
                source.placement = source.placement._replace(apart=True)


class Ending:
    """The end of one run, before it is done.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    dispatcher : Dispatcher
        What is out, and what is ready.
    due : list of (float, int, int)
        What waits for its next attempt; a heap.
    conclude : callable
        ``conclude(node, low, high, state)`` makes task runs final, and notes what follows.

    Attributes
    ----------
    state : State or None
        As what the run is ending; None while it is not.
    until : float
        When it is over in any case.
    expires : float
        When it is out of time.
    """

    def __init__(
        self,
        nodes: Sequence[NodeRun],
        dispatcher: Dispatcher,
        due: list[Due],
        conclude: Callable[[int, int, int, State], None],
    ) -> None:
        self.nodes = nodes
        self.dispatcher = dispatcher
        self.due = due
        self.conclude = conclude
        self.state: State | None = None
        self.until = self.expires = self._told = math.inf
        self._stopped: list[int] = []
        self._patience = math.inf  # until when those may report

    @property
    def limit(self) -> float:
        """Until when what runs may run."""
        return self.expires if self.state is None else self.until

    @property
    def unharmed(self) -> bool:
        """Whether nothing was cancelled, as an executor does that keeps to the time itself (``events.Deadline``)."""
        return not any(State.CANCELLED in run.states for run in self.nodes)

    def times(self, wakes: Sequence[float]) -> list[Command]:
        """Say when the machine is to be asked again, and, when that is new, until when what runs may run.

        Parameters
        ----------
        wakes : sequence of float
            When it is to be asked for other reasons.
        """
        wake = min([*wakes, self.limit, self._patience])
        if wake == math.inf:
            return []
        before, self._told = self._told, self.limit
        return [Wake(wake)] if before == self._told else [Wake(wake), Deadline(self._told, self.state is not None)]

    def begin(self, now: float, state: State) -> list[Command]:
        """Stop what runs, but for set-ups and clean-ups, and cancel what is not final, but for clean-ups.

        Parameters
        ----------
        now : float
            The time.
        state : State
            As what the run shall end.
        """
        self.state, self.until, self._patience = state, now + GRACE, now + STOPPING
        dispatcher, ledger = self.dispatcher, self.dispatcher.ledger
        self._stopped = [number for number, batch in dispatcher.batches.items() if not batch.placement.apart]
        for number in self._stopped:
            if dispatcher.batches[number].replay and (batch := dispatcher.over(number)):
                ledger.lost.update(runs(cut(batch.strips, 0, batch.stop)))
        dispatcher.ready.clear()
        for index, run in enumerate(self.nodes):
            if not run.cleans:
                self.abandon(index)
                continue
            for child, at in enumerate(run.states):
                if at == State.READY:
                    dispatcher.ready.add(index, child, child + 1, alone=True)
        # There may be no later for what waits for its next attempt, so that is made now.
        self.due[:] = [(now, node, child) for _, node, child in self.due if self.nodes[node].cleans]
        heapq.heapify(self.due)
        ledger.narrow()
        return [Stop(tuple(self._stopped))] if self._stopped else []

    def let_go(self, now: float) -> None:
        """Wait no longer for batches that were stopped and did not report in time.

        Parameters
        ----------
        now : float
            The time.
        """
        self._stopped = [number for number in self._stopped if number in self.dispatcher.batches]
        if now >= self._patience:
            for number in self._stopped:
                self.dispatcher.over(number)
            for index, run in enumerate(self.nodes) if self._stopped else ():
                if not run.cleans:
                    self.abandon(index)
            self._stopped.clear()
        if not self._stopped:
            self._patience = math.inf

    def retry(self, run: NodeRun, due: float) -> State:
        """Return what becomes of a task run that is to be tried again: in a run that is ending, only clean-ups are.

        Parameters
        ----------
        run : NodeRun
            Its node.
        due : float
            When.
        """
        if self.state is None or (run.cleans and due < self.until):
            return State.RETRYING
        return State.FAILED if run.cleans else State.CANCELLED

    def abandon(self, index: int) -> None:
        """Cancel what is not final of a node, but for what is still out.

        Parameters
        ----------
        index : int
            Which node.
        """
        run = self.nodes[index]
        began = run.opened
        if run.width is None:
            run.resize(1)
            run.widthless = True
        run.opened = True
        if not began and run.width == 0:
            self.conclude(index, 0, 0, State.SUCCESS)
        low = 0
        for goes, children in groupby(range(len(run.states)), key=lambda child: self._goes(run, child)):
            high = low + len(list(children))
            if goes:
                run.hold(low, high, NO_BATCH)
                self.conclude(index, low, high, State.CANCELLED)
            low = high

    def _goes(self, run: NodeRun, child: int) -> bool:
        state = run.states[child]
        if state == State.RUNNING:
            return run.holders[child] not in self.dispatcher.batches
        return state < State.SUCCESS

    def cut_off(self) -> list[Command]:
        """End at once: stop all that runs, cancel the rest, and tell what was not cleaned up."""
        stopped = tuple(self.dispatcher.batches)
        setting_up = {run.spec.index for run in self.nodes if run.cleans for run in _asked(run, self.nodes)}
        self.dispatcher.clear()
        self.due.clear()
        for index, run in enumerate(self.nodes):
            if run.width is None:
                run.resize(1)
            run.opened = True
            for child, state in enumerate(run.states):
                if State.SUCCESS <= state != State.CANCELLED:
                    continue
                begun = state == State.RUNNING or (state == State.CANCELLED and child in run.attempts)
                if run.cleans and all(source.succeeded for source in _asked(run, self.nodes)):
                    run.failures[child] = _not_done(f"clean-up {run.label(child)} was not done", "it")
                elif begun and index in setting_up:
                    run.failures[child] = _not_done(f"set-up {run.label(child)} was stopped on its way", "what it made")
        for run in self.nodes:
            for child, state in enumerate(run.states):
                if state < State.SUCCESS:
                    run.settle(child, child + 1, State.CANCELLED)
        return [Stop(stopped)] if stopped else []


def _asked(run: NodeRun, nodes: Sequence[NodeRun]) -> list[NodeRun]:
    return [nodes[edge.source] for edge in run.spec.inputs if edge.kind is not EdgeKind.AFTER]


def _not_done(what: str, which: str) -> Failure:
    text = (
        f"{what} when the run had to end: it has {GRACE:g} s for that once it is told to, and ends at once when it is "
        f"told again; look whether {which} is still there, and take it away by hand"
    )
    return Failure(f"{NotCleanedUp.__module__}.{NotCleanedUp.__name__}", text, exception=NotCleanedUp(text))
