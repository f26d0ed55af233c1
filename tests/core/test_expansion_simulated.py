"""Task runs that go on as flows, on the virtual cluster, against the naive interpreter."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given, settings

from headrace.core.noderun import NO_BATCH
from headrace.core.rules import CLEANUP
from headrace.core.state import State
from tests.core.reference import Came
from tests.core.simulation import Cluster, NodePlan, World, plain, replay
from tests.core.test_machine_simulated import cluster_of, coupled, nodes, policies, rates, thorough

# What clean-ups ask cannot go on as a flow, and of set-ups the world knows that by their names. So no others are asked.
nodes = nodes.map(
    lambda node: (
        replace(node, policy=replace(node.policy, trigger="all_finished")) if node.policy.trigger == CLEANUP else node
    )
)
# What is repeated has its last value upstream, but for a constant at the first turn; so its trigger is a plain one.
loops = st.builds(
    replace,
    nodes,
    loop=st.sampled_from(("task", "task", "map")),
    policy=st.builds(replace, policies, trigger=st.just("all_successful")),
)
holders = st.builds(replace, nodes, holds=st.sampled_from((1, 2)))
mixed = st.lists(st.one_of(nodes, nodes, loops, holders), min_size=1, max_size=8)
worlds = st.builds(
    World,
    seed=st.integers(0, 1000),
    failing=st.sampled_from((0, 0, 30, 100)),
    flaky=rates,
    skipping=st.sampled_from((0, 0, 60)),
    killing=st.sampled_from((0, 0, 0, 20)),
    large=st.sampled_from((0, 0, 200, 1000)),
    slow=st.sampled_from((1e-5, 1e-3, 3.0)),
    expanding=st.sampled_from((100, 400)),
    flows=st.lists(
        st.lists(st.one_of(nodes, nodes, loops, holders), min_size=1, max_size=4).map(tuple), min_size=1, max_size=3
    ).map(tuple),
)
fairly_thorough = settings(thorough, max_examples=80)
SEEN: Counter[str] = Counter()


def check(cluster: Cluster, expected: list[Came]) -> None:
    machine = cluster.run()
    inside: dict[str, Came] = {}
    for came in expected:
        inside.update(came.inside)
    joined = [run for run in machine.nodes[machine.drawn :] if not run.spec.hidden]
    named = {run.spec.name: run for run in joined}
    assert len(named) == len(joined), "a flow joined the run twice"
    assert set(named) == set(inside)
    pairs = [*zip(machine.nodes, expected, strict=False), *((named[name], came) for name, came in inside.items())]
    for run, came in pairs:
        assert [State(state).label for state in run.states] == [state.label for state in came.states], run.spec.name
        for child, holder in enumerate(run.holders):
            kept = cluster.stored[holder].get(run.spec.index, {}) if holder != NO_BATCH else {}
            if child in kept:
                assert plain(kept[child]) == plain(came.values[child])
            elif run.spec.returned and not run.spec.outputs:
                assert came.states[child] is not State.SUCCESS, "a value that the flow returns was dropped"
            if came.states[child] is State.SUCCESS:
                assert run.attempts.get(child, 1) == came.attempts[child]
    SEEN["flows"] += len(machine.ledger.makers)
    SEEN["turns"] += sum(machine.expansions.turns.values())
    SEEN["lost"] += cluster.vanished


@fairly_thorough
@given(mixed, worlds, st.integers(1, 4))
def test_a_calm_cluster_gives_what_the_interpreter_gives(plans: list[NodePlan], world: World, threads: int) -> None:
    if (pair := cluster_of(plans, world, threads=threads)) is not None:
        check(*pair)


@fairly_thorough
@given(mixed, worlds, st.integers(0, 10_000))
def test_trouble_changes_nothing_but_the_time(plans: list[NodePlan], world: World, seed: int) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=True)) is not None:
        check(*pair)


@fairly_thorough
@given(coupled, worlds, st.integers(0, 10_000), st.booleans())
def test_gangs_change_nothing_but_the_time(plans: list[NodePlan], world: World, seed: int, trouble: bool) -> None:
    pair = cluster_of(plans, world, shared=True, seed=seed, threads=3, trouble=trouble)
    assert pair is not None
    check(*pair)


@fairly_thorough
@given(mixed, worlds, st.integers(0, 10_000))
def test_recorded_events_replay_to_the_same_commands(plans: list[NodePlan], world: World, seed: int) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=True)) is not None:
        cluster, _ = pair
        cluster.run()
        assert replay(cluster) == cluster.answers


@fairly_thorough
@given(mixed, worlds, st.integers(0, 10_000), st.sampled_from((0.002, 0.1, 1.0)))
def test_a_cancel_settles_everything_at_once(plans: list[NodePlan], world: World, seed: int, at: float) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=True, cancels=(at,))) is not None:
        machine = pair[0].run()
        assert all(State(state).is_final for run in machine.nodes for state in run.states)
        late = [event for _, _, event, _ in pair[0].arrivals if event is not None]
        number = len(machine.nodes)
        assert machine.handle(pair[0].now + 10, late) == []
        assert len(machine.nodes) == number


def test_there_were_flows_and_losses() -> None:
    assert SEEN["flows"] > 300
    assert SEEN["turns"] > 300
    assert SEEN["lost"] > 30
