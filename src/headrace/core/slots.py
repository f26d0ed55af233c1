"""Arguments of a node as data: what is constant, what a task run will bring, and where it goes.

A call like ``load(rows, {"day": day, "pages": [a, b]})`` mixes nodes with plain values, at any depth of lists,
tuples, sets, dicts and dataclasses. ``slot_of`` turns such an argument into a *slot*, which a worker resolves
without walking anything again:

* ``Const``: a plain value, kept as it is.
* ``ConstSent``: a plain value that travels by itself, because it is large.
* ``Ref``: the value of a node. ``how`` says which: the ``WHOLE`` value (of a mapped node: the list of all its
  children's values), ``EACH`` (for a mapped call: the own child of a mapped node, the own element of a single
  value), ``FLAT`` (the own element of the concatenated elements), or, in place of the value, the ``STATE`` in which
  the node ended (of a mapped node: the list of its children's states).
* ``EachConst``: a constant sequence that is mapped over; ``EachOf``: a list with nodes inside that is mapped over.
* ``Slotted``: a container with other slots inside.
* ``SecretRef``: a text that is looked up where the task runs.
* ``ParameterRef``: a parameter of a flow that was built by hand; its value takes its place when a run starts.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, NamedTuple

from headrace.core.state import State
from headrace.errors import FlowError


class How(IntEnum):
    """Which part of a node's value an argument takes."""

    WHOLE = 0
    EACH = 1
    FLAT = 2
    STATE = 3


class Const(NamedTuple):
    """A plain value."""

    value: Any


class EachConst(NamedTuple):
    """A constant sequence of which each child takes its own element."""

    values: Sequence[Any]


class EachSent:
    """An ``EachConst`` whose values do not travel with it; each batch brings those that it needs (``core.slices``).

    Parameters
    ----------
    node : int
        Whose argument it is.
    argument : int or str
        The argument's position or name.
    values : sequence, optional
        All values; None where it has travelled.
    size : float
        Bytes of one value, on average.
    """

    __slots__ = ("argument", "node", "size", "values")

    def __init__(self, node: int, argument: int | str, values: Sequence[Any] | None = None, size: float = 0.0) -> None:
        self.node = node
        self.argument = argument
        self.values = values
        self.size = size

    def __reduce__(self) -> tuple[Any, ...]:
        return EachSent, (self.node, self.argument)


class ConstSent(NamedTuple):
    """A plain value that is large, so that it does not travel with the plan (``core.constants``)."""

    number: int


class Ref(NamedTuple):
    """The value of a node, then ``[key]`` for each key of the path."""

    node: int
    path: tuple[Any, ...] = ()
    how: How = How.WHOLE


class EachOf(NamedTuple):
    """A list with slots inside, of which each child takes its own element."""

    items: tuple[Slot, ...]


class ParameterRef(NamedTuple):
    """The value of a parameter, then ``[key]`` for each key of the path."""

    name: str
    path: tuple[Any, ...] = ()
    how: How = How.WHOLE


class SecretRef(NamedTuple):
    """The name of a text that a worker looks up when the task runs (``core.secret``)."""

    name: str


class Slotted(NamedTuple):
    """A container (``list``, ``tuple``, ``set``, ``dict``, or a dataclass) of slots.

    For a dict or a dataclass, ``keys`` are its keys or field names, in the order of ``items``.
    """

    kind: type
    items: tuple[Slot, ...]
    keys: tuple[Any, ...] | None = None


Slot = Const | ConstSent | EachConst | EachOf | EachSent | Ref | ParameterRef | SecretRef | Slotted

#: Types without parts. Most arguments are of these, and long constant lists hold nothing else: told by exact type,
#: a million of them are passed by in milliseconds.
PLAIN = frozenset({type(None), bool, int, float, str})


class Placeholder:
    """Base of what stands for a later value while a flow is drawn; see ``core.node``."""

    __slots__ = ()

    def _slot(self, how: How) -> Ref | ParameterRef | SecretRef:
        raise NotImplementedError


def contains_placeholder(value: object) -> bool:
    """Whether a placeholder is inside, at any depth of the containers that are looked into."""
    if isinstance(value, Placeholder):
        return True
    inside = parts(value)
    return not PLAIN.issuperset(map(type, inside)) and any(map(contains_placeholder, inside))


def placeholders(value: object) -> Iterator[Placeholder]:
    """All placeholders inside, at any depth of the containers that are looked into."""
    if isinstance(value, Placeholder):
        yield value
    inside = parts(value)
    if not PLAIN.issuperset(map(type, inside)):
        for part in inside:
            yield from placeholders(part)


