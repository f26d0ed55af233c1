"""Long constant lists that are mapped over: each batch brings the part that it needs, instead of every worker all."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.core.graph import Graph
from headrace.core.plan import Plan
from headrace.core.slots import EachConst, EachSent, Slot
from headrace.core.strips import Strip

#: By node and argument (its position or name): parts of a list, each with the child that takes its first element.
Slices = dict[tuple[int, int | str], list[tuple[int, Sequence[Any]]]]


def split(plan: Plan, size_of: Callable[[Sequence[Any]], int], most: int) -> Plan:
    """Return a plan that travels without its long lists.

    Parameters
    ----------
    plan : Plan
        It is not changed.
    size_of : callable
        Gets a list that is mapped over, and returns its bytes.
    most : int
        Lists of more bytes than this do not travel with the plan.
    """
    nodes = list(plan.nodes)
    for node in plan.nodes if any(node.mapped for node in plan.nodes) else ():
        args = tuple(_sent(node.index, position, slot, size_of, most) for position, slot in enumerate(node.args))
        kwargs = {name: _sent(node.index, name, slot, size_of, most) for name, slot in node.kwargs.items()}
        nodes[node.index] = replace(node, args=args, kwargs=kwargs)
    return replace(plan, nodes=nodes)


def split_graph(graph: Graph, size_of: Callable[[Sequence[Any]], int], most: int) -> None:
    """Do the same with a graph whose nodes are to join a plan."""
    for index, node in enumerate(graph.nodes):
        if node.mapped:
            node.args = tuple(_sent(index, position, slot, size_of, most) for position, slot in enumerate(node.args))
            node.kwargs = {name: _sent(index, name, slot, size_of, most) for name, slot in node.kwargs.items()}


def _sent(node: int, argument: int | str, slot: Slot, size_of: Callable[[Sequence[Any]], int], most: int) -> Slot:
    if not isinstance(slot, EachConst) or isinstance(slot.values, range) or not slot.values:
        return slot
    size = size_of(slot.values)
    return EachSent(node, argument, slot.values, size / len(slot.values)) if size > most else slot


def slices_of(sent: Mapping[int, Sequence[EachSent]], strips: Iterable[Strip]) -> Slices:
    """Return what a batch brings.

    Parameters
    ----------
    sent : mapping of int to sequence of EachSent
        By node: its lists that do not travel with the plan.
    strips : iterable of Strip
        The batch.
    """
    found: Slices = {}
    for nodes, low, high in strips:
        for node in nodes:
            for slot in sent.get(node, ()):
                assert slot.values is not None
                found.setdefault((node, slot.argument), []).append((low, slot.values[low:high]))
    return found
