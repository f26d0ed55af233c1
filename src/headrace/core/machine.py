"""The run machine: facts in, orders out.

``handle(now, events) -> commands`` is the only way to move a run. The machine is synchronous, does no IO and reads no
clock, so a recorded list of events replays to the same commands, and a simulation can drive it on a virtual clock.

How to think about it. Each node has a ``NodeRun``. A node *opens* when its width is known and every node that it
waits for as a whole is finished; then its task runs become *ready* (child by child, where it maps over a map), wait
in ``core.ready`` as ranges, and leave in batches (``core.dispatcher``). A batch's task runs are RUNNING until its end
is reported, and final from then on, because only then are their values with the executor. What that makes possible,
``core.consequences`` follows: what a trigger refuses is settled there, without being dispatched; the same rules decide
inside a batch.

Every task run ends in exactly one final state, and none is dispatched while another dispatch of it is live: a range
becomes ready only when it is PENDING, and leaves it only by becoming RUNNING. A hand-back moves from RUNNING to
PENDING just what the worker promised not to start.

A run that is cancelled, or out of time, still runs its clean-ups (``core.ending``).
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping

from headrace.core.consequences import Consequences
from headrace.core.constants import numbers_by_node
from headrace.core.costs import Costs
from headrace.core.dispatcher import Batch, Dispatcher
from headrace.core.ending import Ending, set_apart
from headrace.core.events import (
    CancelRequested,
    Command,
    Ended,
    Event,
    Exceptional,
    Failure,
    HandedBack,
    Loss,
    Lost,
    Progressed,
    Release,
    Resized,
    Vanished,
)
from headrace.core.expansion import Expansions
from headrace.core.ledger import Ledger
from headrace.core.limits import Placements
from headrace.core.noderun import NO_BATCH, NodeRun, deciding, run_of
from headrace.core.plan import Plan
from headrace.core.ready import Backlog
from headrace.core.recovery import Recovery, TaskRun
from headrace.core.state import State, move, move_run
from headrace.core.strips import cut, locate, runs
from headrace.core.summary import NodeSummary
from headrace.core.widths import note_sizes
from headrace.errors import TaskCrashed


class RunMachine:
    """Steers one run of a plan.

    Parameters
    ----------
    plan : Plan
        What to run.
    threads : int
        How many threads the executor has.
    limits : mapping of str to int, optional
        By tag: how many task runs may run at the same time.
    timeout : float, optional
        Seconds that the run may take.
    """

    def __init__(
        self,
        plan: Plan,
        threads: int = 1,
        *,
        limits: Mapping[str, int] | None = None,
        timeout: float | None = None,
    ) -> None:
        self.plan = plan
        self.timeout = timeout
        self.state = State.PENDING
        self.costs = Costs(len(plan.tasks))
        placements = Placements(limits or {}, plan.tasks)
        self.nodes = [run_of(spec, plan.tasks[spec.task], placements[spec.task]) for spec in plan.nodes]
        set_apart(self.nodes, self.nodes, plan.tasks)
        self.ledger = Ledger(self.nodes)
        self.returned: dict[int, bytes] = {}
        self.trouble: TaskRun | None = None  # whose value was lost and could not be made again, so that the run gave up
        self.drawn = len(self.nodes)  # those from here on came while it ran
        self.recovery = Recovery()
        self.dispatcher = Dispatcher(self.nodes, self.costs, self.ledger, self.recovery, max(1, threads))
        self.expansions = Expansions(plan, self.nodes, self.dispatcher, placements)
        if plan.constants:
            self.dispatcher.constants = numbers_by_node(plan)
        self._due: list[tuple[float, int, int]] = []
        self.consequences = Consequences(self.nodes, self.dispatcher, self.expansions)
        self.ending = Ending(self.nodes, self.dispatcher, self._due, self.consequences.conclude)
        self._commands: list[Command] = []

    # -- the face ------------------------------------------------------------------------------------------------

    def start(self, now: float) -> list[Command]:
        """Begin the run.

        Parameters
        ----------
        now : float
            Seconds on the caller's clock.
        """
        self.state = move_run(self.state, State.RUNNING)
        self.consequences.to_open.extend(range(len(self.nodes)))
        if self.timeout is not None:
            self.ending.expires = now + self.timeout
        return self.handle(now, ())

    def handle(self, now: float, events: Iterable[Event]) -> list[Command]:
        """Take in events, and say what to do next.

        Parameters
        ----------
        now : float
            Seconds on the caller's clock; never less than at the call before.
        events : iterable of Event
            What happened, in the order in which it became known.

        Returns
        -------
        list of Command
            Orders for the executor.
        """
        for event in events:
            match event:
                case Ended():
                    self._ended(event, now)
                case HandedBack():
                    self._handed_back(event)
                case Progressed():
                    self.dispatcher.progressed(event)
                case Lost():
                    self._lost(event, now)
                case Vanished(number):
                    self.ledger.vanish(number)
                case Resized(threads):
                    self.threads = threads
                case CancelRequested():
                    self._end(now, State.CANCELLED)
        self._wake_due(now)
        self._expire(now)
        self.consequences.follow()
        self._commands += self.dispatcher.fill(now, finished=self.finished)
        self._finish()
        if self.ledger.released:
            self._commands.append(Release(tuple(self.ledger.released)))
            self.ledger.released.clear()
        wakes = [due[0] for due in self._due[:1]] + ([self.dispatcher.wake] if self.dispatcher.wake is not None else [])
        if not self.finished:
            self._commands += self.ending.times(wakes)
        commands, self._commands = self._commands, []
        return commands

    @property
    def threads(self) -> int:
        """How many threads the executor has; at least 1."""
        return self.dispatcher.threads

    @threads.setter
    def threads(self, threads: int) -> None:
        self.dispatcher.threads = max(1, threads)

    @property
    def finished(self) -> bool:
        """Whether the run is over."""
        return self.state.is_final

    def backlog(self) -> Backlog:
        """What is ready and not done."""
        return self.dispatcher.backlog()

    def summaries(self) -> list[NodeSummary]:
        """Where each node stands."""
        return [node.summary() for node in self.nodes if not node.spec.hidden]

    def deciding(self) -> list[NodeRun]:
        """The nodes whose failures are the run's."""
        return deciding(self.nodes, self.plan.deciding, self.drawn)

    # -- events --------------------------------------------------------------------------------------------------

    def _ended(self, event: Ended, now: float) -> None:
        batch = self.dispatcher.over(event.batch)
        if batch is None:
            return  # a repeated report
        self.recovery.heard()
        self._give_back(batch, event.stop)
        if batch.replay:
            self._replayed(event, batch, now)
            return
        for node, child in event.missing:
            if self.nodes[node].holders[child] not in self.dispatcher.batches:  # else it will tell what became of it
                self.ledger.lose(node, child)
        self.returned.update(event.returned)
        odd: dict[tuple[int, int], Exceptional] = {}
        for entry in event.exceptional:
            odd[locate(batch.strips, entry.position)] = entry
            if entry.state is State.PENDING:
                self.dispatcher.stalled(event.batch)
        if event.expansions:
            added = self.expansions.take_in(event, batch.strips, odd)
            self.consequences.unfinished += len(added)
            self.consequences.to_open.extend(added)
        note_sizes(self.nodes, event.sizes, batch.strips)
        self.dispatcher.learn(batch, event.seconds, batch.stop)
        strips = list(cut(batch.strips, 0, batch.stop))
        position = 0
        for nodes, low, high in strips:
            for at, node in enumerate(nodes, position):
                if high - low == 1:
                    self.nodes[node].seconds[low] = event.seconds[at]
                else:
                    end = position + len(nodes) * (high - low)
                    self.nodes[node].seconds[low:high] = event.seconds[at : end : len(nodes)]
                self._apply(node, low, high, odd, now)
            position += len(nodes) * (high - low)
        self.ledger.store(event.batch, strips, event.heavy)

    def _apply(self, node: int, low: int, high: int, odd: dict[tuple[int, int], Exceptional], now: float) -> None:
        """Move the task runs of a range to where the report says they ended."""
        if not odd:
            self.consequences.conclude(node, low, high, State.SUCCESS)
            return
        begin = low
        for child in range(low, high):
            entry = odd.get((node, child))
            if entry is None:
                continue
            if begin < child:
                self.consequences.conclude(node, begin, child, State.SUCCESS)
            begin = child + 1
            self._apply_one(node, child, entry, now)
        if begin < high:
            self.consequences.conclude(node, begin, high, State.SUCCESS)

    def _apply_one(self, node: int, child: int, entry: Exceptional, now: float) -> None:
        run = self.nodes[node]
        if entry.state is State.PENDING:
            run.give_back(child, child + 1)
            self.consequences.to_offer.append((node, child, child + 1))
            return
        if run.teller is not None:
            run.teller.attempted(child, run.attempts.get(child, 0), entry)
        run.attempts[child] = entry.attempts
        if entry.state is State.RUNNING:  # it goes on, as nodes that are there already
            run.holders[child] = NO_BATCH
            self.recovery.cleared(node, child, child + 1)
            return
        state = self.ending.retry(run, now + entry.delay) if entry.state is State.RETRYING else entry.state
        if state is State.RETRYING:
            move(run.states, child, child + 1, State.RETRYING)
            run.holders[child] = NO_BATCH
            heapq.heappush(self._due, (now + entry.delay, node, child))
            return
        if entry.failure is not None:
            (run.reasons if entry.state is State.SKIPPED else run.failures)[child] = entry.failure
        self.consequences.conclude(node, child, child + 1, state)

    def _handed_back(self, event: HandedBack) -> None:
        batch = self.dispatcher.batches.get(event.batch)
        if batch is None or event.stop >= batch.stop:
            return
        done = len(event.seconds)
        self.dispatcher.learn(batch, event.seconds, done)
        if done < event.stop:
            node, _ = locate(batch.strips, done)
            self.costs.at_least(self.nodes[node].spec.task, event.current)
        batch.position = max(batch.position, done)
        self._give_back(batch, event.stop)

    def _give_back(self, batch: Batch, stop: int) -> None:
        """Take back what a batch will not run: positions from ``stop`` on."""
        if stop >= batch.stop:
            return
        rest = list(cut(batch.strips, stop, batch.stop))
        batch.stop = stop
        if batch.replay:
            self.ledger.lost.update(runs(rest))
            return
        for nodes, low, high in rest:
            for node in nodes:
                self.nodes[node].give_back(low, high)
        for nodes, low, high in reversed(rest):
            for node in reversed(nodes):
                self.consequences.to_offer.appendleft((node, low, high))

    def _lost(self, event: Lost, now: float) -> None:
        batch = self.dispatcher.over(event.batch)
        if batch is None:
            return
        whole = list(runs(cut(batch.strips, 0, batch.stop)))
        if not whole:
            return
        hopeless = self.recovery.hopeless(event.loss, whole)
        if batch.replay and hopeless:
            self._give_up(now, whole[0], event.failure)
        elif batch.replay:
            self.ledger.lost.update(whole)
        elif hopeless:
            for node, child in whole:
                self.nodes[node].failures[child] = event.failure
                self.nodes[node].holders[child] = NO_BATCH
                self.consequences.conclude(node, child, child + 1, State.CRASHED)
        else:
            if event.loss is Loss.KILLED:
                self.recovery.suspect(whole)
            for node, child in whole:
                self.nodes[node].give_back(child, child + 1)
                self.consequences.to_offer.append((node, child, child + 1))

    def _replayed(self, event: Ended, batch: Batch, now: float) -> None:
        """Take in values that were made anew."""
        strips = list(cut(batch.strips, 0, batch.stop))
        again, problem = self.recovery.differs(self.nodes, strips, event)
        if problem:
            failure = Failure("headrace.errors.TaskCrashed", problem, exception=TaskCrashed(problem))
            self._give_up(now, again[-1], failure)
            return
        self.ledger.lost.update(again)
        self.ledger.store(event.batch, strips, event.heavy)

    def _give_up(self, now: float, trouble: TaskRun, failure: Failure) -> None:
        """End the run, because it could go on only with wrong values."""
        node, child = self.trouble = trouble
        self.nodes[node].failures[child] = failure
        self._end(now, State.CRASHED)

    def _expire(self, now: float) -> None:
        if now >= self.ending.limit and not (self._done and self.ending.unharmed):
            self._end(now, State.TIMED_OUT)
        if self.ending.state is not None:
            self.ending.let_go(now)

    def abort(self, now: float, state: State) -> list[Command]:
        """End the run at once, without clean-ups, because nobody can drive it on.

        Parameters
        ----------
        now : float
            Seconds on the caller's clock.
        state : State
            As what it ends.
        """
        if self.state is State.PENDING:
            self.state = State.RUNNING
        for _ in range(2):
            self._end(now, state)
        return self.handle(now, ())

    def _end(self, now: float, state: State) -> None:
        """End the run before it is done; at once, if it is ending already."""
        if self.finished:
            return
        if self.ending.state is None:
            self.consequences.ending = self.ending.abandon
            self._commands += self.ending.begin(now, state)
            return
        self._commands += self.ending.cut_off()
        self.consequences.cut_off()

    def _wake_due(self, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            _, node, child = heapq.heappop(self._due)
            self.dispatcher.offer(node, child, child + 1)

    @property
    def _done(self) -> bool:
        """Whether all is final, and no value that somebody needs is still to be made anew."""
        if self.consequences.unfinished or self.ending.state is not None:
            return not self.consequences.unfinished
        return not self.ledger.lost and not any(batch.replay for batch in self.dispatcher.batches.values())

    def _finish(self) -> None:
        if self.finished or not self._done:
            return
        if self.ending.state is not None:
            self._commands += self.ending.cut_off()
            self.state = move_run(self.state, self.ending.state)
            return
        failed = any(run.failed for run in self.deciding())
        self.state = move_run(self.state, State.FAILED if failed else State.SUCCESS)
