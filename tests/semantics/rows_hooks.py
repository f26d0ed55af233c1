"""Rows: hooks of tasks and flows."""

from __future__ import annotations

from typing import Any

import headrace as hr
from tests.semantics.table import F, K, S, T, row
from tests.semantics.witness import tell, tell_failure

RAN = ["Pending > Running", "Running > Success"]
FAILED = ["Pending > Running", "Running > Failed"]


@hr.task(on_state=tell)
def watched(x: Any = None, *_: Any) -> Any:
    return x


@hr.task
def unwatched(x: Any = None) -> Any:
    return x


@hr.task(on_state=tell)
def fails(*_: Any) -> None:
    raise ValueError("as ordered")


@hr.task(on_state=tell)
def skips(*_: Any) -> None:
    raise hr.Skip("not today")


@hr.task(on_state=tell)
def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@hr.task(on_state=tell, retries=2)
def succeeds_at(attempt: int) -> int:
    if hr.context().attempt < attempt:
        raise ValueError(f"attempt {hr.context().attempt}")
    return attempt


@hr.task(on_state=tell, trigger="any_failed")
def rescues(error: Any) -> str:
    return f"rescued from {error}"


@hr.task(on_failure=tell_failure)
def complains(x: int = 1) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@hr.task
def upto(n: int) -> list[int]:
    return list(range(n))


# -- states of task runs -----------------------------------------------------------------------------------------


@row(result=1, told={"watched": RAN})
def a_success_is_told():
    return watched(1)


@row(result=1, told={})
def nothing_is_told_without_a_hook():
    return unwatched(1)


@row(result=1, told={"watched": RAN})
def only_tasks_with_hooks_are_told_of():
    return unwatched(watched(unwatched(1)))


@row(error=(ValueError, "as ordered"), told={"fails": FAILED}, fails=[F])
def a_failure_is_told():
    return fails()


@row(told={"skips": ["Pending > Running", "Running > Skipped"]}, skips=[K])
def a_skip_is_told():
    return skips()


@row(told={"skips": ["Pending > Running", "Running > Skipped"], "watched": ["Pending > Skipped"]}, watched=[K])
def a_skip_that_follows_may_not_have_run():
    # with a placement of its own, so that it is in no batch with what it waits for
    return watched.with_options(priority=1)(skips())


@row(
    error=(ValueError, "as ordered"),
    told={"fails": FAILED, "watched": ["Pending > TriggerFailed"]},
    watched=[T],
)
def a_trigger_that_fails_is_told():
    return watched.with_options(priority=1)(fails())


@row(result="rescued from as ordered", told={"fails": FAILED, "rescues": RAN}, rescues=[S])
def a_rescue_is_told():
    return rescues(fails())


@row(error=(hr.errors.TriggerFailed, "trigger"), told={"rescues": ["Pending > TriggerFailed"]})
def a_rescue_without_need():
    return rescues.with_options(priority=1)(unwatched(1))


@row(result=[0, 1, 2], told={f"watched[{i}]": RAN for i in range(3)})
def each_child_is_told():
    return watched.map(range(3))


@row(result=[0, 1, 2], told={f"watched[{i}]": RAN for i in range(3)})
def each_child_of_a_list_that_a_task_returns():
    return watched.map(upto(3))


@row(result=[], told={})
def of_no_children_nothing_is_told():
    return watched.map([])


@row(
    error=(ValueError, "1 is odd"),
    told={"odd_fails[0]": RAN, "odd_fails[1]": FAILED, "odd_fails[2]": RAN},
)
def children_that_fail():
    return odd_fails.map([0, 1, 2])


@row(result=[3, 4], told={f"{name}[{i}]": RAN for name in ("watched", "watched-2") for i in range(2)})
def maps_over_maps_are_told():
    return watched.map(watched.map([3, 4]))


@row(result=1, told={"watched": RAN, "watched-2": RAN, "watched-3": RAN})
def each_node_of_one_task():
    return watched(watched(watched(1)))


@row(error=(hr.errors.FlowError, "length"), told={"watched[0]": ["Pending > Failed"]})
def a_map_that_cannot_be():
    return unequal(upto(2), upto(3))


def unequal(xs: Any, ys: Any) -> Any:
    return watched.map(xs, ys)


# -- attempts ----------------------------------------------------------------------------------------------------

RETRIED = ["Running > Retrying", "Retrying > Running"]


@row(result=1, told={"succeeds_at": RAN})
def no_retry_was_needed():
    return succeeds_at(1)


@row(result=2, told={"succeeds_at": [RAN[0], *RETRIED, RAN[1]]})
def a_retry_at_once_is_told():
    return succeeds_at(2)


