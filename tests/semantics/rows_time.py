"""Rows: timeouts of tasks, and tasks that run in processes of their own."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import Any

import headrace as hr
from headrace.errors import TaskCrashed, TaskFailed, TaskTimedOut
from tests.semantics.rows_basic import Awkward, Broken, add, always, rescue, same
from tests.semantics.rows_failures import attempt_of
from tests.semantics.table import LATE, F, K, S, T, X, row

#: Longer than any row may take: what is not stopped makes the row fail.
LONG = 30.0
#: From a tenth of a second up to ten, for machines are busy at times; a task that was not stopped takes longer.
SECONDS = r"(0\.[1-9]\d*|\d(\.\d+)?) s"
STOPPED = f"was stopped after {SECONDS}"


def spin(seconds: float) -> None:
    """Keep Python busy: unlike a sleep, this can be interrupted."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@hr.task(timeout=0.05)
def spin_if(x: int) -> int:
    if x:
        spin(LONG)
    return x


@hr.task(timeout=LONG)
def in_time(x: int) -> int:
    return x


@hr.task(timeout=0.05)
def catch_exceptions() -> None:
    while True:
        with suppress(Exception):
            spin(LONG)


@hr.task(timeout=0.05)
def catch_all() -> str:
    with suppress(BaseException):
        spin(LONG)
    return "as if nothing had happened"


@hr.task(timeout=0.05)
def sleep_on() -> str:
    time.sleep(0.12)
    return "slept"


@hr.task(timeout=0.05)
def fail_late() -> None:
    try:
        spin(LONG)
    except BaseException as error:
        raise Broken("too late") from error


@hr.task(timeout=0.05)
def skip_late() -> None:
    try:
        spin(LONG)
    except BaseException as error:
        raise hr.Skip("too late") from error


@hr.task(timeout=LONG)
def fail_in_time() -> None:
    raise Broken("in time")


@hr.task(timeout=LONG)
def time_out_by_itself() -> None:
    raise TimeoutError("of its own")


@hr.task(timeout=0.05)
def tidy_up(path: str) -> None:
    try:
        spin(LONG)
    finally:
        with open(path, "w") as file:
            file.write("tidy")


@hr.task(trigger="any_failed")
def read(path: str, _: Any) -> str:
    with open(path) as file:
        return file.read()


def slow_before(times: int, **policy: Any) -> hr.Task[..., int]:
    """A task that takes too long so often."""

    @hr.task(timeout=0.2, **policy)
    def slow(path: str) -> int:
        attempt = attempt_of(path)
        if attempt <= times:
            spin(LONG)
        return attempt

    return slow


@row(result=5, in_time=[S])
def who_is_in_time_is_left_alone() -> Any:
    return in_time(5)


@row(error=(TaskTimedOut, "longer than its timeout of 0.05 s, and was stopped after"), spin_if=[LATE])
def a_task_that_takes_too_long_is_stopped() -> Any:
    return spin_if(1)


@row(error=(TaskTimedOut, ""), spin_if=[S, LATE, S])
def each_child_has_its_own_time() -> Any:
    return spin_if.map([0, 1, 0])


@row(error=(TaskTimedOut, ""), spin_if=[LATE], same=[T], attempts={"spin_if": [1], "same": [0]})
def a_timeout_counts_as_a_failure() -> Any:
    return same(spin_if(1))


@row(result=[["int"], ["TaskTimedOut"]], spin_if=[S, LATE], always=[S, S])
def what_follows_receives_an_ordinary_exception() -> Any:
    return always.map(spin_if.map([0, 1]))


@row(result=[1, 2, 3], spin_if=[LATE], rescue=[S], add=[S, S, S])
def others_are_not_hit() -> Any:
    rescue(spin_if(1))
    return add.map([0, 1, 2])


@row(error=(TaskTimedOut, "was stopped after"), catch_exceptions=[LATE])
def who_catches_exceptions_does_not_catch_a_timeout() -> Any:
    return catch_exceptions()


@row(error=(TaskTimedOut, "did not stop until .* isolated=True"), catch_all=[LATE])
def who_catches_all_is_timed_out_nevertheless() -> Any:
    return catch_all()


@row(error=(TaskTimedOut, f"(stopped after|did not stop until) {SECONDS}"), sleep_on=[LATE])
def who_does_not_hear_of_it_is_timed_out_nevertheless() -> Any:
    return sleep_on()


@row(error=(TaskTimedOut, "did not stop until"), fail_late=[LATE])
def an_error_that_comes_too_late_is_a_timeout() -> Any:
    return fail_late()


@row(error=(TaskTimedOut, "did not stop until"), skip_late=[LATE], same=[T])
def a_skip_that_comes_too_late_is_a_timeout() -> Any:
    return same(skip_late())


@row(error=(Broken, "in time"), fail_in_time=[F])
def an_error_in_time_is_an_error() -> Any:
    return fail_in_time()


@row(error=(TimeoutError, "of its own"), time_out_by_itself=[F])
def a_timeout_of_the_tasks_own_is_a_failure() -> Any:
    return time_out_by_itself()


@row({"path": "?"}, result="tidy", tidy_up=[LATE], read=[S])
def a_task_that_is_stopped_may_tidy_up(path: str) -> Any:
    return read(path, tidy_up(path))


@row({"path": "?"}, result=2, slow=[S], attempts={"slow": [2]})
def each_attempt_has_its_own_time(path: str) -> Any:
    return slow_before(1, retries=1)(path)


