"""Graphs: what a flow function drew. Plain data, with the checks that make it a flow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from graphlib import CycleError, TopologicalSorter
from typing import Any

from headrace.core.drawing import CURRENT
from headrace.core.node import Node, ParameterNode, flatten, unmapped
from headrace.core.slots import (
    PLAIN,
    Const,
    EachConst,
    EachOf,
    How,
    ParameterRef,
    Placeholder,
    Ref,
    Slot,
    Slotted,
    bind_parameter,
    build,
    constant,
    contains_placeholder,
    follow,
    mapped_constant,
    placeholders,
    refs,
    replace,
    slot_of,
)
from headrace.core.task import Task
from headrace.errors import FlowError

_quoted = json.encoder.encode_basestring_ascii


@dataclass(slots=True)
class NodeSpec:
    """One node as drawn.

    Attributes
    ----------
    name : str
        Unique within the graph.
    task : Task
        What it calls.
    args, kwargs : tuple and dict of Slot
        Its arguments.
    upstream : tuple of int
        Nodes that must be done first, without giving a value.
    mapped : bool
        Whether it has one child per element.
    """

    name: str
    task: Task[..., Any]
    args: tuple[Slot, ...]
    kwargs: dict[str, Slot]
    upstream: tuple[int, ...]
    mapped: bool

    def slots(self) -> Iterable[Slot]:
        """All arguments."""
        yield from self.args
        yield from self.kwargs.values()

    def sources(self) -> list[int]:
        """All nodes that it waits for, each once, in order."""
        found = {ref.node for slot in self.slots() for ref in refs(slot)}
        return sorted(found.union(self.upstream))


@dataclass
class Graph:
    """A drawn flow: its nodes, and what it returns.

    Attributes
    ----------
    nodes : list of NodeSpec
        In the order of the calls that drew them.
    result : Slot
        What the flow returns.
    """

    nodes: list[NodeSpec] = field(default_factory=list)
    result: Slot = field(default=Const(None))

    def __len__(self) -> int:
        return len(self.nodes)

    @property
    def names(self) -> list[str]:
        """The nodes' names."""
        return [node.name for node in self.nodes]

    def order(self) -> list[int]:
        """Node indices such that each comes after all that it waits for.

        Raises
        ------
        FlowError
            If there is a cycle; the message names its nodes.
        """
        sorter = TopologicalSorter({index: node.sources() for index, node in enumerate(self.nodes)})
        try:
            return list(sorter.static_order())
        except CycleError as error:
            ring = " → ".join(self.nodes[index].name for index in error.args[1])
            raise FlowError(f"the flow has a cycle, so none of its nodes could start: {ring}") from None

    def terminal(self) -> list[int]:
        """Nodes that no other node waits for."""
        used = {source for node in self.nodes for source in node.sources()}
        return [index for index in range(len(self.nodes)) if index not in used]

    def bind(self, parameters: Mapping[str, Any]) -> Graph:
        """Put parameter values where a graph built by hand refers to them."""

        def change(ref: Ref | ParameterRef) -> Slot:
            return ref if isinstance(ref, Ref) else bind_parameter(ref, parameters)

        def bound(slot: Slot) -> Slot:
            return constant(replace(slot, change))

        nodes = [
            NodeSpec(
                node.name,
                node.task,
                tuple(map(bound, node.args)),
                {key: bound(slot) for key, slot in node.kwargs.items()},
                node.upstream,
                node.mapped,
            )
            for node in self.nodes
        ]
        return Graph(nodes, bound(self.result))

    def describe(self) -> list[dict[str, Any]]:
        """Return the nodes as plain JSON data: name, task, mapped, upstream names."""
        names = self.names
        return [
            {
                "name": node.name,
                "task": node.task.name,
                "mapped": node.mapped,
                "upstream": [names[source] for source in node.sources()],
            }
            for node in self.nodes
        ]

    def digest(self) -> str:
        """Return a sha256 (hex) of the structure: tasks, their options, edges and plain constants.

        Constants other than plain data (numbers, strings, containers of them) enter with their type alone,
        because objects have no canonical form. Sets enter in sorted order.
        """
        tasks = {id(node.task): node.task for node in self.nodes}
        told = {key: (json.dumps(task.qualified_name), _options_text(task)) for key, task in tasks.items()}
        texts = []
        for node in self.nodes:
            origin, policy = told[id(node.task)]
            args = ", ".join([_text(slot) for slot in node.args])
            kwargs = ", ".join([f"{_quoted(key)}: {_text(slot)}" for key, slot in node.kwargs.items()])
            mapped = "true" if node.mapped else "false"
            upstream = list(node.upstream)
            texts.append(f"[{_quoted(node.name)}, {origin}, {mapped}, {upstream}, [{args}], {{{kwargs}}}, {policy}]")
        texts.append(_text(self.result))
        return hashlib.sha256("".join(texts).encode()).hexdigest()


