from __future__ import annotations

import gc
import re
import subprocess
import sys
import threading
import time
from contextlib import suppress

import pytest

import headrace as hr
from headrace.core.events import CancelRequested, Dispatch, Ended
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.state import State
from headrace.core.strips import Strip
from headrace.errors import TaskTimedOut
from headrace.execution.batch import Execution
from headrace.execution.dynamic import Packer
from headrace.execution.inline import InlineExecutor
from headrace.execution.interrupt import Control
from headrace.execution.loaded import LoadedPlan
from headrace.execution.watchdog import watched
from tests.waiting import until


def spin(seconds: float) -> None:
    """Keep Python busy: unlike a sleep, this can be interrupted."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@hr.task
def spinning(seconds, began):
    began.set()
    spin(seconds)


@hr.task
def count(x, seen):
    seen.append(x)
    return x


def execution(function, *strips, **order) -> Execution:
    loaded = LoadedPlan(make_plan(draw("f", function, {})))
    dispatch = Dispatch(0, tuple(Strip(*strip) for strip in strips), **order)
    return Execution(loaded, dispatch, {}, Control(dispatch, lambda event: None))


class InThread(threading.Thread):
    """Executes a batch in a thread of its own."""

    def __init__(self, run: Execution) -> None:
        super().__init__(daemon=True)
        self.execution = run
        self.ended: Ended | None = None
        self.start()

    def run(self) -> None:
        self.ended = watched(self.execution)


def test_a_stopped_batch_interrupts_its_task_and_starts_nothing_more():
    began, seen = threading.Event(), []
    run = execution(lambda: (spinning(60, began), count(1, seen)), ((0,), 0, 1), ((1,), 0, 1))
    thread = InThread(run)
    assert began.wait(60)
    run.control.end()
    thread.join(60)
    assert not thread.is_alive()
    assert seen == []
    assert thread.ended is not None
    assert thread.ended.stop == len(thread.ended.seconds) == 1
    assert [(entry.position, entry.state) for entry in thread.ended.exceptional] == [(0, State.CANCELLED)]


def test_a_batch_that_was_stopped_before_it_came_does_nothing():
    seen = []
    run = execution(lambda: count(1, seen), ((0,), 0, 1))
    run.control.end()
    assert watched(run).stop == 0
    assert seen == []


def test_the_place_of_a_thread_that_hangs_is_given_away_once():
    began, over, left = threading.Event(), threading.Event(), []

    @hr.task
    def hang():
        began.set()
        over.wait(60)  # a C function: no interruption reaches it

    run = execution(lambda: hang(), ((0,), 0, 1))
    run.control.leave = lambda: left.append(1)
    thread = InThread(run)
    assert began.wait(60)
    run.control.end()
    until(lambda: left)
    assert thread.is_alive()
    over.set()
    thread.join(60)
    assert not thread.is_alive()
    assert left == [1]
    assert thread.ended.exceptional[0].state is State.CANCELLED


def test_stops_at_any_time_leave_a_report_that_fits(eager_threads):
    """Thousands of batches of tiny tasks, each stopped somewhere: in a task, between two, at the very end."""
    seen = []
    loaded = LoadedPlan(make_plan(draw("f", lambda: count.map(list(range(50)), hr.unmapped(seen)), {})))
    stopped = cancelled = 0
    for pause in range(1500):
        seen.clear()
        order = Dispatch(0, (Strip((0,), 0, 50),))
        run = Execution(loaded, order, {}, Control(order, lambda event: None))
        stopper = threading.Thread(target=lambda run=run, pause=pause: (spin(pause % 40 * 1e-6), run.control.end()))
        stopper.start()
        ended = watched(run)
        assert ended.stop == len(ended.seconds)
        positions = [entry.position for entry in ended.exceptional]
        assert positions in ([], [ended.stop - 1])
        assert len(seen) in (ended.stop, ended.stop - len(positions))
        stopped += ended.stop < 50
        cancelled += bool(positions)
        stopper.join()
        spin(1e-5)  # what was still on its way would be raised here
    assert stopped


@pytest.fixture
def eager_threads():
    """Threads take turns after each few steps, so that much can come between any two."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@hr.task(timeout=0.0005)
def close_call(seconds):
    spin(seconds)
    return "done"


@hr.task(timeout=0.0005, retries=2)
def close_call_again(seconds):
    spin(seconds)
    return "done"


@hr.task(trigger="all_finished")
def after(value):
    assert value == "done" or isinstance(value, TaskTimedOut)
    return "after"


