"""The virtual cluster: what it simulates adds up."""

import json

import numpy as np
import pytest

import headrace as hr
from benchmarks import simulate
from benchmarks.virtual import Circumstances, VirtualCluster, critical_path, draw_durations
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.state import State


@hr.task
def t(*values):
    return 1


def test_the_critical_path_goes_along_all_kinds_of_edges():
    def function():
        first = t.map([1, 2])  # 1, 5
        second = t.map(first)  # 1 + 7, 5 + 2
        return t(second), t(second[1]), t()  # 8 + 1, 7 + 4, 3

    plan = make_plan(draw("f", function, {}))
    durations = [np.array(seconds, dtype=np.float32) for seconds in ([1, 5], [7, 2], [1], [4], [3])]
    assert critical_path(plan, durations) == 11


def test_durations_have_the_mean_and_the_spread_that_were_asked_for():
    plan = simulate.plan_of("wide", 200_000)
    seconds = np.concatenate(draw_durations(plan, Circumstances(mean=0.01, spread=0.5)))
    assert seconds.mean() == pytest.approx(0.01, rel=0.01)
    assert np.log(seconds).std() == pytest.approx(0.5, rel=0.01)


@pytest.mark.parametrize("flow", simulate.FLOWS)
@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0])
def test_each_task_run_is_executed_once_and_no_time_is_lost_or_won(flow, spread):
    plan, where = simulate.plan_of(flow, 2_000), Circumstances(threads=20, free_driver=True, spread=spread)
    durations = draw_durations(plan, where)
    clusters = [VirtualCluster(plan, durations, where) for _ in range(2)]
    first, second = (cluster.run() for cluster in clusters)
    work = sum(float(seconds.sum(dtype=float)) for seconds in durations)
    assert clusters[0].machine.state is State.SUCCESS
    assert first.worked == pytest.approx(work)
    assert first.makespan > max(work / 20, critical_path(plan, durations)) + 2 * where.latency
    assert first.idle >= 0
    assert (first.makespan, first.batches) == (second.makespan, second.batches)  # nothing but the driver is chance


def test_a_busy_driver_delays_the_run():
    plan, where = simulate.plan_of("wide", 2_000), Circumstances(threads=20, mean=1e-5)
    busy = VirtualCluster(plan, draw_durations(plan, where), where).run()
    assert busy.makespan > busy.machine + busy.messages


def test_simulations_in_small(tmp_path, capsys):
    file = tmp_path / "measured.json"
    simulate.main(["--quick", "--rounds", "2", "--profile", "--json", str(file)])
    found = json.loads(file.read_text())
    assert "core/machine.py" in capsys.readouterr().err
    assert len(simulate.table(found).splitlines()) == 4 + len(simulate.FLOWS)
    for shape in found["shapes"]:
        assert shape["tasks"] >= 9_999
        assert all(0 < share < 1 for share in shape["efficiency"] + shape["free"])
        assert all(cost > 0 for cost in shape["driver"])
