"""The plan as a worker holds it: each argument slot is a small function that fetches the argument.

Slots are turned into functions once, at a node's first use, so that executing a task run walks nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from headrace.core.plan import Edge, EdgeKind, Plan, PlanNode
from headrace.core.rules import runs_after_success
from headrace.core.slots import Const, EachConst, EachOf, How, Ref, Slot, Slotted, build, follow
from headrace.core.task import Policy
from headrace.execution.values import Values


class Source(Protocol):
    """Where arguments come from: the execution of a batch."""

    values: Values

    def children(self, node: int) -> list[Any]:
        """The list of all children's values of a mapped node."""

    def item(self, node: int, child: int) -> Any:
        """One child's value of a mapped node."""

    def flat(self, node: int, path: tuple[Any, ...], mapped: bool) -> list[Any]:
        """The elements of the elements of a node's value."""


Getter = Callable[[Source, int], Any]


class LoadedNode:
    """A node of the plan, ready to be called."""

    __slots__ = ("args", "function", "inputs", "kwargs", "measures", "picky", "policy", "spec")

    def __init__(self, plan: Plan, spec: PlanNode) -> None:
        task = plan.tasks[spec.task]
        self.function: Callable[..., Any] = task.function
        self.policy: Policy = task.policy
        self.picky = not runs_after_success(task.policy.trigger)
        self.spec = spec
        self.inputs: tuple[Edge, ...] = spec.inputs
        self.args = tuple([_getter(plan, slot, spec.inputs) for slot in spec.args])
        self.kwargs = {key: _getter(plan, slot, spec.inputs) for key, slot in spec.kwargs.items()}
        self.measures = spec.measures


class LoadedPlan:
    """A plan on a worker. Nodes are made ready at their first use."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._nodes: list[LoadedNode | None] = [None] * len(plan.nodes)

    def name_of(self, index: int) -> str:
        """A node's name."""
        return self.plan.nodes[index].name

    def __getitem__(self, index: int) -> LoadedNode:
        node = self._nodes[index]
        if node is None:
            node = self._nodes[index] = LoadedNode(self.plan, self.plan.nodes[index])
        return node


def _getter(plan: Plan, slot: Slot, inputs: tuple[Edge, ...]) -> Getter:
    """Turn a slot into ``f(execution, child) -> argument``."""
    if isinstance(slot, Ref):
        whole = slot.how is How.WHOLE and not slot.path and not plan.nodes[slot.node].mapped
        return _whole_getter(slot.node) if whole else _ref_getter(plan, slot, inputs)
    if isinstance(slot, Const):
        return _const_getter(slot.value)
    return _other_getter(plan, slot, inputs)


def _whole_getter(node: int) -> Getter:
    return lambda execution, child: execution.values[node][0]


def _const_getter(value: Any) -> Getter:
    return lambda execution, child: value


def _other_getter(plan: Plan, slot: Slot, inputs: tuple[Edge, ...]) -> Getter:
    match slot:
        case EachConst(values):
            return lambda execution, child: values[child]
        case EachOf(items):
            getters = [_getter(plan, item, inputs) for item in items]
            return lambda execution, child: getters[child](execution, 0)
        case Slotted(items=items):
            inner = [_getter(plan, item, inputs) for item in items]
            return lambda execution, child: build(slot, [get(execution, child) for get in inner])
        case _:
            raise AssertionError(f"an unbound slot reached execution: {slot!r}")


def _ref_getter(plan: Plan, ref: Ref, inputs: tuple[Edge, ...]) -> Getter:
    node, path, how = ref
    mapped = plan.nodes[node].mapped
    if how is How.FLAT:
        return lambda execution, child: execution.flat(node, path, mapped)[child]
    if how is How.EACH and mapped:
        return lambda execution, child: execution.values[node][child]
    if how is How.EACH:
        return lambda execution, child: follow(execution.values[node][0], path)[child]
    if mapped and EdgeKind.ITEM in {edge.kind for edge in inputs if edge.source == node}:
        item, rest = path[0], path[1:]
        return lambda execution, child: follow(execution.item(node, item), rest)
    if mapped:
        return lambda execution, child: follow(execution.children(node), path)
    return lambda execution, child: follow(execution.values[node][0], path)
