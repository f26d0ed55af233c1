from __future__ import annotations

from collections import OrderedDict, UserList, defaultdict
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest

from headrace.core.graph import GraphDrawing
from headrace.core.node import Node
from headrace.core.policy import Policy
from headrace.core.slots import (
    Const,
    EachConst,
    EachOf,
    How,
    ParameterRef,
    Ref,
    Slotted,
    bind_parameter,
    build,
    constant,
    contains_placeholder,
    follow,
    mapped_constant,
    placeholders,
    refs,
    slot_of,
)
from headrace.core.task import Task
from headrace.errors import FlowError


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass(frozen=True)
class Box:
    content: Any
    label: str = "box"
    size: int = field(default=0, init=False)


@pytest.fixture
def node() -> Node:
    drawing = GraphDrawing()
    return drawing.add_call(Task(lambda: None, Policy(name="t")), (), {}, mapped=False)


def resolve(slot: Any, value: Any) -> Any:
    """Fill in a value for every reference."""
    match slot:
        case Const(constant_value):
            return constant_value
        case Ref(path=path):
            return follow(value, path)
        case Slotted(items=items):
            return build(slot, [resolve(item, value) for item in items])
    raise AssertionError(slot)


CONTAINERS = {
    "alone": lambda x: x,
    "list": lambda x: [1, x],
    "tuple": lambda x: (x, 2),
    "set": lambda x: {x, 2},
    "frozenset": lambda x: frozenset({x}),
    "dict": lambda x: {"k": x, 3: "plain"},
    "named tuple": lambda x: Pair(x, 1),
    "dataclass": lambda x: Box(x, label="mine"),
    "deep": lambda x: [{"a": (Box([Pair(0, {"b": x})]),)}],
}


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_a_node_in_a_container_is_replaced_by_its_value(make, node):
    slot = slot_of(make(node))
    assert [ref.node for ref in refs(slot)] == [0]
    assert resolve(slot, "value") == make("value")
    assert type(resolve(slot, "value")) is type(make("value"))
    assert contains_placeholder(make(node))
    assert list(placeholders(make(node))) == [node]


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_a_container_without_nodes_stays_the_same_object(make):
    value = make("value")
    slot = slot_of(value)
    assert isinstance(slot, Const)
    assert slot.value is value
    assert not contains_placeholder(value)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda x: {x: 1}, "cannot be a key of a dict"),
        (lambda x: {(1, x): 1}, "cannot be a key of a dict"),
        (lambda x: OrderedDict(a=x), "OrderedDict.*use a plain dict"),
        (lambda x: defaultdict(list, a=x), "defaultdict.*use a plain dict"),
        (lambda x: type("Rows", (list,), {})([x]), "Rows.*use a plain list"),
    ],
)
def test_a_node_where_it_cannot_be_filled_in_is_refused(make, told, node):
    with pytest.raises(FlowError, match=told):
        slot_of(make(node))


def test_containers_of_constants_fold():
    slot = Slotted(list, (Const(1), Slotted(dict, (Const(2),), ("k",))))
    assert constant(slot) == Const([1, {"k": 2}])
    assert constant(EachOf((Const(1), Slotted(list, (Const(2),))))) == EachConst([1, [2]])
    half = Slotted(list, (Ref(0), Slotted(list, (Const(2),))))
    assert constant(half) == Slotted(list, (Ref(0), Const([2])))


@pytest.mark.parametrize(
    ("ref", "slot"),
    [
        (ParameterRef("p"), Const({"xs": [1, 2]})),
        (ParameterRef("p", ("xs",)), Const([1, 2])),
        (ParameterRef("p", ("xs", 1)), Const(2)),
        (ParameterRef("p", ("xs",), How.EACH), EachConst([1, 2])),
        (ParameterRef("q", (), How.FLAT), EachConst([1, 2, 3])),
    ],
)
def test_parameters_are_bound(ref, slot):
    assert bind_parameter(ref, {"p": {"xs": [1, 2]}, "q": [[1], [2, 3]]}) == slot


def test_a_part_that_a_parameter_does_not_have_is_named():
    with pytest.raises(FlowError, match=r"p\['xs'\]\[7\], which the given parameter 'p' does not have: IndexError"):
        bind_parameter(ParameterRef("p", ("xs", 7)), {"p": {"xs": []}})


@pytest.mark.parametrize("value", [[1, 2], (1, 2), range(1, 3), UserList([1, 2]), iter([1, 2]), {1: 0, 2: 0}.keys()])
def test_what_can_be_mapped_over(value):
    assert list(mapped_constant(value, "it").values) == [1, 2]


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("text", "a string counts as one value; wrap it in a list"),
        (b"raw", "bytes count as one value"),
        ({1, 2}, "a set has no order; map over sorted"),
        (frozenset({1}), "a set has no order"),
        ({"a": 1}, r"map over list\(d.items\(\)\)"),
        (5, "give a list, or wrap it in hr.unmapped"),
        (None, "give a list"),
    ],
)
def test_what_cannot_be_mapped_over(value, hint):
    with pytest.raises(FlowError, match=f"cannot map over it of type {type(value).__name__}: .*{hint}"):
        mapped_constant(value, "it")
