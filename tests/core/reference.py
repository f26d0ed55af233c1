"""What a run must come to: a naive interpreter of graphs, one task run after the other.

It knows neither plans, nor batches, nor the machine: it walks the drawn graph in order, asks the world what each
task run does, and applies the rules as users read them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from headrace.core.graph import Graph, NodeSpec, unique
from headrace.core.loops import Loop
from headrace.core.planning import make_plan
from headrace.core.policy import Policy
from headrace.core.rules import CLEANUP, Decision, Upstream, decide
from headrace.core.slots import Const, EachConst, EachOf, How, Ref, Slot, Slotted, refs
from headrace.core.state import State
from headrace.errors import FlowError, TaskCrashed, TaskFailed, TriggerFailed
from tests.core.drawn import MOST_TURNS, ends


class Skip(Exception):
    """What a worker of the simulation raises to skip a task run."""


class Kill(Exception):
    """What kills the worker that executes it."""


@dataclass
class Came:
    """What became of a node."""

    states: list[State] = field(default_factory=list)
    values: list[Any] = field(default_factory=list)
    attempts: list[int] = field(default_factory=list)
    widthless: bool = False
    inside: dict[str, Came] = field(default_factory=dict)  # nodes of flows that its task runs went on as, by name

    def add(self, state: State, value: Any, attempts: int = 0) -> None:
        self.states.append(state)
        self.values.append(value)
        self.attempts.append(attempts)

    @property
    def upstream(self) -> Upstream:
        return counts(self.states)

    @property
    def clean(self) -> bool:
        return set(self.states) <= {State.SUCCESS}


def counts(states: list[State]) -> Upstream:
    successful = states.count(State.SUCCESS)
    skipped = states.count(State.SKIPPED)
    return Upstream(successful, len(states) - successful - skipped, skipped)


class Problem(Exception):
    """A mapped node has no width."""

    def __init__(self, state: State, value: Any = None) -> None:
        self.state, self.value = state, value


def interpret(graph: Graph, call: Callable[[Any, int, int, tuple[Any, ...], str], Any], prefix: str = "") -> list[Came]:
    """Run a graph; ``call(node, child, attempt, args, label)`` returns a task run's value, or a flow, or raises.

    Nodes are told by number, or, in a flow that a task run went on as, by their name with a prefix.
    """
    came = [Came() for _ in graph.nodes]
    for index in graph.order():
        spec, mine = graph.nodes[index], came[index]
        try:
            width = width_of(graph, spec, came) if spec.mapped else 1
            if width == 0:
                nothing(graph, spec, came)
        except Problem as problem:
            mine.widthless = True
            match behind_gates(spec, came):
                case Decision.SKIP:
                    mine.add(State.SKIPPED, None)
                case Decision.TRIGGER_FAIL:
                    mine.add(State.TRIGGER_FAILED, TriggerFailed(""))
                case Decision.RUN:
                    mine.add(problem.state, problem.value)
            continue
        for child in range(width):
            match decision(graph, spec, child, came):
                case Decision.SKIP:
                    mine.add(State.SKIPPED, None)
                case Decision.TRIGGER_FAIL:
                    mine.add(State.TRIGGER_FAILED, TriggerFailed(""))
                case Decision.RUN:
                    mine.add(*attempted(graph, spec, index, child, came, call, prefix))
    return came


def behind_gates(spec: NodeSpec, came: list[Came]) -> Decision:
    gates = [state for gate in spec.gates for state in came[gate].states]
    if State.SKIPPED in gates:
        return Decision.SKIP
    return Decision.TRIGGER_FAIL if any(state is not State.SUCCESS for state in gates) else Decision.RUN


def decision(graph: Graph, spec: NodeSpec, child: int, came: list[Came]) -> Decision:
    refused = behind_gates(spec, came)
    if refused is not Decision.RUN:
        return refused
    states = []
    for source in spec.sources():
        waited = items(graph, spec, source)
        if source in spec.gates or source in spec.after:
            continue
        if by_child(graph, spec, source):
            states += came[source].states[child : child + 1]
        elif waited and not came[source].widthless and max(waited) < len(came[source].states):
            states += [came[source].states[item] for item in waited]
        else:
            states += came[source].states
    return decide(spec.task.policy.trigger, spec.task.policy.skip_on_upstream_skip, counts(states))


def nothing(graph: Graph, spec: NodeSpec, came: list[Came]) -> None:
    """A map without elements: what it waits for as a whole may still refuse it; no child of a map does."""
    beyond = 1 << 40
    match decision(graph, spec, beyond, came):
        case Decision.SKIP:
            raise Problem(State.SKIPPED)
        case Decision.TRIGGER_FAIL:
            raise Problem(State.TRIGGER_FAILED, TriggerFailed(""))


def attempted(
    graph: Graph, spec: NodeSpec, index: int, child: int, came: list[Came], call: Any, prefix: str
) -> tuple[Any, ...]:
    calls = 0
    label = f"{prefix}{spec.name}[{child}]" if spec.mapped else f"{prefix}{spec.name}"
    for attempt in range(1, spec.task.policy.retries + 2):
        try:
            args = tuple(resolve(graph, slot, child, came) for slot in spec.args)
            calls += 1
            if isinstance(spec.task.function, Loop):
                return *repeated(spec.task.function, args[0], call, label, came[index]), attempt
            value = call(f"{prefix}{spec.name}" if prefix else index, child, attempt, args, label)
            if isinstance(value, Graph):
                return *went_on(value, call, label, came[index], spec.task.policy), attempt
            return State.SUCCESS, value, attempt
        except Skip:
            return State.SKIPPED, None, 0
        except Kill:
            return State.CRASHED, TaskCrashed(""), 0
        except Exception as error:  # noqa: BLE001 - whatever a task raises
            last = error
    return State.FAILED, last, attempt


def went_on(graph: Graph, call: Any, label: str, outer: Came, policy: Policy) -> tuple[State, Any]:
    """How a task run ends that went on as a flow, and with which value."""
    try:
        make_plan(graph)
    except FlowError as error:
        return State.FAILED, error
    came = interpret(graph, call, f"{label}/")
    for spec, one in zip(graph.nodes, came, strict=True):
        outer.inside[f"{label}/{spec.name}"] = one
        outer.inside.update(one.inside)
    taken = sorted({ref.node for ref in refs(graph.result)})
    asked = {
        source
        for spec in graph.nodes
        for source in spec.sources()
        if source not in spec.after and spec.task.policy.trigger != CLEANUP
    }
    rest = [index for index in range(len(graph.nodes)) if index not in asked and index not in taken]
    if any(state.is_failure for index in (*taken, *rest) for state in came[index].states):
        return State.FAILED, first_error(graph, came, taken, rest)
    skipped = [state for ref in refs(graph.result) for state in states_of(graph, ref, came)].count(State.SKIPPED)
    if skipped and policy.skip_on_upstream_skip:
        return State.SKIPPED, None
    try:
        return State.SUCCESS, resolve(graph, graph.result, 0, came)
    except Exception as error:  # noqa: BLE001 - an item that there is not
        return State.FAILED, error


def repeated(loop: Loop, value: Any, call: Any, label: str, outer: Came) -> tuple[State, Any]:
    """How a loop ends, and with which value."""
    names: dict[str, int] = {}
    for _ in range(MOST_TURNS):
        turn = loop.turn.bind({"0": value})
        for node in turn.nodes:
            node.name = unique(names, node.task.name)
        state, value = went_on(turn, call, label, outer, loop.step.policy)
        if state is not State.SUCCESS or ends(value):
            break
    return state, value


def states_of(graph: Graph, ref: Ref, came: list[Came]) -> list[State]:
    states = came[ref.node].states
    if graph.nodes[ref.node].mapped and ref.path and not came[ref.node].widthless and ref.path[0] < len(states):
        return [states[ref.path[0]]]
    return states


def first_error(graph: Graph, came: list[Came], taken: list[int], rest: list[int]) -> Exception:
    """The error of what failed by itself, breadth first from what decides."""
    partly = {ref.node for ref in refs(graph.result) if ref.path and graph.nodes[ref.node].mapped}
    sealed = sorted({*rest, *partly})
    queue: list[int] = [*taken, -1] if sealed else list(taken)
    for index in queue:
        if index < 0:
            queue += sealed
            continue
        own = [
            value
            for state, value in zip(came[index].states, came[index].values, strict=True)
            if state in (State.FAILED, State.CRASHED) and not (came[index].widthless and state is not State.FAILED)
        ]
        if own:
            return TaskFailed("") if isinstance(own[0], TaskCrashed) else own[0]
        if any(state.is_failure for state in came[index].states):
            spec = graph.nodes[index]
            queue += [source for source in spec.sources() if source not in spec.after]
    return TriggerFailed("")


def by_child(graph: Graph, spec: NodeSpec, source: int) -> bool:
    if source in (*spec.upstream, *spec.gates) or not graph.nodes[source].mapped:
        return False
    return all(ref.how is How.EACH for slot in spec.slots() for ref in refs(slot) if ref.node == source)


def items(graph: Graph, spec: NodeSpec, source: int) -> set[Any]:
    """Which children of a mapped node another takes, if it takes no more than these."""
    if source in (*spec.upstream, *spec.gates) or not graph.nodes[source].mapped:
        return set()
    uses = [ref for slot in spec.slots() for ref in refs(slot) if ref.node == source]
    single = all(ref.how in (How.WHOLE, How.STATE) and ref.path and ref.path[0] >= 0 for ref in uses)
    return {ref.path[0] for ref in uses} if single else set()


def width_of(graph: Graph, spec: NodeSpec, came: list[Came]) -> int:
    widths: list[int] = []
    for slot in spec.slots():
        match slot:
            case EachConst(values):
                widths.append(len(values))
            case EachOf(items):
                widths.append(len(items))
            case Ref(how=How.EACH | How.FLAT):
                widths.append(width_of_ref(graph, spec, slot, came[slot.node]))
    if len(set(widths)) > 1 and spec.strict:
        raise Problem(State.FAILED, FlowError(""))
    return min(widths)


def width_of_ref(graph: Graph, spec: NodeSpec, ref: Ref, source: Came) -> int:
    mapped = graph.nodes[ref.node].mapped
    if mapped and ref.how is How.EACH and not source.widthless:
        return len(source.states)
    if not source.clean:
        policy = spec.task.policy
        if decide(policy.trigger, policy.skip_on_upstream_skip, source.upstream) is Decision.SKIP:
            raise Problem(State.SKIPPED)
        raise Problem(State.TRIGGER_FAILED, TriggerFailed(""))
    try:
        if ref.how is How.EACH:
            return len(item(source.values[0], ref.path))
        return sum(map(len, source.values if mapped else item(source.values[0], ref.path)))
    except (TypeError, LookupError):
        raise Problem(State.FAILED, FlowError("")) from None


def resolve(graph: Graph, slot: Slot, child: int, came: list[Came]) -> Any:
    match slot:
        case Const(value):
            return value
        case EachConst(values):
            return values[child]
        case EachOf(items):
            return resolve(graph, items[child], 0, came)
        case Slotted(kind, items):
            return kind(resolve(graph, part, child, came) for part in items)
        case Ref(node, path, how):
            mapped, values = graph.nodes[node].mapped, came[node].values
            if how is How.EACH and mapped:
                return values[child]
            value = values if mapped else values[0]
            if how is How.STATE:
                return state_of(came[node], path, mapped)
            if how is How.WHOLE and not mapped and not came[node].clean:
                return value  # of what stands in for a value there are no parts
            if how is How.WHOLE:
                return item(value, path)
            if how is How.EACH:
                return item(value, path)[child]
            return [part for group in item(value, path) for part in group][child]
    raise AssertionError(slot)


def state_of(came: Came, path: tuple[Any, ...], mapped: bool) -> Any:
    if not mapped or came.widthless:
        return came.states[0]
    return came.states[path[0]] if path else came.states


def item(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value
