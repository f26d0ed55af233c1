"""What is ready, and how much work that is."""

from hypothesis import given
from hypothesis import strategies as st

import headrace as hr
from headrace.core.costs import Costs
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.ready import Queue


@hr.task
def a(*values):
    return 1


@hr.task
def b(*values):
    return 1


MACHINE = RunMachine(make_plan(draw("f", lambda: [a.map([1] * 9), b.map([1] * 9), a.map([1] * 9)], {})))
MACHINE.costs.learn(0, 0.25, 1)  # of a; nothing is known of b
segments = st.tuples(st.integers(0, 2), st.integers(0, 3), st.integers(4, 9))
steps = st.lists(st.tuples(st.sampled_from(["append", "appendleft", "take"]), segments, st.integers(1, 9)))


@given(steps)
def test_the_count_is_at_any_time_what_a_look_at_all_ranges_would_find(steps):
    queue = Queue(MACHINE.nodes)
    for step, segment, number in steps:
        if step != "take":
            getattr(queue, step)(segment)
        elif queue:
            _, low, high = queue.first
            queue.take(min(number, high - low))
        sizes = [(node, high - low) for node, low, high in queue]
        assert all(size > 0 for _, size in sizes)
        assert queue.waiting == sum(size for _, size in sizes)
        expected = sum(size * (100.0 if node == 1 else 0.25) for node, size in sizes)
        assert queue.seconds(MACHINE.costs, unknown=100.0) == expected


def test_what_is_taken_comes_from_the_front():
    queue = Queue(MACHINE.nodes, [(0, 0, 4), (1, 2, 5)])
    queue.take(3)
    assert list(queue) == [(0, 3, 4), (1, 2, 5)]
    queue.take(1)
    assert (list(queue), queue.first) == ([(1, 2, 5)], (1, 2, 5))


def test_what_is_not_known_counts_once_and_more_the_longer_the_first_lasts():
    costs = Costs(2)
    assert costs.demand(0, 100, 0.1) == 0.1
    costs.lasts(0, 3.0)
    costs.lasts(0, 2.0)
    assert [costs.demand(0, 100, 0.1), costs.demand(1, 100, 0.1)] == [300.0, 0.1]
    assert costs.estimate(0) is None  # batches are made as before
    costs.learn(0, 1.0, 2)
    costs.lasts(0, 9.0)  # a straggler says nothing of the others
    assert costs.demand(0, 100, 0.1) == 50.0
    assert Queue(MACHINE.nodes, [(0, 0, 4), (1, 2, 5)]).demand(MACHINE.costs, 0.1) == 1.0 + 0.1
