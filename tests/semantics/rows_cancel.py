"""Rows: runs that end before they are done, because they are cancelled or out of time."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.errors import RunCancelled, RunTimedOut
from tests.semantics.rows_resources import Place, note, table, use, work
from tests.semantics.table import LATE, C, F, K, S, row

CANCELLED = (RunCancelled, "was cancelled")
OUT_OF_TIME = (RunTimedOut, "out of time")
#: Seconds for a run to get to work, on a machine that may be busy.
ENOUGH = 1.0

# -- tasks -------------------------------------------------------------------------------------------------------


def spin(seconds: float = 20.0) -> None:
    """Be busy in Python, where a stop arrives at once."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.002)


@hr.task
def busy(path: str, *more: Any) -> None:
    note(path, "busy")
    spin()


@hr.task
def tidy(path: str) -> None:
    note(path, "busy")
    try:
        spin()
    finally:
        note(path, "tidied")


@hr.task(isolated=True)
def alone(path: str, made: Any) -> None:
    note(path, "busy")
    time.sleep(20)


@hr.task
def busy_child(number: int, path: str) -> int:
    if number == 1:
        note(path, "busy")
        spin()
    return number


@hr.task(retries=3, retry_delay=60)
def comes_back_late(path: str) -> None:
    note(path, "busy")
    raise OSError("later")


@hr.resource
def slow(path: str, seconds: float = 0.15) -> str:
    note(path, "begin")
    spin(seconds)
    note(path, "made")
    return path


@slow.cleanup
def slow_drop(path: str) -> None:
    note(path, "dropping")
    spin(0.15)
    note(path, "dropped")


@hr.resource
def stubborn(path: str) -> str:
    return path


@stubborn.cleanup(retries=1, retry_delay=0.05)
def second_try(path: str) -> None:
    note(path, "try")
    if Path(path).read_text().splitlines().count("try") < 2:
        raise OSError("in use")


@hr.resource
def hopeless(path: str) -> str:
    return path


@hopeless.cleanup(retries=1, retry_delay=60)
def gives_up(path: str) -> None:
    note(path, "try")
    raise OSError("in use")


# -- cancelled ---------------------------------------------------------------------------------------------------


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["work", "busy"], work=[S], busy=[C], use=[C])
def cancel_stops_what_runs_and_what_waits(path: str):
    use([path, busy(path, work(path))])


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy", "tidied"], tidy=[C])
def cancel_lets_a_task_tidy_up(path: str):
    tidy(path)


@row(
    {"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["create t", "busy", "drop t"],
    table=[S], busy=[C], use=[C], drop=[S],
)  # fmt: skip
def cancel_cleans_up(path: str):
    with table(path) as made:
        use(made, busy(path, made))


@row(
    {"path": "?"},
    cancelled="busy",
    ends=C,
    error=CANCELLED,
    writes=["create t", "busy", "drop t"],
    alone=[C],
    drop=[S],
    says={"alone": ["^task 'alone' was cancelled"]},
)
def cancel_kills_what_runs_in_a_process_of_its_own(path: str):
    with table(path) as made:
        alone(path, made)


@row(
    {"path": "?"}, cancelled="busy", ends=C, error=CANCELLED,
    writes=["create outer", "create inner", "busy", "drop inner", "drop outer"], **{"drop": [S], "drop-2": [S]},
)  # fmt: skip
def cancel_cleans_up_inside_out(path: str):
    with table(path, "outer"), table(path, "inner") as made:
        busy(path, made)


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy"], table=[C], use=[C], drop=[K])
def cancel_before_a_resource_is_set_up_leaves_nothing_to_clean_up(path: str):
    with table(path, upstream=busy(path)) as made:
        use(made)


@row({"path": "?"}, cancelled="begin", ends=C, error=CANCELLED, slow=[S], busy=[C], slow_drop=[S])
def cancel_lets_a_setup_end_and_cleans_it_up(path: str):
    with slow(path) as made:
        busy(made)


@row(
    {"path": "?"}, cancelled="dropping", ends=C, error=CANCELLED,
    writes=["begin", "made", "dropping", "dropped"], slow=[S], slow_drop=[S],
)  # fmt: skip
def cancel_lets_a_cleanup_end(path: str):
    with slow(path):
        pass


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, comes_back_late=[C])
def cancel_does_not_wait_for_another_attempt(path: str):
    comes_back_late(path)


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy", "try", "try"], second_try=[S])
def cancel_lets_a_cleanup_try_again(path: str):
    with stubborn(path) as made:
        busy(made)


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy", "try"], gives_up=[F])
def cancel_does_not_wait_long_for_a_cleanup_to_try_again(path: str):
    with hopeless(path) as made:
        busy(made)


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy"], use=[C] * 3)
def cancel_of_a_map_that_waits(path: str):
    use.map([[path, path]] * 3, upstream=busy(path))


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy"], work=[C])
def cancel_of_a_map_whose_width_is_not_known(path: str):
    work.map(busy(path))


@row(
    {"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, Place_cleanup=[S],
    writes=["open here", "busy", "close here, which was HERE"],
)  # fmt: skip
def cancel_cleans_up_a_class(path: str):
    with Place(path):
        busy(path)


def told_of_a_failure(context: Any, error: Any) -> None:
    note(context.parameters["path"], "told of a failure")


@hr.task(dynamic=True, on_failure=told_of_a_failure)
def goes_on(path: str) -> Any:
    return busy(path)


@hr.task
def again(made: Any, path: str) -> None:
    busy.function(path)


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy"], goes_on=[C], work=[C])
def cancel_of_a_task_that_goes_on(path: str):
    work(path, goes_on(path))


@row({"path": "?"}, cancelled="busy", ends=C, error=CANCELLED, writes=["busy"], loop=[C], work=[C])
def cancel_of_a_loop(path: str):
    work(path, hr.loop(again, None, until=bool, path=path))


# -- out of time -------------------------------------------------------------------------------------------------


def limited(seconds: float) -> Any:
    return hr.flow(timeout=seconds)


@row({"path": "?"}, ends=LATE, error=OUT_OF_TIME, writes=["busy"], busy=[C], work=[C])
@limited(ENOUGH)
def time_limit_of_a_run(path: str):
    work(path, busy(path))


@row({"path": "?"}, ends=LATE, error=OUT_OF_TIME, writes=["create t", "busy", "drop t"], busy=[C], drop=[S])
@limited(ENOUGH)
def time_limit_of_a_run_cleans_up(path: str):
    with table(path) as made:
        busy(path, made)


@row({"path": "?"}, ends=LATE, error=OUT_OF_TIME, comes_back_late=[C])
@limited(0.2)
def time_limit_of_a_run_does_not_wait_for_another_attempt(path: str):
    comes_back_late(path)


@row(
    {"path": "?"},
    ends=LATE,
    error=OUT_OF_TIME,
    writes=["begin", "made", "dropping", "dropped"],
    slow=[S],
    slow_drop=[S],
)
@limited(ENOUGH)
def time_limit_of_a_run_lets_a_setup_end_and_cleans_it_up(path: str):
    with slow(path, 1.5 * ENOUGH):
        pass


@row({"path": "?"}, ends=LATE, error=OUT_OF_TIME, writes=["busy"], busy=[C])
@limited(ENOUGH)
def time_limit_of_a_run_of_one_task(path: str):
    busy(path)


@row({"path": "?"}, result="worked", work=[S])
@limited(60.0)
def time_limit_of_a_run_that_is_quick(path: str):
    return work(path)
