from __future__ import annotations

import pytest

import headrace as hr
from headrace.core import batching
from headrace.core.batching import CRUMB, GRAIN, PACE, PATIENCE, TRIAL, budget_for, grow
from headrace.core.events import Dispatch, Progressed
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.noderun import NodeRun
from headrace.core.planning import make_plan
from headrace.core.ready import Queue
from headrace.core.state import State
from headrace.core.strips import Strip, count


@hr.task
def a(*values):
    return 1


@hr.task
def b(*values):
    return 1


@hr.task
def c(*values):
    return 1


@hr.task(max_running=3)
def limited(*values):
    return 1


def ready_to_grow(function, costs: dict[str, float], threads: int = 1, suspects=None, told=None):
    """The first batch of a flow whose tasks' costs are known, what is left of what was ready, and the limit."""
    machine = RunMachine(make_plan(draw("f", function, {})), threads)
    machine.consequences.to_open.extend(range(len(machine.nodes)))
    machine.consequences.follow()
    for number, task in enumerate(machine.plan.tasks):
        if task.name in costs:
            machine.costs.learn(number, costs[task.name], 1)
    machine.costs.prior = {number: told[task.name] for number, task in enumerate(machine.plan.tasks) if told}
    machine.dispatcher.ready.arrange()
    (ready,) = machine.dispatcher.ready.queues.values()
    strips, limit = grow(ready, machine.nodes, machine.costs, threads, threads, suspects or {})
    return strips, limit, list(ready)


def test_unknown_tasks_are_tried_in_a_fair_share():
    strips, limit, rest = ready_to_grow(lambda: a.map(list(range(10))), {}, threads=3)
    assert (strips, limit, rest) == ([Strip((0,), 0, 4)], TRIAL, [(0, 4, 10)])


def test_known_tasks_fill_the_grain():
    strips, limit, rest = ready_to_grow(lambda: a.map(list(range(100))), {"a": GRAIN / 10})
    assert (count(strips), limit, rest) == (10, PATIENCE * GRAIN, [(0, 10, 100)])


@pytest.mark.parametrize(
    ("told", "number", "limit"),
    [(10 * GRAIN, 1, PATIENCE * GRAIN), (GRAIN / 10, 10, PATIENCE * GRAIN), (GRAIN / 1000, 100, PATIENCE * GRAIN / 10)],
)
def test_what_earlier_runs_told_is_believed_within_a_limit_in_proportion(told, number, limit):
    strips, given, _ = ready_to_grow(lambda: a.map(list(range(100))), {}, told={"a": told})
    assert (count(strips), given) == (number, pytest.approx(max(TRIAL, limit)))


@pytest.mark.parametrize("width", [10, 1500])
def test_the_backlog_is_what_is_ready(width):
    def flow():
        return [a.map(list(range(width))), [b(number) for number in range(width)]]

    machine = RunMachine(make_plan(draw("f", flow, {})))
    assert machine.backlog() == ()
    machine.consequences.to_open.extend(range(len(machine.nodes)))
    machine.consequences.follow()
    machine.dispatcher.ready.arrange()
    machine.costs.learn(machine.plan.nodes[0].task, 2.0, 1)
    assert machine.backlog() == (((), pytest.approx(width * 2.0 + GRAIN), 2 * width),)


def test_little_work_is_spread_over_the_threads():
    strips, _, _ = ready_to_grow(lambda: a.map(list(range(8))), {"a": GRAIN / 10}, threads=4)
    assert count(strips) == 2


def test_many_threads_get_long_batches_so_that_they_can_be_supplied():
    threads = int(3 * GRAIN / PACE)
    flow, many = (lambda: a.map(list(range(100 * threads)))), 3 * GRAIN
    strips, limit, _ = ready_to_grow(flow, {"a": GRAIN / 10}, threads)
    assert (count(strips), limit) == (30, pytest.approx(PATIENCE * many))
    strips, limit, _ = ready_to_grow(flow, {}, threads)
    assert (count(strips), limit) == (100, pytest.approx(3 * TRIAL))


def test_few_threads_get_their_fair_share():
    assert budget_for(0.1, 8) == 0.1 / 8
    assert budget_for(100.0, 8) == GRAIN
    assert budget_for(0.001, 8) == CRUMB


@pytest.mark.parametrize("work", [1.0, 10.0, 100.0, 1_000.0])
def test_many_threads_are_handed_batches_that_are_done_soonest(work):
    def done(length):
        return work / length * PACE + length

    budget = budget_for(work, 10_000)
    assert work / 10_000 < budget < 10_000 * PACE
    assert all(done(budget) < done(budget * factor) for factor in (0.1, 0.5, 0.9, 1.1, 2.0, 10.0))


