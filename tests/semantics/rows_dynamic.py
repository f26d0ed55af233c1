"""Rows: tasks that return flows, and dynamic tasks."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.errors import FlowError, NestedTooDeep, NodeUsedAsValue, NotPicklable, ParameterError
from tests.semantics.rows_basic import Broken, same, total
from tests.semantics.table import F, K, S, T, row
from tests.semantics.witness import tell


@hr.task
def inc(x: int) -> int:
    return x + 1


@hr.task
def refuse(x: Any) -> Any:
    raise Broken(f"not {x}")


@hr.task
def pass_by(x: Any) -> Any:
    raise hr.Skip("nothing to do")


@hr.task(trigger="any_failed")
def rescue(x: Any) -> str:
    return type(x[0] if isinstance(x, list) else x).__name__


@hr.task(trigger="all_finished", skip_on_upstream_skip=False)
def accept(x: Any) -> Any:
    return x


@hr.task
def count(path: str, value: Any = 0) -> Any:
    """Leave a trace of each call."""
    with Path(path).open("a") as file:
        file.write("x")
    return value


@hr.task
def calls(path: str, _: Any) -> int:
    return len(Path(path).read_text())


@hr.flow
def added(n: int):
    return total(inc.map(range(n)))


@hr.flow
def chain(n: int):
    value = inc(0)
    for _ in range(n - 1):
        value = inc(value)
    return value


@hr.flow
def broken(n: int = 0):
    return inc(refuse(n))


@hr.flow
def skipped(n: int = 0):
    return {"a": pass_by(n), "b": inc(n)}


@hr.flow
def quiet(n: int = 0):
    refuse(n)
    return inc(n)


@hr.flow
def aside(n: int = 0):
    pass_by(n)
    return inc(n)


@hr.flow
def several(n: int = 0):
    return {"one": inc(n), "more": [inc(n), (n, same("x"))], "none": None}


with hr.Flow("by_hand") as by_hand:
    times = hr.Parameter("times", int, 2)
    by_hand.returns([inc(times), same("hand")])


@hr.task
def plan(n: int) -> Any:
    return added.bind(n=n)


@hr.task
def plan_or_number(n: int) -> Any:
    return added.bind(n=n) if n % 2 else n


# -- a task that returns a flow -----------------------------------------------------------------------------------


@row({}, result=6, **{"plan": [S], "plan/inc": [S, S, S], "plan/total": [S]})
def a_returned_flow_is_executed():
    return plan(3)


@row({}, result=7, plan=[S], inc=[S])
def what_follows_takes_the_flows_result():
    return inc(plan(3))


@row({}, result=[1, 3, 6], **{"plan": [S, S, S], "plan[0]/inc": [S], "plan[2]/inc": [S, S, S], "plan[2]/total": [S]})
def each_child_of_a_map_is_a_flow_of_its_own():
    return plan.map([1, 2, 3])


@row({}, result=[2, 4, 7], inc=[S, S, S])
def a_map_over_children_that_are_flows_goes_child_by_child():
    return inc.map(plan.map([1, 2, 3]))


@row({}, result=[0, 1, 2, 6, 4], **{"plan_or_number": [S] * 5, "plan_or_number[3]/total": [S]})
def some_children_are_flows_and_others_are_not():
    return plan_or_number.map(range(5))


@row({}, result=(3, 6), **{"plan/total": [S], "plan-2/total": [S]})
def two_nodes_of_one_task_have_flows_with_names_of_their_own():
    return plan(2), plan(3)


@row({}, result=[1, 10])
def one_item_of_a_map_of_flows_can_be_taken():
    values = plan.map([1, 2, 4])
    return [values[0], values[2]]


@row({}, result={"one": 1, "more": [1, (0, "x")], "none": None})
def a_returned_flow_gives_containers():
    return return_flow(several)


@row({}, result=[3, "hand"], **{"return_flow/inc": [S], "return_flow/same": [S]})
def a_returned_flow_may_be_built_by_hand():
    return return_flow(by_hand)


@hr.task
def return_flow(flow: Any, **parameters: Any) -> Any:
    return flow.bind(**parameters)


@row({}, result=1)
def a_part_of_the_flows_result_can_be_taken():
    return return_flow(several)["more"][0]


@row({}, error=(ParameterError, "nnn"), return_flow=[F])
def parameters_are_checked_as_for_a_run():
    return return_flow(added, nnn=3)


@hr.flow
def known(n: int):
    return [n, "known"]


@row({}, result=[[3, "known"], 4])
def a_returned_flow_may_have_no_node():
    return [return_flow(known, n=3), inc(return_flow(known, n=3)[0])]


@row({}, result=10, **{"return_flow/inc": [S, S, S, S]})
def parameters_are_converted_as_for_a_run():
    return return_flow(added, n="4")


@hr.flow
def inner_fails_to_draw(n: int = 0):
    raise Broken("no graph today")


@row({}, error=(Broken, "no graph today"), return_flow=[F])
def a_flow_that_cannot_be_drawn_fails_the_task():
    return return_flow(inner_fails_to_draw)


@row({}, result=[2, "Broken"])
def one_that_cannot_be_drawn_leaves_its_neighbours_alone():
    return [inc(1), rescue(return_flow(inner_fails_to_draw))]


class Locked:
    """What cannot travel."""

    def __reduce__(self) -> Any:
        raise TypeError("it stays here")


@hr.flow
def holds_a_lock():
    return same(Locked())


@row({}, error=(NotPicklable, "the flow that task 'return_flow' returned"), return_flow=[F])
def a_flow_that_cannot_travel_says_what_in_it_cannot():
    return return_flow(holds_a_lock)


# -- how it ends --------------------------------------------------------------------------------------------------


@row({}, error=(Broken, "not 4"), **{"return_flow": [F], "return_flow/refuse": [F], "return_flow/inc": [T], "inc": [T]})
def a_failure_inside_fails_the_task_with_its_error():
    return inc(return_flow(broken, n=4))


@row({}, result="Broken", return_flow=[F], rescue=[S])
def a_failure_inside_can_be_handled_outside():
    return rescue(return_flow(broken))


@row({}, error=(Broken, "not 0"), **{"return_flow": [F], "return_flow/inc": [S], "return_flow/refuse": [F]})
def a_failure_of_a_node_that_nothing_waits_for_decides_too():
    return return_flow(quiet)


@row({}, result=1, **{"return_flow": [S], "return_flow/pass_by": [K]})
def a_skip_of_a_node_that_is_not_returned_does_not_matter():
    return return_flow(aside)


@row({}, result=None, **{"return_flow": [K], "return_flow/pass_by": [K], "return_flow/inc": [S], "same": [K]})
def a_skip_of_what_is_returned_skips_the_task():
    return same(return_flow(skipped))


@hr.task(skip_on_upstream_skip=False)
def return_skipped() -> Any:
    return skipped.bind()


@row({}, result={"a": None, "b": 1}, return_skipped=[S])
def a_task_that_does_not_skip_gets_none_in_its_place():
    return return_skipped()


@hr.flow
def handles_its_failure(n: int = 0):
    return rescue(refuse(n))


@row({}, result="Broken", **{"return_flow": [S], "return_flow/refuse": [F]})
def a_failure_that_the_flow_handles_is_none():
    return return_flow(handles_its_failure)


@hr.task
def maybe(x: int) -> Any:
    if x == 1:
        return broken.bind(n=x)
    return chain.bind(n=1) if x == 2 else x


@row({}, result="Broken", **{"maybe": [S, F, S], "maybe[2]/inc": [S]})
def one_childs_failure_leaves_the_others_alone():
    return rescue(accept_broken(maybe.map([0, 1, 2])))


@hr.task(trigger="all_finished")
def accept_broken(values: Any) -> Any:
    raise next(value for value in values if isinstance(value, Exception))


@row({}, error=(Broken, "not 1"), maybe=[S, F, S], same=[T])
def the_error_inside_a_childs_flow_is_the_runs():
    return same(maybe.map([0, 1, 2]))


@hr.flow
def refused_by_trigger():
    return rescue(inc(1))


@row({}, error=(hr.errors.TriggerFailed, "refused"), **{"return_flow": [F], "return_flow/rescue": [T]})
def a_refusal_inside_is_a_failure():
    return return_flow(refused_by_trigger)


# -- attempts -----------------------------------------------------------------------------------------------------


@hr.task(retries=2)
def second_time(path: str) -> Any:
    count(path)  # a plain call
    if len(Path(path).read_text()) < 2:
        raise Broken("the first time")
    return chain.bind(n=3)


@row({"path": "?"}, result=3, attempts={"second_time": [2]}, **{"second_time": [S], "second_time/inc-3": [S]})
def a_task_may_return_a_flow_at_its_second_attempt(path: str):
    return second_time(path)


@hr.flow
def counts_and_fails(path: str):
    return refuse(count(path))


@hr.task(retries=3)
def retried(path: str) -> Any:
    return counts_and_fails.bind(path=path)


@row({"path": "?"}, result=1, attempts={"retried": [1]}, **{"retried": [F], "retried/count": [S]})
def a_failed_flow_is_not_tried_again(path: str):
    return calls_after(path, retried(path))


@hr.task(trigger="all_finished")
def calls_after(path: str, _: Any) -> int:
    return len(Path(path).read_text())


@hr.task(retries=2)
def flaky(path: str) -> int:
    if len(Path(count(path, path)).read_text()) < 3:
        raise Broken("not yet")
    return 5


@hr.flow
def retries_inside(path: str):
    return inc(flaky(path))


@row({"path": "?"}, result=6, attempts={"return_flow/flaky": [3], "return_flow": [1]})
def tasks_inside_have_their_own_retries(path: str):
    return return_flow(retries_inside, path=path)


@row({"path": "?"}, result=1, count_and_return=[S])
def a_task_that_returns_a_flow_runs_once(path: str):
    return calls(path, count_and_return(path))


@hr.task
def count_and_return(path: str) -> Any:
    count(path)
    return chain.bind(n=2)


# -- dynamic tasks ------------------------------------------------------------------------------------------------


@hr.task(dynamic=True)
def draw(n: int) -> Any:
    if n == 0:
        return "nothing"
    return {"sum": total([inc(x) for x in range(n)]), "n": n}


@row({}, result={"sum": 6, "n": 3}, **{"draw": [S], "draw/inc": [S], "draw/inc-3": [S], "draw/total": [S]})
def the_body_of_a_dynamic_task_is_drawn():
    return draw(3)


@row({}, result=["nothing", {"sum": 1, "n": 1}, {"sum": 3, "n": 2}], draw=[S, S, S])
def dynamic_tasks_can_be_mapped():
    return draw.map([0, 1, 2])


@row({}, result=5)
def arguments_of_a_dynamic_task_are_values():
    return draw_if_large(inc(4))


@hr.task(dynamic=True)
def draw_if_large(n: int) -> Any:
    return inc(n) if n > 5 else n


@hr.task(dynamic=True)
def draw_and_return_flow(n: int) -> Any:
    return chain.bind(n=n)


@row({}, result=4, **{"draw_and_return_flow/inc-4": [S]})
def a_dynamic_task_may_return_a_bound_flow():
    return draw_and_return_flow(4)


@hr.task(dynamic=True)
def draw_both(n: int) -> Any:
    inc(n)
    return chain.bind(n=n)


@row({}, error=(FlowError, "call that flow"), draw_both=[F])
def a_dynamic_task_may_not_draw_and_return_a_bound_flow():
    return draw_both(1)


@hr.task(dynamic=True)
def draw_flow(n: int) -> Any:
    return [chain(n), added(inc_now(n))]


def inc_now(n: int) -> int:
    return inc.function(n)


@row({}, result=[2, 6], **{"draw_flow/inc-2": [S], "draw_flow/inc-3": [S, S, S]})
def a_dynamic_task_may_call_flows():
    return draw_flow(2)


@hr.task(dynamic=True)
def draw_wrongly(n: int) -> Any:
    return 1 if inc(n) else 2


@row({}, error=(NodeUsedAsValue, "decide inside a task"), draw_wrongly=[F])
def a_node_used_as_a_value_fails_the_dynamic_task():
    return draw_wrongly(1)


@hr.task
def plain_calls(n: int) -> list[Any]:
    return [inc(n), total([n, n]), draw(0)]


@row({}, result=[2, 2, "nothing"])
def a_task_called_in_an_ordinary_task_is_the_plain_function():
    return plain_calls(1)


@hr.flow
def uses_dynamic(n: int):
    return draw(n)["sum"]


@row({}, result=4, **{"draw/total": [S]})
def dynamic_tasks_stand_in_flows_in_flows():
    return inc(uses_dynamic(2))


# -- nested, maps, widths -----------------------------------------------------------------------------------------


@hr.task
def factorial(n: int) -> Any:
    return product.bind(n=n) if n > 1 else 1


@hr.task
def multiply(a: int, b: int) -> int:
    return a * b


@hr.flow
def product(n: int):
    return multiply(n, factorial(n - 1))


@row({}, result=120, **{"factorial/factorial/factorial": [S], "factorial/factorial/multiply": [S]})
def flows_nest():
    return factorial(5)


@hr.task
def forever(n: int) -> Any:
    return deeper.bind(n=n)


@hr.flow
def deeper(n: int):
    return forever(n)


@row({}, error=(NestedTooDeep, "51 levels deep.*hr.loop"), forever=[F])
def a_recursion_without_end_is_stopped():
    return forever(1)


def deep() -> Any:
    return factorial(5)


row(result=120)(hr.Flow("a_recursion_of_a_depth_that_is_allowed", deep, max_depth=4))
row(error=(NestedTooDeep, "4 levels deep.*max_depth"))(hr.Flow("a_recursion_that_is_too_deep", deep, max_depth=3))


@hr.flow
def listed(n: int):
    return same(list(range(n)))


@hr.task
def make_list(n: int) -> Any:
    return listed.bind(n=n)


@row({}, result=[1, 2, 3, 4], inc=[S] * 4)
def a_map_is_as_wide_as_the_flows_result():
    return inc.map(make_list(4))


@row({}, result=[1, 1, 2, 1, 2, 3], inc=[S] * 6)
def flatten_goes_over_the_results_of_flows():
    return inc.map(hr.flatten(make_list.map([1, 2, 3])))


@row({}, error=(FlowError, "not a sequence"), inc=[F])
def a_map_over_a_flows_result_that_is_no_list_is_refused():
    return inc.map(plan(2))


@row({}, result=[], plan=[], inc=[])
def a_map_of_no_flows_is_empty():
    return inc.map(plan.map([]))


@hr.flow
def mapped_result(n: int):
    return inc.map(range(n))


@row({}, result=[2, 3, 4], **{"return_flow/inc": [S, S, S], "inc": [S, S, S]})
def a_flow_may_return_a_mapped_node():
    return inc.map(return_flow(mapped_result, n=3))


@hr.flow
def long_list(values: list[int]):
    return total(inc.map(values))


@row({}, result=sum(range(30_000)) + 30_000, total=[S])
def long_lists_of_a_returned_flow_arrive():
    return same_number(return_flow(long_list, values=list(range(30_000))))


@hr.task(name="total")
def same_number(x: int) -> int:
    return x


@row({}, result=[3, 7], plan=[S])
def a_result_is_for_all_that_take_it():
    value = plan(2)
    return [same(value), total([value, 4])]


@hr.task
def closure(n: int) -> Any:
    @hr.task
    def times(x: int) -> int:
        return n * x

    @hr.flow
    def local(k: int):
        return times.map(range(k))

    return local.bind(k=3)


@row({}, result=[[0, 2, 4], [0, 5, 10]], **{"closure[1]/times": [S, S, S]})
def a_flow_may_be_made_in_the_task():
    return closure.map([2, 5])


@row({}, result=[3, 3])
def order_without_a_value_holds_for_flows():
    first = plan(2)
    return [first, calls_after_flow(first, upstream=first)]


@hr.task
def calls_after_flow(x: int) -> int:
    return x


# -- with the rest of the language --------------------------------------------------------------------------------


@hr.task(on_state=tell)
def watched(x: int) -> int:
    return x + 1


@hr.flow
def watching(n: int = 0):
    return watched(n)


@row({}, result=1, told={"return_flow/watched": ["Pending > Running", "Running > Success"]})
def hooks_of_tasks_that_joined_are_called():
    return return_flow(watching)


@hr.task(on_state=tell)
def watched_plan(n: int) -> Any:
    return broken.bind(n=n)


@row({}, error=(Broken, "not 1"), told={"watched_plan": ["Pending > Running", "Running > Failed"]})
def hooks_of_a_task_hear_of_the_end_of_its_flow():
    return watched_plan(1)


@hr.task(max_running=1)
def limited(n: int) -> Any:
    return limited_pair.bind(n=n) if n else 1


@hr.flow
def limited_pair(n: int):
    return total([limited(n - 1), limited(n - 1)])


@row({}, result=8)
def a_limited_task_may_return_flows_that_call_it():
    return limited(3)


@hr.task
async def plan_later(n: int) -> Any:
    await asyncio.sleep(0)
    return added.bind(n=n)


@row({}, result=[0, 1, 3], **{"plan_later[2]/inc": [S, S]})
def async_tasks_may_return_flows():
    return plan_later.map([0, 1, 2])


@hr.task(target="{path}")
def kept_plan(path: str) -> Any:
    return added.bind(n=1)


@row({"path": "?"}, error=(FlowError, "has a target and returned a flow"), kept_plan=[F])
def a_task_with_a_target_may_not_return_a_flow(path: str):
    return kept_plan(path)


@hr.resource
def table(path: str) -> str:
    count(path)
    return path


@table.cleanup
def drop(path: str) -> None:
    count(path)


@hr.flow
def within(path: str, fails: bool = False):
    with table(path) as made:
        return refuse(made) if fails else calls(made, 0)


@row({"path": "?"}, result=[1, 2], **{"return_flow/drop": [S]})
def a_resource_of_a_returned_flow_is_cleaned_up_before_it_is_over(path: str):
    used = return_flow(within, path=path)
    return [used, calls(path, used)]


@row({"path": "?"}, result=2, **{"return_flow": [F], "return_flow/drop": [S]})
def also_if_it_fails(path: str):
    return calls_after(path, return_flow(within, path=path, fails=True))


@hr.flow
def choosing(n: int):
    with hr.case(same(n), 1):
        one = inc(10)
    with hr.case(same(n), 2):
        two = inc(20)
    return hr.merge(one, two)


@row({}, result=[11, 21])
def a_returned_flow_may_choose():
    return [return_flow(choosing, n=1), return_flow(choosing, n=2)]


@hr.flow
def deciding_itself(n: int = 0):
    refuse(n)
    good = inc(n)
    hr.decide_by(good)
    return good


@row({}, result=1, **{"return_flow": [S], "return_flow/refuse": [F]})
def what_a_returned_flow_says_decides_over_it_decides():
    return return_flow(deciding_itself)


@row({}, result=6, plan=[S])
def a_case_around_a_task_holds_for_its_flow():
    with hr.case(inc(0), 1):
        value = plan(3)
    with hr.case(inc(0), 2):
        other = plan(4)
    return hr.merge(value, other)


@hr.task
def where() -> list[Any]:
    here = hr.context()
    return [here.flow_name, here.task_name, here.parameters["n"]]


@hr.flow
def located():
    return where()


@row({"n": 7}, result=["tasks_that_joined_know_where_they_are", "return_flow/where", 7])
def tasks_that_joined_know_where_they_are(n: int):
    return return_flow(located)


@hr.task(isolated=True)
def plan_apart(n: int) -> Any:
    return added.bind(n=n)


@row({}, result=6, **{"plan_apart/total": [S]})
def an_isolated_task_may_return_a_flow():
    return plan_apart(3)


@hr.task
def inside_a(kind: str) -> Any:
    flow = returned_inside.bind(x=1)
    return {"list": [flow], "tuple": (1, flow), "dict": {"a": [flow]}, "object": Holder(flow)}[kind]


@dataclass
class Holder:
    held: Any


@hr.flow
def returned_inside(x: int) -> Any:
    return inc(x)


for _kind in ("list", "tuple", "dict", "object"):
    row(
        {"kind": _kind},
        error=(FlowError, "value of task 'inside_a' has a bound flow inside, 'returned_inside'"),
        inside_a=[F],
    )(hr.flow(name=f"a_flow_inside_a_{_kind}")(lambda kind: inside_a(kind)))


@row(error=(FlowError, "has a bound flow inside"), inside_a=[F])
def a_flow_inside_a_list_of_an_isolated_task():
    return inside_a.with_options(isolated=True)("list")


@row(result=[2])
def flows_inside_arguments_are_no_results():
    return [pick([returned_inside.bind(x=1)])]


@hr.task
def pick(flows: list[Any]) -> Any:
    return flows[0]
