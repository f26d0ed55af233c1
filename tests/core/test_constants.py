"""Large constants in a plan are numbers, wherever they stand."""

from __future__ import annotations

import pickle

import headrace as hr
from headrace.core.constants import constants_of, extract, numbers_by_node
from headrace.core.events import Dispatch
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.slices import split
from headrace.core.slots import Const, ConstSent, Slotted
from headrace.core.strips import Strip

MOST = 1_000
LONG = list(range(2_000))


@hr.task
def take(*args, **kwargs):
    return args


def measure(value):
    data = pickle.dumps(value)
    return len(data), data


def extracted(function):
    plan = split(make_plan(draw("f", function, {})), lambda values: len(pickle.dumps(values)), MOST)
    return extract(plan, measure, MOST)


def test_small_constants_stay_where_they_are():
    plan = make_plan(draw("f", lambda: take(1, "a", [1, 2], key={"b": None}), {}))
    assert extract(plan, measure, MOST) is plan


def test_each_is_there_once_however_often_it_is_given():
    text = "x" * 5_000
    plan = extracted(lambda: [take(text, LONG), take(LONG, key=list(LONG)), take.map([1, 2], hr.unmapped(text))])
    assert plan.constants == [text, LONG]
    assert [node.args[:2] for node in plan.nodes[:2]] == [(ConstSent(0), ConstSent(1)), (ConstSent(1),)]
    assert plan.nodes[1].kwargs == {"key": ConstSent(1)}
    assert plan.nodes[2].args[1] == ConstSent(0)
    assert numbers_by_node(plan) == {0: (0, 1), 1: (1,), 2: (0,)}


def test_containers_are_taken_apart_where_a_part_is_large():
    plan = extracted(lambda: take({"a": [LONG, 1], "b": 2}, ["y" * 600, "z" * 600], [take(1), LONG]))
    whole, medium, mixed = plan.nodes[1].args
    assert whole == Slotted(dict, (Slotted(list, (ConstSent(0), Const(1))), Const(2)), ("a", "b"))
    assert medium == ConstSent(1)  # large only as a whole
    assert mixed.items[1] == ConstSent(0)
    assert plan.constants == [LONG, ["y" * 600, "z" * 600]]


def test_containers_are_looked_into_to_some_depth():
    deep = LONG
    for _ in range(20):
        deep = [deep]
    plan = extracted(lambda: [take(deep), take(deep)])
    assert len(plan.constants) == 1
    assert numbers_by_node(plan) == {0: (0,), 1: (0,)}


def test_large_elements_of_a_list_that_is_mapped_over_go_by_themselves():
    texts = [letter * 5_000 for letter in "abc"] + ["short"] * 3
    plan = extracted(lambda: take.map(texts))
    machine = RunMachine(plan, threads=2)
    orders = [command for command in machine.start(0.0) if isinstance(command, Dispatch)]
    assert {number for order in orders for number in order.constants} <= {0, 1, 2}
    for order in orders:
        brought = [value for parts in order.slices.values() for _, values in parts for value in values]
        assert [value.number for value in brought if type(value) is ConstSent] == list(order.constants)
        assert "a" * 5_000 not in brought


def test_a_batch_needs_what_its_nodes_take():
    strips = [Strip((0, 2), 0, 1), Strip((1,), 3, 5)]
    slices = {(1, 0): [(3, ["x", ConstSent(4)])]}
    assert constants_of({0: (1,), 2: (1, 2), 5: (3,)}, strips, slices) == (1, 2, 4)


def test_they_do_not_travel_with_the_plan():
    plan = extracted(lambda: take(LONG))
    there = pickle.loads(pickle.dumps(plan.nodes))
    assert there[0].args == (ConstSent(0),)
    assert len(pickle.dumps(plan.__reduce__()[1][1])) < 200
