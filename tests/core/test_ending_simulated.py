"""Runs that end before they are done, on a virtual cluster: what was set up is cleaned up, and nothing is left."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
from hypothesis import given

from headrace.core.ending import GRACE
from headrace.core.policy import Policy
from headrace.core.rules import CLEANUP
from headrace.core.state import State
from tests.core.drawn import NodePlan
from tests.core.simulation import Cluster, World
from tests.core.test_machine_simulated import check, cluster_of, graphs, nodes, replay, thorough, worlds

after = st.lists(st.integers(0, 4), max_size=2).map(tuple)
holding = st.lists(
    st.builds(replace, nodes, holds=st.sampled_from((0, 0, 1, 2, 3, 8)), after=after), min_size=2, max_size=10
)
# Most of these get as far as to set up, and take so long that a cancel finds them at work.
simple = st.builds(
    NodePlan,
    args=st.tuples(st.tuples(st.sampled_from(("whole", "const", "const", "each_const", "each")), st.integers(0, 4))),
    width=st.sampled_from((1, 3, 40)),
    policy=st.sampled_from((Policy(name="t"), Policy(name="t"), Policy(name="u", retries=1, retry_delay=0.5))),
    holds=st.sampled_from((0, 1, 2, 3, 8)),
)
worked = st.lists(simple, min_size=2, max_size=10)
slow = st.builds(
    World,
    seed=st.integers(0, 1000),
    failing=st.sampled_from((0, 0, 60)),
    flaky=st.sampled_from((0, 60)),
    killing=st.sampled_from((0, 0, 40)),
    large=st.sampled_from((0, 200)),
    slow=st.sampled_from((1e-2, 3.0, 3.0)),
)
ending, worlds_too = st.one_of(holding, worked, worked, graphs), st.one_of(worlds, slow, slow)
times = st.sampled_from((0.0, 0.002, 0.01, 0.1, 0.3, 1.0, 4.0))
#: How clean-ups came to their ends, so that no test passes because there was nothing to see.
SEEN: Counter[str] = Counter()


@thorough
@given(holding, worlds, st.integers(0, 10_000), st.booleans())
def test_resources_give_what_the_interpreter_gives(plans: list, world: World, seed: int, trouble: bool) -> None:
    if (pair := cluster_of(plans, world, seed=seed, trouble=trouble)) is not None:
        check(*pair)


def asked(cluster: Cluster, index: int) -> list[State]:
    """How the upstream of a clean-up ended."""
    spec, nodes = cluster.plan.nodes[index], cluster.machine.nodes
    return [State(state) for edge in spec.inputs if edge.kind.name != "AFTER" for state in nodes[edge.source].states]


def check_end(cluster: Cluster, expected: list, state: State, told: float, again: float) -> None:
    machine = cluster.run()
    assert all(State(state).is_final for run in machine.nodes for state in run.states)
    if machine.state is not state:
        assert cluster.now <= told + 1, "it was done before it heard of it"
        return
    late = cluster.now >= min(told + GRACE, again)
    assert cluster.now <= min(told + GRACE, again) + 1
    for run, came in zip(machine.nodes, expected, strict=True):
        cleans = run.policy.trigger == CLEANUP
        due = cleans and not run.spec.mapped and set(asked(cluster, run.spec.index)) <= {State.SUCCESS}
        for child, at in enumerate(run.states):
            if cleans and not due and at in (State.SKIPPED, State.TRIGGER_FAILED):  # the latter by a gate
                SEEN["nothing to clean up"] += 1
            elif due and at == State.CANCELLED:
                assert late, "a clean-up that was due was not done"
                assert run.failures[child].type_name == "headrace.errors.NotCleanedUp"
                SEEN["no time"] += 1
            elif due and at == State.FAILED and at != came.states[child]:
                assert run.policy.retry_delay, "it failed because the next attempt would have come too late"
            elif at != State.CANCELLED:
                assert at == came.states[child]
                SEEN["cleaned up"] += due
    assert not cluster.live, "something was left with the executor"
    before = [bytes(run.states) for run in machine.nodes]
    assert machine.handle(cluster.now + 10, [event for _, _, event, _ in cluster.arrivals if _is_event(event)]) == []
    assert before == [bytes(run.states) for run in machine.nodes]
    assert replay(cluster) == cluster.answers


def _is_event(event: object) -> bool:
    return event is not None and not isinstance(event, tuple)


@thorough
@given(
    st.one_of(holding, worked, worked, graphs),
    st.one_of(worlds, slow, slow),
    st.integers(0, 10_000),
    times,
    st.none() | times,
)
def test_a_cancel_ends_all_and_cleans_up(plans: list, world: World, seed: int, at: float, more: float | None) -> None:
    cancels = [at] if more is None else [at, at + more]
    pair = cluster_of(plans, world, seed=seed, trouble=seed % 2 == 0, cancels=cancels)
    if pair is not None:
        check_end(*pair, State.CANCELLED, at, cancels[-1] if len(cancels) > 1 else float("inf"))


@thorough
@given(ending, worlds_too, st.integers(0, 10_000), times)
def test_a_run_out_of_time_ends_and_cleans_up(plans: list, world: World, seed: int, timeout: float) -> None:
    pair = cluster_of(plans, world, seed=seed, trouble=seed % 2 == 0, timeout=timeout + 1e-6)
    if pair is not None:
        check_end(*pair, State.TIMED_OUT, timeout, float("inf"))


def test_all_of_it_was_seen() -> None:
    assert min(SEEN["cleaned up"], SEEN["nothing to clean up"]) > 30, SEEN
