"""The plan as a worker holds it: each argument slot is a small function that fetches the argument.

Slots are turned into functions once, at a node's first use, so that executing a task run walks nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from headrace.code.bundle import Bundle
from headrace.core.plan import Edge, EdgeKind, Measure, Plan, PlanNode, TaskRun, plain
from headrace.core.policy import Policy
from headrace.core.rules import runs_after_success
from headrace.core.secret import Secret
from headrace.core.slots import (
    Const,
    ConstSent,
    EachConst,
    EachOf,
    EachSent,
    How,
    Ref,
    SecretRef,
    Slot,
    Slotted,
    build,
    element,
    follow,
)
from headrace.core.state import State
from headrace.core.task import Task
from headrace.execution.children import Children
from headrace.execution.context import named
from headrace.execution.drawn import drawing
from headrace.execution.interrupt import Control
from headrace.execution.kept import kept
from headrace.execution.limits import limited
from headrace.execution.prints import printing
from headrace.execution.secrets import resolve
from headrace.execution.values import PASSING, Values


class Source(Protocol):
    """Where arguments come from: the execution of a batch."""

    plan: LoadedPlan
    values: Values
    control: Control
    odd: dict[tuple[int, int], State]
    slices: dict[tuple[int, int | str], dict[int, Any]]
    constants: Mapping[int, Any]

    def children(self, node: int) -> list[Any]:
        """The list of all children's values of a mapped node."""

    def item(self, node: int, child: int) -> Any:
        """One child's value of a mapped node."""

    def state(self, node: int, child: int) -> State:
        """In which state a task run ended."""

    def states(self, node: int) -> list[State] | State:
        """In which states the children of a mapped node ended; one state, if it could not be mapped."""

    def flat(self, node: int, path: tuple[Any, ...], mapped: bool) -> list[Any]:
        """The elements of the elements of a node's value."""


Getter = Callable[[Source, int], Any]

#: What calls of tasks are wrapped in, the innermost first; each returns the call as it is if a task does not need it.
#: Calls of ``async def`` tasks return coroutines.
GUARDS: tuple[Callable[[Task[..., Any], Getter], Getter], ...] = (drawing, limited, printing, named)