def test_a_range_of_millions_is_not_looked_at_for_each_batch(monkeypatch: pytest.MonkeyPatch):
    looked = []
    all_in = NodeRun.all_in
    monkeypatch.setattr(
        NodeRun, "all_in", lambda run, state, low, high: looked.append(high - low) or all_in(run, state, low, high)
    )
    strips, _, _ = ready_to_grow(lambda: b.map(a.map(list(range(10_000)))), {"a": GRAIN / 10, "b": GRAIN / 40})
    assert strips == [Strip((0, 1), 0, 8)]
    assert looked.count(10_000) == 1  # when it became ready
    assert sum(looked) <= 10_000 + 3 * 10


def test_a_coarse_task_is_alone():
    strips, _, rest = ready_to_grow(lambda: a.map([1, 2, 3]), {"a": 10 * GRAIN})
    assert (strips, rest) == ([Strip((0,), 0, 1)], [(0, 1, 3)])


def test_a_column_ends_where_it_would_be_longer_than_the_grain():
    def function():
        return c.map(b.map(a.map([1, 2, 3])))

    strips, _, _ = ready_to_grow(function, {"a": GRAIN / 4, "b": GRAIN / 4, "c": GRAIN})
    assert {strip.nodes for strip in strips} == {(0, 1)}


def test_an_unknown_task_with_a_known_follower():
    strips, limit, _ = ready_to_grow(lambda: b.map(a.map([1, 2, 3])), {"b": GRAIN / 4})
    assert (strips, limit) == ([Strip((0, 1), 0, 3)], TRIAL)


def test_a_diamond_of_maps_is_one_column():
    def function():
        top = a.map([1, 2])
        return c.map(b.map(top), a.map(top))

    strips, _, _ = ready_to_grow(function, {})
    (strip,) = strips
    assert (set(strip.nodes), strip.nodes[0], strip.nodes[-1]) == ({0, 1, 2, 3}, 0, 3)


def test_a_reduction_follows_when_all_that_it_waits_for_is_inside():
    def function():
        return b(a.map([1, 2, 3]), a())

    strips, _, rest = ready_to_grow(function, {})
    assert strips == [Strip((0,), 0, 3), Strip((1, 2), 0, 1)]
    assert rest == []


def test_a_reduction_does_not_follow_a_part():
    strips, _, _ = ready_to_grow(lambda: b(a.map(list(range(100)))), {"a": GRAIN / 10, "b": GRAIN / 10})
    assert {node for strip in strips for node in strip.nodes} == {0}


def test_known_and_unknown_tasks_do_not_share_a_batch():
    strips, limit, rest = ready_to_grow(lambda: [a.map([1, 2]), b.map([1, 2])], {"a": GRAIN / 100})
    assert (strips, limit, rest) == ([Strip((0,), 0, 2)], PATIENCE * GRAIN, [(1, 0, 2)])


def test_a_batch_is_never_longer_than_the_most(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(batching, "MOST", 5)
    strips, _, _ = ready_to_grow(lambda: b.map(a.map(list(range(100)))), {})
    assert 0 < count(strips) <= 5


def test_suspects_stay_among_themselves():
    def function():
        return [b(a.map([1, 2, 3])), c()]

    suspects = {(0, 0): 2, (0, 1): 2, (0, 2): 2}
    strips, limit, rest = ready_to_grow(function, {}, suspects=suspects)
    assert strips == [Strip((0,), 0, 1), Strip((0,), 1, 2)]
    assert limit == float("inf")
    assert rest[0] == (0, 2, 3)


def test_only_pending_children_join():
    machine = RunMachine(make_plan(draw("f", lambda: b.map(a.map([1, 2])), {})), 1)
    machine.consequences.to_open.extend((0, 1))
    machine.consequences.follow()
    machine.nodes[1].states[1] = State.RETRYING
    strips, _ = grow(Queue(machine.nodes, [(0, 0, 2)]), machine.nodes, machine.costs, 1, 1, {})
    assert strips == [Strip((0,), 0, 2)]


def test_what_is_out_counts_as_far_as_it_is_not_done_and_what_may_run_at_the_same_time_is_a_bound():
    machine = RunMachine(make_plan(draw("f", lambda: [a.map(list(range(100)))], {})))
    machine.threads = 2
    machine.costs.learn(0, GRAIN / 4, 1)
    batches = [command for command in machine.start(0.0) if isinstance(command, Dispatch)]
    assert machine.backlog() == (((), pytest.approx(100 * GRAIN / 4), 100),)
    machine.handle(0.1, [Progressed(batches[0].batch, 3)])  # two are done, and one is running
    assert machine.backlog() == (((), pytest.approx(98 * GRAIN / 4), 98),)
    few = RunMachine(make_plan(draw("f", lambda: [limited.map(list(range(100)))], {})))
    few.threads = 2
    few.start(0.0)
    assert few.backlog()[0].task_runs == 3
