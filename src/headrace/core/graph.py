"""Graphs: what a flow function drew. Plain data, with the checks that make it a flow."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any

from headrace.core.canonical import options_text, quoted, text_of
from headrace.core.drawing import CURRENT
from headrace.core.naming import check_map_target
from headrace.core.node import Node, ParameterNode, flatten, unmapped
from headrace.core.policy import Policy
from headrace.core.secret import Secret
from headrace.core.slots import (
    PLAIN,
    Const,
    EachConst,
    EachOf,
    How,
    ParameterRef,
    Ref,
    SecretRef,
    Slot,
    Slotted,
    bind_parameter,
    build,
    concatenated,
    constant,
    contains_placeholder,
    placeholders,
    refs,
    replace,
    secrets,
    slot_of,
    spread,
)
from headrace.core.task import Task
from headrace.errors import FlowError


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
    strict : bool
        Whether what it maps over must be of one length.
    gates : tuple of int
        Nodes that must have succeeded for it to run, whatever its trigger says.
    after : tuple of int
        Nodes that must be over first, however they end.
    """

    name: str
    task: Task[..., Any]
    args: tuple[Slot, ...]
    kwargs: dict[str, Slot]
    upstream: tuple[int, ...]
    mapped: bool
    strict: bool = True
    gates: tuple[int, ...] = ()
    after: tuple[int, ...] = ()

    def slots(self) -> Iterable[Slot]:
        """All arguments."""
        yield from self.args
        yield from self.kwargs.values()

    def sources(self) -> list[int]:
        """All nodes that it waits for, each once, in order."""
        found = {ref.node for slot in self.slots() for ref in refs(slot)}
        return sorted(found.union(self.upstream, self.gates, self.after))