def parts(value: object) -> Collection[Any]:
    """What is directly inside a container that is looked into; nothing for any other value."""
    if isinstance(value, (str, bytes, int, float)):  # quick, also for their subclasses
        return ()
    if isinstance(value, (list, tuple, set, frozenset)):
        return value
    if isinstance(value, dict):
        return (*value, *value.values())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, f.name) for f in dataclasses.fields(value) if f.init]
    return ()


def slot_of(value: object) -> Slot:
    """Turn an argument into a slot."""
    if type(value) in PLAIN:
        return Const(value)
    if isinstance(value, Placeholder):
        return value._slot(How.WHOLE)
    if not contains_placeholder(value):
        return Const(value)
    kind = type(value)
    if isinstance(value, dict):
        if any(map(contains_placeholder, value)):
            raise FlowError("a node cannot be a key of a dict: its value is not known yet; make the dict in a task")
        _refuse_subclass(kind, dict)
        return Slotted(dict, tuple(map(slot_of, value.values())), tuple(value))
    if isinstance(value, (list, tuple, set, frozenset)):
        if not hasattr(kind, "_fields"):
            _refuse_subclass(kind, list, tuple, set, frozenset)
        return Slotted(kind, tuple(map(slot_of, value)))
    fields = [f for f in dataclasses.fields(value) if f.init]  # type: ignore[arg-type]
    _refuse_forgetful(kind, {f.name for f in fields})
    items = tuple(slot_of(getattr(value, f.name)) for f in fields)
    return Slotted(type(value), items, tuple(f.name for f in fields))


def _refuse_subclass(kind: type, *plain: type) -> None:
    """Refuse a container that could not be made again from its items alone."""
    if kind not in plain:
        raise FlowError(
            f"a node stands inside a container of type {kind.__name__}, which cannot be filled in later; use a plain "
            f"{' or '.join(cls.__name__ for cls in plain if issubclass(kind, cls))}, or make it in a task"
        )


def _refuse_forgetful(kind: type, kept: set[str]) -> None:
    """Refuse a dataclass whose constructor takes what its instances do not keep (``InitVar``)."""
    taken = inspect.signature(kind).parameters.values()
    lost = [each.name for each in taken if each.default is each.empty and each.name not in kept]
    if lost:
        raise FlowError(
            f"a node stands inside a dataclass {kind.__name__}, which must be made again when the node's value is "
            f"known, and does not keep {', '.join(map(repr, lost))} that it was made with; make it in a task"
        )


def build(slotted: Slotted, items: Sequence[Any]) -> Any:
    """Make the container of a ``Slotted`` from resolved items."""
    kind = slotted.kind
    if slotted.keys is not None:
        pairs = zip(slotted.keys, items, strict=True)
        return dict(pairs) if kind is dict else kind(**dict(pairs))
    if hasattr(kind, "_fields"):  # a named tuple
        return kind(*items)
    return kind(items)


def follow(value: Any, path: tuple[Any, ...]) -> Any:
    """Apply ``[key]`` for each key of a path."""
    for key in path:
        value = value[key]
    return value


def refs(slot: Slot) -> Iterable[Ref]:
    """All references to nodes in a slot."""
    if isinstance(slot, Ref):
        return (slot,)
    if isinstance(slot, (Slotted, EachOf)):
        return [ref for item in slot.items for ref in refs(item)]
    return ()


def secrets(slot: Slot) -> Iterable[SecretRef]:
    """All references to secrets in a slot."""
    if isinstance(slot, SecretRef):
        return (slot,)
    if isinstance(slot, (Slotted, EachOf)):
        return [ref for item in slot.items for ref in secrets(item)]
    return ()


def replace(slot: Slot, change: Callable[[Ref | ParameterRef], Slot]) -> Slot:
    """Return the slot with each reference replaced."""
    if isinstance(slot, (Ref, ParameterRef)):
        return change(slot)
    if isinstance(slot, (Slotted, EachOf)):
        return slot._replace(items=tuple(replace(item, change) for item in slot.items))
    return slot


def constant(slot: Slot) -> Slot:
    """Fold a container that holds only constants into one constant."""
    if isinstance(slot, Slotted):
        items = tuple(map(constant, slot.items))
        if all(isinstance(item, Const) for item in items):
            return Const(build(slot, [item.value for item in items]))  # type: ignore[union-attr]
        return slot._replace(items=items)
    if isinstance(slot, EachOf):
        folded = tuple(map(constant, slot.items))
        if all(isinstance(item, Const) for item in folded):
            return EachConst([item.value for item in folded])  # type: ignore[union-attr]
        return EachOf(folded)
    return slot


