"""Rows: maps that stop at the shortest, what can be mapped over, nested flatten, children one by one, filter."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import numpy
import pandas

import headrace as hr
from headrace.errors import FlowError, TriggerFailed
from tests.semantics.rows_basic import Broken, add, always, attempt_of, fail, odd_fails, same, total, upto
from tests.semantics.table import F, K, S, T, row

# -- tasks -------------------------------------------------------------------------------------------------------


@hr.task
def kind(x: Any) -> str:
    return type(x).__name__


@hr.task
def listed(x: Any) -> list[Any]:
    return list(x)


@hr.task
def pair(x: Any, y: Any) -> list[Any]:
    return [x, y]


@hr.task
def swap(item: tuple[Any, Any]) -> list[Any]:
    key, value = item
    return [value, key]


@hr.task
def skip_odd(x: int) -> int:
    if x % 2:
        raise hr.Skip(f"{x} is odd")
    return x


@hr.task
def none_if_odd(x: int) -> int | None:
    return None if x % 2 else x


@hr.task
def exception_if_odd(x: int) -> Any:
    return ValueError(f"{x} is odd") if x % 2 else x


@hr.task
def broken_list() -> list[int]:
    raise Broken("no list")


@hr.task(skip_on_upstream_skip=False)
def takes_skips(x: Any) -> str:
    return repr(x)


@hr.task
def counting(n: int) -> Iterator[int]:
    yield from range(n)


@hr.task
def counting_until_it_breaks(n: int) -> Iterator[int]:
    yield from range(n)
    raise Broken("half way")


@hr.task
def generator_expression(n: int) -> Any:
    return (2 * i for i in range(n))


@hr.task
def mapped_by_python(n: int) -> Any:
    return map(str, range(n))


@hr.task
def zipped_by_python(n: int) -> Any:
    return zip(range(n), "abc", strict=False)


@hr.task
def keys_of(table: dict[Any, Any]) -> Any:
    return table.keys()


@hr.task
def values_of(table: dict[Any, Any]) -> Any:
    return table.values()


@hr.task
def items_of(table: dict[Any, Any]) -> Any:
    return table.items()


@hr.task
def array(*shape: int) -> numpy.ndarray:
    return numpy.arange(numpy.prod(shape, dtype=int)).reshape(shape)


@hr.task
def column() -> pandas.Series:
    return pandas.Series([5, 6, 7], index=[2, 1, 0])


@hr.task
def labelled() -> pandas.Series:
    return pandas.Series([5, 6], index=["a", "b"])


@hr.task
def index() -> pandas.Index:
    return pandas.Index([3, 1, 2])


@hr.task
def table() -> pandas.DataFrame:
    return pandas.DataFrame({"a": [1, 2], "b": [3, 4]})


@hr.task
def series_of(n: int) -> pandas.Series:
    return pandas.Series(range(n), index=range(n, 0, -1))


def flaky_child(path: str, x: int) -> str:
    attempt = attempt_of(f"{path}-{x}")
    if attempt <= x:
        raise Broken(f"child {x} at attempt {attempt}")
    return f"{x} after {attempt}"


retried_child = hr.task(retries=2)(flaky_child)
retried_later = hr.task(name="retried_child", retries=2, retry_delay=0.01)(flaky_child)

# -- unequal lengths ---------------------------------------------------------------------------------------------


@row(result=[11, 22], add=[S, S])
def shortest_of_constants() -> Any:
    return add.map([1, 2, 3], [10, 20], strict=False)


@row(result=[11, 22], add=[S, S])
def shortest_of_constants_the_first() -> Any:
    return add.map([1, 2], [10, 20, 30], strict=False)


@row(result=[10, 21], add=[S, S])
def shortest_of_a_value_and_a_constant() -> Any:
    return add.map(upto(5), [10, 20], strict=False)


@row(result=[10, 21], add=[S, S])
def shortest_of_a_constant_and_a_value() -> Any:
    return add.map([10, 20, 30, 40], upto(2), strict=False)


@row(result=[0, 2], add=[S, S])
def shortest_of_two_values() -> Any:
    return add.map(upto(2), upto(4), strict=False)


@row(result=[2, 4], add=[S, S, S, S], **{"add-2": [S, S]})
def shortest_of_a_map_and_a_constant() -> Any:
    return add.map(add.map([0, 1, 2, 3]), [1, 2], strict=False)


@row(result=[2, 4], add=[S, S], **{"add-2": [S, S]})
def a_map_that_is_the_shortest() -> Any:
    return add.map(add.map([0, 1]), [1, 2, 3, 4], strict=False)


@row(result=[2, 4], add=[S] * 4, **{"add-2": [S] * 2, "add-3": [S] * 2})
def shortest_of_two_maps() -> Any:
    return add.map(add.map([0, 1, 2, 3]), add.map([0, 1]), strict=False)


@row(result=[2, 4], **{"add-3": [S] * 2})
def shortest_of_two_maps_of_unknown_width() -> Any:
    return add.map(add.map(upto(2)), add.map(upto(7)), strict=False)


@row(result=[1, 3, 5], same=[S] * 3)
def a_map_over_a_shortened_map() -> Any:
    return same.map(add.map([0, 1, 2, 3, 4], [1, 2, 3], strict=False))


@row(result=10, total=[S])
def a_shortened_map_and_its_whole_source() -> Any:
    wide = same.map([1, 2, 3, 4])
    add.map(wide, [1, 2], strict=False)
    return total(wide)


@row(result=[[0, 1], [2, 2]], odd_fails=[S, S, F], pair=[S, S])
def a_child_beyond_the_shortest_has_no_taker() -> Any:
    return pair.map(odd_fails.map([0, 2, 5]), [1, 2], strict=False)


@row(error=(Broken, "1 is odd"), odd_fails=[S, F, S, S], add=[S, T])
def a_failed_child_stops_its_line_of_a_shortened_map() -> Any:
    return add.map(odd_fails.map([0, 1, 2, 4]), [1, 2], strict=False)


@row(result=[1, None], skip_odd=[S, K, S, S], add=[S, K])
def a_skipped_child_skips_its_line_of_a_shortened_map() -> Any:
    return add.map(skip_odd.map([0, 1, 2, 4]), [1, 2], strict=False)


@row(result=[], add=[S] * 3, **{"add-2": []})
def shortest_of_a_map_and_nothing() -> Any:
    return add.map(add.map([1, 2, 3]), [], strict=False)


@row(result=[], add=[])
def shortest_of_a_value_and_an_empty_value() -> Any:
    return add.map(upto(3), upto(0), strict=False)


@row(result=[1, 2, 3])
def equal_lengths_need_not_be_strict() -> Any:
    return add.map([1, 1, 1], [0, 1, 2], strict=False)


@row(error=(Broken, "no list"), broken_list=[F], add=[T])
def no_width_however_short() -> Any:
    return add.map(broken_list(), [1], strict=False)


@row(error=(FlowError, r"of different lengths: \[2, 3\].*strict=False"), add=[F])
def strict_said_aloud() -> Any:
    return add.map(upto(2), upto(3), strict=True)


@row(error=(FlowError, r"of different lengths: \[2, 3\]"), **{"add-3": [F]})
def maps_of_different_lengths() -> Any:
    return add.map(add.map([1, 2]), add.map([1, 2, 3]))


@row(result=[0, 2, 2, 3], **{"add-2": [S] * 4})
def the_shortest_with_flatten() -> Any:
    return add.map(hr.flatten(upto.map([2, 1, 2])), add.map([-1, 0, 1, 2]), strict=False)


@row(result=500, add=[S] * 3000, **{"add-2": [S] * 500})
def a_wide_map_cut_short() -> Any:
    return total(add.map(add.map([0] * 3000), [0] * 500, strict=False))


# -- what can be mapped over -------------------------------------------------------------------------------------


@row({"n": 3}, result=[1, 2, 3])
def a_map_over_a_range(n: int) -> Any:
    return add.map(range(n))


@row(result=[1, 2])
def a_map_over_a_range_that_a_task_returned() -> Any:
    return add.map(same(range(2)))


@row(result=[1, 2])
def a_map_over_a_tuple() -> Any:
    return add.map((0, 1))


@row(result=[1, 2])
def a_map_over_a_tuple_that_a_task_returned() -> Any:
    return add.map(same((0, 1)))


@row(result=[[1, "a"], [2, "b"]])
def a_map_over_dict_items() -> Any:
    return swap.map({"a": 1, "b": 2}.items())


@row(result=[[1, "a"], [2, "b"]])
def a_map_over_dict_items_that_a_task_returned() -> Any:
    return swap.map(items_of({"a": 1, "b": 2}))


@row(result=["a", "b"])
def a_map_over_dict_keys_that_a_task_returned() -> Any:
    return same.map(keys_of(OrderedDict(a=1, b=2)))


@row(result=[1, 2, 3])
def a_map_over_a_generator() -> Any:
    return add.map(i for i in range(3))


@row(result=["int64", "int64"])
def a_map_over_an_array() -> Any:
    return kind.map(numpy.array([1, 2]))


@row(result=["int64", "int64", "int64"])
def a_map_over_an_array_that_a_task_returned() -> Any:
    return kind.map(array(3))


@row(result=[[0, 1, 2], [3, 4, 5]])
def a_map_over_the_rows_of_an_array() -> Any:
    return listed.map(numpy.arange(6).reshape(2, 3))


@row(result=[[0, 1, 2], [3, 4, 5]])
def a_map_over_the_rows_of_an_array_that_a_task_returned() -> Any:
    return listed.map(array(2, 3))


@row(error=(FlowError, "the value of 'array', which is not a sequence"), array=[S], kind=[F])
def a_map_over_a_single_number_in_an_array() -> Any:
    return kind.map(array())


@row(result=[6, 7, 8])
def a_map_over_a_series_goes_by_position() -> Any:
    return add.map(pandas.Series([5, 6, 7], index=[2, 1, 0]))


@row(result=[6, 7, 8])
def a_map_over_a_series_that_a_task_returned_goes_by_position() -> Any:
    return add.map(column())


@row(result=[6, 7])
def a_map_over_a_labelled_series_that_a_task_returned() -> Any:
    return add.map(labelled())


@row(result=[["int"] * 3, ["int"] * 3])
def the_elements_of_a_series_are_the_same_from_everywhere() -> Any:
    return [kind.map(pandas.Series([5, 6, 7])), kind.map(column())]


@row(result=[[4, 2, 3], [4, 2, 3]])
def a_map_over_an_index() -> Any:
    return [add.map(pandas.Index([3, 1, 2])), add.map(index())]


@row(error=(FlowError, "the value of 'table', which is not a sequence"), table=[S], kind=[F])
def a_map_over_a_table() -> Any:
    return kind.map(table())


@row(result=[2, 3])
def a_map_over_a_column_of_a_table() -> Any:
    return add.map(table()["a"])


@row(error=(FlowError, "the value of 'same', which is not a sequence"), **{"same-2": [F]})
def a_map_over_a_set() -> Any:
    return same.map(same({1, 2}))


@row(error=(FlowError, "the value of 'same', which is not a sequence"), kind=[F])
def a_map_over_flattened_strings() -> Any:
    return kind.map(hr.flatten(same(["ab", "cd"])))


# -- what is used up becomes a list ------------------------------------------------------------------------------


@row(result=[0, 1, 2])
def a_generator_function_gives_a_list() -> Any:
    return counting(3)


@row(result=([1, 2, 3], 3))
def a_generator_has_several_takers() -> Any:
    numbers = counting(3)
    return add.map(numbers), total(numbers)


@row(error=(Broken, "half way"), counting_until_it_breaks=[F], add=[T])
def a_generator_that_breaks() -> Any:
    return add.map(counting_until_it_breaks(2))


@row(result=[0, 1, 2])
def an_isolated_generator_gives_a_list() -> Any:
    return counting.with_options(isolated=True)(3)


@row(result=[0, 2, 4])
def a_generator_expression_gives_a_list() -> Any:
    return generator_expression(3)


@row(result=["0", "1"])
def what_map_returns_gives_a_list() -> Any:
    return mapped_by_python(2)


@row(result=[(0, "a"), (1, "b")])
def what_zip_returns_gives_a_list() -> Any:
    return zipped_by_python(2)


@row(result=[1, 2])
def a_view_of_a_dict_gives_a_list() -> Any:
    return values_of({"a": 1, "b": 2})


@row(result=[[0], [0, 1]])
def children_that_are_generators() -> Any:
    return counting.map([1, 2])


@row(result=[0, 0, 1])
def a_map_over_flattened_generators() -> Any:
    return same.map(hr.flatten(counting.map([1, 2])))


# -- flatten -----------------------------------------------------------------------------------------------------


@row(result=[1, 2, 3, 4])
def flatten_a_constant_twice() -> Any:
    return same.map(hr.flatten(hr.flatten([[[1], [2, 3]], [], [[4]]])))


@row(result=[1, 2, 3, 4], flatten=[S])
def flatten_a_value_twice() -> Any:
    return same.with_options(name="out").map(hr.flatten(hr.flatten(same([[[1], [2, 3]], [], [[4]]]))))


@row(result=[1, 2, 3, 4], flatten=[S])
def flatten_a_map_twice() -> Any:
    return same.map(hr.flatten(hr.flatten(listed.map([[[1], [2, 3]], [[4]]]))))


@row(result=[1, 2], **{"flatten-2": [S]})
def flatten_thrice() -> Any:
    return same.map(hr.flatten(hr.flatten(hr.flatten(same([[[[1]]], [[[2]]]])))))


@row(result=[0, 0, 1], flatten=[S])
def flatten_a_list_of_nodes_twice() -> Any:
    return same.map(hr.flatten(hr.flatten([same([[0]]), same([[0, 1]])])))


@row(error=(Broken, "as ordered"), fail=[F], flatten=[T], add=[T])
def flatten_what_failed_twice() -> Any:
    return add.map(hr.flatten(hr.flatten(fail())))


@row(error=(FlowError, "cannot flatten a int"), flatten=[F], add=[T])
def flatten_what_is_flat_twice() -> Any:
    return add.map(hr.flatten(hr.flatten(same([1, 2]))))


@row(result=[0, 1, 2, 0], series_of=[S, S])
def flatten_series() -> Any:
    return same.map(hr.flatten(series_of.map([3, 1])))


@row(result=[0, 1, 2, 3])
def flatten_an_array() -> Any:
    return listed(same.map(hr.flatten(array(2, 2))))


with hr.Flow("flatten_a_parameter_twice") as deep:
    rows = hr.Parameter("rows", list)
    deep.returns(add.map(hr.flatten(hr.flatten(rows))))
row({"rows": [[[1], [2]], [[3]]]}, result=[2, 3, 4], add=[S] * 3)(deep)

# -- child by child ----------------------------------------------------------------------------------------------


@row({"path": "?"}, result=["0 after 1", "1 after 2", "2 after 3"], attempts={"flaky_child": [1, 2, 3]})
def each_child_is_retried_by_itself(path: str) -> Any:
    return retried_child.map(hr.unmapped(path), [0, 1, 2])


@row({"path": "?"}, result=["0 after 1", "2 after 3"], attempts={"retried_child": [1, 3]})
def each_child_is_retried_later_by_itself(path: str) -> Any:
    return retried_later.map(hr.unmapped(path), [0, 2])


@row(
    {"path": "?"},
    error=(Broken, "child 5 at attempt 3"),
    flaky_child=[S, F],
    kind=[S, T],
    attempts={"flaky_child": [1, 3]},
)
def a_child_without_attempts_left(path: str) -> Any:
    return kind.map(retried_child.map(hr.unmapped(path), [0, 5]))


@row(result=[0, None, 2], skip_odd=[S, K, S])
def a_child_that_skips_itself() -> Any:
    return skip_odd.map([0, 1, 2])


@row(result=[1, None, 3], add=[S, K, S])
def a_skipped_child_skips_its_own_line() -> Any:
    return add.map(skip_odd.map([0, 1, 2]))


@row(result=None, total=[K])
def a_skipped_child_skips_the_reduction() -> Any:
    return total(skip_odd.map([0, 1]))


@row(result=["0", "None"], takes_skips=[S, S])
def children_that_take_skips() -> Any:
    return takes_skips.map(skip_odd.map([0, 1]))


@row(result="[0, None]", takes_skips=[S])
def a_reduction_that_takes_skips() -> Any:
    return takes_skips(skip_odd.map([0, 1]))


@row(result=[["int"], ["Broken"], ["int"]], always=[S, S, S])
def a_trigger_asks_for_each_child() -> Any:
    return always.map(odd_fails.map([0, 1, 2]))


@row(result=[["int", "str"], ["Broken", "str"]], always=[S, S])
def a_trigger_of_a_zipped_child() -> Any:
    return always.map(odd_fails.map([0, 1]), ["a", "b"])


@row(error=(TriggerFailed, r"'after\[0\]' did not run: .*1 successful, 0 failed.*'any_failed'"), after=[T, T])
def each_child_is_refused_by_itself() -> Any:
    return kind.with_options(name="after", trigger="any_failed").map(same.map([0, 1]))


@row(result=None, skip_odd=[K, K], add=[K])
def no_width_where_all_children_were_skipped() -> Any:
    return total(add.map(hr.flatten(skip_odd.map([1, 3]))))


@row(error=(Broken, "as ordered"), fail=[F], add=[T])
def an_empty_map_after_a_failure_hides_nothing() -> Any:
    return add.map([], upstream=fail())


@row(result=[None], add=[K])
def an_empty_map_after_a_skip_is_skipped() -> Any:
    return add.map([], upstream=skip_odd(1))


@row(result=[], add=[])
def an_empty_map_after_a_success() -> Any:
    return add.map([], upstream=same(1))


@row(result=[], **{"add-2": []})
def an_empty_map_over_an_empty_map_zipped_short() -> Any:
    return add.map(add.map([]), [1, 2], strict=False)


@row(result=[[1, 2]] * 3, pair=[S] * 3)
def a_part_of_a_value_given_whole() -> Any:
    return pair.map([1] * 3, hr.unmapped(same({"y": 2})["y"]))


@row(error=(Broken, "as ordered"), pair=[T, T])
def an_unmapped_argument_that_failed() -> Any:
    return pair.map([1, 2], hr.unmapped(fail()))


@row(result=[["Broken"]], always=[S])
def a_part_of_what_failed_is_the_failure() -> Any:
    return [always(fail()["x"]["y"])]


@row(result=["None"], takes_skips=[S])
def a_part_of_what_was_skipped_is_none() -> Any:
    return [takes_skips(skip_odd(1)["x"])]


@row(result=["Broken", "int"], always=[S])
def a_part_of_a_failed_child() -> Any:
    children = odd_fails.map([1, 2])
    return always(children[0]["x"], children[1])


@row(result={"a": None, "b": None}, skip_odd=[K])
def parts_of_what_was_skipped_in_the_result() -> Any:
    skipped = skip_odd(1)
    return {"a": skipped["x"], "b": skipped}


# -- filter ------------------------------------------------------------------------------------------------------


@row(result=[0, 2], odd_fails=[S, F, S], filter=[S])
def filter_drops_failed_children() -> Any:
    return hr.filter(odd_fails.map([0, 1, 2]))


@row(result=[0, 2], skip_odd=[S, K, S], filter=[S])
def filter_drops_skipped_children() -> Any:
    return hr.filter(skip_odd.map([0, 1, 2]))


@row(result=[0, 2])
def filter_drops_none() -> Any:
    return hr.filter(none_if_odd.map([0, 1, 2]))


@row(result=["int", "ValueError"])
def filter_keeps_exceptions_that_are_values() -> Any:
    return kind.map(hr.filter(exception_if_odd.map([0, 1])))


@row(result=[2, 4])
def filter_by_a_function() -> Any:
    return hr.filter(same.map([1, 2, 3, 4]), keep=lambda x: x % 2 == 0)


@row(result=[None, 2])
def filter_by_a_function_may_keep_none() -> Any:
    return hr.filter(same.map([None, 2]), keep=lambda x: True)


@row(result=[2], odd_fails=[F, S, S])
def filter_by_a_function_never_sees_failures() -> Any:
    return hr.filter(odd_fails.map([1, 2, 0]), keep=lambda x: x > 0)


@row(error=(TypeError, "not supported between"), filter=[F])
def filter_by_a_function_that_breaks() -> Any:
    return hr.filter(same.map([1, "a"]), keep=lambda x: x > 0)


@row(result=[1, 3], odd_fails=[S, F, S], add=[S, S])
def a_map_over_what_was_filtered() -> Any:
    return add.map(hr.filter(odd_fails.map([0, 1, 2])))


@row(result=[], odd_fails=[F, F], add=[])
def filter_may_leave_nothing() -> Any:
    return add.map(hr.filter(odd_fails.map([1, 3])))


@row(result=[1, 3], odd_fails=[S, F, S], add=[S, T, S])
def filter_the_end_of_a_line() -> Any:
    return hr.filter(add.map(odd_fails.map([0, 1, 2])))


@row(result=[], odd_fails=[F, F], add=[T, T], filter=[S])
def filter_lines_that_all_failed_by_themselves() -> Any:
    return hr.filter(add.map(odd_fails.map([1, 3])))


@row(error=(Broken, "no list"), broken_list=[F], add=[T], filter=[T])
def filter_does_not_hide_a_list_that_failed() -> Any:
    return hr.filter(add.map(broken_list()))


@row(error=(Broken, "no list"), add=[T], **{"add-2": [T]}, filter=[T])
def filter_does_not_hide_a_list_that_failed_further_up() -> Any:
    return hr.filter(add.map(add.map(broken_list())))


@row(error=(Broken, "as ordered"), pair=[T, T], filter=[T])
def filter_does_not_hide_what_all_children_need() -> Any:
    return hr.filter(pair.map([1, 2], hr.unmapped(fail())))


@row(result=[[1, 2], [3, 2]], odd_fails=[F, S], pair=[S, S], filter=[S])
def filter_does_not_mind_siblings_of_a_child_that_all_need() -> Any:
    return hr.filter(pair.map([1, 3], hr.unmapped(odd_fails.map([1, 2])[1])))


@row(error=(Broken, "as ordered"), pair=[T, T], filter=[T])
def filter_does_not_hide_what_all_children_wait_for() -> Any:
    return hr.filter(pair.map([1, 2], [3, 4], upstream=fail()))


@row(error=(FlowError, r"of different lengths: \[2, 3\]"), add=[F], filter=[F])
def filter_does_not_hide_unequal_lengths() -> Any:
    return hr.filter(add.map(upto(2), upto(3)))


@row(result=None, add=[K], filter=[K])
def filter_of_what_was_not_mapped_because_of_a_skip() -> Any:
    return hr.filter(add.map(skip_odd(1)))


@row(result=[["Broken", "int"]], always=[S])
def filter_what_children_made_of_a_failure_of_all() -> Any:
    return hr.filter(always.map(hr.unmapped(fail()), [1]))


@row(result=[1, 2])
def filter_a_list() -> Any:
    return hr.filter(same([1, None, 2]))


@row(result=[1, 2])
def filter_a_list_of_nodes() -> Any:
    return hr.filter([same(1), same(None), same(2)])


@row(result=[2])
def filter_a_part_of_a_map() -> Any:
    return hr.filter(odd_fails.map([0, 1, 2])[1:])


@row(error=(Broken, "as ordered"), fail=[F], filter=[T])
def filter_a_list_that_failed() -> Any:
    return hr.filter(fail())
