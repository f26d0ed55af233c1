"""Rows: loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import headrace as hr
from headrace.errors import LoopLimit
from tests.semantics.rows_basic import Broken, same, total
from tests.semantics.table import F, K, S, T, row


@hr.task
def inc(x: int, by: int = 1) -> int:
    return x + by


@hr.task
def double_all(xs: list[int]) -> list[int]:
    return [2 * x for x in xs]


@hr.task
def double(x: int) -> int:
    return 2 * x


@hr.task
def until_four(x: int) -> int:
    if x >= 4:
        raise Broken(f"at {x}")
    return x + 1


@hr.task
def skip_at_two(x: int) -> int:
    if x == 2:
        raise hr.Skip("enough")
    return x + 1


@hr.task(trigger="any_failed")
def rescue(x: Any) -> str:
    return type(x).__name__


def at_least_three(x: int) -> bool:
    return x >= 3


def at_least_hundred(xs: Any) -> bool:
    return (xs if isinstance(xs, int) else sum(xs)) >= 100


def never(_: Any) -> bool:
    return False


@row({}, result=3, **{"loop": [S], "loop/inc": [S], "loop/inc-2": [S], "loop/inc-3": [S]})
def a_loop_repeats_until_it_is_done():
    return hr.loop(inc, 0, until=at_least_three)


@row({}, result=6, **{"loop/inc": [S]})
def the_first_turn_is_always_taken():
    return hr.loop(inc, 5, until=at_least_three)


@row({}, result=4, **{"loop/inc-2": [S], "inc": [S], "inc-2": [S]})
def the_initial_value_may_be_a_node_and_what_follows_takes_the_last():
    return inc(hr.loop(inc, inc(0), until=at_least_three))


@row({}, result=10, **{"climb/inc-2": [S]})
def each_turn_gets_further_arguments_and_the_loop_a_name():
    return hr.loop(inc, 0, 5, until=lambda x: x >= 10, name="climb")


@row({}, result=12, **{"loop/inc-3": [S]})
def further_arguments_may_be_nodes():
    return hr.loop(inc, 0, by=inc(3), until=lambda x: x >= 10)


@row({}, error=(LoopLimit, "after 4 turns.*return_last"), **{"loop": [F], "loop/inc-4": [S]})
def a_loop_that_is_not_done_in_time_fails():
    return hr.loop(inc, 0, until=never, most=4)


@row({}, result=4, **{"loop": [S], "loop/inc-4": [S]})
def or_gives_its_last_value():
    return hr.loop(inc, 0, until=never, most=4, return_last=True)


@row({}, error=(Broken, "at 4"), **{"loop": [F], "loop/until_four-5": [F], "inc": [T]})
def a_turn_that_fails_fails_the_loop():
    return inc(hr.loop(until_four, 0, until=never))


@row({}, result="Broken", loop=[F])
def a_failed_loop_can_be_handled():
    return rescue(hr.loop(until_four, 3, until=never))


@row({}, result=None, **{"loop": [K], "loop/skip_at_two-3": [K], "inc": [K]})
def a_turn_that_is_skipped_skips_the_loop():
    return inc(hr.loop(skip_at_two, 0, until=never))


def doubt(x: int) -> bool:
    raise Broken(f"who knows about {x}")


@row({}, error=(Broken, "who knows about 1"), **{"loop": [F], "loop/inc": [S]})
def a_condition_that_fails_fails_the_loop():
    return hr.loop(inc, 0, until=doubt)


@hr.task
def is_done(x: int) -> bool:
    return x > 1


@row({}, result=2)
def the_condition_may_be_a_task():
    return hr.loop(inc, 0, until=is_done)


# -- flows as bodies ----------------------------------------------------------------------------------------------


@hr.flow
def twice_as_much(x: int, more: int = 0):
    return total([inc(x), double(x), more])


@row({}, result=121, **{"loop/inc-4": [S], "loop/total-4": [S]})
def a_flow_can_be_repeated():
    return hr.loop(twice_as_much, 1, until=at_least_hundred)


@hr.flow
def doubled(xs: list[int], times: int = 1):
    for _ in range(times):
        xs = double.map(xs)
    return xs


@row({}, result=[32, 64, 96], **{"loop/double-5": [S, S, S]})
def a_flow_may_map_over_the_value():
    return hr.loop(doubled, [1, 2, 3], until=at_least_hundred)


@row({}, result=[32, 64, 96], **{"loop/double": [S, S, S]})
def a_flow_may_map_over_an_initial_value_that_a_task_made():
    return hr.loop(doubled, same([1, 2, 3]), until=at_least_hundred)


@row({}, result=[64, 128], **{"loop/double-6": [S, S]})
def constants_are_plain_python_in_a_repeated_flow():
    return hr.loop(doubled, [1, 2], times=2, until=at_least_hundred)


@row({}, result=[64, 96], **{"loop/double": [S, S]})
def the_initial_value_may_be_a_container_of_nodes():
    return hr.loop(doubled, [inc(1), inc(2)], until=at_least_hundred)


@hr.flow
def parts(pair: dict[str, Any]):
    return {"n": inc(pair["n"]), "log": note(pair["log"], pair["n"])}


@hr.task
def note(log: list[int], n: int) -> list[int]:
    return [*log, n]


@row({}, result={"n": 3, "log": [0, 1, 2]})
def a_flow_takes_parts_of_the_value_and_gives_a_container():
    return hr.loop(parts, {"n": 0, "log": []}, until=lambda pair: pair["n"] == 3)


@row({}, result={"n": 3, "log": [9, 1, 2]})
def also_of_a_container_of_nodes():
    return hr.loop(parts, {"n": inc(0), "log": same([9])}, until=lambda pair: pair["n"] == 3)


@hr.flow
def weighted(xs: list[int], weights: list[int]):
    return plus.map(xs, weights)


@hr.task
def plus(x: int, y: int) -> int:
    return x + y


@row({}, result=[31, 72], **{"loop/plus-3": [S, S]})
def a_flow_may_map_over_further_arguments():
    return hr.loop(weighted, [1, 12], same([10, 20]), until=at_least_hundred)


@hr.flow
def loops_inside(x: int):
    return hr.loop(inc, x, until=lambda v: v % 3 == 0)


@row({}, result=6, **{"loop/loop-2/inc-3": [S], "loop/loop-2": [S]})
def loops_nest():
    return hr.loop(loops_inside, 0, until=lambda v: v >= 6)


@hr.flow
def quiet(x: int):
    until_four(x)
    return inc(x)


@row({}, error=(Broken, "at 4"), **{"loop": [F], "loop/inc-5": [S], "loop/until_four-5": [F]})
def a_node_of_a_turn_that_nothing_waits_for_decides_too():
    return hr.loop(quiet, 0, until=never)


# -- in maps, in flows, with flows --------------------------------------------------------------------------------


@row({}, result=[3, 3, 6], **{"loop": [S] * 3, "loop[0]/inc-3": [S], "loop[1]/inc-2": [S], "loop[2]/inc": [S]})
def each_child_of_a_map_is_a_loop_of_its_own():
    return hr.loop.map(inc, [0, 1, 5], until=at_least_three)


@row({}, result=[3, 3, 4], same=[S] * 3)
def a_map_over_a_map_of_loops_goes_child_by_child():
    return same.map(hr.loop.map(inc, inc.map([-1, 0, 2]), until=at_least_three))


@row({}, result=[4, 5], **{"loop[0]/inc-2": [S], "loop[1]/inc": [S]})
def loops_in_a_map_share_what_is_not_mapped():
    return hr.loop.map(inc, same([0, 3]), hr.unmapped(same(2)), until=at_least_three)


@row({}, result=[4, 3], **{"loop[0]/inc-2": [S], "loop[1]/inc": [S]})
def loops_in_a_map_may_have_arguments_of_their_own():
    return hr.loop.map(inc, [0, 0], by=[2, 3], until=at_least_three)


@row({}, result=[[32, 64, 96], [100]], **{"loop[0]/double-5": [S] * 3, "loop[1]/double-2": [S]})
def loops_in_a_map_may_map():
    return hr.loop.map(doubled, lists.map([3, 25]), until=at_least_hundred)


@hr.task
def lists(n: int) -> list[int]:
    return [1, 2, 3] if n == 3 else [n]


@row({}, error=(Broken, "at 4"), loop=[F, F], total=[T])
def a_map_of_loops_fails_child_by_child():
    return total(hr.loop.map(until_four, [3, 4], until=never))


@hr.flow
def counted(n: int):
    return hr.loop(inc, 0, until=at_least_three, name=f"up{n}")


@hr.task
def plan(n: int) -> Any:
    return counted.bind(n=n)


@row({}, result=[3, 3], **{"plan[1]/up7": [S], "plan[1]/up7/inc-3": [S]})
def a_returned_flow_may_loop():
    return plan.map([5, 7])


@hr.task
def returns_flow(x: int) -> Any:
    return added.bind(x=x)


@hr.flow
def added(x: int):
    return inc(x)


@row({}, result=3, **{"loop/returns_flow-3": [S], "loop/returns_flow-3/inc": [S]})
def what_is_repeated_may_return_flows():
    return hr.loop(returns_flow, 0, until=at_least_three)


@hr.task(retries=1)
def second_time(path: str) -> str:
    with Path(path).open("a") as file:
        file.write("x")
    if len(Path(path).read_text()) % 2:
        raise Broken("every other time")
    return path


def is_long(path: str) -> bool:
    return len(Path(path).read_text()) >= 6


@row({"path": "?"}, result=6, attempts={"loop/second_time": [2], "loop/second_time-3": [2]})
def turns_have_their_own_retries(path: str):
    return length(hr.loop(second_time, path, until=is_long))


@hr.task
def length(path: str) -> int:
    return len(Path(path).read_text())