def _text(slot: Slot) -> str:
    """A slot's canonical form as JSON; that of the most common slots is written directly, which is much quicker."""
    if isinstance(slot, Ref):
        node, path, how = slot
        if not path and how is How.WHOLE:
            return f'["Ref", {node}, ["tuple"], 0]'
    elif isinstance(slot, Const):
        value = slot.value
        if type(value) is int:
            return f'["Const", {value}]'
        if type(value) is str:
            return f'["Const", {_quoted(value)}]'
    return json.dumps(_canonical(slot))


def _options_text(task: Task[..., Any]) -> str:
    """A task's options other than defaults, so that options that future versions add change no digest."""
    options = ((field, getattr(task.policy, field.name)) for field in fields(task.policy))
    return json.dumps({field.name: _canonical(value) for field, value in options if value != field.default})


def _canonical(value: Any) -> Any:
    """Plain data that is equal for equal arguments, in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Ref, ParameterRef)):
        return [type(value).__name__, value[0], _canonical(value.path), int(value.how)]
    if isinstance(value, Slotted):
        return [value.kind.__name__, _canonical(value.items), _canonical(value.keys)]
    if isinstance(value, (Const, EachConst, EachOf)):
        return [type(value).__name__, _canonical(value[0])]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, (list, tuple)):
        items = value if PLAIN.issuperset(map(type, value)) else map(_canonical, value)
        return [type(value).__name__, *items]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(json.dumps(_canonical(item)) for item in value)]
    if isinstance(value, dict):
        return ["dict", *([_canonical(key), _canonical(item)] for key, item in value.items())]
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return ["named", f"{value.__module__}:{value.__qualname__}"]
    return ["object", f"{type(value).__module__}:{type(value).__qualname__}"]


def unique(names: dict[str, int], base: str) -> str:
    """Return ``base``, or the first of ``base-2``, ``base-3``, … that is not among the names; then it is."""
    count = names[base] = names.get(base, 0) + 1
    if count == 1:
        return base
    name = f"{base}-{count}"
    if name in names:
        return unique(names, base)
    names[name] = 1
    return name


class GraphDrawing:
    """A graph while it is drawn; tasks that are called meanwhile add nodes to it."""

    def __init__(self) -> None:
        self.nodes: list[NodeSpec] = []
        self._names: dict[str, int] = {}
        self._backward = False  # whether a node waits for a later one; without that there is no cycle

    @contextmanager
    def active(self) -> Any:
        """Receive the calls of tasks within the ``with`` block."""
        token = CURRENT.set(self)
        try:
            yield self
        finally:
            CURRENT.reset(token)

    def unique_name(self, base: str) -> str:
        """Return ``base``, or, if it is taken, the first of ``base-2``, ``base-3``, … that is free."""
        return unique(self._names, base)

    def add_call(self, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], *, mapped: bool) -> Node:
        """Add the node of a call and return it."""
        upstream = kwargs.pop("upstream", None)
        task.check_call(args, kwargs)
        to_slot = self._mapped_slot if mapped else self._plain_slot
        spec = NodeSpec(
            self.unique_name(task.policy.name),
            task,
            tuple([to_slot(task, position, value) for position, value in enumerate(args)]),
            {key: to_slot(task, key, value) for key, value in kwargs.items()} if kwargs else {},
            (),
            mapped,
        )
        if mapped:
            self._check_mapped(spec)
        self.nodes.append(spec)
        node = Node(self, len(self.nodes) - 1)
        if upstream is not None:
            self.add_upstream(node._index, upstream if isinstance(upstream, (list, tuple, set)) else (upstream,))
        return node

    def _plain_slot(self, task: Task[..., Any], where: int | str, value: Any) -> Slot:
        kind = type(value)
        if kind is Node and value._drawing is self:
            return Ref(value._index, value._path)
        if kind in PLAIN:
            return Const(value)
        if isinstance(value, (unmapped, flatten)):
            raise FlowError(
                f"task {task.name!r}: {type(value).__name__}(...) has a meaning in {task.name}.map(...) only"
            )
        self._check_own(f"task {task.name!r}", value)
        return slot_of(value)

    def _mapped_slot(self, task: Task[..., Any], where: int | str, value: Any) -> Slot:
        what = f"argument {where + 1 if isinstance(where, int) else repr(where)} of task {task.name!r}"
        if isinstance(value, unmapped):
            return self._plain_slot(task, where, value.value)
        how = How.FLAT if isinstance(value, flatten) else How.EACH
        return self.spread(value.value if isinstance(value, flatten) else value, what, how)

    def spread(self, value: Any, what: str, how: How) -> Slot:
        """Make the slot of a value that is mapped over."""
        self._check_own(what, value)
        if isinstance(value, Placeholder):
            return value._slot(how)
        if not contains_placeholder(value):
            return mapped_constant(value, what, how)
        if how is How.FLAT or not isinstance(value, (list, tuple)):
            raise FlowError(f"cannot map over {what}, a {type(value).__name__} with nodes inside; give a list of nodes")
        return EachOf(tuple(map(slot_of, value)))

    def _check_own(self, what: str, value: Any) -> None:
        """Refuse nodes and parameters of another flow: their numbers and names mean something else there."""
        for found in placeholders(value):
            if isinstance(found, (Node, ParameterNode)) and found._drawing is not self:
                raise FlowError(
                    f"{what} got {found!r}, which belongs to another flow; call that flow inside this one "
                    "and use what it returns"
                )

    def _check_mapped(self, spec: NodeSpec) -> None:
        def spread(slot: Slot) -> bool:
            if isinstance(slot, (Ref, ParameterRef)):
                return slot.how is not How.WHOLE
            return isinstance(slot, (EachConst, EachOf))

        if not any(map(spread, spec.slots())):
            raise FlowError(
                f"task {spec.task.name!r}.map(...) got nothing to map over: every argument is unmapped; "
                "call the task without .map"
            )

    def add_upstream(self, index: int, nodes: Iterable[Any]) -> None:
        """Make a node wait for others without receiving their values."""
        spec = self.nodes[index]
        for node in nodes:
            if not isinstance(node, Node) or node._drawing is not self:
                raise FlowError(
                    f"node {spec.name!r}: upstream must be nodes of the same flow, got {type(node).__name__}"
                )
        spec.upstream = tuple(sorted({*spec.upstream, *(node._index for node in nodes)}))
        self._backward = self._backward or (bool(spec.upstream) and spec.upstream[-1] >= index)

    def include(self, graph: Graph, arguments: Mapping[str, Any]) -> Any:
        """Inline a graph that was built by hand; its parameters take the given values or nodes."""
        shift = len(self.nodes)
        for name, value in arguments.items():
            self._check_own(f"parameter {name!r}", value)

        def change(ref: Ref | ParameterRef) -> Slot:
            if isinstance(ref, Ref):
                return ref._replace(node=ref.node + shift)
            if not contains_placeholder(arguments[ref.name]):
                return bind_parameter(ref, arguments)
            value = follow(arguments[ref.name], ref.path)
            return slot_of(value) if ref.how is How.WHOLE else self.spread(value, f"parameter {ref.name!r}", ref.how)

        for node in graph.nodes:
            args = tuple(constant(replace(slot, change)) for slot in node.args)
            kwargs = {key: constant(replace(slot, change)) for key, slot in node.kwargs.items()}
            upstream = tuple(source + shift for source in node.upstream)
            name = self.unique_name(node.task.name)
            self.nodes.append(NodeSpec(name, node.task, args, kwargs, upstream, node.mapped))
        self._backward = True  # the built graph may say so, and its numbers were shifted
        return self.unslot(replace(graph.result, change))

    def unslot(self, slot: Slot) -> Any:
        """Turn a slot back into what a flow function may hold: nodes and plain values."""
        match slot:
            case Ref(node, path):
                return Node(self, node, path)
            case ParameterRef(name, path):
                return ParameterNode(self, name, path)
            case Slotted(items=items):
                return build(slot, [self.unslot(item) for item in items])
            case _:
                assert isinstance(slot, Const)
                return slot.value

    def finish(self, flow_name: str, result: Any, *, may_be_empty: bool = False) -> Graph:
        """Check the drawing and return the graph.

        Raises
        ------
        FlowError
            If it is empty or has a cycle.
        """
        if not self.nodes and not may_be_empty:
            raise FlowError(f"flow {flow_name!r} drew no node: call at least one @hr.task inside it")
        self._check_own(f"the result of flow {flow_name!r}", result)
        graph = Graph(self.nodes, slot_of(result))
        if self._backward:
            graph.order()
        return graph


def draw(flow_name: str, function: Callable[..., Any], parameters: Mapping[str, Any]) -> Graph:
    """Call a flow function with real parameter values and return the graph that it draws.

    Parameters
    ----------
    flow_name : str
        For messages.
    function : callable
        The flow function.
    parameters : mapping
        One value per parameter.
    """
    drawing = GraphDrawing()
    with drawing.active():
        result = function(**parameters)
    return drawing.finish(flow_name, result)
