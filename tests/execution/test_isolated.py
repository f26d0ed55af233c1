from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import headrace as hr
from headrace.core.events import Dispatch, Ended
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.state import State
from headrace.core.strips import Strip
from headrace.errors import NotPicklable, TaskCrashed, TaskTimedOut
from headrace.execution import isolated
from headrace.execution.batch import Execution
from headrace.execution.interrupt import Control
from headrace.execution.loaded import LoadedPlan
from headrace.execution.watchdog import watched
from tests.waiting import until


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that nobody has buried does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the latter, if it goes while it is looked at
        return False


def number_in(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() and path.read_text() else None


@hr.task(isolated=True)
def pid(_=None):
    return os.getpid()


@hr.task(isolated=True)
def leave_a_process(path, seconds):
    """Starts a process that outlives it, and says which."""
    child = subprocess.Popen(["sleep", str(seconds)])
    Path(path + ".part").write_text(str(child.pid))
    os.rename(path + ".part", path)
    child.wait()


@hr.task(isolated=True)
def die(how):
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), getattr(signal, how))
    time.sleep(30)


@hr.task(isolated=True)
def fork_and_die():
    if os.fork() == 0:
        time.sleep(60)
    os._exit(4)


@hr.task(isolated=True)
def double(x):
    return 2 * x


@hr.task(isolated=True)
def talk(what):
    print("out:", what)
    print("without an end", end="")
    print("err:", what, file=sys.stderr)
    sys.stdout.flush()
    sys.stdout.buffer.write(b" as bytes\n")


@hr.task(isolated=True)
def surroundings():
    return os.getcwd(), sys.path, os.environ.get("OF_THE_WORKER"), sys.argv[1:], sys.stdin.read(), os.getpgrp()


@hr.task(isolated=True)
def nobody_can_pickle_this():
    return threading.Lock()


@hr.task(isolated=True)
def who_am_i(_):
    context = hr.context()
    return context.task_name, context.index, context.attempt, dict(context.parameters), context.worker


@hr.task(isolated=True)
def log(text):
    logging.getLogger("some.library").warning("%s was seen", text)
    logging.getLogger("some.library").info("too quiet to be heard")
    logging.getLogger("loud").debug("loud enough")
    try:
        raise ValueError("on purpose")
    except ValueError:
        logging.getLogger("some.library").exception("it failed")


@hr.task(isolated=True, log_prints=True)
def log_prints(_):
    print("a line")


@hr.task(isolated=True)
def generate(n):
    return (2 * number for number in range(n))


def run_of(function) -> hr.FlowRun:
    return hr.flow(function).run()


def test_attempts_share_a_process_which_ends_with_the_run():
    def several():
        return pid.map([1, 2, 3])

    pids = set(run_of(several).result())
    assert len(pids) == 1
    assert os.getpid() not in pids
    assert not is_alive(*pids)


def test_a_timeout_kills_all_that_the_task_has_started(tmp_path):
    path = tmp_path / "pid"

    def waiting():
        return leave_a_process.with_options(timeout=1.0)(str(path), 60)

    began = time.monotonic()
    run = run_of(waiting)
    assert time.monotonic() - began < 40
    assert run["leave_a_process"].states == [State.TIMED_OUT]
    assert isinstance(run.errors["leave_a_process"], TaskTimedOut)
    until(lambda: not is_alive(number_in(path)))


def test_loading_does_not_count_as_time_of_the_task(monkeypatch, tmp_path):
    (tmp_path / "slow_to_import.py").write_text("import time\ntime.sleep(1.5)\ndef task():\n    return 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    import slow_to_import  # type: ignore[import-not-found]

    task = hr.task(isolated=True, timeout=1.0)(slow_to_import.task)

    def slow():
        return task()

    assert run_of(slow).result() == 1


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("exit", "task 'die' ended its process, with exit code 3"),
        ("SIGKILL", "killed by SIGKILL; perhaps it used too much memory"),
        ("SIGSEGV", "killed by SIGSEGV; it crashed in native code"),
    ],
)
def test_a_death_is_told(how, message):
    def deadly():
        return [die(how), double(2)]

    run = run_of(deadly)
    assert run["die"].states == [State.CRASHED]
    assert run["double"].result() == 4
    with pytest.raises(TaskCrashed, match=message):
        run.result()


def test_a_death_is_noticed_though_a_fork_keeps_the_pipe():
    def deadly():
        return fork_and_die()

    began = time.monotonic()
    with pytest.raises(TaskCrashed, match="exit code 4"):
        run_of(deadly).result()
    assert time.monotonic() - began < 40


def test_what_is_printed_comes_out_here(capsys):
    def talking():
        return talk("grüße")

    run_of(talking)
    out, err = capsys.readouterr()
    assert out == "out: grüße\nwithout an end as bytes\n"
    assert err == "err: grüße\n"


def test_a_child_knows_where_its_task_stands():
    @hr.flow
    def asking(day: str):
        return who_am_i.map(["a", "b"])

    run = asking.run(day="today")
    assert run.result() == [("who_am_i", child, 1, {"day": "today"}, "inline") for child in (0, 1)]


def test_what_is_logged_arrives_here_with_where_it_came_from(caplog):
    caplog.set_level(logging.WARNING)
    caplog.set_level(logging.DEBUG, logger="loud")

    def logging_twice():
        return log.map(["one", "two"]), log_prints.map([0])

    run = run_of(logging_twice)
    records = [record for record in caplog.records if hasattr(record, "run_id")]  # and not of what else is going on
    told = [(record.name, record.getMessage(), record.task, record.child) for record in records]
    for child, text in enumerate(["one", "two"]):
        assert told[3 * child : 3 * child + 3] == [
            ("some.library", f"{text} was seen", "log", child),
            ("loud", "loud enough", "log", child),
            ("some.library", "it failed", "log", child),
        ]
    assert told[6:] == [("headrace.prints", "a line", "log_prints", 0)]
    assert {record.run_id for record in records} == {run.run_id}
    assert "ValueError: on purpose" in caplog.text


