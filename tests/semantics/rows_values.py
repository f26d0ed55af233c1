"""Rows: unpacking, parts of values, containers with nodes inside, and results that cannot travel."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Tuple  # noqa: UP035 - users still write it

import numpy as np

import headrace as hr
from headrace.errors import NotPicklable
from tests.semantics.rows_basic import same
from tests.semantics.table import F, S, T, row

if TYPE_CHECKING:
    from somewhere import Unknown

# -- tasks -------------------------------------------------------------------------------------------------------


class Pair(NamedTuple):
    first: Any
    second: Any = 0


@dataclass(frozen=True)
class Frozen:
    left: Any
    right: Any = 7


@dataclass(kw_only=True)
class Named:
    one: Any
    two: Any = field(default_factory=list)


@dataclass
class Derived:
    base: Any
    double: Any = field(init=False)

    def __post_init__(self) -> None:
        self.double = [self.base, self.base]


@hr.task
def seen(*args: Any, **kwargs: Any) -> list[Any]:
    return [*args, kwargs] if kwargs else list(args)


@hr.task
def two(x: int) -> tuple[int, int]:
    return x, -x


@hr.task
def old_two(x: int) -> Tuple[int, str]:  # noqa: UP006 - as above
    return x, str(x)


@hr.task
def strange_two(x: int) -> tuple[Unknown, Unknown.Part]:
    return x, x + 1


@hr.task
def pair(x: int) -> Pair:
    return Pair(x, x + 1)


@hr.task
def nested(x: int) -> tuple[tuple[int, int], int]:
    return (x, x + 1), x + 2


@hr.task
def many(n: int) -> tuple[int, ...]:
    return tuple(range(n))


@hr.task
def record(x: int) -> dict[str, Any]:
    return {"name": "r", "rows": [{"x": x}, {"x": x + 1}], 3: "three"}


# -- unpacking ---------------------------------------------------------------------------------------------------


@row(result=[1, -1])
def unpack_annotated_tuple() -> Any:
    first, second = two(1)
    return seen(first, second)


@row(result=[2, "2"])
def unpack_typing_tuple() -> Any:
    first, second = old_two(2)
    return seen(first, second)


@row(result=[3, 4])
def unpack_names_for_type_checkers_only() -> Any:
    first, second = strange_two(3)
    return seen(first, second)


@row(result=[4, 5])
def unpack_named_tuple() -> Any:
    first, second = pair(4)
    return seen(first, second)


@row(result=[5, 6, 7])
def unpack_nested() -> Any:
    (first, second), third = nested(5)
    return seen(first, second, third)


@row(result=[1, [-1], -1])
def unpack_with_star() -> Any:
    first, *rest = two(1)
    return seen(first, rest, rest[0])


@row(result=[0, 1])
def unpack_returned_as_is() -> Any:
    first, second = pair(0)
    return [first, second]


@row(error=(IndexError, "out of range"), two=[S], seen=[F])
def unpack_more_than_there_is() -> Any:
    first, second, third = short(1)
    return seen(first, second, third)


@hr.task(nout=3, name="two")
def short(x: int) -> Any:
    return x, x


# -- parts -------------------------------------------------------------------------------------------------------


@row(result=["r", 1, 2, "three"])
def parts_by_key() -> Any:
    node = record(1)
    return seen(node["name"], node["rows"][0]["x"], node["rows"][1]["x"], node[3])


@row(result=[4, [1, 2], [0, 2, 4], [4, 3]])
def parts_negative_and_slices() -> Any:
    node = many(5)
    return seen(same(node[-1]), as_list(node[1:3]), as_list(node[::2]), as_list(node[:-3:-1]))


@hr.task
def as_list(x: Any) -> list[Any]:
    return list(x)


@row(result=[0, 2, [0, 1], 2])
def parts_of_mapped() -> Any:
    nodes = same.map(range(3))
    return seen(nodes[0], nodes[-1], nodes[:2], nodes[1:][1])


@row(result=[1, {"x": 2}])
def parts_returned() -> Any:
    node = record(1)
    return [node["rows"][0]["x"], node["rows"][1]]


@row(result=[1, 2])
def parts_mapped_over() -> Any:
    return field_x.map(record(1)["rows"])


@hr.task
def field_x(row: dict[str, int]) -> int:
    return row["x"]


@row(error=(KeyError, "absent"), record=[S], seen=[F])
def parts_absent() -> Any:
    return seen(record(1)["absent"])


@row(result=[1, -1, {"y": -1}])
def parts_in_keyword_arguments() -> Any:
    first, second = two(1)
    return seen(first, second, y=second)


# -- containers --------------------------------------------------------------------------------------------------


@row(result=[[[1, [2, (3,)]], {"a": {"b": [1]}}]])
def containers_nested() -> Any:
    one, more, three = same(1), same(2), same(3)
    return seen([[one, [more, (three,)]], {"a": {"b": [one]}}])


@row(result=Frozen(1, 7))
def containers_frozen_dataclass_with_default() -> Any:
    return same(Frozen(same(1)))


@row(result=Named(one=[1, 2], two={"k": 3}))
def containers_keyword_only_dataclass() -> Any:
    return same(Named(one=[same(1), 2], two={"k": same(3)}))


@row(result=Derived(4))
def containers_dataclass_with_derived_field() -> Any:
    return same(Derived(same(4)))


@row(result=[Frozen(Frozen(1, 2), [Named(one=3)])])
def containers_dataclasses_in_dataclasses_in_lists() -> Any:
    return same([Frozen(Frozen(same(1), 2), [Named(one=same(3))])])


@row(result=Pair(1, Pair(2, (3,))))
def containers_named_tuples() -> Any:
    return same(Pair(same(1), Pair(same(2), (same(3),))))


@row(result=[{1, 2}, frozenset({1})])
def containers_sets() -> Any:
    one = same(1)
    return seen({one, 2}, frozenset({one}))


@row(result={"pairs": (Pair(1, 2), Frozen(3, 4)), "n": 5})
def containers_returned() -> Any:
    return {"pairs": (Pair(same(1), 2), Frozen(same(3), 4)), "n": 5}


@row(result=[[1, 10], [2, 10]])
def containers_unmapped() -> Any:
    return seen.map([1, 2], hr.unmapped(same(10)))


@row(result=[[Frozen(0, 9)], [Frozen(1, 9)]])
def containers_mapped_over() -> Any:
    return seen.map([Frozen(same(0), 9), Frozen(same(1), 9)])


# -- results that cannot travel ----------------------------------------------------------------------------------


class Holder:
    """An object with something inside that cannot be pickled."""

    def __init__(self) -> None:
        self.name = "h"
        self.inner = {"deep": [threading.Lock()]}


@hr.task
def make_lock(*_: Any) -> Any:
    return threading.Lock()


@hr.task
def make_holder() -> Any:
    return [1, Holder()]


@hr.task
def lock_if_odd(x: int) -> Any:
    return threading.Lock() if x % 2 else x


@hr.task(retries=1)
def lock_at_first(path: str) -> Any:
    with open(path, "a") as file:
        file.write("x")
    with open(path) as file:
        return threading.Lock() if file.read() == "x" else "plain"


@hr.task(trigger="any_failed")
def kind_of(x: Any) -> str:
    return type(x).__name__


@hr.task
def call(f: Any, x: Any) -> Any:
    return f(x)


@row(error=(NotPicklable, "the value of task 'make_lock'.*_thread.lock"), make_lock=[F])
def unpicklable_returned() -> Any:
    return make_lock()


@row(error=(NotPicklable, "make_lock"), make_lock=[F], same=[T])
def unpicklable_taken_by_the_next() -> Any:
    return same(make_lock())


@row(error=(NotPicklable, "make_lock"), make_lock=[F])
def unpicklable_that_nobody_takes() -> Any:
    make_lock()
    return same(1)


@row(error=(NotPicklable, r"'make_holder' → \[1\] → attribute 'inner' → \['deep'\] → \[0\] is of type _thread.lock"))
def unpicklable_deep_inside() -> Any:
    return same(make_holder())


@row(error=(NotPicklable, r"lock_if_odd\[1\]"), lock_if_odd=[S, F, S, F], same=[S, T, S, T])
def unpicklable_child_of_a_map() -> Any:
    return same.map(lock_if_odd.map(range(4)))


@row({"path": "?"}, result="plain", attempts={"lock_at_first": [2]})
def unpicklable_is_an_attempt_that_failed(path: str) -> Any:
    return lock_at_first(path)


@row(result="NotPicklable", make_lock=[F], kind_of=[S])
def unpicklable_that_is_handled() -> Any:
    return kind_of(make_lock())


@row(result=6)
def picklable_by_value_lambda() -> Any:
    return call(make_lambda(), 3)


@hr.task
def make_lambda() -> Any:
    return lambda x: 2 * x


@row(result="local")
def picklable_by_value_local_class() -> Any:
    return call(make_reader(), make_local())


@hr.task
def make_local() -> Any:
    class Local:
        name = "local"

    return Local()


@hr.task
def make_reader() -> Any:
    return lambda thing: thing.name


@row(result=[3.0, 6])
def picklable_arrays() -> Any:
    return seen(summed(make_array(3)), summed(make_objects()))


@hr.task
def make_array(n: int) -> Any:
    return np.ones(n)


@hr.task
def make_objects() -> Any:
    return np.array([1, 2, 3], dtype=object)


@hr.task
def summed(x: Any) -> Any:
    return x.sum().item() if hasattr(x.sum(), "item") else x.sum()


@row(error=(NotPicklable, "make_lock_array"), make_lock_array=[F])
def unpicklable_in_an_array_of_objects() -> Any:
    return make_lock_array()


@hr.task
def make_lock_array() -> Any:
    return np.array([threading.Lock(), None])
