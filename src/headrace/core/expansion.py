"""Expansions: task runs that go on as flows, whose nodes become nodes of the run.

How to think about it. A task run that returned a flow stays RUNNING. The flow's nodes are added to the plan and to the
run, and behind them one *hidden* node that makes the flow's result of their values. It ``stands_for`` the task run:
its value is held under the task run's number, and the task run is final when it is. So nobody else need know that
there was an expansion. Hidden nodes are not shown.

A loop is the same, turn by turn: its hidden node is the step behind each turn (``core.loops``), and only the last one
ends the loop. Turns lie beside each other, so they use up no depth.

What decides over a sub-flow is what decides over a run: nodes that it returns, and nodes that nothing else waits for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.core.blame import blame, stopped
from headrace.core.dispatcher import Dispatcher
from headrace.core.ending import set_apart
from headrace.core.events import Ended, Exceptional, Failure
from headrace.core.graph import Graph, NodeSpec, unique
from headrace.core.limits import Placements
from headrace.core.loops import VALUE, Loop
from headrace.core.noderun import NO_BATCH, NodeRun, run_of
from headrace.core.plan import EdgeKind, Measure, Plan, TaskRun
from headrace.core.planning import extend
from headrace.core.policy import DEEPEST, Policy
from headrace.core.rules import CLEANUP
from headrace.core.slots import (
    Const,
    ConstSent,
    EachConst,
    EachOf,
    EachSent,
    How,
    ParameterRef,
    Ref,
    Slot,
    bind_parameter,
    refs,
    replace,
)
from headrace.core.state import FINAL, State
from headrace.core.strips import Strip, locate
from headrace.core.task import Task
from headrace.errors import FlowError, NestedTooDeep, TriggerFailed


def pass_on(value: object) -> object:
    """Return a value as it is."""
    return value


def nothing() -> None:
    """Wait only."""


#: makes a sub-flow's result of its nodes' values; without the second, one of them that was skipped skips it
GATHER = Task(pass_on, Policy(name="gather"))
GATHER_ALL = Task(pass_on, Policy(name="gather", skip_on_upstream_skip=False))
#: waits for nodes that a sub-flow does not return
SEAL = Task(nothing, Policy(name="seal", skip_on_upstream_skip=False))


class Expansions:
    """Adds nodes to a run.

    Parameters
    ----------
    plan : Plan
        Grows.
    nodes : list of NodeRun
        The run; grows.
    dispatcher : Dispatcher
        Learns of new nodes, and which values are still needed.
    placements : Placements
        Learns of new tasks.

    Attributes
    ----------
    deepest : int
        How deep tasks that return flows may be nested.
    joined : callable
        Told of the run of each new node.
    """

    def __init__(self, plan: Plan, nodes: list[NodeRun], dispatcher: Dispatcher, placements: Placements) -> None:
        self.plan = plan
        self.nodes = nodes
        self.dispatcher = dispatcher
        self.placements = placements
        self.joined: Callable[[NodeRun], object] = id
        self.deepest = DEEPEST
        self.ledger = dispatcher.ledger
        self.turns: dict[TaskRun, int] = {}
        self._names: dict[TaskRun, dict[str, int]] = {}

    # -- growing -------------------------------------------------------------------------------------------------

    def take_in(self, event: Ended, strips: Sequence[Strip], odd: dict[TaskRun, Exceptional]) -> list[int]:
        """Let the task runs of a batch go on that its report says go on, and return the numbers of the new nodes.

        Parameters
        ----------
        event : Ended
            The report.
        strips : sequence of Strip
            The batch.
        odd : dict of (int, int) to Exceptional
            What the report says of its task runs; those that cannot go on have failed.
        """
        added: list[int] = []
        for position, graph in event.expansions.items():
            run = locate(strips, position)
            found = self.grow(*run, graph)
            if isinstance(found, Failure):
                odd[run] = odd.get(run, Exceptional(position, State.FAILED))._replace(state=State.FAILED, failure=found)
            else:
                added += found
        return added

    def grow(self, node: int, child: int, graph: Graph | Failure | None) -> range | Failure:
        """Let a task run go on.

        Parameters
        ----------
        node, child : int
            A task run that is in a batch whose end is being taken in.
        graph : Graph, Failure or None
            What it goes on as; why that is not known; None for a loop's next turn.

        Returns
        -------
        range or Failure
            The numbers of the new nodes, or why the task run fails.
        """
        run = self.nodes[node]
        run.expands = True
        if isinstance(graph, Failure):
            return graph
        try:
            if graph is not None:
                self._check_goes_on(run, child)
                return self._expand((node, child), graph)
            return self._turn(self.plan.nodes[node].stands_for or (node, child), node)
        except FlowError as error:
            name = type(error).__qualname__
            return Failure(f"{type(error).__module__}.{name}", str(error), exception=error)

    def _check_goes_on(self, run: NodeRun, child: int) -> None:
        if run.placement.apart:
            what = "clean-up" if run.cleans else "set-up"
            raise FlowError(
                f"{what} {run.label(child)!r} of a resource returned a flow, and must do itself what it is for; call "
                "the flow in the with block"
            )

    def _expand(self, outer: TaskRun, graph: Graph) -> range:
        depth = self._depth(outer)
        if depth > self.deepest:
            raise NestedTooDeep(
                f"task {self._label(outer)!r} returned a flow, {depth} levels deep in tasks that returned flows; look "
                "for the recursion that finds no end, repeat by hr.loop(...), which does not nest, or allow more by "
                "@hr.flow(max_depth=...)",
                task=self._label(outer),
            )
        policy = self.nodes[outer[0]].policy
        gather = GATHER if policy.skip_on_upstream_skip else GATHER_ALL
        base = len(self.plan.nodes)
        names = [f"{self._label(outer)}/{name}" for name in graph.names]
        specs = _moved(graph, base, names, {})
        return self._add(outer, specs, 0, graph, gather, (_moved_slot(graph.result, base, {}),))

    def _turn(self, outer: TaskRun, last: int) -> range:
        """Add a turn to a loop; ``last`` is the step behind the turn before, or the loop itself."""
        loop = self.plan.tasks[self.plan.nodes[outer[0]].task].function
        assert isinstance(loop, Loop)
        label = self._label(outer)
        turn = self.turns[outer] = self.turns.get(outer, 0) + 1
        names = self._names.setdefault(outer, {})
        values = self._arguments(outer)
        if turn > 1:
            values[VALUE] = Ref(last)
        base = len(self.plan.nodes)
        relays: list[NodeSpec] = []
        for name, slot in values.items():
            if self._needs_relay(loop, name, slot, last):
                values[name] = Ref(base + len(relays))
                relays.append(NodeSpec(label, GATHER, (slot,), {}, (), False))
        shift = base + len(relays)
        inner = [f"{label}/{unique(names, node.task.name)}" for node in loop.turn.nodes]
        specs = relays + _moved(loop.turn, shift, inner, values)
        result = _moved_slot(loop.turn.result, shift, values)
        return self._add(outer, specs, len(relays), loop.turn, loop.step, (result, Const(turn)))

    def _needs_relay(self, loop: Loop, name: str, slot: Slot, last: int) -> bool:
        """Whether a turn can take an argument only from a node of its own, which measures it or takes it apart."""
        if isinstance(slot, Const) or slot == Ref(last):
            return False
        whole = isinstance(slot, Ref) and slot.how is How.WHOLE
        return name in loop.spread or (name in loop.parts and not whole)

    def _arguments(self, outer: TaskRun) -> dict[str, Slot]:
        """What one child of a node is called with, as slots of nodes that are not mapped."""
        node, child = outer
        spec = self.plan.nodes[node]
        slots = {**{str(at): slot for at, slot in enumerate(spec.args)}, **spec.kwargs}
        return {name: self._of_child(slot, child) for name, slot in slots.items()} if spec.mapped else slots

    def _of_child(self, slot: Slot, child: int) -> Slot:
        match slot:
            case EachConst(values):
                return Const(values[child])
            case EachSent(values=values) if values is not None:
                return values[child] if type(values[child]) is ConstSent else Const(values[child])
            case EachOf(items):
                return items[child]
            case Ref(node, path, How.EACH):
                return Ref(node, (child,) if self.plan.nodes[node].mapped else (*path, child))
        return slot

    def _add(
        self,
        outer: TaskRun,
        specs: list[NodeSpec],
        relays: int,
        graph: Graph,
        closing: Task[..., object],
        args: tuple[Slot, ...],
    ) -> range:
        """Add nodes, of which the first ones are hidden, and those that close the sub-flow behind them."""
        nodes, base, label = self.plan.nodes, len(self.plan.nodes), self._label(outer)
        taken = refs(graph.result)
        whole = {ref.node for ref in taken if not (ref.path and graph.nodes[ref.node].mapped)}  # the others perhaps not
        decides = deciding_of(graph).difference(whole)
        ends = set(graph.terminal()).difference(whole, decides)
        drawn = range(base + relays, base + len(specs))
        if decides or ends:
            upstream, after = (tuple(sorted(base + relays + index for index in some)) for some in (decides, ends))
            specs.append(NodeSpec(label, SEAL, (), {}, upstream, False, after=after))
        upstream = (base + len(specs) - 1,) if decides or ends else ()
        specs.append(NodeSpec(label, closing, args, {}, upstream, False))
        extend(self.plan, specs)
        added = range(base, len(nodes))
        for index in added:
            nodes[index].outer = outer
            nodes[index].hidden = index not in drawn
        loop = self.plan.tasks[nodes[outer[0]].task].function
        wanted = [Measure(*each) for each in loop.spread.get(VALUE, ())] if isinstance(loop, Loop) else []
        known = nodes[outer[0]].measures  # first, so that its measures have the same numbers here and there
        nodes[added[-1]].measures = (*known, *(measure for measure in wanted if measure not in known))
        self._stand_for(outer, added[-1])
        self.dispatcher.costs.extend(self.plan.tasks)
        self.placements.join(self.plan.tasks)
        for index in added:
            self._add_run(index, base)
        set_apart(self.nodes[base:], self.nodes, self.plan.tasks)
        return added

    def _stand_for(self, outer: TaskRun, node: int) -> None:
        before = self.ledger.makers.get(outer)
        if before is not None:
            self.plan.nodes[before].stands_for = None
        self.plan.nodes[node].stands_for = outer
        self.ledger.makers[outer] = node
        self.nodes[outer[0]].holders[outer[1]] = NO_BATCH

    def _add_run(self, index: int, base: int) -> None:
        """Add the run of a new node, which may wait for, or take values of, nodes that were there before."""
        spec = self.plan.nodes[index]
        run = run_of(spec, self.plan.tasks[spec.task], self.placements[spec.task])
        self.nodes.append(run)
        self.dispatcher.add(run)
        self.joined(run)
        for edge in spec.inputs:
            if edge.source >= base:
                continue
            source = self.nodes[edge.source]
            if edge.kind is EdgeKind.ITEM:
                source.takers.setdefault(edge.item, []).append(index)
            run.waiting -= source.finished or (edge.kind is EdgeKind.ITEM and source.states[edge.item] in FINAL)
            self.ledger.owe(edge)

    def _label(self, outer: TaskRun) -> str:
        return self.nodes[outer[0]].label(outer[1])

    def _depth(self, outer: TaskRun) -> int:
        depth, around = 1, self.plan.nodes[outer[0]].outer
        while around is not None:
            depth, around = depth + 1, self.plan.nodes[around[0]].outer
        return depth

    # -- the end -------------------------------------------------------------------------------------------------

    def ended(self, node: int, outer: TaskRun, state: State) -> State:
        """Note how the node that stands for a task run ended, and return how the task run ends."""
        run, child = self.nodes[outer[0]], outer[1]
        if state is State.SUCCESS:
            return state
        run.holders[child] = NO_BATCH
        inputs = self.nodes[node].spec.inputs  # none of them comes only after others
        inside = any(self.nodes[edge.source].failed for edge in inputs)
        if not inside:
            if (failure := self.nodes[node].failures.get(0)) is not None:
                run.failures[child] = failure
            return state
        found = blame(self.nodes, [self.nodes[node]])
        if found is not None:
            run.failures[child] = found[0].failures[found[1]]
        elif stopped(self.nodes, [self.nodes[node]]):
            return State.CANCELLED
        else:
            text = f"in the flow that {self._label(outer)!r} returned, a task was refused by its trigger"
            error = TriggerFailed(text, task=run.spec.name)
            run.failures[child] = Failure("headrace.errors.TriggerFailed", text, exception=error)
        return State.FAILED


def deciding_of(graph: Graph) -> set[int]:
    """Which nodes decide how a flow ends; the same as for a run (``core.noderun.deciding``)."""
    if graph.deciding is not None:
        return set(graph.deciding)
    counted = {
        source
        for node in graph.nodes
        if node.task.policy.trigger != CLEANUP
        for source in set(node.sources()).difference(node.after)
    }
    return {ref.node for ref in refs(graph.result)}.union(set(range(len(graph.nodes))) - counted)


def _moved(graph: Graph, shift: int, names: Sequence[str], values: dict[str, Slot]) -> list[NodeSpec]:
    """A graph's nodes with numbers of the plan that they go into, and with values for parameters."""
    return [
        NodeSpec(
            name,
            node.task,
            tuple([_moved_slot(slot, shift, values) for slot in node.args]),
            {key: _moved_slot(slot, shift, values) for key, slot in node.kwargs.items()},
            tuple([source + shift for source in node.upstream]),
            node.mapped,
            node.strict,
            tuple([source + shift for source in node.gates]),
            tuple([source + shift for source in node.after]),
        )
        for name, node in zip(names, graph.nodes, strict=True)
    ]


def _moved_slot(slot: Slot, shift: int, values: dict[str, Slot]) -> Slot:
    def change(ref: Ref | ParameterRef) -> Slot:
        if isinstance(ref, Ref):
            return ref._replace(node=ref.node + shift)
        value = values[ref.name]
        if isinstance(value, Const):
            return bind_parameter(ref, {ref.name: value.value})
        if isinstance(value, Ref):
            how = value.how if ref.how is How.WHOLE else ref.how
            return Ref(value.node, (*value.path, *ref.path), how)
        return value

    if isinstance(slot, Const):
        return slot
    if isinstance(slot, EachSent):
        return EachSent(slot.node + shift, slot.argument, slot.values, slot.size)
    return replace(slot, change)
