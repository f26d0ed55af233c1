"""Rows: resources, which are cleaned up whatever becomes of what uses them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.errors import FlowError, TaskTimedOut
from tests.semantics.table import LATE, F, K, S, T, row

# -- tasks -------------------------------------------------------------------------------------------------------


def note(path: str, line: str) -> None:
    with open(path, "a") as file:
        file.write(f"{line}\n")


@hr.resource
def table(path: str, name: str = "t") -> tuple[str, str]:
    note(path, f"create {name}")
    return path, name


@table.cleanup
def drop(made: tuple[str, str]) -> None:
    note(made[0], f"drop {made[1]}")


@hr.task
def use(made: tuple[str, str], what: str = "use") -> str:
    note(made[0], f"{what} {made[1]}")
    return made[1]


@hr.task
def work(path: str, *more: Any) -> str:
    note(path, "work")
    return "worked"


@hr.task
def fails(*args: Any) -> None:
    raise ValueError("no")


@hr.task
def skips(*args: Any) -> None:
    raise hr.Skip("nothing to do")


@hr.task(trigger="any_failed")
def handles(error: Any) -> str:
    return f"handled {error}"


@hr.task
def numbers(*args: Any) -> list[int]:
    return [1, 2, 3]


@hr.task
def add_line(number: int, made: tuple[str, str]) -> int:
    note(made[0], "line")
    return number


@hr.task
def is_one(x: int) -> int:
    return x


@hr.resource
def not_made(path: str) -> str:
    note(path, "try")
    raise OSError("no room")


@not_made.cleanup
def never(made: str) -> None:
    raise AssertionError("there is nothing to clean up")


@hr.resource
def not_wanted(path: str) -> str:
    raise hr.Skip("it is there already")


not_wanted.cleanup(never)


@hr.resource
def stuck(path: str) -> str:
    note(path, "create")
    return path


@stuck.cleanup
def stays(path: str) -> None:
    note(path, "in vain")
    raise OSError("it is in use")


def at_second_time(path: str, line: str) -> None:
    """Raise at the first call."""
    note(path, line)
    if Path(path).read_text().splitlines().count(line) < 2:
        raise OSError("try again")


@hr.resource(retries=1)
def shy(path: str) -> str:
    at_second_time(path, "create")
    return path


@shy.cleanup(retries=1)
def shy_drop(path: str) -> None:
    at_second_time(path, "drop")


@hr.resource
def slow_to_go(path: str) -> str:
    return path


@slow_to_go.cleanup(timeout=0.05)
def goes(path: str) -> None:
    end = time.monotonic() + 5
    while time.monotonic() < end:
        time.sleep(0.002)


@hr.resource
class Place:
    """A resource that is a class."""

    def __init__(self, path: str, name: str = "here") -> None:
        self.path = path
        self.name = name

    def setup(self) -> str:
        note(self.path, f"open {self.name}")
        return self.name.upper()

    def cleanup(self, value: str) -> None:
        note(self.path, f"close {self.name}, which was {value}")


@hr.resource(nout=2)
def pair(path: str) -> tuple[str, int]:
    return path, 7


@pair.cleanup
def unpair(both: tuple[str, int]) -> None:
    note(both[0], f"pair {both[1]}")


@hr.task
def text(*parts: Any) -> str:
    return " ".join(map(str, parts))


@hr.task
def uses_alone(path: str) -> str:
    """A resource in a task is a plain context manager."""
    with table(path, "own") as made:
        note(path, "inside")
        return made[1]


@hr.flow
def inner(path: str):
    with table(path, "inner") as made:
        return use(made)


# -- rows --------------------------------------------------------------------------------------------------------


@row({"path": "?"}, result="t", writes=["create t", "use t", "drop t"], table=[S], use=[S], drop=[S])
def resource_is_set_up_used_and_cleaned_up(path: str):
    with table(path) as made:
        return use(made)


@row({"path": "?"}, error=(ValueError, "no"), writes=["create t", "drop t"], fails=[F], drop=[S])
def resource_is_cleaned_up_after_a_failure(path: str):
    with table(path) as made:
        fails(made)


@row({"path": "?"}, writes=["create t", "drop t"], skips=[K], drop=[S])
def resource_is_cleaned_up_after_a_skip(path: str):
    with table(path) as made:
        skips(made)


@row({"path": "?"}, writes=["create t", "drop t"], use=[K], drop=[S])
def resource_is_cleaned_up_when_its_body_is_skipped_from_outside(path: str):
    nothing = skips()
    with table(path) as made:
        use(made, nothing)


@row({"path": "?"}, error=(ValueError, "no"), writes=["create t", "drop t"], use=[T], drop=[S])
def resource_is_cleaned_up_when_its_body_fails_from_outside(path: str):
    bad = fails()
    with table(path) as made:
        use(made, bad)


@row({"path": "?"}, error=(OSError, "no room"), writes=["try"], not_made=[F], use=[T], never=[K])
def resource_that_was_not_made_is_not_cleaned_up(path: str):
    with not_made(path) as made:
        use(made)


@row({"path": "?"}, error=(OSError, "no room"), not_made=[F], never=[K])
def resource_that_was_not_made_and_not_used_fails_the_run(path: str):
    with not_made(path):
        pass


@row({"path": "?"}, not_wanted=[K], use=[K], never=[K])
def resource_that_skips_itself_skips_its_body(path: str):
    with not_wanted(path) as made:
        use(made)


@row({"path": "?"}, error=(OSError, "in use"), writes=["create", "work", "in vain"], work=[S], stays=[F])
def resource_that_cannot_be_cleaned_up_fails_the_run(path: str):
    with stuck(path) as made:
        return work(made)


@row({"path": "?"}, error=(ValueError, "no"), writes=["create", "in vain"], fails=[F], stays=[F])
def resource_error_of_the_body_comes_before_that_of_the_cleanup(path: str):
    with stuck(path) as made:
        fails(made)


@row({"path": "?"}, writes=["create t", "drop t"], table=[S], drop=[S])
def resource_without_a_body(path: str):
    with table(path):
        pass


NESTED = ["create outer", "create inner", "use inner", "drop inner", "drop outer"]


@row({"path": "?"}, result="inner", writes=NESTED, **{"table-2": [S], "drop": [S], "drop-2": [S]})
def resources_nested_are_cleaned_up_inside_out(path: str):
    with table(path, "outer"), table(path, "inner") as made:
        return use(made)


@row({"path": "?"}, error=(ValueError, "no"), writes=["create outer", "create inner", "drop inner", "drop outer"])
def resources_nested_are_cleaned_up_inside_out_after_a_failure(path: str):
    with table(path, "outer") as outer, table(path, "inner") as made:
        fails(outer, made)


@row({"path": "?"}, error=(OSError, "no room"), writes=["create t", "try", "drop t"], never=[K], drop=[S])
def resource_is_cleaned_up_when_an_inner_one_was_not_made(path: str):
    with table(path), not_made(path) as made:
        use(made)


@row({"path": "?"}, error=(OSError, "in use"), writes=["create t", "create", "in vain", "drop t"], drop=[S])
def resource_is_cleaned_up_when_an_inner_one_could_not_be(path: str):
    with table(path), stuck(path):
        pass


@row({"path": "?"}, result=[1, 2], writes=["create t", "line", "line", "drop t"], add_line=[S, S], drop=[S])
def resource_of_a_map(path: str):
    with table(path) as made:
        return add_line.map([1, 2], hr.unmapped(made))


@row({"path": "?"}, result=[1, 2, 3], writes=["create t", "line", "line", "line", "drop t"], add_line=[S] * 3)
def resource_of_a_map_of_unknown_width(path: str):
    with table(path) as made:
        return add_line.map(numbers(), hr.unmapped(made))


@row({"path": "?"}, error=(ValueError, "no"), writes=["create t", "line", "drop t"], add_line=[S], fails=[F, F])
def resource_of_a_map_that_fails(path: str):
    with table(path) as made:
        fails.map([1, 2], upstream=add_line(1, made))


@row({"path": "?"}, result=[], writes=["create t", "drop t"], add_line=[], drop=[S])
def resource_of_an_empty_map(path: str):
    with table(path) as made:
        return add_line.map([], hr.unmapped(made))


@row({"path": "?"}, result="worked", writes=["create t", "work", "drop t"])
def resource_comes_before_what_does_not_take_it(path: str):
    with table(path):
        return work(path)


@row({"path": "?"}, result=["worked"] * 2, writes=["create t", "work", "work", "drop t"], work=[S, S])
def resource_comes_before_a_map_that_does_not_take_it(path: str):
    with table(path):
        return work.map([path, path])


@row({"path": "?"}, result="worked", writes=["work", "create t", "drop t"], work=[S])
def resource_comes_after_its_upstream(path: str):
    done = work(path)
    with table(path, upstream=done):
        pass
    return done


@row({"path": "?"}, result="handled no", writes=["create t", "drop t"], fails=[F], handles=[S], drop=[S])
def resource_of_a_failure_that_is_handled_inside(path: str):
    with table(path) as made:
        return handles(fails(made))


@row({"path": "?"}, result="handled no", writes=["create t", "drop t"], fails=[F], handles=[S], drop=[S])
def resource_of_a_failure_that_is_handled_outside(path: str):
    with table(path) as made:
        bad = fails(made)
    return handles(bad)


@row(
    {"path": "?"},
    writes=["create", "create", "work", "drop", "drop"],
    attempts={"shy": [2], "shy_drop": [2]},
)
def resource_is_tried_again(path: str):
    with shy(path) as made:
        work(made)


@row({"path": "?"}, error=(TaskTimedOut, "0.05"), goes=[LATE])
def resource_cleanup_has_a_time_limit(path: str):
    with slow_to_go(path):
        pass


@row({"path": "?"}, result="worked", writes=["create t", "work", "drop t"], table=[S], drop=[S])
def resource_of_a_block_that_was_left_by_an_exception(path: str):
    try:
        with table(path):
            done = work(path)
            raise KeyError
    except KeyError:
        return done


@row({"path": "?"}, result="HERE", writes=["open here", "close here, which was HERE"], Place=[S], Place_cleanup=[S])
def resource_of_a_class(path: str):
    with Place(path) as value:
        return text(value)


@row({"path": "?"}, result="THERE 1", writes=["work", "open there", "close there, which was THERE"])
def resource_of_a_class_with_nodes_as_arguments(path: str):
    name = text("there", upstream=work(path))
    with Place(path, name=name) as value:
        return text(value, 1)


@row({"path": "?"}, result="THERE", writes=["open there", "close there, which was THERE"], fails=[F], Place_cleanup=[S])
def resource_of_a_class_asks_its_setup_only(path: str):
    bad = fails()
    with lax_place(path, name=name_of(bad)) as value:
        return text(value)


@hr.task(trigger="all_finished")
def name_of(error: Any) -> str:
    return "there"


lax_place = Place.with_options(trigger="all_finished")


@row({"path": "?"}, result="7", writes=["pair 7"])
def resource_of_several_values(path: str):
    with pair(path) as (_, number):
        return text(number)


@row({"path": "?"}, result="2", writes=["create t", "use t", "drop t"], table=[S], attempts={"table": [1]})
def resource_with_options(path: str):
    with table.with_options(retries=3)(path) as made:
        return text(len_of(use(made), "-"))


@hr.task
def len_of(*parts: str) -> int:
    return len(parts)


@row({"path": "?"}, result="inner", writes=["create inner", "use inner", "drop inner"], drop=[S])
def resource_in_a_flow_in_a_flow(path: str):
    return inner(path)


@row({"path": "?"}, writes=["create outer", "create inner", "use inner", "drop inner", "drop outer"])
def resource_around_a_flow_in_a_flow(path: str):
    with table(path, "outer"):
        inner(path)


@row({"path": "?"}, table=[K], use=[K], drop=[K])
def resource_in_a_case_that_does_not_hold(path: str):
    with hr.case(is_one(2), 1), table(path) as made:
        use(made)


@row({"path": "?"}, writes=["create t", "drop t"], use=[K], drop=[S])
def resource_around_a_case_that_does_not_hold(path: str):
    with table(path) as made, hr.case(is_one(2), 1):
        use(made)


@row({"path": "?"}, result="own", writes=["create own", "inside", "drop own"], uses_alone=[S])
def resource_within_a_task(path: str):
    return uses_alone(path)


with hr.Flow("resource_of_a_flow_built_by_hand") as built, table(hr.Parameter("path", str)) as held:
    use(held)

row({"path": "?"}, writes=["create t", "use t", "drop t"])(built)


# -- what they must do themselves --------------------------------------------------------------------------------


@hr.flow
def elsewhere(path: str) -> Any:
    return work(path)


@hr.resource
def sets_up_elsewhere(path: str) -> Any:
    return elsewhere.bind(path=path)


@sets_up_elsewhere.cleanup
def unused(made: Any) -> None:
    raise AssertionError("there is nothing to clean up")


@row({"path": "?"}, error=(FlowError, "set-up 'sets_up_elsewhere' of a resource returned a flow"),
     sets_up_elsewhere=[F], use=[T], unused=[K])  # fmt: skip
def a_set_up_that_returns_a_flow(path: str) -> Any:
    with sets_up_elsewhere(path) as made:
        return use(made)


@hr.resource
def cleaned_elsewhere(path: str) -> str:
    return path


@cleaned_elsewhere.cleanup
def cleans_elsewhere(path: str) -> Any:
    return elsewhere.bind(path=path)


@row({"path": "?"}, error=(FlowError, "clean-up 'cleans_elsewhere' of a resource returned a flow"),
     cleans_elsewhere=[F], work=[S])  # fmt: skip
def a_clean_up_that_returns_a_flow(path: str) -> Any:
    with cleaned_elsewhere(path) as made:
        return work(made)


@hr.task(dynamic=True)
def drawn(path: str) -> Any:
    return itself(path)


@hr.task
def itself(x: str) -> str:
    return x


@row({"path": "?"}, result="HERE", writes=["open here", "close here, which was HERE"])
def an_argument_of_a_resource_may_be_a_dynamic_task(path: str) -> Any:
    with Place(drawn(path)) as place:
        return itself(place)
