"""What follows when task runs become final: which nodes open, and which task runs become ready or are settled.

How to think about it. Whatever may follow is put into one of two queues, nodes to open and ranges to offer, and
``follow`` goes through both until nothing is left. What is offered in vain costs a look, and changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from headrace.core.dispatcher import Dispatcher
from headrace.core.expansion import Expansions
from headrace.core.noderun import NodeRun
from headrace.core.plan import EdgeKind
from headrace.core.ready import Segment
from headrace.core.rules import Decision, Upstream, behind_gates, decide, runs_after_success, upstream_of
from headrace.core.state import State
from headrace.core.widths import Problem, empty, gate_states, whole_upstream, width_of


class Consequences:
    """Makes task runs of one run final, and follows what that makes possible.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run; may grow.
    dispatcher : Dispatcher
        Takes what is ready.
    expansions : Expansions
        Tell how task runs end that went on as flows.

    Attributes
    ----------
    to_open : deque of int
        Nodes that may be ready to open.
    to_offer : deque of (node, low, high)
        Ranges of which task runs may be ready.
    unfinished : int
        How many nodes are not finished.
    ending : callable or None
        What becomes of a node's task runs in place of being ready, once the run is ending: ``ending(node)``.
    """

    def __init__(self, nodes: Sequence[NodeRun], dispatcher: Dispatcher, expansions: Expansions) -> None:
        self.nodes = nodes
        self.dispatcher = dispatcher
        self.expansions = expansions
        self.ledger = dispatcher.ledger
        self.recovery = dispatcher.recovery
        self.to_open: deque[int] = deque()
        self.to_offer: deque[Segment] = deque()
        self.unfinished = len(nodes)
        self.ending: Callable[[int], None] | None = None

    def cut_off(self) -> None:
        """Nothing follows any more."""
        self.to_open.clear()
        self.to_offer.clear()
        self.unfinished = 0

    def conclude(self, node: int, low: int, high: int, state: State) -> None:
        """Move a range to a final state, and note what that makes possible."""
        run = self.nodes[node]
        run.settle(low, high, state)
        if self.recovery.suspects:
            self.recovery.cleared(node, low, high)
        finished = run.unfinished == 0
        self.ledger.settled(node, low, high, finished)
        if finished:
            run.opened = True  # a batch may have carried it together with all that it waits for
            self.unfinished -= 1
        for _, target, kind, _, _ in run.spec.outputs:
            if kind is EdgeKind.CHILD:
                if finished:
                    self.to_open.append(target)
                self.to_offer.append((target, low, high))
            elif finished and (kind is EdgeKind.NODE or kind is EdgeKind.AFTER):
                self._serve(target)
        for item, targets in run.takers.items():
            if low <= item < high or (finished and item >= len(run.states)):
                for target in targets:
                    self._serve(target)
        if (outer := run.spec.stands_for) is not None and not self.nodes[outer[0]].final_in(outer[1], outer[1] + 1):
            self.conclude(*outer, outer[1] + 1, self.expansions.ended(node, outer, state))

    def _serve(self, node: int) -> None:
        """Note that a node waits for one thing less."""
        run = self.nodes[node]
        run.waiting -= 1
        if run.waiting == 0 and not run.opened:
            self.to_open.append(node)

    def follow(self) -> None:
        """Follow consequences until there are none."""
        while self.to_open or self.to_offer:
            while self.to_open:
                self._open(self.to_open.popleft())
            if self.to_offer:
                self._offer(*self.to_offer.popleft())

    def _open(self, node: int) -> None:
        """Open a node if its width is known and nothing is waited for as a whole."""
        run = self.nodes[node]
        if run.opened or run.waiting:
            return
        problem: Problem | None = None
        if run.width is None:
            found = width_of(run, self.nodes)
            if found is None:
                return
            problem = found if isinstance(found, Problem) else None
            run.resize(found if isinstance(found, int) else 0)
        if not run.width and problem is None:
            problem = empty(run, self.nodes)
        if problem is not None:
            run.widthless = True
            run.resize(1)
        elif not run.spec.strict:
            self.ledger.narrowed(node)
        run.opened = True
        for edge in run.spec.outputs:
            if edge.kind is EdgeKind.CHILD:
                self.to_open.append(edge.target)
        if problem is not None:
            if problem.failure is not None:
                run.failures[0] = problem.failure
            self.conclude(node, 0, 1, problem.state)
        elif run.width == 0:
            self.conclude(node, 0, 0, State.SUCCESS)
        else:
            self._offer(node, 0, len(run.states))

    def _offer(self, node: int, low: int, high: int) -> None:
        """Make ready, or settle by trigger, what of a range is pending and waits for nothing."""
        run = self.nodes[node]
        high = min(high, len(run.states))  # a node that could not be mapped is narrower than its sources
        if not run.opened or run.states.find(State.PENDING, low, high) < 0:
            return  # most often, because a batch carried these task runs together with what they wait for
        if self.ending is not None and not run.cleans:
            self.ending(node)
            return
        sources = [(edge, self.nodes[edge.source]) for edge in run.spec.inputs if edge.kind is not EdgeKind.AFTER]
        by_child = [source for edge, source in sources if edge.kind is EdgeKind.CHILD]
        if by_child and not all(source.final_in(low, high) for source in by_child):
            return  # each child waits for something; so it is when a batch gives back the end of a column
        if (
            run.all_in(State.PENDING, low, high)
            and all(source.all_final(low, high) for source in by_child)
            and all(source.clean for _, source in sources)
            and runs_after_success(run.policy.trigger)
            and not self.recovery.suspects
        ):
            self.dispatcher.offer(node, low, high)
            return
        gates = behind_gates(gate_states(run, self.nodes))
        whole = whole_upstream(run, self.nodes)
        for child in range(low, high):
            if run.states[child] == State.PENDING and all(State(source.states[child]).is_final for source in by_child):
                self._offer_one(node, child, gates, whole, by_child)

    def _offer_one(self, node: int, child: int, gates: Decision, whole: Upstream, by_child: list[NodeRun]) -> None:
        policy = self.nodes[node].policy
        up = upstream_of(whole, [State(source.states[child]) for source in by_child])
        match decide(policy.trigger, policy.skip_on_upstream_skip, up) if gates is Decision.RUN else gates:
            case Decision.RUN:
                self.dispatcher.offer(node, child, child + 1)
            case Decision.SKIP:
                self.conclude(node, child, child + 1, State.SKIPPED)
            case Decision.TRIGGER_FAIL:
                self.conclude(node, child, child + 1, State.TRIGGER_FAILED)