def bind_parameter(ref: ParameterRef, values: Mapping[str, Any]) -> Slot:
    """Put a parameter's value where it is referred to."""
    try:
        value = follow(values[ref.name], ref.path)
    except (LookupError, TypeError) as error:
        keys = "".join(f"[{key!r}]" for key in ref.path)
        raise FlowError(
            f"the flow uses {ref.name}{keys}, which the given parameter {ref.name!r} does not have: "
            f"{type(error).__name__}: {error}"
        ) from error
    if ref.how is How.STATE:
        return value._slot(How.STATE) if isinstance(value, Placeholder) else Const(State.SUCCESS)
    return slot_of(value) if ref.how is How.WHOLE else spread(value, f"parameter {ref.name!r}", ref.how)


def spread(value: Any, what: str, how: How) -> Slot:
    """Make the slot of a value that is mapped over.

    Raises
    ------
    FlowError
        If the value is not something whose elements have an order.
    """
    if isinstance(value, Placeholder):
        return value._slot(how)
    if not contains_placeholder(value):
        return mapped_constant(value, what, how)
    if how is How.FLAT or not isinstance(value, (list, tuple)):
        raise FlowError(
            f"cannot map over {what}, a {type(value).__name__} with nodes or secrets inside; give a list of them"
        )
    return EachOf(tuple(map(slot_of, value)))


#: Types whose elements have no order, or that count as one value; and what to write instead.
NO_SEQUENCE: dict[type, str] = {
    str: "a string counts as one value; wrap it in a list, or in hr.unmapped(...) to give it to every child",
    bytes: "bytes count as one value; wrap them in a list, or in hr.unmapped(...)",
    set: "a set has no order; map over sorted(...)",
    frozenset: "a set has no order; map over sorted(...)",
    Mapping: "map over list(d.items()), or wrap it in hr.unmapped(...)",
    itertools.count: "it never ends; give a range",
    itertools.cycle: "it never ends; give a list",
    itertools.repeat: "wrap what it repeats in hr.unmapped(...)",
}
_NO_SEQUENCE = tuple(NO_SEQUENCE)


def is_sequence(value: Any) -> bool:
    """Whether a value can be mapped over; its elements then have an order, and ``element`` returns each."""
    if isinstance(value, (list, tuple)):
        return True
    # Of a table, iteration gives columns, an index gives a column, and the length is that of the rows.
    table = hasattr(value, "columns") and not hasattr(value, "to_list")
    return not isinstance(value, _NO_SEQUENCE) and not table and getattr(value, "ndim", 1) != 0


def length(value: Any, *, flat: bool = False) -> int:
    """Return how many elements a value has that is mapped over; with ``flat``, how many its elements have together.

    Raises
    ------
    TypeError
        If it cannot be mapped over.
    """
    if not is_sequence(value):
        raise TypeError(f"a {type(value).__name__} cannot be mapped over")
    return sum(map(length, value)) if flat else len(value)


def elements(value: Any, low: int, high: int) -> list[Any]:
    """Return some elements of a value that is mapped over, by their positions."""
    if hasattr(value, "to_list"):  # a column of a table: indexed by labels, and iteration gives Python's own numbers
        return list(getattr(value, "iloc", value)[low:high].to_list())
    return [value[position] for position in range(low, high)]


def element(value: Any, position: int) -> Any:
    """Return one element of a value that is mapped over."""
    if type(value) is not list and hasattr(value, "to_list"):
        return elements(value, position, position + 1)[0]
    return value[position]


def concatenated(parts: Iterable[Any]) -> list[Any]:
    """Return the elements of the elements.

    Raises
    ------
    FlowError
        If one of the parts cannot be mapped over.
    """
    found: list[Any] = []
    for part in _iterated(parts):
        found.extend(_iterated(part))
    return found


def _iterated(value: Any) -> Iterable[Any]:
    if not is_sequence(value) or not hasattr(value, "__iter__"):
        raise FlowError(f"cannot flatten a {type(value).__name__}; only lists and the like have elements")
    return value  # type: ignore[no-any-return]


def mapped_constant(value: Any, what: str, how: How = How.EACH) -> EachConst:
    """Make the slot of a constant that is mapped over.

    Raises
    ------
    FlowError
        If the value is not something whose elements have an order.
    """
    if not hasattr(value, "__iter__") or not is_sequence(value):
        hints = (hint for kind, hint in NO_SEQUENCE.items() if isinstance(value, kind))
        hint = next(hints, "give a list, or wrap it in hr.unmapped(...) to give it to every child")
        raise FlowError(f"cannot map over {what} of type {type(value).__name__}: {hint}")
    if how is How.FLAT:
        return EachConst(concatenated(value))
    return EachConst(value if isinstance(value, (list, tuple, range)) else list(value))
