"""One node within one run: a few bytes per task run."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from headrace.core.events import Failure
from headrace.core.moves import Teller
from headrace.core.plan import Edge, EdgeKind, PlanNode
from headrace.core.policy import Placement, Policy
from headrace.core.rules import CLEANUP, Upstream, upstream_of
from headrace.core.slots import EachSent
from headrace.core.state import FINAL, GOOD, State, move
from headrace.core.summary import NodeSummary
from headrace.core.task import Task

_STATES = tuple(State)
_FINAL = bytes(sorted(FINAL))
NO_BATCH = -1
_NO_HOLDER, _NO_SECONDS = array("i", (NO_BATCH,)), array("f", (0.0,))


class NodeRun:
    """Where a node's task runs stand, and what belongs to their states.

    Attributes
    ----------
    spec : PlanNode
        The node in the plan.
    policy : Policy
        Its task's policy.
    placement : Placement
        Where its task runs may be executed.
    width : int or None
        How many task runs it has; None while unknown.
    widthless : bool
        Whether its width cannot be known; then its one task run stands for all that there would have been.
    takers : dict of int to list of int
        By child: the nodes that take it by an ITEM edge.
    waiting : int
        How many NODE and ITEM edges lead here that wait for something.
    by_child : bool
        Whether a CHILD edge leads here.
    awaits : bool
        Whether its task is ``async def``: its task runs wait at the same time, on one thread.
    brings : float
        Bytes that each task run brings in its batch's message (``core.slices``).
    takes : bool
        Whether it takes values of others.
    expands : bool
        Whether its task runs go on as flows, as far as is known, so that nothing can follow them in the same batch.
    opened : bool
        Whether the width is known and no NODE edge is waited for.
    unfinished : int
        How many task runs are not final.
    states : bytearray
        A ``State`` per task run.
    holders : array of int
        The batch that holds each task run's value; ``NO_BATCH`` where there is none.
    seconds : array of float
        Each task run's duration.
    failed, skipped : int
        How many ended so.
    failures : dict of int to Failure
        By child, for those that failed.
    reasons : dict of int to Failure
        By child, for those that skipped themselves: why, in the form of a failure.
    attempts : dict of int to int
        By child, for those that took other than one attempt.
    sizes : list of dict of int to int
        For each measure of the plan: length by child.
    teller : Teller or None
        Tells its moves, if somebody wants to hear of them.
    """

    __slots__ = (
        "attempts", "awaits", "brings", "by_child", "expands", "failed", "failures", "holders", "opened", "placement",
        "policy", "reasons", "seconds", "sizes", "skipped", "spec", "states", "takers", "takes", "teller", "unfinished",
        "waiting", "width", "widthless",
    )  # fmt: skip

    def __init__(self, spec: PlanNode, policy: Policy, placement: Placement, *, awaits: bool = False) -> None:
        self.spec = spec
        self.awaits = awaits
        self.policy = policy
        self.placement = placement
        kinds = [edge.kind for edge in spec.inputs]
        self.by_child = EdgeKind.CHILD in kinds
        self.brings = sum(slot.size for slot in spec.slots() if type(slot) is EachSent) if spec.mapped else 0.0
        self.takes = any(edge.data for edge in spec.inputs)
        self.width: int | None = None
        self.widthless = False
        self.waiting = len(kinds) - kinds.count(EdgeKind.CHILD)
        self.takers: dict[int, list[int]] = {}
        if spec.mapped:
            for edge in spec.outputs:
                if edge.kind is EdgeKind.ITEM:
                    self.takers.setdefault(edge.item, []).append(edge.target)
        self.expands = policy.dynamic
        self.opened = False
        self.unfinished = 0
        self.failed = 0
        self.skipped = 0
        self.states = bytearray()
        self.holders: array[int] = array("i")
        self.seconds: array[float] = array("f")
        self.failures: dict[int, Failure] = {}
        self.reasons: dict[int, Failure] = {}
        self.attempts: dict[int, int] = {}
        self.sizes: list[dict[int, int]] = [{} for _ in spec.measures]
        self.teller: Teller | None = None

    def resize(self, width: int) -> None:
        """Fix the width."""
        self.width = width
        self.unfinished = width
        self.states = bytearray(width)
        self.holders = _NO_HOLDER * width
        self.seconds = _NO_SECONDS * width

    @property
    def finished(self) -> bool:
        """Whether all its task runs are final."""
        return self.opened and self.unfinished == 0

    @property
    def cleans(self) -> bool:
        """Whether it cleans up, also when the run is cancelled."""
        return self.policy.trigger == CLEANUP

    @property
    def succeeded(self) -> bool:
        """Whether all its task runs are there and succeeded."""
        return self.finished and self.clean

    @property
    def clean(self) -> bool:
        """Whether no task run failed or was skipped so far."""
        return not self.failed and not self.skipped

    def upstream(self) -> Upstream:
        """All its task runs, as the upstream of another node; it must be finished."""
        return Upstream(len(self.states) - self.failed - self.skipped, self.failed, self.skipped)

    def upstream_of_item(self, item: int) -> Upstream:
        """One child of it, as the upstream of what takes only that; all of it, if there is no such child."""
        if self.widthless or item >= len(self.states):
            return self.upstream()
        return upstream_of(Upstream(0, 0, 0), (State(self.states[item]),))

    def all_in(self, state: State, low: int, high: int) -> bool:
        """Whether the task runs ``[low, high)`` all stand in one state."""
        return self.states.count(state, low, high) == high - low

    def all_final(self, low: int, high: int) -> bool:
        """Whether the task runs ``[low, high)`` are all final."""
        return not self.states[low:high].translate(None, _FINAL)

    def final_in(self, low: int, high: int) -> int:
        """How many of the task runs ``[low, high)`` are final; of a node without a width, none is."""
        part = self.states[low:high]
        return len(part) - len(part.translate(None, _FINAL))

    def unfinished_in(self, low: int, high: int) -> int:
        """How many of the task runs ``[low, high)`` there are, or may be, that are not final."""
        return high - low if self.width is None else len(self.states[low:high].translate(None, _FINAL))

    def give_back(self, low: int, high: int) -> None:
        """Move ``[low, high)`` back to PENDING: no batch holds, or will hold, their values."""
        move(self.states, low, high, State.PENDING)
        self.hold(low, high, NO_BATCH)

    def hold(self, low: int, high: int, batch: int) -> None:
        """Note which batch holds, or will hold, the values of ``[low, high)``."""
        if high - low == 1:
            self.holders[low] = batch
        else:
            self.holders[low:high] = array("i", (batch,)) * (high - low)

    def settle(self, low: int, high: int, state: State) -> None:
        """Move ``[low, high)`` to a final state and count them."""
        ran = self.teller is not None and low < high and self.states[low] == State.RUNNING
        move(self.states, low, high, state)
        if self.teller is not None:
            attempts = self.attempts.get(low, int(ran)) if high - low == 1 else int(ran)
            failure = self.failures.get(low) if high - low == 1 else None
            self.teller.tell(low, high, state, attempts, self.seconds[low:high], failure)
        count = high - low
        self.unfinished -= count
        if state is State.SKIPPED:
            self.skipped += count
        elif state not in GOOD:
            self.failed += count

    def label(self, child: int) -> str:
        """A task run's name for people: ``task``, or ``task[child]``."""
        return self.spec.label(child)

    def summary(self) -> NodeSummary:
        """What to tell people."""
        spec = self.spec
        if len(self.states) == 1:
            return NodeSummary(
                spec.name, spec.mapped, self.width, {_STATES[self.states[0]]: 1}, self.seconds[0], self.cleans
            )
        counts = {state: number for state in _STATES if (number := self.states.count(state))}
        return NodeSummary(spec.name, spec.mapped, self.width, counts, sum(self.seconds), self.cleans)


def run_of(spec: PlanNode, task: Task[..., Any], placement: Placement) -> NodeRun:
    """Return the run of a node, with its width if the plan knows it.

    Parameters
    ----------
    spec : PlanNode
        The node.
    task : Task
        What it calls.
    placement : Placement
        Where its task runs may be executed.
    """
    run = NodeRun(spec, task.policy, placement, awaits=task.is_async)
    if spec.widths and not spec.widths_from:
        run.resize(spec.widths[0])
    return run


def deciding(nodes: Sequence[NodeRun], told: Sequence[int] | None, drawn: int) -> list[NodeRun]:
    """Return the nodes that decide how a run ends: those returned, and those that only clean-ups wait for, or nothing.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    told : sequence of int or None
        Those that the flow says.
    drawn : int
        How many of them were drawn before it began; others came while it ran, and decide of a task run.
    """
    if told is not None:
        return [nodes[index] for index in told]

    def counts(edge: Edge) -> bool:
        return edge.kind is not EdgeKind.AFTER and not nodes[edge.target].cleans

    return [run for run in nodes[:drawn] if run.spec.returned or not any(map(counts, run.spec.outputs))]