@row(result=3, told={"succeeds_at": [RAN[0], *RETRIED, *RETRIED, RAN[1]]})
def two_retries_at_once_are_told():
    return succeeds_at(3)


@row(result=3, told={"succeeds_at": [RAN[0], *RETRIED, *RETRIED, RAN[1]]})
def retries_later_are_told():
    return succeeds_at.with_options(retry_delay=0.01)(3)


@row(error=(ValueError, "attempt 3"), told={"succeeds_at": [RAN[0], *RETRIED, *RETRIED, "Running > Failed"]})
def retries_in_vain_are_told():
    return succeeds_at(4)


@row(error=(ValueError, "attempt 3"), told={"succeeds_at": [RAN[0], *RETRIED, *RETRIED, "Running > Failed"]})
def later_retries_in_vain_are_told():
    return succeeds_at.with_options(retry_delay=0.01)(4)


@row(
    result=[1, 2],
    told={"succeeds_at[0]": RAN, "succeeds_at[1]": [RAN[0], *RETRIED, RAN[1]]},
)
def retries_of_one_child_are_told():
    return succeeds_at.map([1, 2])


# -- on_failure --------------------------------------------------------------------------------------------------


@row(error=(ValueError, "1 is odd"), told={"complains": ["Failed at attempt 1, ValueError: 1 is odd"]})
def a_failure_is_complained_of():
    return complains()


@row(result=2, told={})
def no_failure_no_complaint():
    return complains(2)


@row(error=(ValueError, "1 is odd"), told={"complains": ["Failed at attempt 3, ValueError: 1 is odd"]})
def a_complaint_when_no_attempt_is_left():
    return complains.with_options(retries=2)()


@row(
    error=(ValueError, "1 is odd"),
    told={f"complains[{i}]": [f"Failed at attempt 1, ValueError: {i} is odd"] for i in (1, 3)},
)
def a_complaint_of_each_child():
    return complains.map(range(4))


@row(error=(ValueError, "elsewhere"), told={}, after=[T])
def no_complaint_of_what_did_not_run():
    return complains.with_options(name="after", priority=1)(unwatched_failure())


@hr.task
def unwatched_failure() -> None:
    raise ValueError("elsewhere")


@row(told={})
def no_complaint_of_a_skip():
    return skips.with_options(on_state=None, on_failure=tell_failure)()


@row(
    error=(ValueError, "as ordered"),
    told={"fails": [*FAILED, "Failed at attempt 1, ValueError: as ordered"]},
)
def states_come_before_the_complaint():
    return fails.with_options(on_failure=tell_failure)()


# -- hooks that raise --------------------------------------------------------------------------------------------


def breaks(change: hr.Change, *_: Any) -> None:
    raise RuntimeError("a broken hook")


def breaks_badly(change: hr.Change, *_: Any) -> None:
    raise SystemExit


@row(result=1, watched=[S])
def a_hook_that_raises_changes_nothing():
    return watched.with_options(on_state=breaks)(1)


@row(result=[1, 1], told={"watched-2": RAN}, watched=[S])
def a_hook_that_exits_changes_nothing():
    first = watched.with_options(on_state=breaks_badly)(1)
    return [first, watched(1, first)]


@row(error=(ValueError, "1 is odd"), complains=[F])
def a_complaint_that_raises_changes_nothing():
    return complains.with_options(on_failure=breaks)()


# -- flows -------------------------------------------------------------------------------------------------------


@row(result=1, told={"a_run_is_told": RAN})
@hr.flow(on_state=tell)
def a_run_is_told():
    return unwatched(1)


@row(error=(ValueError, "elsewhere"), told={"a_run_that_fails": FAILED})
@hr.flow(on_state=tell)
def a_run_that_fails():
    return unwatched_failure()


@row(error=(ValueError, "elsewhere"), told={"a_run_is_complained_of": ["Failed at attempt 0, ValueError: elsewhere"]})
@hr.flow(on_failure=tell_failure)
def a_run_is_complained_of():
    return unwatched_failure()


@row(result=1, told={})
@hr.flow(on_failure=tell_failure)
def a_run_without_complaint():
    return unwatched(1)


@row(result="rescued", told={"a_run_that_is_rescued": RAN})
@hr.flow(on_state=tell, on_failure=tell_failure)
def a_run_that_is_rescued():
    return handled(unwatched_failure())


@hr.task(trigger="any_failed")
def handled(error: Any) -> str:
    return "rescued"


@row(result=1, told={"a_run_and_its_tasks": RAN, "watched": RAN})
@hr.flow(on_state=tell)
def a_run_and_its_tasks():
    return watched(1)


@row(result=1)
@hr.flow(on_state=breaks, on_failure=breaks)
def a_flows_hook_that_raises_changes_nothing():
    return unwatched(1)
