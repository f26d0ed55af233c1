from __future__ import annotations

import cloudpickle
import pytest

import headrace as hr
from headrace.core.graph import draw
from headrace.core.plan import Edge, EdgeKind, Measure, WidthFrom
from headrace.core.planning import make_plan
from headrace.errors import FlowError


@hr.task
def t(*values, key=None):
    return 1


def planned(function):
    return make_plan(draw("f", function, {}))


NODE, CHILD, ITEM = EdgeKind.NODE, EdgeKind.CHILD, EdgeKind.ITEM


@pytest.mark.parametrize(
    ("use", "kind", "data"),
    [
        (lambda a: t(a), NODE, True),
        (lambda a: t(a[-1]), NODE, True),
        (lambda a: t(a[0], a), NODE, True),
        (lambda a: t(a[0], upstream=a), NODE, True),
        (lambda a: t(1, upstream=a), NODE, False),
        (lambda a: t.map(a), CHILD, True),
        (lambda a: t.map(a, a), CHILD, True),
        (lambda a: t.map(a, upstream=a), NODE, True),
        (lambda a: t.map(a, hr.unmapped(a)), NODE, True),
        (lambda a: t.map(hr.unmapped(a), a), NODE, True),
        (lambda a: t.map(a, key=hr.unmapped([a])), NODE, True),
        (lambda a: t.map([1], hr.unmapped(a)), NODE, True),
        (lambda a: t.map([a, 5]), NODE, True),
        (lambda a: t.map(hr.flatten(a)), NODE, True),
    ],
)
def test_edges_from_a_mapped_node(use, kind, data):
    plan = planned(lambda: use(t.map([1, 2])))
    assert plan.nodes[1].inputs == plan.nodes[0].outputs == (Edge(0, 1, kind, data),)


def test_an_item_of_a_mapped_node_is_waited_for_alone():
    plan = planned(lambda: t(t.map([1, 2, 3])[2]))
    assert plan.nodes[1].inputs == plan.nodes[0].outputs == (Edge(0, 1, ITEM, True, 2),)
    plan = planned(lambda: (lambda a: t(a[0], a[2], a[0]["x"]))(t.map([1, 2, 3])))
    assert plan.nodes[1].inputs == (Edge(0, 1, ITEM, True, 0), Edge(0, 1, ITEM, True, 2))
    assert cloudpickle.loads(cloudpickle.dumps(plan)).nodes[1].inputs == plan.nodes[1].inputs


def test_a_map_over_a_single_node_waits_for_it_as_a_whole():
    assert planned(lambda: t.map(t())).nodes[1].inputs == (Edge(0, 1, NODE, True),)


@pytest.mark.parametrize(
    ("use", "widths", "origins", "measures"),
    [
        (lambda a, m: t(a), (1,), (), ()),
        (lambda a, m: t.map([1, 2, 3]), (3,), (), ()),
        (lambda a, m: t.map([a, m, 5, 6]), (4,), (), ()),
        (lambda a, m: t.map(a), (), (WidthFrom(0, 0),), (Measure((), False),)),
        (lambda a, m: t.map(a, a), (), (WidthFrom(0, 0), WidthFrom(0, 0)), (Measure((), False),)),
        (lambda a, m: t.map(a["x"], [1]), (1,), (WidthFrom(0, 0),), (Measure(("x",), False),)),
        (lambda a, m: t.map(hr.flatten(a)), (), (WidthFrom(0, 0),), (Measure((), True),)),
        (
            lambda a, m: t.map(a, hr.flatten(a)),
            (),
            (WidthFrom(0, 0), WidthFrom(0, 1)),
            (Measure((), False), Measure((), True)),
        ),
        (lambda a, m: t.map(m), (), (WidthFrom(1, None),), ()),
    ],
)
def test_widths(use, widths, origins, measures):
    plan = planned(lambda: use(t(), t.map([1, 2])))
    node = plan.nodes[2]
    assert (node.widths, node.widths_from, plan.nodes[0].measures) == (widths, origins, measures)


def test_each_child_of_a_map_that_is_flattened_reports_its_own_length():
    plan = planned(lambda: t.map(hr.flatten(t.map([1, 2]))))
    assert plan.nodes[0].measures == (Measure((), False),)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda m: t.map([1, 2], [1, 2, 3]), "different lengths: 2, 3"),
        (lambda m: t.map([1], [m, m]), "different lengths: 1, 2"),
        (lambda m: t.map(m["x"]), "an item of a mapped node; take the item in a task"),
        (lambda m: t.map(hr.flatten(m["x"])), "flattens an item of a mapped node"),
    ],
)
def test_maps_that_cannot_be(use, told):
    with pytest.raises(FlowError, match=told):
        planned(lambda: use(t.map([1, 2])))


def test_tasks_stand_once_however_many_nodes_call_them():
    other = t.with_options(retries=2)
    plan = planned(lambda: [t(), other(), t(), other()])
    assert plan.tasks == [t, other]
    assert [node.task for node in plan.nodes] == [0, 1, 0, 1]
    assert plan.policy(3).retries == 2


def test_returned_nodes_are_marked():
    def function():
        a, b, _ = t(), t(), t()
        return {"a": a, "part": [b[0]]}

    assert [node.returned for node in planned(function).nodes] == [True, True, False]


def test_a_plan_that_travelled_is_the_same():
    def function():
        a, m = t(1, "x", [2], key={"k": None}), t.map([1, 2, 3])
        b = t(a, a["k"][0], [a, (m, 5)], {"in": {a}}, upstream=m)
        c = t.map(m, [a, b, 7], hr.unmapped([m[1]]), hr.flatten(b["rows"]), upstream=[b])
        return {"c": c, "items": [m[0], (m[2], a)], "plain": 5}

    plan = planned(function)
    travelled = cloudpickle.loads(cloudpickle.dumps(plan))
    assert list(travelled.nodes) == plan.nodes
    assert [type(node.inputs[0].kind) for node in travelled.nodes if node.inputs] == [EdgeKind, EdgeKind]
    assert travelled.result == plan.result
    assert travelled.nodes[-1] is travelled.nodes[len(plan.nodes) - 1]
    assert travelled.nodes[1:3] == plan.nodes[1:3]
    with pytest.raises(IndexError):
        travelled.nodes[len(plan.nodes)]


def test_a_plan_travels_on_from_where_it_went():
    plan = planned(lambda: t(t(), t.map([1])))
    there = cloudpickle.loads(cloudpickle.dumps(cloudpickle.loads(cloudpickle.dumps(plan))))
    assert list(there.nodes) == plan.nodes
