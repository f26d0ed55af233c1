"""The real machine and the real execution loop, on a virtual cluster, against a naive interpreter."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, Phase, given, settings

from headrace.core.batching import GRAIN, PATIENCE
from headrace.core.dispatcher import TOGETHER
from headrace.core.gangs import SPAN
from headrace.core.noderun import NO_BATCH
from headrace.core.plan import EdgeKind, Plan, PlanNode, edge_children
from headrace.core.policy import Policy
from headrace.core.rules import CLEANUP, TRIGGERS
from headrace.core.state import State
from headrace.errors import FlowError
from headrace.execution.watchdog import LOOK
from tests.core.reference import interpret
from tests.core.simulation import Cluster, NodePlan, World, draw_graph, plain, replay

policies = st.builds(
    Policy,
    name=st.just("t"),
    retries=st.sampled_from((0, 0, 0, 1, 2)),
    retry_delay=st.sampled_from((0.0, 0.0, 0.5)),
    trigger=st.one_of(st.just("all_successful"), st.sampled_from(sorted(TRIGGERS))),
    skip_on_upstream_skip=st.sampled_from((True, True, False)),
)
kinds = st.sampled_from(
    ("each", "each", "each", "whole", "each_const", "nested", "item", "flat", "each_of", "const", "state")
)
picks = st.integers(0, 4)
nodes = st.builds(
    NodePlan,
    args=st.lists(st.tuples(kinds, picks), min_size=1, max_size=3).map(tuple),
    upstream=st.lists(picks, max_size=1).map(tuple),
    returns_list=st.booleans(),
    width=st.sampled_from((3, 3, 3, 1, 0, 40)),
    policy=policies,
    strict=st.sampled_from((True, False)),
    gates=st.sampled_from(((), (), (), (0,), (1,), (0, 3))),
)
graphs = st.lists(nodes, min_size=1, max_size=10)
# Maps of several widths, and maps over several of them that stop at the shortest.
maps = st.builds(
    NodePlan,
    args=st.just((("each_const", 0),)),
    returns_list=st.booleans(),
    width=st.sampled_from((0, 1, 2, 5, 40)),
    policy=policies,
)
zips = st.builds(
    NodePlan,
    args=st.lists(
        st.tuples(st.sampled_from(("each", "each", "each_const", "flat")), picks), min_size=2, max_size=3
    ).map(tuple),
    width=st.sampled_from((1, 2, 5)),
    policy=policies,
    strict=st.just(False),
)
zipped = st.lists(st.one_of(maps, zips, zips, nodes), min_size=4, max_size=10)
# Each node takes values of some nodes that are 4 to 9 places back, so that about four can run at the same time.
singles = st.builds(
    NodePlan,
    args=st.lists(
        st.tuples(st.sampled_from(("whole", "whole", "nested")), st.integers(3, 8)), min_size=1, max_size=3
    ).map(tuple),
    policy=st.sampled_from(
        (Policy(name="t"),) * 8 + (Policy(name="u", retries=1), Policy(name="v", trigger="any_failed"))
    ),
)
coupled = st.lists(singles, min_size=30, max_size=80)
rates = st.sampled_from((0, 0, 60, 300))
worlds = st.builds(
    World,
    seed=st.integers(0, 1000),
    failing=rates,
    flaky=rates,
    skipping=st.sampled_from((0, 0, 60)),
    killing=st.sampled_from((0, 0, 0, 40)),
    large=st.sampled_from((0, 0, 200, 1000)),
    slow=st.sampled_from((1e-5, 1e-3, 3.0)),
)
thorough = settings(
    max_examples=300,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),  # a failing example is small enough, and shrinking takes a minute
)


def cluster_of(
    plans: list[NodePlan], world: World, *, shared: bool = False, **options: object
) -> tuple[Cluster, list] | None:
    try:
        graph, lists = draw_graph(plans, shared=shared)
        cluster = Cluster(graph, lists, world, **options)
    except FlowError:  # e.g. maps over constants of two lengths: refused when it is drawn
        return None
    return cluster, interpret(graph, lambda *args: world.call(lists, *args))


def decides(plan: Plan, node: PlanNode) -> bool:
    """Whether a node is returned, or nothing waits for it but clean-ups and what only comes after it."""
    asking = [edge for edge in node.outputs if edge.kind is not EdgeKind.AFTER]
    return node.returned or all(plan.policy(edge.target).trigger == CLEANUP for edge in asking)


def check(cluster: Cluster, expected: list) -> None:
    machine = cluster.run()
    assert [[State(state).label for state in run.states] for run in machine.nodes] == [
        [state.label for state in came.states] for came in expected
    ]
    for run, came in zip(machine.nodes, expected, strict=True):
        for child, holder in enumerate(run.holders):
            state = came.states[child]
            kept = cluster.stored[holder].get(run.spec.index, {}) if holder != NO_BATCH else {}
            if child in kept:
                assert plain(kept[child]) == plain(came.values[child])
            elif run.spec.returned and not run.spec.outputs:
                assert state is not State.SUCCESS, "a value that the flow returns was dropped"
            if state is State.SUCCESS or (state is State.FAILED and holder != NO_BATCH):
                assert run.attempts.get(child, 1) == came.attempts[child]
            assert state is not State.CRASHED or holder == NO_BATCH, "what crashed holds no value"
    assert all(stored.kept for stored in machine.ledger.stored.values()), "a value that nobody needs was kept"
    assert machine.state is (
        State.FAILED
        if any(
            state.is_failure
            for run, came in zip(machine.nodes, expected, strict=True)
            if decides(cluster.plan, run.spec)
            for state in came.states
        )
        else State.SUCCESS
    )


@thorough
@given(st.one_of(graphs, zipped), worlds, st.integers(1, 4))
def test_a_calm_cluster_gives_what_the_interpreter_gives(plans: list[NodePlan], world: World, threads: int) -> None:
    if (pair := cluster_of(plans, world, threads=threads)) is not None:
        check(*pair)


@thorough
@given(st.one_of(graphs, zipped), worlds, st.integers(0, 10_000))
def test_trouble_changes_nothing_but_the_time(plans: list[NodePlan], world: World, seed: int) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=True)) is not None:
        check(*pair)


#: Seconds that a ready task run may wait while a thread is free: the limit of a gang's batch that was to be short,
#: the watchdog's look, what the end of a gang may take, and messages both ways.
PATIENT = (PATIENCE - 1) * GRAIN + 1.5 * SPAN + LOOK + TOGETHER + 0.02


def ready_at(cluster: Cluster, node: int, child: int, batch: int) -> float:
    """When all that a task run of a batch waits for was there, or known not to come."""
    latest = 0.0
    for edge in cluster.plan.nodes[node].inputs:
        children = edge_children(edge, child, len(cluster.machine.nodes[edge.source].states))
        for index in children or (0,):
            if (span := cluster.spans.get((edge.source, index))) is None:  # it did not run, as was seen at once
                latest = max(latest, ready_at(cluster, edge.source, index, batch))
            else:  # values are there for others when the batch that made them is over
                before, _, end = span
                latest = max(latest, end if before == batch else cluster.told[before])
    return latest


@thorough
@given(st.one_of(graphs, coupled), st.sampled_from((1e-2, 0.3, 3.0)), st.integers(0, 10_000), st.integers(2, 4))
def test_nobody_waits_long_while_a_thread_is_free(plans: list[NodePlan], slow: float, seed: int, threads: int) -> None:
    plans = [replace(plan, policy=Policy(name=plan.policy.name)) for plan in plans]
    pair = cluster_of(plans, World(seed=seed, slow=slow), shared=seed % 2 == 0, seed=seed, threads=threads)
    if pair is None:
        return
    cluster, _ = pair
    cluster.run()
    for (node, child), (batch, began, _) in cluster.spans.items():
        ready = ready_at(cluster, node, child, batch)
        for since, *until in cluster.idle:
            waits = min([began, *until]) - max(ready, since)
            assert waits <= PATIENT, f"{(node, child)} was ready at {ready}, and began at {began}"


GANGS: Counter[bool] = Counter()  # by whether there was trouble: how many were formed


@thorough
@given(
    coupled,
    st.builds(replace, worlds, slow=st.sampled_from((4e-3, 1e-2, 1e-2, 3.0)), failing=st.sampled_from((0, 0, 0, 30))),
    st.integers(0, 10_000),
    st.integers(2, 4),
    st.booleans(),
)
def test_gangs_change_nothing_but_the_time(
    plans: list[NodePlan], world: World, seed: int, threads: int, trouble: bool
) -> None:
    pair = cluster_of(plans, world, shared=True, seed=seed, threads=threads, trouble=trouble)
    assert pair is not None
    check(*pair)
    GANGS[trouble] += pair[0].gangs


def test_gangs_were_formed() -> None:
    assert min(GANGS[True], GANGS[False]) > 10


@thorough
@given(graphs, worlds, st.integers(0, 10_000))
def test_recorded_events_replay_to_the_same_commands(plans: list[NodePlan], world: World, seed: int) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=True)) is not None:
        cluster, _ = pair
        cluster.run()
        assert replay(cluster) == cluster.answers