def test_what_python_would_use_up_becomes_a_list():
    def generating():
        return generate(3)

    assert run_of(generating).result() == [0, 2, 4]


def test_the_child_stands_where_the_worker_stands(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OF_THE_WORKER", "yes")
    monkeypatch.syspath_prepend("/somewhere/else")

    def looking():
        return surroundings()

    where, path, variable, argv, given, group = run_of(looking).result()
    assert (where, path, variable, argv, given) == (str(tmp_path), sys.path, "yes", [], "")
    assert group != os.getpgrp()


def test_large_values_travel_both_ways():
    data = np.arange(1_000_000)

    def large():
        return double(data)

    np.testing.assert_array_equal(run_of(large).result(), 2 * data)


def test_a_value_that_cannot_travel_is_an_error_that_says_so():
    def locked():
        return nobody_can_pickle_this()

    with pytest.raises(NotPicklable, match="the value of an isolated task"):
        run_of(locked).result()


def test_an_argument_that_cannot_travel_is_an_error_that_says_so():
    loaded = LoadedPlan(make_plan(draw("f", lambda: double(threading.Lock()), {})))
    order = Dispatch(0, (Strip((0,), 0, 1),))
    ended = watched(Execution(loaded, order, {}, Control(order, lambda event: None)))
    assert "the arguments of task 'double'" in ended.exceptional[0].failure.message
    loaded.children.close()


class InThread(threading.Thread):
    """Executes a batch of one isolated task in a thread of its own."""

    def __init__(self, function) -> None:
        super().__init__(daemon=True)
        self.plan = LoadedPlan(make_plan(draw("f", function, {})))
        order = Dispatch(0, (Strip((0,), 0, 1),))
        self.execution = Execution(self.plan, order, {}, Control(order, lambda event: None))
        self.ended: Ended | None = None
        self.start()

    def run(self) -> None:
        self.ended = watched(self.execution)


@pytest.mark.parametrize("how", ["stop", "close"])
def test_a_stop_kills_all_that_the_task_has_started(tmp_path, how):
    path = tmp_path / "pid"
    thread = InThread(lambda: leave_a_process(str(path), 60))
    until(path.exists)
    if how == "stop":
        thread.execution.control.end()
    else:
        thread.plan.children.close()
    thread.join(60)
    assert not thread.is_alive()
    assert [entry.state for entry in thread.ended.exceptional] == [State.CANCELLED]
    until(lambda: not is_alive(number_in(path)))
    thread.plan.children.close()


def test_stops_at_any_time_leave_no_process_behind():
    """Stopped while the child starts, while the request travels, while the task runs, and when it is done."""
    for pause in range(25):
        thread = InThread(lambda: pid())
        time.sleep(pause * 0.01)  # when, is what is tested
        thread.execution.control.end()
        thread.join(60)
        assert not thread.is_alive()
        assert thread.ended.stop == len(thread.ended.seconds)
        states = [entry.state for entry in thread.ended.exceptional]
        assert states in ([], [State.CANCELLED])
        children = list(thread.plan.children._all)
        thread.plan.children.close()
        assert not any(is_alive(child._process.pid) for child in children)


def test_an_idle_process_that_died_is_no_failure_of_the_next_task():
    plan = LoadedPlan(make_plan(draw("f", lambda: pid.map([1, 2]), {})))
    seen = []
    for child in (0, 1):
        order = Dispatch(child, (Strip((0,), child, child + 1),))
        run = Execution(plan, order, {}, Control(order, lambda event: None))
        assert watched(run).exceptional == []
        seen.append(run.kept()[0][child])
        os.kill(seen[-1], signal.SIGKILL)
        until(lambda: not is_alive(seen[-1]))
    assert seen[0] != seen[1]
    plan.children.close()


def test_an_idle_process_ends_by_itself(monkeypatch):
    boot = isolated.BOOT.replace("main(int", "import headrace.execution.isolated as i; i.IDLE = 0.1; main(int")
    monkeypatch.setattr("headrace.execution.children.BOOT", boot)
    plan = LoadedPlan(make_plan(draw("f", lambda: pid(), {})))
    order = Dispatch(0, (Strip((0,), 0, 1),))
    run = Execution(plan, order, {}, Control(order, lambda event: None))
    watched(run)
    until(lambda: not is_alive(run.kept()[0][0]))
    plan.children.close()


@pytest.mark.parametrize("killer", ["SIGKILL", "SIGINT", "SIGTERM"])
def test_no_process_outlives_its_parent(tmp_path, killer):
    """Neither the child nor what its task has started, however the parent ends."""
    path = tmp_path / "pid"
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent(f"""
            import headrace as hr
            from tests.execution.test_isolated import leave_a_process

            @hr.flow
            def waiting():
                return leave_a_process({str(path)!r}, 60)

            waiting.run()
        """)
    )
    paths = [os.getcwd(), *sys.path]
    parent = subprocess.Popen(
        [sys.executable, script], env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)}, stderr=subprocess.DEVNULL
    )
    until(path.exists)
    parent.send_signal(getattr(signal, killer))
    parent.wait(60)
    until(lambda: not is_alive(number_in(path)))
