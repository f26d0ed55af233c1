"""Large constants: each goes to the cluster once, and from there to the workers that need it.

A plan goes to every worker, and passes through the scheduler each time. So a constant that is large stands in it as a
number only (``ConstSent``), however many nodes it was given to; the order of a batch tells which numbers it needs,
and the executor brings them. That holds for what is large inside a list, a tuple or a dict, too, and for large
elements of a list that is mapped over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.core.plan import Plan, PlanNode
from headrace.core.slices import Slices
from headrace.core.slots import PLAIN, Const, ConstSent, EachOf, EachSent, Slot, Slotted
from headrace.core.strips import Strip

#: So many parts of a container are looked at one by one; a longer one is large or not as a whole.
_FEW = 1_000
#: Containers in containers are looked into down to this depth.
_DEEP = 5

#: Tells how many bytes a value is when it is pickled, and something that is equal for equal values.
Measure = Callable[[Any], tuple[int, Hashable]]


def extract(plan: Plan, measure: Measure, most: int) -> Plan:
    """Return a plan in which large constants are numbers; ``Plan.constants`` are they.

    Parameters
    ----------
    plan : Plan
        It is not changed. Its long lists are split off already (``core.slices``).
    measure : callable
        As ``Measure``.
    most : int
        Constants of more bytes than this are large.
    """
    extraction = _Extraction(measure, most)
    nodes = [
        replace(
            node,
            args=tuple(map(extraction.slot, node.args)),
            kwargs={name: extraction.slot(slot) for name, slot in node.kwargs.items()},
        )
        for node in plan.nodes
    ]
    return replace(plan, nodes=nodes, constants=extraction.constants) if extraction.constants else plan


class _Extraction:
    def __init__(self, measure: Measure, most: int) -> None:
        self.measure = measure
        self.most = most
        self.constants: list[Any] = []
        self._numbers: dict[Hashable, int] = {}
        self._measured: dict[int, tuple[int, Hashable]] = {}  # by identity: the plan keeps them all alive

    def slot(self, slot: Slot) -> Slot:
        if isinstance(slot, Const):
            return self._constant(slot)
        if isinstance(slot, (Slotted, EachOf)):
            return slot._replace(items=tuple(map(self.slot, slot.items)))
        if isinstance(slot, EachSent) and slot.size > self.most / _FEW:
            assert slot.values is not None
            values = [self._number(value) if self._is_large(value) else value for value in slot.values]
            return EachSent(slot.node, slot.argument, values, slot.size)
        return slot

    def _constant(self, slot: Const, depth: int = _DEEP) -> Slot:
        value = slot.value
        if not self._is_large(value, depth):
            return slot
        parts = _parts(value) if depth else ()
        if any(self._is_large(part, depth - 1) for part in parts):
            items = tuple(self._constant(Const(part), depth - 1) for part in parts)
            return Slotted(type(value), items, tuple(value) if type(value) is dict else None)
        return self._number(value)

    def _number(self, value: Any) -> ConstSent:
        number = self._numbers.setdefault(self._measure(value)[1], len(self.constants))
        if number == len(self.constants):
            self.constants.append(value)
        return ConstSent(number)

    def _is_large(self, value: Any, depth: int = _DEEP) -> bool:
        kind = type(value)
        if kind is str or kind is bytes:
            return len(value) > self.most
        if kind in PLAIN:
            return False
        # A part that is large says so at once, where it was looked at before.
        if depth and any(self._is_large(part, depth - 1) for part in _parts(value)):
            return True
        return self._measure(value)[0] > self.most

    def _measure(self, value: Any) -> tuple[int, Hashable]:
        found = self._measured.get(id(value))
        if found is None:
            found = self._measured[id(value)] = self.measure(value)
        return found


def _parts(value: Any) -> Collection[Any]:
    """What is in a container that can be taken apart; nothing of others, and of long ones."""
    if type(value) not in (list, tuple, dict) or len(value) > _FEW:
        return ()
    return value.values() if type(value) is dict else value


def numbers_by_node(plan: Plan) -> dict[int, tuple[int, ...]]:
    """Return which large constants each node's task runs take all of; nodes that take none are left out.

    Parameters
    ----------
    plan : Plan
        As ``extract`` returned it.
    """
    return {node.index: numbers for node in plan.nodes if (numbers := numbers_of(node))}


def numbers_of(node: PlanNode) -> tuple[int, ...]:
    """Return which large constants a node's task runs take all of."""
    return tuple({number for slot in node.slots() for number in _numbers(slot)})


def _numbers(slot: Slot) -> Iterator[int]:
    if isinstance(slot, ConstSent):
        yield slot.number
    elif isinstance(slot, (Slotted, EachOf)):
        for item in slot.items:
            yield from _numbers(item)


def constants_of(by_node: Mapping[int, Sequence[int]], strips: Iterable[Strip], slices: Slices) -> tuple[int, ...]:
    """Return which large constants a batch needs.

    Parameters
    ----------
    by_node : mapping of int to sequence of int
        As ``numbers_by_node`` returned it.
    strips : iterable of Strip
        The batch.
    slices : Slices
        The parts of long lists that it brings.
    """
    found = {number for nodes, _, _ in strips for node in nodes for number in by_node.get(node, ())}
    for parts in slices.values():
        found.update(value.number for _, values in parts for value in values if type(value) is ConstSent)
    return tuple(sorted(found))
