from __future__ import annotations

import pytest

from headrace.core.costs import Costs


def test_unknown_until_something_ran():
    assert Costs(2).estimate(1) is None


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
