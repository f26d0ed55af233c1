"""Rows: targets, where tasks keep values that outlive runs."""

from __future__ import annotations

import os
import threading
from typing import Any

import headrace as hr
from headrace.errors import FlowError, NotPicklable
from tests.semantics.rows_basic import Broken, same, total
from tests.semantics.table import CACHED, F, S, T, row


def counting(target: Any, **options: Any) -> hr.Task[..., Any]:
    """A task with a target, which writes down how often it is executed."""

    @hr.task(target=target, **options)
    def keep(folder: str, value: Any = 1) -> Any:
        with open(f"{folder}.log", "a") as file:
            file.write("x")
        if isinstance(value, str) and value == "broken":
            raise Broken("as ordered")
        return value

    return keep


@hr.task
def executed(folder: str) -> int:
    with open(f"{folder}.log") as file:
        return len(file.read())


@hr.task
def odd(x: int) -> int:
    if x == 1:
        raise Broken("one")
    return x


@hr.task
def unpicklable(folder: str) -> Any:
    return threading.Lock()


@row({"folder": "?"}, result=[1, 1, 1], keep=[S], **{"keep-2": [CACHED]})
def a_target_that_is_there_is_read(folder: str) -> Any:
    keep = counting("{folder}/x")
    first = keep(folder)
    second = keep(folder, upstream=first)
    return [first, second, executed(folder, upstream=second)]


@row({"folder": "?"}, result=[None, None, 1], **{"keep-2": [CACHED]})
def none_is_kept_like_any_other_value(folder: str) -> Any:
    keep = counting("{folder}/x")
    first = keep(folder, None)
    second = keep(folder, None, upstream=first)
    return [first, second, executed(folder, upstream=second)]


@row({"folder": "?"}, result={"a": [1, None]}, **{"keep-2": [CACHED]})
def a_target_in_json(folder: str) -> Any:
    keep = counting("{folder}/x.json")
    return keep(folder, upstream=keep(folder, {"a": [1, None]}))


@row({"folder": "?"}, result=(1, 2), **{"keep-2": [CACHED]})
def a_target_with_a_format(folder: str) -> Any:
    keep = counting(hr.Target("{folder}/x.json", format="pickle"))
    return keep(folder, upstream=keep(folder, (1, 2)))


@row({"folder": "?"}, result=[1, 2, 1], **{"keep-3": [CACHED]})
def arguments_make_targets_differ(folder: str) -> Any:
    keep = counting("{folder}/{value}")
    one, two = keep(folder), keep(folder, 2)
    return [one, two, keep(folder, 1, upstream=[one, two])]


@row({"folder": "?"}, result=5, **{"keep-2": [CACHED]})
def a_function_tells_the_target(folder: str) -> Any:
    keep = counting(lambda folder, value: f"{folder}/{value:03d}")
    return keep(folder, 5, upstream=keep(folder, 5))


@row({"folder": "?"}, result=[7, 8, 9], keep=[S, S, S])
def children_of_a_map_each_have_a_target(folder: str) -> Any:
    return counting("{folder}/{index}").map(hr.unmapped(folder), [7, 8, 9])


@row({"folder": "?"}, result=24, keep=[S], **{"keep-2": [S, CACHED, S]})
def a_map_makes_what_is_missing(folder: str) -> Any:
    keep = counting("{folder}/{value}")
    first = keep(folder, 8)
    return total(keep.map(hr.unmapped(folder), [7, 8, 9], upstream=first))


@row({"folder": "?"}, result=[0, 1, 2], **{"keep-2": [CACHED]})
def a_map_over_a_cached_value(folder: str) -> Any:
    keep = counting("{folder}/x")
    return same.map(keep(folder, upstream=keep(folder, [0, 1, 2])))


@row({"folder": "?"}, result="name-of-the-flow-is-known", **{"keep-2": [CACHED]})
def the_run_is_known_to_the_target(folder: str) -> Any:
    keep = counting("{folder}/{flow_name}/{run_id}")
    return keep(folder, upstream=keep(folder, "name-of-the-flow-is-known"))


@row({"folder": "?", "day": "today"}, result=3, **{"keep-2": [CACHED]})
def parameters_of_the_run_are_known_to_the_target(folder: str, day: str) -> Any:
    keep = counting("{folder}/{day}")
    return keep(folder, upstream=keep(folder, 3))


@row({"folder": "?"}, error=(Broken, "as ordered"), keep=[F], **{"keep-2": [T]})
def a_failure_is_not_kept(folder: str) -> Any:
    keep = counting("{folder}/x")
    return keep(folder, 2, upstream=keep(folder, "broken"))


@row({"folder": "?"}, error=(Broken, "as ordered"), attempts={"keep": [3]}, keep=[F])
def a_target_and_retries(folder: str) -> Any:
    return counting("{folder}/x", retries=2)(folder, "broken")


@row({"folder": "?"}, error=(FlowError, "cannot be filled in.*hour"), keep=[F])
def a_target_that_cannot_be_filled_in(folder: str) -> Any:
    return counting("{folder}/{hour}")(folder)


@row({"folder": "?"}, error=(FlowError, "would come back as another value"), keep=[F])
def a_value_that_json_would_change(folder: str) -> Any:
    return counting("{folder}/x.json")(folder, (1, 2))


@row({"folder": "?"}, error=(NotPicklable, "the value of task"), unpicklable=[F])
def a_value_that_cannot_be_kept(folder: str) -> Any:
    return unpicklable.with_options(target="{folder}/x")(folder)


@hr.task(trigger="all_finished")
def is_there(folder: str, made: Any) -> bool:
    return os.path.exists(f"{folder}/x")


@hr.flow
def elsewhere() -> Any:
    return same(1)


@hr.task
def lists_a_flow(folder: str) -> Any:
    return [elsewhere.bind()]


@row({"folder": "?"}, result=False, lists_a_flow=[F])
def a_list_with_a_flow_is_not_kept(folder: str) -> Any:
    return is_there(folder, lists_a_flow.with_options(target="{folder}/x")(folder))


@row({"folder": "?"}, result="ran", **{"keep-2": [CACHED]})
def a_case_of_a_cached_value(folder: str) -> Any:
    keep = counting("{folder}/x")
    with hr.case(keep(folder, "a", upstream=keep(folder, "a")), "a"):
        ran = same("ran")
    return hr.merge(ran, "did not run")


@row({"folder": "?"}, result=[0, 2], odd=[S, F, S], **{"keep-2": [CACHED]})
def a_filter_over_a_map_over_a_cached_value(folder: str) -> Any:
    keep = counting("{folder}/x")
    of_another_batch = odd.with_options(priority=1)
    return hr.filter(of_another_batch.map(keep(folder, [0, 1, 2], upstream=keep(folder, [0, 1, 2]))))


@row({"folder": "?"}, result=[7, 8], **{"keep-2": [CACHED, CACHED]})
def a_filter_over_cached_children(folder: str) -> Any:
    keep = counting("{folder}/{index}")
    first = keep.map(hr.unmapped(folder), [7, 8])
    return hr.filter(keep.map(hr.unmapped(folder), [7, 8], upstream=first))


@row({"folder": "?"}, result=[7], keep=[S])
def a_map_of_one_child_may_have_any_target(folder: str) -> Any:
    return counting("{folder}/x").map(hr.unmapped(folder), [7])
