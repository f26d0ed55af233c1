"""Costs that earlier runs told, true and false, on the virtual cluster."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import pytest
from hypothesis import given

from headrace.core.batching import GRAIN
from headrace.core.costs import means_of, prior_of
from headrace.core.events import Dispatch, HandedBack
from headrace.core.graph import GraphDrawing
from headrace.core.policy import Policy
from headrace.core.strips import count
from headrace.core.task import Task
from tests.core.drawn import NodePlan, noop
from tests.core.simulation import Cluster, World, replay
from tests.core.test_machine_simulated import check, cluster_of, graphs, thorough, worlds

#: Seconds that a batch may run before its rest goes elsewhere, and what messages and looks take on top.
A_LIE_COSTS = 3 * GRAIN
lies = st.sampled_from((0.0, 1e-9, 1e-3, 0.1, 10.0, 1e3, 1e9))


@dataclass(frozen=True)
class Alike(World):
    """Task runs that take a time of the same order each, or just the same."""

    mean: float = 0.1
    spread: bool = True

    def seconds(self, node: int, child: int) -> float:
        return self.mean * (0.5 + self.draw("seconds", node, child) / 1000 if self.spread else 1.0)


def mapped(width: int, world: World, threads: int) -> Cluster:
    drawing = GraphDrawing()
    with drawing.active():
        node = Task(noop, Policy(name="t")).map(list(range(width)))
    return Cluster(drawing.finish("mapped", node), set(), world, threads=threads)


def sizes(cluster: Cluster) -> list[int]:
    """How many task runs each batch got, in the order of dispatch."""
    return [
        count(command.strips) for commands in cluster.answers for command in commands if isinstance(command, Dispatch)
    ]


def handed_back(cluster: Cluster) -> int:
    return sum(isinstance(event, HandedBack) for _, events in cluster.recording for event in events)


def test_a_second_run_of_coarse_tasks_begins_with_single_ones():
    world = Alike(mean=0.1, spread=False)
    first = mapped(40, world, threads=2)
    first.run()
    assert sizes(first)[:2] == [20, 20]
    assert handed_back(first) > 0

    second = mapped(40, world, threads=2)
    tasks = second.plan.tasks
    second.machine.costs.prior = prior_of(tasks, means_of(first.plan.tasks, first.machine.nodes))
    second.run()
    assert sizes(second) == [1] * 40
    assert handed_back(second) == 0


@thorough
@given(
    st.sampled_from((1e-5, 1e-3, 1e-2, 0.1, 3.0)),
    st.sampled_from((1, 7, 40, 300)),
    st.sampled_from((1, 2, 4, 16)),
    st.integers(0, 1000),
    lies,
)
def test_a_lie_costs_no_more_than_one_batch(mean: float, width: int, threads: int, seed: int, factor: float) -> None:
    world = Alike(seed=seed, mean=mean)
    untold, told = (mapped(width, world, threads) for _ in range(2))
    untold.run()
    told.machine.costs.prior = {0: factor * mean}
    told.run()
    luck = max(world.seconds(0, child) for child in range(width))  # another order of long ones, another end
    assert told.now <= untold.now + luck + A_LIE_COSTS


@thorough
@given(graphs, worlds, st.integers(0, 10_000), st.lists(lies, min_size=1, max_size=10))
def test_lies_change_nothing_but_the_time(plans: list[NodePlan], world: World, seed: int, told: list[float]) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=True)) is not None:
        cluster, expected = pair
        cluster.machine.costs.prior = dict(enumerate(told))
        check(cluster, expected)
        assert replay(cluster) == cluster.answers


@pytest.mark.parametrize("told", [0.0, 1e-6, 1e-3, GRAIN / 10])
def test_what_is_believed_too_long_is_handed_back(told: float):
    world = Alike(mean=3.0)
    cluster = mapped(20, world, threads=2)
    cluster.machine.costs.prior = {0: told}
    cluster.run()
    naps = [world.seconds(0, child) for child in range(20)]
    assert handed_back(cluster) > 0
    assert cluster.now < sum(naps) / 2 + max(naps) + A_LIE_COSTS
