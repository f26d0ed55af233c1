"""Rows: values and arguments, maps, flows in flows, failures, triggers, retries."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import headrace as hr
from headrace.errors import FlowError, TriggerFailed
from tests.semantics.table import F, S, T, row

# -- tasks -------------------------------------------------------------------------------------------------------


class Broken(Exception):
    """An exception with a class of its own."""


class Awkward(Exception):
    """One that pickle cannot make again, because its constructor takes more than its text."""

    def __init__(self, code: int, where: str) -> None:
        super().__init__(f"code {code} at {where}")
        self.code = code


class Locked(Exception):
    """One that cannot be pickled at all."""

    def __init__(self) -> None:
        super().__init__("it holds a lock")
        self.lock = threading.Lock()


@dataclass(frozen=True)
class Box:
    left: Any
    right: Any = 0


class Pair(NamedTuple):
    first: Any
    second: Any


@hr.task
def add(x: int, y: int = 1) -> int:
    return x + y


@hr.task
def same(x: Any) -> Any:
    return x


@hr.task
def total(xs: Any) -> int:
    return sum(xs)


@hr.task
def upto(n: int) -> list[int]:
    return list(range(n))


@hr.task(nout=2)
def both(x: int) -> tuple[int, int]:
    return x, -x


@hr.task
def odd_fails(x: int) -> int:
    if x % 2:
        raise Broken(f"{x} is odd")
    return x


@hr.task
def fail(*_: Any) -> None:
    raise Broken("as ordered")


@hr.task
def awkward() -> None:
    raise Awkward(7, "home")


@hr.task
def locked() -> None:
    raise Locked


@hr.task(trigger="any_failed")
def rescue(*causes: Any) -> list[str]:
    return [str(cause) for cause in causes]


@hr.task(trigger="all_failed")
def after_disaster(*causes: Any) -> str:
    return "all lost"


@hr.task(trigger="any_successful")
def any_good(*values: Any) -> list[Any]:
    return [value for value in values if not isinstance(value, Exception)]


@hr.task(trigger="all_finished")
def always(*values: Any) -> list[str]:
    return [type(value).__name__ for value in values]


@hr.task(trigger="not_all_skipped")
def not_skipped(x: Any) -> Any:
    return x


@hr.task
def unbox(box: Box) -> Any:
    return box.left - box.right


@hr.task
def second(_: Any, value: Any) -> Any:
    return value


@hr.task
def cells(box: Any) -> list[str]:
    return [type(box).__name__, *(repr(part) for part in box)]


def attempt_of(path: str) -> int:
    """Which attempt this is; a file counts across processes."""
    with open(path, "a+") as file:
        file.seek(0)
        seen = len(file.read())
        file.write("x")
    return seen + 1


def failing_before(times: int, **policy: Any) -> hr.Task[..., str]:
    """A task that fails so often before it succeeds."""

    @hr.task(**policy)
    def flaky(path: str) -> str:
        attempt = attempt_of(path)
        if attempt <= times:
            raise Broken(f"attempt {attempt}")
        return f"done after {attempt}"

    return flaky


# -- values and arguments ----------------------------------------------------------------------------------------


@row(result=3)
def a_chain() -> Any:
    return add(add(add(0)))


@row(result=None)
def nothing_returned() -> Any:
    add(1)


@row({"n": 4}, result=[1, 2, 3, 4])
def parameters_are_values(n: int) -> Any:
    return [add(i) for i in range(n)]


@row(result={"a": [1, 2], "b": (3, "plain"), "c": None})
def containers_of_nodes_returned() -> Any:
    return {"a": [add(0), add(1)], "b": (add(2), "plain"), "c": None}


@row(result=Box(1, [2]))
def a_dataclass_returned() -> Any:
    return Box(add(0), [add(1)])


@row(result=6)
def nested_containers_as_arguments() -> Any:
    return total(same([add(0), add(1), add(2)]))


@row(result={"k": [{"deep": (1, 2)}]})
def deep_containers_as_arguments() -> Any:
    return same({"k": [{"deep": (add(0), add(1))}]})


@row(result=4)
def dataclasses_as_arguments() -> Any:
    return unbox(Box(left=add(4), right=add(0)))


@row(result=["Pair", "1", "'x'"])
def named_tuples_as_arguments() -> Any:
    return cells(Pair(add(0), "x"))


@row(result=["set", "1"])
def sets_as_arguments() -> Any:
    return cells({add(0)})


@row(result=[5, 6])
def indexing() -> Any:
    data = same({"xs": [5, 6]})
    return [data["xs"][0], same(data["xs"][1])]


@row(result=[6, 8])
def slicing() -> Any:
    return same(upto(9))[6:9:2]


@row(error=(KeyError, "'missing'"), same=[S], **{"same-2": [F]})
def indexing_what_is_not_there() -> Any:
    return same(same({})["missing"])


@row(result=[-3, 4])
def unpacking_with_nout() -> Any:
    plus, minus = both(3)
    return [minus, add(plus)]


@row(result=11)
def keyword_arguments_and_defaults() -> Any:
    return add(y=add(4), x=add(5))


@row(result=[1, 2])
def options_per_call() -> Any:
    return [add.with_options(name="renamed")(0), add(1)]


@row(result=(3, 4))
def order_without_values() -> Any:
    first = add(2)
    return same(3, upstream=first), same(4, upstream=[first])


@row(result=10)
def one_node_waits_and_its_neighbour_takes_the_value() -> Any:
    first = add(2)
    return total([same(7, upstream=[first]), same(first)])


@row(result=[1, 1])
def the_same_node_twice() -> Any:
    node = add(0)
    return [node, node]


# -- maps --------------------------------------------------------------------------------------------------------


@row(result=[1, 2, 3], add=[S, S, S])
def a_map_over_a_constant() -> Any:
    return add.map([0, 1, 2])


@row(result=6)
def map_and_reduce() -> Any:
    return total(add.map([0, 1, 2]))


@row(result=[2, 3, 4])
def a_map_over_a_map() -> Any:
    return add.map(add.map([0, 1, 2]))


@row({"n": 5}, result=15, add=[S] * 5)
def a_width_that_only_the_run_knows(n: int) -> Any:
    return total(add.map(upto(n)))


@row(result=[2, 3, 4])
def a_map_over_a_part_of_a_value() -> Any:
    return add.map(same({"xs": [1, 2, 3]})["xs"])


@row(result=[11, 22])
def a_map_zips() -> Any:
    return add.map([1, 2], [10, 20])


@row(result=[1, 3, 5])
def a_map_zips_nodes_and_constants() -> Any:
    return add.map(upto(3), add.map([0, 1, 2]))


@row(result=[8, 9])
def unmapped_constants_and_nodes() -> Any:
    return add.map([1, 2], y=hr.unmapped(add(6)))


@row(result=[[1, 2], [1, 2]])
def an_unmapped_map() -> Any:
    return second.map([0, 1], hr.unmapped(add.map([0, 1])))


@row(result=[2, 3])
def a_map_over_a_list_of_nodes() -> Any:
    return add.map([add(0), add(1)])


@row(result=[1, 2, 3])
def flatten_a_constant() -> Any:
    return same.map(hr.flatten([[1], [], [2, 3]]))


@row(result=[1, 2, 3])
def flatten_a_node() -> Any:
    return same.map(hr.flatten(same([[1], [2, 3]])))


@row(result=[0, 0, 1, 2])
def flatten_a_map() -> Any:
    return same.map(hr.flatten(upto.map([1, 0, 3])))


@row(result=[[2], [3, 4]])
def flatten_a_slice() -> Any:
    return [same.map(hr.flatten(same([[1], [2], [3, 4]])[1:2])), same.map(hr.flatten(same([[3, 4]])[0:1]))]


@row(result=([], 0), add=[], total=[S])
def an_empty_map() -> Any:
    empty = add.map([])
    return empty, total(empty)


@row(result=[], upto=[S], add=[])
def an_empty_map_at_run_time() -> Any:
    return add.map(add.map(upto(0)))


@row(result=[3], add=[S])
def a_child_of_a_map() -> Any:
    return [add.map([2])[0]]


@row(result=1000)
def a_wide_map() -> Any:
    return total(same.map([1] * 1000))


@row(result=[5, 5], same=[S, S])
def a_map_after_another_node() -> Any:
    return same.map([5, 5], upstream=add(1))


@row(error=(FlowError, r"'add' maps over sequences of different lengths: \[2, 3\]"), add=[F])
def unequal_lengths_at_run_time() -> Any:
    return add.map(upto(2), same([1, 2, 3]))


@row(error=(FlowError, "'add' maps over the value of 'same', which is not a sequence"), add=[F])
def a_map_over_a_number() -> Any:
    return add.map(same(5))


@row(error=(FlowError, "not a sequence"), same=[S], add=[F])
def a_map_over_a_dict() -> Any:
    return add.map(same({"a": 1}))


@row(error=(FlowError, "not a sequence"), add=[F])
def a_map_over_a_string() -> Any:
    return add.map(same("text"))


# -- flows in flows ----------------------------------------------------------------------------------------------


@hr.flow
def inner(x: int, times: int = 2) -> Any:
    for _ in range(times):
        x = add(x)
    return {"out": x}


@row(result=5)
def a_flow_in_a_flow() -> Any:
    return add(inner(add(1))["out"])


with hr.Flow("built_by_hand") as built:
    start = hr.Parameter("start", int, 10)
    step = add(start)
    built.returns(Pair(step, [add(step)]))
row({"start": "4"}, result=Pair(5, [6]))(built)

with hr.Flow("built_with_terminal_nodes") as terminals:
    xs = hr.Parameter("xs", list[int])
    add.map(xs)
    total(xs)
row({"xs": [1, 2]}, result={"add": [2, 3], "total": 3})(terminals)

with hr.Flow("built_with_parts_of_a_parameter") as parts:
    config = hr.Parameter("config", dict)
    parts.returns(add.map(config["xs"], y=hr.unmapped(config["y"])))
row({"config": {"xs": [1, 2], "y": 5}}, result=[6, 7])(parts)


@row(result=[Pair(8, [9]), [3, 4]])
def built_flows_in_a_flow() -> Any:
    return [built(start=add(6)), parts(config={"xs": [add(0), add(1)], "y": 2})]


# -- failures ----------------------------------------------------------------------------------------------------


@row(error=(Broken, "as ordered"), fail=[F], add=[T])
def a_failure_stops_what_follows() -> Any:
    return add(fail())


@row(error=(Broken, "1 is odd"), odd_fails=[S, F, S, F], add=[S, T, S, T])
def a_failed_child_stops_its_own_line() -> Any:
    return add.map(odd_fails.map([0, 1, 2, 3]))


@row(error=(Broken, "1 is odd"), odd_fails=[S, F], total=[T])
def a_failed_child_stops_the_reduction() -> Any:
    return total(odd_fails.map([0, 1]))


@row(error=(Broken, "as ordered"), fail=[F], add=[T])
def no_width_because_of_a_failure() -> Any:
    return add.map(fail())


@row(error=(Broken, "as ordered"), fail=[F], add=[T], **{"add-2": [T]})
def no_width_zipped_with_a_constant() -> Any:
    return add.map(add.map(fail()), [1, 2, 3])


@row(error=(Broken, "as ordered"), fail=[F], same=[S])
def a_failure_aside_fails_the_run() -> Any:
    fail()
    return same(1)


@row(result=1, fail=[F], rescue=[S])
def a_failure_that_was_dealt_with() -> Any:
    rescue(fail())
    return same(1)


@row(error=(Awkward, "code 7 at home"), awkward=[F])
def an_exception_that_pickle_cannot_make_again() -> Any:
    return awkward()


@row(error=(TypeError, "can only concatenate str"), add=[F])
def an_error_of_python_itself() -> Any:
    return add("text")


# -- triggers ----------------------------------------------------------------------------------------------------


@row(result=["as ordered"], rescue=[S])
def any_failed_receives_the_exception() -> Any:
    return rescue(fail())


@row(error=(TriggerFailed, "'rescue' did not run.*any_failed"), rescue=[T])
def any_failed_after_success() -> Any:
    return rescue(add(1))


@row(error=(Broken, "as ordered"), fail=[F], add=[S], after_disaster=[T])
def all_failed_after_half() -> Any:
    return after_disaster(fail(), add(1))


@row(result="all lost", after_disaster=[S])
def all_failed_after_all() -> Any:
    return after_disaster(fail(), fail())


@row(result=[2], fail=[F], any_good=[S])
def any_successful() -> Any:
    return any_good(fail(), add(1))


@row(error=(Broken, "as ordered"), any_good=[T])
def any_successful_after_none() -> Any:
    return any_good(fail(), fail())


@row(result=["Broken", "TriggerFailed", "int"], always=[S])
def all_finished() -> Any:
    failed = fail()
    return always(failed, add(failed), add(1))


@row(result=2, not_skipped=[S])
def not_all_skipped() -> Any:
    return not_skipped(add(1))


@row(result=[["int"], ["Broken"]], odd_fails=[S, F], always=[S, S])
def triggers_child_by_child() -> Any:
    return always.map(odd_fails.map([0, 1]))


@row(result=["list"], odd_fails=[S, F], always=[S])
def triggers_of_a_reduction() -> Any:
    return always(odd_fails.map([0, 1]))


# -- retries -----------------------------------------------------------------------------------------------------


@row({"path": "?"}, result="done after 3", flaky=[S], attempts={"flaky": [3]})
def immediate_retries(path: str) -> Any:
    return failing_before(2, retries=2)(path)


@row({"path": "?"}, result="done after 3", flaky=[S], attempts={"flaky": [3]})
def delayed_retries(path: str) -> Any:
    return failing_before(2, retries=3, retry_delay=0.01)(path)


@row({"path": "?"}, error=(Broken, "attempt 3"), flaky=[F], same=[T], attempts={"flaky": [3], "same": [0]})
def retries_that_do_not_suffice(path: str) -> Any:
    return same(failing_before(9, retries=2)(path))


@row({"path": "?"}, error=(Broken, "attempt 2"), flaky=[F], attempts={"flaky": [2]})
def delayed_retries_that_do_not_suffice(path: str) -> Any:
    return failing_before(9, retries=1, retry_delay=0.01)(path)


@row({"path": "?"}, result=["done after 2", "x"], flaky=[S], attempts={"flaky": [2]})
def what_follows_waits_for_a_retry(path: str) -> Any:
    later = failing_before(1, retries=1, retry_delay=0.01)(path)
    return same([later, same("x")])