@dataclass
class Graph:
    """A drawn flow: its nodes, and what it returns.

    Attributes
    ----------
    nodes : list of NodeSpec
        In the order of the calls that drew them.
    result : Slot
        What the flow returns.
    deciding : tuple of int, optional
        Which nodes decide whether a run succeeds. Default: those that are returned, and those that no other waits for.
    """

    nodes: list[NodeSpec] = field(default_factory=list)
    result: Slot = field(default=Const(None))
    deciding: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a result that must not leave a worker."""
        for secret in secrets(self.result):
            raise FlowError(
                f"the flow returns hr.Secret({secret.name!r}), whose text is for tasks only; return something else"
            )

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

    def roots(self) -> list[int]:
        """Nodes that wait for no other node."""
        return [index for index, node in enumerate(self.nodes) if not node.sources()]

    def find(self, *, name: str | None = None, tag: str | None = None) -> list[int]:
        """Nodes of a name and a tag.

        Parameters
        ----------
        name : str, optional
            Of the node, or of its task.
        tag : str, optional
            One of its task's tags.
        """
        return [
            index
            for index, node in enumerate(self.nodes)
            if (name is None or name in (node.name, node.task.name)) and (tag is None or tag in node.task.policy.tags)
        ]

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
            dataclasses.replace(
                node,
                args=tuple(map(bound, node.args)),
                kwargs={key: bound(slot) for key, slot in node.kwargs.items()},
            )
            for node in self.nodes
        ]
        return Graph(nodes, bound(self.result), self.deciding)

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
        told = {key: (json.dumps(task.qualified_name), options_text(task)) for key, task in tasks.items()}
        texts = []
        for node in self.nodes:
            origin, policy = told[id(node.task)]
            args = ", ".join([text_of(slot) for slot in node.args])
            kwargs = ", ".join([f"{quoted(key)}: {text_of(slot)}" for key, slot in node.kwargs.items()])
            mapped = "true" if node.mapped else "false"
            upstream = list(node.upstream)
            texts.append(f"[{quoted(node.name)}, {origin}, {mapped}, {upstream}, [{args}], {{{kwargs}}}, {policy}]")
            if node.gates or not node.strict:  # so that options that few nodes have change no other digest
                texts.append(f"[{list(node.gates)}, {str(node.strict).lower()}]")
            if node.after:
                texts.append(f"[after {list(node.after)}]")
        texts.append(text_of(self.result))
        if self.deciding is not None:
            texts.append(f"{list(self.deciding)}")
        return hashlib.sha256("".join(texts).encode()).hexdigest()


_FLATTEN = Task(concatenated, Policy(name="flatten"))


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
        self.deciding: set[int] | None = None
        self._cases: list[int] = []  # gates of the blocks that are being drawn, from the outside in
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
        strict = kwargs.pop("strict", True) if mapped else True
        task.check_call(args, kwargs)
        if task.secrets:
            left_out = task.secrets_left_out(args, kwargs)
            kwargs.update({name: unmapped(secret) if mapped else secret for name, secret in left_out.items()})
        to_slot = self._mapped_slot if mapped else self._plain_slot
        spec = NodeSpec(
            self.unique_name(task.policy.name),
            task,
            tuple([to_slot(task, position, value) for position, value in enumerate(args)]),
            {key: to_slot(task, key, value) for key, value in kwargs.items()} if kwargs else {},
            (),
            mapped,
            strict,
        )
        if mapped:
            self._check_mapped(spec)
        if self._cases:
            self._put_behind_gate(spec)
        self.nodes.append(spec)
        node = Node(self, len(self.nodes) - 1)
        if upstream is not None:
            self.add_upstream(node._index, upstream if isinstance(upstream, (list, tuple, set)) else (upstream,))
        return node

    @contextmanager
    def inner(self) -> Any:
        """Draw another flow within the ``with`` block, which does not say what decides of this one."""
        deciding = self.deciding
        try:
            yield
        finally:
            self.deciding = deciding

    @contextmanager
    def case(self, gate: int) -> Any:
        """Put what is drawn within the ``with`` block behind a gate."""
        self._cases.append(gate)
        try:
            yield
        finally:
            self._cases.pop()

    def _put_behind_gate(self, spec: NodeSpec) -> None:
        """Make a node wait for the innermost gate, unless it is skipped anyway if that is.

        So it is with a node that waits for another one of the block, and is skipped if that is skipped; a mapped node
        is not, for what it maps over may have failed outside of the block.
        """
        gate, policy = self._cases[-1], spec.task.policy
        resists = not policy.skip_on_upstream_skip or policy.trigger == "not_all_skipped" or spec.mapped
        if resists or all(source <= gate for source in spec.sources()):
            spec.gates = (*spec.gates, gate)

    def shared_sources(self, index: int) -> set[int]:
        """Return what all children of a mapped node need; if that does not succeed, none of them runs."""
        found: set[int] = set()
        todo = [index]
        for index in todo:
            spec, policy = self.nodes[index], self.nodes[index].task.policy
            found.update(spec.gates)
            strong = policy.trigger == "all_successful" and policy.skip_on_upstream_skip
            found.update(spec.upstream if strong else ())
            for slot in spec.slots():
                for ref in refs(slot):
                    mapped, item = self.nodes[ref.node].mapped, ref.path and type(ref.path[0]) is int
                    spread = isinstance(slot, Ref) and ref.how is not How.WHOLE
                    if spread and ref.how is How.EACH and mapped:
                        todo += [ref.node] if ref.node not in todo else []
                    elif spread or (strong and not (mapped and item)):  # one child may have failing siblings
                        found.add(ref.node)
        return found

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
        if isinstance(value, flatten):
            return self._spread(self._flattened_once(value.value, what), what, How.FLAT)
        return self._spread(value, what, How.EACH)

    def _flattened_once(self, value: Any, what: str) -> Any:
        """Concatenate what stands in an inner ``flatten``; if that is known at run time only, by a node."""
        if not isinstance(value, flatten):
            return value
        inner = self._flattened_once(value.value, what)
        self._check_own(what, inner)
        later = contains_placeholder(inner)
        return self.add_call(_FLATTEN, (inner,), {}, mapped=False) if later else concatenated(inner)

    def _spread(self, value: Any, what: str, how: How) -> Slot:
        self._check_own(what, value)
        return spread(value, what, how)

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
        if spec.task.policy.target is not None:
            known = [len(slot[0]) for slot in spec.slots() if isinstance(slot, (EachConst, EachOf))]
            if min(known, default=2) > 1:
                arguments: list[tuple[int | str, Slot]] = [*enumerate(spec.args), *spec.kwargs.items()]
                check_map_target(
                    spec.task.policy, spec.task.signature, [key for key, slot in arguments if spread(slot)]
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

    def begin_block(self, node: Node) -> Node:
        """What is drawn from now on, until ``end_block``, begins after a node."""
        return node

    def end_block(self, block: Node, node: Node) -> None:
        """Make a node come after all that was drawn in a block, without asking how that ended."""
        begin, end = block._index, node._index
        for index in range(begin + 1, end):
            if all(source < begin for source in self.nodes[index].sources()):
                self.add_upstream(index, (block,))
        spec = self.nodes[end]
        spec.after = tuple(sorted({*spec.sources(), *range(begin + 1, end)} - {begin}))

    def include(self, graph: Graph, arguments: Mapping[str, Any]) -> Any:
        """Inline a graph that was built by hand; its parameters take the given values or nodes."""
        shift = len(self.nodes)
        for name, value in arguments.items():
            self._check_own(f"parameter {name!r}", value)

        def change(ref: Ref | ParameterRef) -> Slot:
            return ref._replace(node=ref.node + shift) if isinstance(ref, Ref) else bind_parameter(ref, arguments)

        for node in graph.nodes:
            args = tuple(constant(replace(slot, change)) for slot in node.args)
            kwargs = {key: constant(replace(slot, change)) for key, slot in node.kwargs.items()}
            upstream = tuple(source + shift for source in node.upstream)
            gates = tuple(source + shift for source in node.gates)
            after = tuple(source + shift for source in node.after)
            name = self.unique_name(node.task.name)
            spec = NodeSpec(name, node.task, args, kwargs, upstream, node.mapped, node.strict, gates, after)
            if self._cases:
                self._put_behind_gate(spec)
            self.nodes.append(spec)
        self._backward = True  # the built graph may say so, and its numbers were shifted
        return self.unslot(replace(graph.result, change))

    def unslot(self, slot: Slot) -> Any:
        """Turn a slot back into what a flow function may hold: nodes and plain values."""
        match slot:
            case Ref(node, path):
                return Node(self, node, path)
            case ParameterRef(name, path):
                return ParameterNode(self, name, path)
            case SecretRef(name):
                return Secret(name)
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
        graph = Graph(self.nodes, slot_of(result), None if self.deciding is None else tuple(sorted(self.deciding)))
        if self._backward:
            graph.order()
        return graph


def draw(
    flow_name: str, function: Callable[..., Any], parameters: Mapping[str, Any], *, may_be_empty: bool = False
) -> Graph:
    """Call a flow function with real parameter values and return the graph that it draws.

    Parameters
    ----------
    flow_name : str
        For messages.
    function : callable
        The flow function.
    parameters : mapping
        One value per parameter.
    may_be_empty : bool
        Whether it may draw no node.
    """
    drawing = GraphDrawing()
    with drawing.active():
        result = function(**parameters)
    return drawing.finish(flow_name, result, may_be_empty=may_be_empty)
