"""What stopping a run leaves behind: nothing that runs, and a cluster that is of use."""

from __future__ import annotations

import os
import threading
import time
import uuid
from dataclasses import replace
from io import FileIO
from pathlib import Path

import pytest

import headrace as hr
from headrace import pickling
from headrace.core.events import CancelRequested, Dispatch, Stop
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.strips import Strip
from headrace.execution.dask import DaskExecutor
from headrace.execution.interrupt import Control
from headrace.execution.stopping import RUNNING
from tests.execution.test_isolated import is_alive, leave_a_process, pid
from tests.waiting import until


@hr.task
def sleep(path: str, seconds: float) -> None:
    Path(path + ".part").write_text(threading.current_thread().name)
    os.rename(path + ".part", path)
    time.sleep(seconds)  # inside a C function: it cannot be interrupted


@hr.task
def hang(path: str) -> None:
    """Like `sleep`, until two pipes are opened, with no step of Python in between."""
    Path(path + ".part").write_text(threading.current_thread().name)
    os.rename(path + ".part", path)
    list(map(FileIO, (path + ".1", path + ".2")))


def opened(pipe: Path) -> None:
    """Open a pipe as soon as somebody is about to read from it."""
    os.close(os.open(pipe, os.O_WRONLY))


@hr.task
def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


@hr.flow
def all_threads():
    return threads()


@hr.task
def spin_long(path: str) -> None:
    try:
        Path(path).touch()
        while True:
            time.sleep(0.001)
    finally:
        Path(path + ".over").touch()


@hr.task
def double(x: int) -> int:
    return 2 * x


@hr.flow
def doubled(n: int):
    return double.map(list(range(n)))


@hr.flow
def all_pids():
    return pid.map([1, 2])


@pytest.fixture(scope="module", params=["threads", "processes"])
def single(request):
    """A cluster with one worker with one thread."""
    processes = request.param == "processes"
    with hr.DaskEnvironment("local", n_workers=1, threads_per_worker=1, processes=processes) as environment:
        environment.setup(None)
        yield environment


class Sent:
    """One batch, sent to a cluster."""

    def __init__(self, environment, task, path, *args) -> None:
        plan = make_plan(draw("f", lambda: task(str(path), *args), {}))
        self.executor = DaskExecutor(environment.client)
        self.executor.start(f"run-{uuid.uuid4().hex}", pickling.dumps(plan, "it"), plan)
        self.executor.send([Dispatch(0, (Strip((0,), 0, 1),))])
        until(path.exists)

    def over(self) -> None:
        self.executor.finish()
        self.executor.release()


def test_a_task_that_cannot_be_interrupted_does_not_keep_its_place(single, tmp_path):
    sent = Sent(single, sleep, tmp_path / "began", 60)
    began = time.monotonic()
    sent.executor.send([Stop((0,))])
    assert doubled.run(n=10, environment=single).result() == [2 * x for x in range(10)]
    assert time.monotonic() - began < 40  # and not the 60 s that the task sleeps
    sent.over()


def test_a_thread_that_lost_its_place_is_gone_when_its_task_ends(single, tmp_path):
    pipes = [tmp_path / "began.1", tmp_path / "began.2"]
    for pipe in pipes:
        os.mkfifo(pipe)
    sent = Sent(single, hang, tmp_path / "began")
    opened(pipes[0])  # it has come so far
    name = (tmp_path / "began").read_text()
    sent.executor.send([Stop((0,))])
    try:
        assert name in all_threads.run(environment=single).result()  # another thread answers while it hangs
    finally:
        opened(pipes[1])
    until(lambda: name not in all_threads.run(environment=single).result())
    sent.over()


def test_a_running_task_is_interrupted(single, tmp_path):
    sent = Sent(single, spin_long, tmp_path / "began")
    sent.executor.send([Stop((0,))])
    until((tmp_path / "began.over").exists)
    sent.over()


def test_an_isolated_task_is_killed_with_what_it_has_started(single, tmp_path):
    path = tmp_path / "began"
    sent = Sent(single, leave_a_process, path, 60)
    assert is_alive(int(path.read_text()))
    sent.executor.send([Stop((0,))])
    until(lambda: not is_alive(int(path.read_text())))
    sent.over()


def test_no_process_is_left_when_a_plan_is_taken_away(single, tmp_path):
    run = all_pids.run(environment=single)
    (child,) = set(run.result())
    assert is_alive(child)
    run.release()
    until(lambda: not is_alive(child))


def test_a_run_whose_plan_is_taken_away_is_interrupted(single, tmp_path):
    sent = Sent(single, spin_long, tmp_path / "began")
    sent.over()
    until((tmp_path / "began.over").exists)


def test_a_batch_that_is_stopped_before_it_arrives_does_not_start():
    order = Dispatch(3, (Strip((0,), 0, 1),))
    RUNNING.open("run")
    RUNNING.stop("run", (3,))
    for number, stopped in ((3, True), (4, False)):
        control = Control(replace(order, batch=number), lambda event: None)
        with RUNNING.noted("run", control):
            assert (control.stop == 0) == stopped
    RUNNING.close("run")
    late = Control(order, lambda event: None)
    with RUNNING.noted("run", late):  # the run is over
        assert late.stop == 0
    RUNNING.stop("run", (3,))
    assert "run" not in RUNNING._runs


def test_notes_wake_who_waits(single, tmp_path):
    sent = Sent(single, spin_long, tmp_path / "began")
    threading.Timer(0.05, sent.executor.notify, [CancelRequested()]).start()
    events = []
    until(lambda: events.extend(sent.executor.wait(60)) or CancelRequested() in events)
    sent.over()
