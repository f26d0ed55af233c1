"""Flows that tasks return, and loops, on real clusters: deaths of workers, errors, what people see."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.errors import NoSuchWorker


@hr.task
def inc(x: int, by: int = 1) -> int:
    return x + by


@hr.flow
def up(n: int):
    return inc(inc(n), 10)


@hr.task
def plan(n: int) -> Any:
    return up.bind(n=n)


@hr.task
def kill_one(flag: str, pids: list[int]) -> list[int]:
    Path(flag).touch()
    os.kill(next(pid for pid in pids if pid != os.getpid()), signal.SIGKILL)
    return [0]


@hr.task
def total(_: int, *values: list[int]) -> int:
    return sum(map(sum, values))


def at_least_thirty(x: int) -> bool:
    return x >= 30


@hr.flow
def survivor(flag: str, pids: list[int]):
    values = plan.map(range(20))
    loops = hr.loop.map(inc, range(20), hr.unmapped(3), until=at_least_thirty)
    killed = kill_one(flag, pids, upstream=[values, loops])
    return total.map(killed, hr.unmapped(values), hr.unmapped(loops))


def test_values_of_flows_and_loops_that_died_with_a_worker_are_computed_again(tmp_path: Path) -> None:
    with hr.DaskEnvironment("local", n_workers=2, silence_logs=50) as environment:
        environment.setup(None)
        pids = list(environment.client.run(os.getpid).values())
        run = survivor.run(environment=environment, flag=str(tmp_path / "flag"), pids=pids)
        expected = sum(n + 11 for n in range(20)) + sum(n + 3 * -(-(30 - n) // 3) for n in range(20))
        assert run.result() == [expected]
        names = list(run)
        assert len(set(names)) == len(names)


@hr.flow
def seen():
    plan.map([1, 2])
    return hr.loop(inc, 0, until=lambda x: x >= 2, name="climb")


def test_nodes_of_returned_flows_and_turns_are_seen_like_others() -> None:
    run = seen.run()
    assert list(run) == [
        "plan", "climb", "plan[0]/inc", "plan[0]/inc-2", "plan[1]/inc", "plan[1]/inc-2", "climb/inc", "climb/inc-2",
    ]  # fmt: skip
    assert [summary.name for summary in run.summaries()] == list(run)
    assert run["plan[1]/inc-2"].result() == 13
    assert run["climb/inc"].result() == 1
    assert "plan[0]/inc" in run._ipython_key_completions_()


@hr.flow
def outer():
    return inner_run()


@hr.task(dynamic=True)
def inner_run() -> Any:
    return plain_inside.run().result()


@hr.flow
def plain_inside():
    return calls_plainly(1)


@hr.task
def calls_plainly(x: int) -> int:
    return inc(x)


def test_tasks_of_a_run_within_a_dynamic_task_call_tasks_plainly() -> None:
    assert outer.run().result() == 2


@hr.flow
def on_rare_machines():
    return inc.with_options(resources={"FPGA": 1})(1)


@hr.task
def needs_rare_machines() -> Any:
    return on_rare_machines.bind()


def test_a_returned_flow_that_no_worker_may_execute_fails_at_once(dask_place):
    run = hr.flow(lambda: needs_rare_machines(), name="rare").run(environment=dask_place)
    assert run.state is hr.State.FAILED
    assert isinstance(run.error, NoSuchWorker)
    assert "'inc' asks for resources={'FPGA': 1}" in str(run.error)