@row({"path": "?"}, result=2, slow=[S], attempts={"slow": [2]})
def a_timeout_is_worth_a_retry_as_a_timeout_error(path: str) -> Any:
    return slow_before(1, retries=1, retry_delay=0.01, retry_on=TimeoutError)(path)


@row({"path": "?"}, error=(TaskTimedOut, ""), slow=[LATE], attempts={"slow": [1]})
def a_timeout_need_not_be_worth_a_retry(path: str) -> Any:
    return slow_before(1, retries=1, retry_on=ConnectionError)(path)


@row({"path": "?"}, error=(TaskTimedOut, ""), slow=[LATE], attempts={"slow": [2]})
def attempts_that_all_take_too_long(path: str) -> Any:
    return slow_before(9, retries=1)(path)


# -- isolated tasks ------------------------------------------------------------------------------------------------


@hr.task(isolated=True)
def apart(x: int) -> int:
    return x + 1


@hr.task(isolated=True)
def other_process(pid: int) -> bool:
    return os.getpid() != pid


@hr.task
def own_process() -> int:
    return os.getpid()


@hr.task(isolated=True, timeout=0.1)
def sleep_apart() -> None:
    time.sleep(LONG)


@hr.task(isolated=True, timeout=0.1)
def shell_apart() -> None:
    os.system("sleep 30")


@hr.task(isolated=True, timeout=0.1)
def catch_all_apart() -> None:
    while True:
        with suppress(BaseException):
            time.sleep(LONG)


@hr.task(isolated=True)
def fail_apart(x: int) -> int:
    if x % 2:
        raise Broken(f"{x} is odd")
    return x


@hr.task(isolated=True)
def awkward_apart() -> None:
    raise Awkward(7, "far away")


@hr.task(isolated=True, retries=1)
def signal_apart(kind: Any) -> None:
    raise kind("from afar")


@hr.task(isolated=True, nout=2)
def both_apart(x: int) -> tuple[int, int]:
    return x, -x


@hr.task(isolated=True)
def second_apart(_: Any, *, value: Any) -> Any:
    return value


def dying_before(times: int, **policy: Any) -> hr.Task[..., int]:
    """A task whose process dies so often."""

    @hr.task(isolated=True, **policy)
    def deadly(path: str) -> int:
        attempt = attempt_of(path)
        if attempt <= times:
            os._exit(7)
        return attempt

    return deadly


@row(result=3, apart=[S])
def isolated_tasks_take_and_give_values() -> Any:
    return apart(apart(1))


@row(result=True)
def isolated_tasks_run_in_another_process() -> Any:
    return other_process(own_process())


@row(result=[2, 3, 4], apart=[S, S, S])
def isolated_children() -> Any:
    return apart.map([1, 2, 3])


@row(result=[[1, -1], "x"])
def isolated_tasks_with_outputs_and_keywords() -> Any:
    first, second = both_apart(1)
    return [[first, second], second_apart(first, value=same("x"))]


@row(error=(TaskTimedOut, STOPPED), sleep_apart=[LATE])
def an_isolated_sleep_ends_in_time() -> Any:
    return sleep_apart()


@row(error=(TaskTimedOut, STOPPED), shell_apart=[LATE])
def an_isolated_command_ends_in_time() -> Any:
    return shell_apart()


@row(error=(TaskTimedOut, STOPPED), catch_all_apart=[LATE])
def who_catches_all_apart_ends_in_time() -> Any:
    return catch_all_apart()


@row(error=(Broken, "1 is odd"), fail_apart=[S, F], same=[S, T])
def isolated_tasks_fail_as_others_do() -> Any:
    return same.map(fail_apart.map([0, 1]))


@row(error=(Awkward, "code 7 at far away"))
def awkward_exceptions_come_back_from_another_process() -> Any:
    return awkward_apart()


@row(result=None, signal_apart=[K], says={"signal_apart": ["from afar"]})
def isolated_tasks_may_skip() -> Any:
    return signal_apart(hr.Skip)


@row(error=(TaskFailed, "^from afar$"), signal_apart=[F], attempts={"signal_apart": [1]})
def isolated_tasks_may_fail_for_good() -> Any:
    return signal_apart(hr.Fail)


@row(error=(TaskFailed, r"another attempt \(from afar\)"), signal_apart=[F], attempts={"signal_apart": [2]})
def isolated_tasks_may_ask_for_another_attempt() -> Any:
    return signal_apart(hr.Retry)


@row({"path": "?"}, error=(TaskCrashed, "exit code 7"), deadly=[X], same=[T], attempts={"deadly": [1]})
def a_process_that_dies_is_a_crash(path: str) -> Any:
    return same(dying_before(9)(path))


@row({"path": "?"}, result=2, deadly=[S], attempts={"deadly": [2]})
def a_process_that_dies_is_worth_a_retry(path: str) -> Any:
    return dying_before(1, retries=1, retry_on=TaskCrashed)(path)


@row({"path": "?"}, error=(TaskCrashed, ""), deadly=[X], attempts={"deadly": [1]})
def a_process_that_dies_need_not_be_worth_a_retry(path: str) -> Any:
    return dying_before(1, retries=1, retry_on=OSError)(path)


@row({"path": "?"}, result=["TaskCrashed"], deadly=[X], always=[S])
def what_follows_a_crash_receives_an_ordinary_exception(path: str) -> Any:
    return always(dying_before(1)(path))