@pytest.mark.parametrize("task", [close_call, close_call_again], ids=lambda task: task.name)
def test_interruptions_hit_the_attempt_that_they_are_for_and_nothing_else(task, monkeypatch, eager_threads, request):
    """Thousands of tasks that end at about the time at which they are interrupted, in several threads at once."""
    gc.collect()  # else finalizers of earlier tests are run by these tasks, and are hit
    gc.disable()
    request.addfinalizer(gc.enable)
    monkeypatch.setattr("headrace.execution.watchdog.LOOK", 5e-5)
    monkeypatch.setattr("headrace.execution.interrupt.AGAIN", 5e-4)
    width = 800
    seconds = [0.0003 + 0.0004 * child / width for child in range(width)]
    plan = LoadedPlan(make_plan(draw("f", lambda: after.map(task.map(seconds)), {})))
    order = Dispatch(0, (Strip((0, 1), 0, width),))
    threads = [InThread(Execution(plan, order, {}, Control(order, lambda event: None))) for _ in range(3)]
    interrupted = 0
    for thread in threads:
        thread.join(100)
        ended = thread.ended
        assert ended is not None, "a signal arrived outside of a task"
        assert ended.stop == len(ended.seconds) == 2 * width
        positions = [entry.position for entry in ended.exceptional]
        assert len(positions) == len(set(positions))
        values = thread.execution.kept()
        assert set(values[1].values()) == {"after"}
        late = {entry.position // 2 for entry in ended.exceptional if entry.state is State.TIMED_OUT}
        assert {entry.state for entry in ended.exceptional} <= {State.TIMED_OUT, State.SUCCESS}
        assert all((values[0][child] == "done") != (child in late) for child in range(width))
        interrupted += sum("was stopped" in entry.failure.message for entry in ended.exceptional if entry.failure)
    assert interrupted > 50


def test_a_timeout_is_noticed_soon():
    run = execution(lambda: spinning.with_options(timeout=0.1)(60, threading.Event()), ((0,), 0, 1))
    ended = watched(run)
    assert ended.exceptional[0].state is State.TIMED_OUT
    assert 0.1 <= ended.seconds[0] < 30  # and much sooner, when nobody else keeps the machine busy


def test_a_timeout_tells_where_the_task_was():
    run = execution(lambda: spinning.with_options(timeout=0.05)(60, threading.Event()), ((0,), 0, 1))
    failure = watched(run).exceptional[0].failure
    assert failure.type_name == "headrace.errors.TaskTimedOut"
    assert "in spin" in failure.traceback
    assert "headrace/execution" not in failure.traceback


def test_a_timeout_that_was_not_heard_says_so(monkeypatch):
    monkeypatch.setattr("headrace.execution.limits.PROMPT", 0.02)
    run = execution(lambda: hr.task(timeout=0.05)(time.sleep)(0.3), ((0,), 0, 1))
    assert re.search(r"did not stop until \d\S* s", watched(run).exceptional[0].failure.message)


def test_an_interruption_that_was_lost_is_repeated(monkeypatch):
    monkeypatch.setattr("headrace.execution.interrupt.AGAIN", 0.1)
    caught = []

    @hr.task(timeout=0.05)
    def stubborn():
        while len(caught) < 3:
            with suppress(BaseException):
                spin(60)
            caught.append(1)

    assert watched(execution(lambda: stubborn(), ((0,), 0, 1))).exceptional[0].state is State.TIMED_OUT
    assert len(caught) == 3


def test_a_stopped_task_is_not_tried_again():
    seen = []

    @hr.task(retries=1000)
    def failing():
        seen.append(1)
        if len(seen) == 3:
            run.control.end()
            time.sleep(0.001)
        raise ValueError

    run = execution(lambda: failing(), ((0,), 0, 1))
    watched(run)
    assert len(seen) == 3


@pytest.fixture
def executor():
    made = InlineExecutor()
    yield made
    made.release()


def started(executor: InlineExecutor, function) -> None:
    plan = make_plan(draw("f", function, {}))
    executor._packer = Packer(plan)
    executor._plan = LoadedPlan(plan)  # not pickled: the test shares an event with the task


def test_inline_a_cancel_from_another_thread_is_heard_in_the_middle_of_a_task(executor):
    began = threading.Event()
    started(executor, lambda: spinning(60, began))
    executor.send([Dispatch(0, (Strip((0,), 0, 1),))])
    threading.Thread(target=lambda: (began.wait(60), executor.notify(CancelRequested()))).start()
    *_, ended, note = executor.wait(None)  # after notes of progress, perhaps
    assert ended.exceptional[0].state is State.CANCELLED
    assert note == CancelRequested()


def test_inline_a_note_is_heard_before_the_next_batch_and_while_nothing_is_to_be_done(executor):
    seen = []
    started(executor, lambda: count(1, seen))
    executor.send([Dispatch(0, (Strip((0,), 0, 1),))])
    executor.notify(CancelRequested())
    assert executor.wait(None) == [CancelRequested()]
    assert seen == []
    assert executor.wait(None)[0].batch == 0
    threading.Timer(0.05, executor.notify, [CancelRequested()]).start()
    assert executor.wait(60) == [CancelRequested()]


AFTERWARDS = """
import cProfile, time
import headrace as hr

@hr.task(timeout=60)
def quick():
    return 1

@hr.task(timeout=0.05)
def slow():
    while True:
        time.sleep(0.001)

@hr.flow
def both():
    return quick(), slow()

if __name__ == "__main__":
    run = both.run()
    assert [run[name].state.label for name in run] == ["Success", "TimedOut"]
    calls = cProfile.Profile()
    assert calls.runcall(lambda: sum(map(abs, range(1000)))) == 499500
    print("done")
"""


def test_nothing_is_left_for_python_to_look_for(tmp_path):
    # With an interruption that nobody ever raises, Python 3.11 would hang in the profiler, at the first call.
    (tmp_path / "afterwards.py").write_text(AFTERWARDS)
    command = [sys.executable, "afterwards.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100)
    assert done.stdout == "done\n", done.stderr
