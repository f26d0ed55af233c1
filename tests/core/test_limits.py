"""How many task runs may run at the same time: never exceeded, nobody starved, whatever goes wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import headrace as hr
from headrace.core.events import Dispatch
from headrace.core.graph import draw
from headrace.core.limits import Placements, Room
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.policy import ANYWHERE, Placement
from tests.core import simulation
from tests.core.simulation import Cluster, World
from tests.core.test_machine_simulated import check, cluster_of, graphs

BY_TAG = {"db": 2, "api": 1}
limited = st.sampled_from(
    (
        {},
        {"max_running": 1},
        {"max_running": 3},
        {"tags": ("db",)},
        {"tags": ("db", "api")},
        {"tags": ("api",), "max_running": 2},
        {"tags": ("other",)},
        {"tags": ("db",), "priority": 1},
    )
)
quick = settings(max_examples=150, suppress_health_check=list(HealthCheck), phases=(Phase.explicit, Phase.generate))


def same(x):
    return x


nap = hr.task(name="nap")(same)


def most_at_once(spans: list[tuple[float, float]]) -> int:
    moments = sorted([(end, -1) for _, end in spans] + [(begin, 1) for begin, _ in spans])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


def exceeded(cluster: Cluster, by_tag: Mapping[str, int]) -> list[tuple[object, int]]:
    """Limits that were exceeded, with how many ran at the same time."""
    groups: dict[object, tuple[int, list[tuple[float, float]]]] = {}
    for node, began, end in cluster.history:
        policy = cluster.plan.policy(node)
        for tag in policy.tags:
            if tag in by_tag:
                groups.setdefault(tag, (by_tag[tag], []))[1].append((began, end))
        if policy.max_running:
            task = cluster.plan.nodes[node].task
            groups.setdefault(task, (policy.max_running, []))[1].append((began, end))
    return [(key, most) for key, (limit, spans) in groups.items() if (most := most_at_once(spans)) > limit]


@quick
@given(graphs, st.lists(limited, min_size=10, max_size=10), st.integers(0, 10_000), st.integers(1, 5), st.booleans())
def test_limits_are_kept_and_nothing_else_changes(plans, options, seed, threads, trouble):
    plans = [replace(plan, policy=replace(plan.policy, **more)) for plan, more in zip(plans, options, strict=False)]
    world = World(
        seed=seed, slow=0.3, failing=60 * (seed % 2), killing=40 * (seed % 3 == 0), large=200 * (seed % 5 == 0)
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "RunMachine", partial(RunMachine, limits=BY_TAG))
        pair = cluster_of(plans, world, seed=seed, threads=threads, trouble=trouble)
    if pair is None:
        return
    cluster, expected = pair
    check(cluster, expected)
    assert not exceeded(cluster, BY_TAG)


class Even(World):
    """Each task run takes 20 ms, more or less."""

    def seconds(self, node, child):
        return 0.02 * (0.5 + self.draw("seconds", node, child) / 1000)


def simulated(flow, threads, by_tag=None):
    """Run a flow on a virtual cluster; how long it took, and the cluster."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "RunMachine", partial(RunMachine, limits=by_tag or {}))
        cluster = Cluster(draw("f", flow, {}), set(), Even(), threads=threads)
    cluster.run()
    return cluster.now, cluster


def work(cluster: Cluster) -> float:
    return sum(end - began for _, began, end in cluster.history)


def test_as_many_run_as_may():
    gentle = nap.with_options(max_running=4)
    elapsed, cluster = simulated(lambda: gentle.map(list(range(2_000))), threads=8)
    assert most_at_once([(began, end) for _, began, end in cluster.history]) == 4
    assert elapsed < 1.15 * work(cluster) / 4


def test_what_is_limited_does_not_hold_up_the_rest():
    gentle = nap.with_options(max_running=1, name="gentle")
    elapsed, cluster = simulated(lambda: [gentle.map(list(range(200))), nap.map(list(range(1_000)))], threads=4)
    assert most_at_once([(began, end) for _, began, end in cluster.history]) == 4
    assert elapsed < 1.1 * work(cluster) / 4


def test_tasks_that_share_a_tag_take_turns():
    one = nap.with_options(tags=("db",), name="one")
    two = nap.with_options(tags=("db", "api"), name="two")
    limits = {"db": 2, "api": 2}
    _, cluster = simulated(lambda: [one.map(list(range(500))), two.map(list(range(500)))], 4, limits)
    assert not exceeded(cluster, limits)
    last = {node: max(end for each, _, end in cluster.history if each == node) for node in (0, 1)}
    assert abs(last[0] - last[1]) < 0.25 * max(last.values())


def test_what_needs_room_under_two_limits_gets_it():
    both = nap.with_options(tags=("a", "b"), name="both")
    one, two = nap.with_options(tags=("a",), name="one"), nap.with_options(tags=("b",), name="two")
    limits = {"a": 1, "b": 1}
    _, cluster = simulated(
        lambda: [one.map(list(range(500))), two.map(list(range(500))), both.map(list(range(50)))], 4, limits
    )
    assert not exceeded(cluster, limits)
    last = {node: max(end for each, _, end in cluster.history if each == node) for node in (0, 1, 2)}
    assert last[2] < min(last[0], last[1])


def test_a_limit_is_shared_by_tasks_of_one_function():
    many = [nap.with_options(max_running=2, priority=number % 2) for number in range(6)]
    plan = make_plan(draw("f", lambda: [task(number) for number, task in enumerate(many)], {}))
    found = Placements({}, plan.tasks)
    assert {placement.limits for placement in found} == {((0, 2),)}
    machine = RunMachine(plan, threads=8)
    orders = [command for command in machine.start(0.0) if isinstance(command, Dispatch)]
    assert len(orders) == 2


def test_tags_without_a_limit_change_nothing():
    plan = make_plan(draw("f", lambda: nap.with_options(tags=("a", "b"))(1), {}))
    assert Placements({}, plan.tasks) == [ANYWHERE]
    assert Placements({"b": 3}, plan.tasks)[0].limits == (("b", 3),)


def test_what_is_reserved_is_one_place_for_one_turn():
    room, both, one = Room(), Placement(limits=(("a", 3), ("b", 1))), Placement(limits=(("a", 3),))
    other = Placement(limits=(("b", 1),))
    room.take(other)
    assert room.left(both) == 0
    room.reserve(both)
    assert room.left(one) == 2
    assert list(room.in_turn({other: 1, one: 2})) == [(one, 2), (other, 1)]
    assert room.left(one) == 3
