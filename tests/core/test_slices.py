from __future__ import annotations

import pickle
from array import array

import headrace as hr
from headrace.core.batching import LOADED
from headrace.core.events import Dispatch, Ended
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.slices import split
from headrace.core.slots import EachConst, EachSent


@hr.task
def add(x, y=1):
    return x + y


def plan_of(function, most):
    return split(make_plan(draw("f", function, {})), lambda values: 100 * len(values), most)


def test_only_long_lists_are_sent_apart():
    plan = plan_of(lambda: [add.map([1] * 10), add.map([2] * 11, y=[3] * 11), add.map(range(11))], 1_000)
    assert [type(slot) for node in plan.nodes for slot in node.slots()] == [EachConst, EachSent, EachSent, EachConst]
    assert [(slot.node, slot.argument) for slot in plan.nodes[1].slots()] == [(1, 0), (1, "y")]


def test_they_do_not_travel_with_the_plan():
    (slot,) = plan_of(lambda: add.map([1] * 100), 1_000).nodes[0].slots()
    arrived = pickle.loads(pickle.dumps(slot))
    assert (arrived.node, arrived.argument, arrived.values) == (0, 0, None)


def test_each_batch_brings_its_part_and_no_more_than_fits():
    count = 3 * LOADED // 100
    machine = RunMachine(plan_of(lambda: add.map(list(range(count))), 1_000))
    seen = []
    orders = [order for order in machine.start(0.0) if isinstance(order, Dispatch)]
    while orders:
        order = orders.pop(0)
        ((low, values),) = order.slices[0, 0]
        assert values == list(range(low, low + len(values)))
        assert 100 * len(values) <= LOADED
        (strip,) = order.strips
        assert (strip.low, strip.high) == (low, low + len(values))
        seen += values
        told = machine.handle(0.0, [Ended(order.batch, len(values), array("f", [1e-6]) * len(values))])
        orders += [order for order in told if isinstance(order, Dispatch)]
    assert machine.finished
    assert seen == list(range(count))