class LoadedNode:
    """A node of the plan, ready to be called."""

    __slots__ = (
        "args", "awaits", "call", "function", "index", "kwargs", "measures", "number", "picky", "plain", "plan",
        "policy",
    )  # fmt: skip

    def __init__(self, plan: Plan, index: int) -> None:
        self.plan = plan
        self.index = index
        self.args: tuple[Getter, ...] = ()
        self.kwargs: dict[str, Getter] = {}
        self.measures: tuple[Measure, ...] = ()
        row = plain(plan.nodes, index)
        self.plain = row.args if row is not None else None
        self.number = row.task if row is not None else self.spec.task
        task = plan.tasks[self.number]
        self.function: Callable[..., Any] = task.function
        self.policy: Policy = task.policy
        self.awaits = task.is_async
        self.picky = not runs_after_success(task.policy.trigger)
        if row is None:
            self.args, self.kwargs = self.getters(Secret if task.policy.dynamic else resolve)
            self.measures = self.spec.measures
        #: fetches the arguments of a task run and calls the function, with all that its policy asks for
        self.call: Getter = self._call if task.bare else self._guarded(task)

    def _guarded(self, task: Task[..., Any]) -> Getter:
        call: Getter = self._call_apart if task.policy.isolated else self._await if self.awaits else self._listed
        for guard in GUARDS:
            call = guard(task, call)
        return kept(self, call)

    @property
    def spec(self) -> PlanNode:
        """The node in the plan."""
        return self.plan.nodes[self.index]

    @property
    def inputs(self) -> tuple[Edge, ...]:
        """What it waits for."""
        return self.spec.inputs

    @property
    def sources(self) -> Iterable[int]:
        """The nodes that it waits for."""
        if self.plain is not None:
            return [arg for arg in self.plain if type(arg) is int]
        return [edge.source for edge in self.inputs]

    def getters(self, secret: Callable[[str], Any]) -> tuple[tuple[Getter, ...], dict[str, Getter]]:
        """What fetches its arguments.

        Parameters
        ----------
        secret : callable
            Makes of a secret's name what stands in its place: the text, or, where that must not be known, the name.
        """
        plan, spec = self.plan, self.spec
        args = tuple([_getter(plan, slot, spec.inputs, secret) for slot in spec.args])
        return args, {key: _getter(plan, slot, spec.inputs, secret) for key, slot in spec.kwargs.items()}

    def _call_apart(self, source: Source, child: int) -> Any:
        args, kwargs = self.arguments(source, child)
        task = self.plan.tasks[self.number]
        return source.plan.children.call(source.control, self.number, task, args, kwargs)

    def arguments(self, source: Source, child: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What a task run is called with."""
        if self.plain is not None:
            values = source.values
            return tuple([values[arg][0] if type(arg) is int else arg[0] for arg in self.plain]), {}
        args = tuple([get(source, child) for get in self.args])
        return args, {key: get(source, child) for key, get in self.kwargs.items()}

    def _call(self, source: Source, child: int) -> Any:
        if self.plain is not None:
            values = source.values
            return self.function(*[values[arg][0] if type(arg) is int else arg[0] for arg in self.plain])
        return self.function(
            *[get(source, child) for get in self.args], **{key: get(source, child) for key, get in self.kwargs.items()}
        )

    def _listed(self, source: Source, child: int) -> Any:
        """Have a generator do its work within the guards; without any, ``Execution`` sees to it."""
        value = self._call(source, child)
        return value if type(value) not in PASSING else list(value)

    async def _await(self, source: Source, child: int) -> Any:
        value = await self._call(source, child)
        return value if type(value) not in PASSING else list(value)


class LoadedPlan(dict[int, LoadedNode]):
    """A plan on a worker: by number, its nodes. They are made ready at their first use.

    Parameters
    ----------
    plan : Plan
        As it travelled.
    older : LoadedPlan, optional
        The plan that it is joined to, whose nodes it shares.
    stand_for : dict of int to (int, int), optional
        By node: the task run whose value it makes.
    code : Bundle, optional
        The first-party code of its tasks.
    """

    def __init__(
        self,
        plan: Plan,
        older: LoadedPlan | None = None,
        stand_for: dict[int, TaskRun] | None = None,
        code: Bundle | None = None,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.older = older
        self.stand_for = stand_for or {}
        self.more: dict[int, Task[..., Any]] = {}  # tasks that came with batches, by number
        self.children: Children = Children(code) if older is None else older.children
        tasks = plan.tasks if older is None else older.more.values()
        #: whether there are coroutines in it
        self.awaits: bool = any(task.is_async for task in tasks) or (older is not None and older.awaits)

    def name_of(self, index: int) -> str:
        """A node's name, if the plan holds it: of newer ones, only batches that touch them know."""
        known = index < len(self.plan.nodes) or self.older is not None
        return self.plan.nodes[index].name if known else f"node {index}"

    def __missing__(self, index: int) -> LoadedNode:
        older = self.older
        node = self[index] = (
            LoadedNode(self.plan, index) if older is None or index >= len(self.plan.nodes) else older[index]
        )
        return node


def _getter(plan: Plan, slot: Slot, inputs: tuple[Edge, ...], secret: Callable[[str], Any]) -> Getter:
    """Turn a slot into ``f(execution, child) -> argument``."""
    match slot:
        case Ref():
            return _ref_getter(plan, slot, inputs)
        case Const(value):
            return lambda execution, child: value
        case ConstSent(number):
            return lambda execution, child: execution.constants[number]
        case EachSent():
            key = slot.node, slot.argument
            return lambda execution, child: execution.slices[key][child]
        case EachConst(values):
            return lambda execution, child: values[child]
        case EachOf(items):
            getters = [_getter(plan, item, inputs, secret) for item in items]
            return lambda execution, child: getters[child](execution, 0)
        case SecretRef(name):
            return lambda execution, child: secret(name)
        case Slotted(items=items):
            inner = [_getter(plan, item, inputs, secret) for item in items]
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
        return lambda execution, child: element(follow(execution.values[node][0], path), child)
    one = mapped and EdgeKind.ITEM in {edge.kind for edge in inputs if edge.source == node}
    if how is How.STATE:
        return _state_getter(node, path) if mapped and not one else _one_state_getter(node, path[0] if one else 0)
    if one:
        item, rest = path[0], path[1:]
        return lambda execution, child: _part(execution, (node, item), execution.item(node, item), rest)
    if mapped:
        return lambda execution, child: follow(execution.children(node), path)
    if not path:
        return lambda execution, child: execution.values[node][0]
    return lambda execution, child: _part(execution, (node, 0), execution.values[node][0], path)


def _part(execution: Source, key: tuple[int, int], value: Any, path: tuple[Any, ...]) -> Any:
    """A part of a value; of what stands in for a value there are no parts."""
    return value if key in execution.odd else follow(value, path)


def _one_state_getter(node: int, item: int) -> Getter:
    return lambda execution, child: execution.state(node, item)


def _state_getter(node: int, path: tuple[Any, ...]) -> Getter:
    def get(execution: Source, child: int) -> list[State] | State:
        states = execution.states(node)
        return states if isinstance(states, State) else follow(states, path[:1])

    return get
