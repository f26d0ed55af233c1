"""Graphs for the virtual cluster, drawn with the real authoring interface."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from headrace.core.flow import FlowDefinition
from headrace.core.graph import Graph, GraphDrawing
from headrace.core.loops import loop
from headrace.core.node import Ended, Node, flatten, unmapped
from headrace.core.policy import Policy
from headrace.core.rules import CLEANUP
from headrace.core.task import Task


@dataclass(frozen=True)
class NodePlan:
    """A node to draw; sources are counted from the newest node backwards, modulo what there is.

    It is the set-up of a resource if it ``holds`` some nodes that are drawn next.
    """

    args: tuple[tuple[str, int], ...]
    upstream: tuple[int, ...] = ()
    returns_list: bool = False
    width: int = 3
    policy: Policy = field(default_factory=lambda: Policy(name="t"))
    strict: bool = True
    gates: tuple[int, ...] = ()
    after: tuple[int, ...] = ()
    holds: int = 0

    def __repr__(self) -> str:
        """Only what is not usual: hypothesis prints hundreds of them."""
        usual = NodePlan(())
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        said = ", ".join(f"{name}={value!r}" for name, value in given.items() if value != getattr(usual, name))
        return f"NodePlan({said if self.args else f'args=(), {said}'})"

    loop: str = ""  # whether it is repeated: "task", or "map", a flow that maps the task over its value


def noop(*args: Any) -> None:
    """Stands in for every task's function; the world says what it does."""


def draw_graph(nodes: list[NodePlan], *, shared: bool = False) -> tuple[Graph, set[int]]:
    """Draw with the real authoring interface; also return which nodes return lists.

    With ``shared``, nodes of one policy are of one task, so that something is known of their cost when one ran.
    """
    drawing = GraphDrawing()
    with drawing.active():
        made, lists = draw_nodes(nodes, drawing, shared=shared)
    return drawing.finish("simulated", made[-1]), lists


def draw_nodes(nodes: Sequence[NodePlan], drawing: GraphDrawing, *, shared: bool) -> tuple[list[Node], set[int]]:
    """Draw into a drawing that is active; return the nodes, and which of them return lists."""
    made: list[Node] = []
    lists: set[int] = set()
    blocks: list[tuple[Node, int]] = []
    tasks: dict[Policy, Task] = {}
    for spec in nodes:
        task = tasks.setdefault(spec.policy, Task(noop, spec.policy)) if shared else Task(noop, spec.policy)
        if not made:
            spec = NodePlan((("const", 1),), (), spec.returns_list, spec.width, spec.policy)
        args, mapped = [], False
        for kind, pick in spec.args:
            source = made[-1 - pick % len(made)] if made else None
            value, spreads = argument(kind, source, made, pick, spec.width, drawing)
            args.append((value, spreads))
            mapped = mapped or spreads
        upstream = [made[-1 - pick % len(made)] for pick in spec.upstream] if made else []
        if spec.loop:
            made.append(repeated(spec, task, args, made, mapped=mapped))
            continue
        if mapped:
            values = [value if spreads else unmapped(value) for value, spreads in args]
            node = task.map(*values, upstream=upstream, strict=spec.strict)
        else:
            if spec.holds:  # a set-up: the world knows by the name that it cannot go on as a flow
                task = Task(noop, replace(spec.policy, name="s"))
            node = task(*(value for value, _ in args), upstream=upstream)
        drawing.nodes[-1].gates = tuple(sorted({len(made) - 1 - pick % len(made) for pick in spec.gates if made}))
        after = {made[-1 - pick % len(made)]._index for pick in spec.after} if made else set()
        drawing.nodes[-1].after = tuple(sorted(after.difference(drawing.nodes[-1].sources())))
        if spec.returns_list:
            lists.add(len(made))
        made.append(node)
        blocks = [(block, left - 1) for block, left in blocks]
        if spec.holds and not mapped:
            blocks.append((drawing.begin_block(node), spec.holds))
        while any(left <= 0 for _, left in blocks):
            close(drawing, blocks, made)
    while blocks:
        close(drawing, blocks, made)
    return made, lists


def close(drawing: GraphDrawing, blocks: list[tuple[Node, int]], made: list[Node]) -> None:
    """Draw the clean-up of the innermost resource."""
    block, _ = blocks.pop()
    node = Task(noop, Policy(name="c", trigger=CLEANUP, retries=1))(block)
    drawing.end_block(block, node)
    made.append(node)


MOST_TURNS = 3


def ends(value: Any) -> bool:
    """When loops are done."""
    return zlib.crc32(repr(plain(value)).encode()) % 4 == 0


def repeated(spec: NodePlan, task: Task, args: list[tuple[Any, bool]], made: list[Node], *, mapped: bool) -> Node:
    """Draw a loop, or a map of loops."""
    first, other = args[0][0], made[-1] if made else 5
    body, initial = task, first
    if spec.loop == "map":
        body = FlowDefinition("turn", lambda value: task.map(value))
        initial = [[other, 1], [2, 3]] if mapped else [other, 4]
    elif mapped and not args[0][1]:
        initial = [first, 7]
    draw = loop.map if mapped else loop
    return draw(body, initial, until=ends, most=MOST_TURNS, return_last=True)


def plain(value: Any) -> Any:
    """A value for comparison: exceptions by their type alone."""
    if isinstance(value, BaseException):
        return type(value).__name__
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return value


def argument(
    kind: str, source: Node | None, made: list[Node], pick: int, width: int, drawing: GraphDrawing
) -> tuple[Any, bool]:
    """An argument, and whether it is mapped over."""
    match kind:
        case "each_const":
            return list(range(width)), True
        case "const":
            return pick, False
        case _ if source is None:
            return pick, False
        case "whole":
            return source, False
        case "state":
            return Ended(source), False
        case "nested":
            return [pick, (source, 1)], False
        case "item":
            return source[pick % 4], False
        case "each":
            return source, True
        case "flat":
            return flatten(source), True
        case "each_of":
            return [made[-1 - (pick + more) % len(made)] for more in range(width)], True
    raise AssertionError(kind)
