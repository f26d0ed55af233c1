from __future__ import annotations

import pytest

import headrace as hr
from headrace.core.costs import TINY, Costs, key_of, means_of, moved, prior_of
from headrace.core.graph import draw
from headrace.core.machine import RunMachine
from headrace.core.planning import make_plan
from headrace.core.state import State


@hr.task
def load(x):
    return x


@hr.task(name="sum")
def add(values):
    return sum(values)


def test_unknown_until_something_ran():
    costs = Costs(2)
    assert costs.estimate(1) is None
    assert not costs.measured(1)


def test_a_report_counts_for_half():
    costs = Costs(1)
    costs.learn(0, 4.0, 4)
    assert costs.estimate(0) == 1.0
    costs.learn(0, 300.0, 100)
    assert costs.estimate(0) == pytest.approx(2.0)


def test_a_task_run_that_still_runs_is_a_lower_bound():
    costs = Costs(1)
    costs.at_least(0, 5.0)
    assert costs.estimate(0) == 5.0
    costs.at_least(0, 2.0)
    assert costs.estimate(0) == 5.0


def test_a_prior_counts_until_the_first_measurement_and_no_longer():
    costs = Costs(2, {0: 1000.0})
    assert (costs.estimate(0), costs.estimate(1), costs.measured(0)) == (1000.0, None, False)
    costs.learn(0, 2.0, 2)
    assert (costs.estimate(0), costs.measured(0)) == (1.0, True)
    costs.learn(0, 3.0, 1)
    assert costs.estimate(0) == 2.0


def test_a_task_run_that_still_runs_refutes_only_a_lower_prior():
    costs = Costs(1, {0: 3.0})
    costs.at_least(0, 2.0)
    assert (costs.estimate(0), costs.measured(0)) == (3.0, False)
    costs.at_least(0, 5.0)
    assert (costs.estimate(0), costs.measured(0)) == (5.0, True)


def run_of(function) -> RunMachine:
    machine = RunMachine(make_plan(draw("f", function, {})))
    machine.start(0.0)
    return machine


def test_means_are_those_of_successful_task_runs():
    machine = run_of(lambda: add(load.map([1, 2, 3, 4])))
    mapped, added = machine.nodes
    mapped.states[:] = bytes([State.SUCCESS, State.FAILED, State.SUCCESS, State.CANCELLED])
    mapped.seconds[:] = type(mapped.seconds)("f", [1.0, 100.0, 2.0, 100.0])
    added.states[:] = bytes([State.TRIGGER_FAILED])
    assert means_of(machine.plan.tasks, machine.nodes) == {key_of(load): 1.5}


def test_nodes_of_one_task_share_a_mean_and_so_do_tasks_of_one_function_and_name():
    machine = run_of(lambda: [load(1), load(2), load.with_options(retries=3)(3)])
    assert len(machine.plan.tasks) == 2
    for run, seconds in zip(machine.nodes, (1.0, 2.0, 6.0), strict=True):
        run.states[0], run.seconds[0] = State.SUCCESS, seconds
    means = means_of(machine.plan.tasks, machine.nodes)
    assert means == {"tests.core.test_costs:load load": 3.0}
    assert prior_of(machine.plan.tasks, means) == {0: 3.0, 1: 3.0}


def test_another_flow_with_the_same_task_knows_it_and_a_renamed_one_does_not():
    kept = {key_of(load): 3.0, "gone:gone gone": 1.0}
    assert prior_of(run_of(lambda: add(load.map([1]))).plan.tasks, kept) == {0: 3.0}
    assert prior_of(run_of(lambda: load.with_options(name="other")(1)).plan.tasks, kept) == {}
    assert key_of(add) == "tests.core.test_costs:add sum"


@pytest.mark.parametrize(
    ("before", "now", "worth"),
    [
        ({}, {}, False),
        ({}, {"a": 1.0}, True),
        ({"a": 1.0}, {}, False),
        ({"a": 1.0, "b": 1.0}, {"a": 1.4}, False),
        ({"a": 1.0}, {"a": 1.6}, True),
        ({"a": 1.0}, {"a": 0.6}, True),
        ({"a": 1.0}, {"a": 0.7}, False),
        ({"a": 0.0}, {"a": TINY}, False),
        ({"a": 0.0}, {"a": 2 * TINY}, True),
    ],
)
def test_only_what_moved_is_worth_writing(before, now, worth):
    assert moved(before, now) is worth
