"""Rows: what a task knows of its run, what it logs and what it prints."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import datetime
import io
import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import headrace as hr
from headrace.errors import NotInTask
from tests.semantics.table import F, S, row

log = logging.getLogger("tests.context")


@dataclass(frozen=True)
class Box:
    left: Any
    right: Any = 0


# -- where a task is ---------------------------------------------------------------------------------------------


@hr.task
def whole(*_: Any) -> hr.Context:
    return hr.context()


@hr.task
def field(name: str, *_: Any) -> Any:
    return getattr(hr.context(), name)


@hr.task
def index(*_: Any) -> int | None:
    return hr.context().index


@hr.task(name="with a name of its own")
def renamed() -> str:
    return hr.context().task_name


@hr.task
def known_by_others(context: hr.Context) -> bool:
    return context.run_id == hr.context().run_id


@hr.task(retries=3)
def attempts_until(least: int) -> int:
    attempt = hr.context().attempt
    if attempt < least:
        raise ValueError(f"attempt {attempt}")
    return attempt


@hr.task(retries=1)
def all_attempts_of(x: int, path: str) -> list[int]:
    file = Path(path).with_suffix(f".{x}")
    with file.open("a") as out:
        out.write(f"{hr.context().attempt} ")
    if x == 1 and hr.context().attempt == 1:
        raise hr.Retry
    return [int(word) for word in file.read_text().split()]


@row(result="names_its_flow")
def names_its_flow():
    return field("flow_name")


@row(result=["field", "field-2"])
def names_its_node():
    first = field("task_name")
    return [first, field("task_name", first)]


@row(result="with a name of its own")
def names_its_task():
    return renamed()


@row(result=True)
def all_tasks_of_a_run_see_one_run():
    return known_by_others(whole())


@row(result=None)
def no_index_where_nothing_is_mapped():
    return index()


@row(result=[0, 1, 2])
def index_of_a_child():
    return index.map(["a", "b", "c"])


@row(result=[0, 1, 2])
def index_of_a_child_of_a_child():
    return index.map(index.map([7, 8, 9]))


@row(result=[])
def index_of_no_child():
    return index.map([])


@row(result=1)
def attempt_begins_at_one():
    return field("attempt")


@row(result=3, attempts={"attempts_until": [3]})
def attempt_of_retries_at_once():
    return attempts_until(3)


@row(result=3, attempts={"attempts_until": [3]})
def attempt_of_retries_later():
    return attempts_until.with_options(retry_delay=0.01)(3)


@row(result=[1, 2, 1], attempts={"attempts_until": [1, 2, 1]})
def attempt_is_each_childs_own():
    return attempts_until.map([1, 2, 1])


@row({"path": "?"}, result=[[1], [1, 2], [1]])
def attempt_of_a_retry_that_the_task_asks_for(path: str):
    return all_attempts_of.map([0, 1, 2], path=hr.unmapped(path))


@row(result=True)
def says_where_it_is():
    return truthy(field("worker"))


@hr.task
def truthy(x: Any) -> bool:
    return bool(x)


# -- parameters --------------------------------------------------------------------------------------------------


@hr.task
def parameters() -> dict[str, Any]:
    return dict(hr.context().parameters)


@hr.task
def parameter(name: str) -> Any:
    return hr.context().parameters[name]


@hr.task
def overwrite() -> None:
    hr.context().parameters["n"] = 2  # type: ignore[index]


@hr.task
def first_of(x: str) -> str:
    return x[0]


@row({"n": 3}, result={"n": 3, "word": "default"})
def parameters_with_defaults(n: int, word: str = "default"):
    return parameters()


@row({"day": "2026-11-01"}, result=datetime.date(2026, 11, 1))
def parameters_are_what_they_became(day: datetime.date):
    return parameter("day")


@row(result={})
def no_parameters():
    return parameters()


@row({"n": 1}, error=(KeyError, "m"), parameter=[F])
def a_parameter_that_is_not(n: int):
    return parameter("m")


@row({"n": 1}, error=(TypeError, "item assignment"), overwrite=[F])
def parameters_cannot_be_changed(n: int):
    return overwrite()


@row({"text": "x" * (1 << 21)}, error=(KeyError, "did not travel .*give it to the task"), parameter=[F], first_of=[S])
def a_large_parameter_stays_at_home(text: str):
    return [first_of(text), parameter("text")]


@row({"text": "x" * (1 << 21), "n": 4}, result=["x", 4])
def small_parameters_travel_beside_large_ones(text: str, n: int):
    return [first_of(text), parameter("n")]


# -- the object itself -------------------------------------------------------------------------------------------


@hr.task
def copied() -> bool:
    here = hr.context()
    return pickle.loads(pickle.dumps(here)) == here


@hr.task
def change_attempt() -> None:
    hr.context().attempt = 7  # type: ignore[misc]


@row({"n": 1}, result=True)
def contexts_can_be_pickled(n: int):
    return copied()


@row(error=(dataclasses.FrozenInstanceError, "attempt"))
def contexts_are_frozen():
    return change_attempt()


# -- where there is one, and where not ---------------------------------------------------------------------------


def in_thread(function: Callable[[], Any]) -> Any:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(function()))
    thread.start()
    thread.join()
    return found[0]


@hr.task
def from_thread(copies: bool) -> Any:
    def ask() -> str | None:
        return getattr(hr.context(None), "task_name", None)

    copy = contextvars.copy_context()
    return in_thread(lambda: copy.run(ask) if copies else ask())


@hr.task
def error_in_thread() -> str:
    def ask() -> str:
        try:
            return hr.context().task_name
        except NotInTask as error:
            return str(error)

    return in_thread(ask)


@hr.task
def calls_another() -> str:
    return field("task_name")  # a plain call, of a task


@hr.flow
def inner():
    return field("flow_name")


@hr.task
def runs_a_flow() -> list[str]:
    before = hr.context().flow_name
    return [before, inner.run().result(), hr.context().flow_name]


@row(result="from_thread")
def a_thread_with_a_copy_of_the_context():
    return from_thread(True)


@row(result=None)
def a_thread_without():
    return from_thread(False)


@row(result=True)
def a_thread_without_says_what_to_do():
    return mentions(error_in_thread(), "copy_context().run")


@hr.task
def mentions(text: str, part: str) -> bool:
    return part in text


@row(result="calls_another")
def a_task_called_in_a_task():
    return calls_another()


@row(result=["a_flow_in_a_task", "inner", "a_flow_in_a_task"])
def a_flow_in_a_task():
    return runs_a_flow()


@row(result=False)
def no_context_while_drawing():
    return truthy(hr.context(None))


# -- names of task runs ------------------------------------------------------------------------------------------


@hr.task
def name_of(x: Any, width: int = 3) -> str:
    return hr.context().run_name


@hr.task(run_name="see {x!r}", trigger="all_finished")
def fails_by_name(x: Any) -> None:
    raise ValueError("no")


@hr.task(trigger="all_finished")
def notes_of(error: Exception) -> list[str]:
    return getattr(error, "__notes__", [])


def shout(x: str, width: int = 3) -> str:
    return x.upper()


@row(result="name_of")
def the_plain_run_name():
    return name_of("a")


@row(result=["name_of[0]", "name_of[1]"])
def the_plain_run_name_of_children():
    return name_of.map(["a", "b"])


@row(result=["name-a", "name-b"])
def a_run_name_of_arguments():
    return name_of.with_options(run_name="name-{x}").map(["a", "b"])


@row(result="a-003")
def a_run_name_with_a_default_and_a_format():
    return name_of.with_options(run_name="{x}-{width:03d}")("a")


@row(result="of 7")
def a_run_name_of_an_attribute():
    return name_of.with_options(run_name="of {x.left}")(Box(7))


@row(result=["A", "B"])
def a_run_name_by_a_function():
    return name_of.with_options(run_name=shout).map(["a", "b"])


@row(result="name_of (run_name raised AttributeError: 'int' object has no attribute 'upper')")
def a_run_name_that_cannot_be_made():
    return name_of.with_options(run_name=shout)(7)


@row(result=["run name: see 'a'"], fails_by_name=[F])
def an_error_tells_the_run_name():
    return notes_of(fails_by_name("a"))


# -- logging -----------------------------------------------------------------------------------------------------


@hr.task
def warns(x: Any) -> Any:
    log.warning("got %r", x)
    return x


@hr.task(retries=2)
def warns_of_attempts() -> None:
    log.warning("attempt %s", hr.context().attempt)
    raise ValueError("no")


@hr.task
def logs_an_exception() -> None:
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        log.exception("caught")


@hr.task
def logs_wrongly() -> None:
    log.warning("one %d", "word", stack_info=False, extra={"task": "mine", "count": 3})


@hr.task
def logs_by_others() -> None:
    logging.getLogger("tests.somebody.else").error("theirs")


@hr.task
def logs_in_a_thread() -> None:
    copy = contextvars.copy_context()
    in_thread(lambda: copy.run(log.warning, "from a thread"))


@row(result=1, logged={"warns": ["WARNING tests.context: got 1"]})
def a_warning_arrives():
    return warns(1)


@row(result=[5, 6], logged={f"warns[{i}]": [f"WARNING tests.context: got {i + 5}"] for i in range(2)})
def a_warning_of_each_child():
    return warns.map([5, 6])


@row(
    result="a",
    logged={"warns": ["WARNING tests.context: got 'a'"], "warns-2": ["WARNING tests.context: got 'a'"]},
)
def a_warning_of_each_task_in_a_chain():
    return warns(warns("a"))


@row(result=1, logged={"warn 1": ["WARNING tests.context: got 1"]})
def a_warning_under_a_run_name():
    return warns.with_options(run_name="warn {x}")(1)


@row(
    error=(ValueError, "no"),
    logged={"warns_of_attempts": [f"WARNING tests.context: attempt {i}" for i in (1, 2, 3)]},
)
def warnings_before_a_failure():
    return warns_of_attempts()


@row(
    error=(ValueError, "no"),
    logged={"warns_of_attempts": [f"WARNING tests.context: attempt {i}" for i in (1, 2, 3)]},
)
def warnings_of_later_attempts():
    return warns_of_attempts.with_options(retry_delay=0.01)()


@row(logged={"logs_by_others": ["ERROR tests.somebody.else: theirs"]})
def any_logger_is_heard():
    return logs_by_others()


@row(logged={"logs_in_a_thread": ["WARNING tests.context: from a thread"]})
def a_thread_with_a_copy_of_the_context_is_heard():
    return logs_in_a_thread()


@row(result=1, logged={})
def below_the_level_nothing_is_heard():
    return logs_a_detail()


@hr.task
def logs_a_detail() -> int:
    log.debug("a detail")
    return 1


# -- prints ------------------------------------------------------------------------------------------------------


@hr.task(log_prints=True)
def prints(*lines: Any, **how: Any) -> None:
    for line in lines:
        print(line, **how)


@hr.task
def prints_to_nobody() -> None:
    print("not logged", file=sys.stdout)


@hr.task(log_prints=True)
def prints_elsewhere() -> str:
    print("to an error stream", file=sys.stderr)
    with contextlib.redirect_stdout(io.StringIO()) as text:
        print("to a text")
    print("to the log")
    return text.getvalue()


@hr.task(log_prints=True)
def writes() -> int:
    sys.stdout.writelines(["one\n", "tw"])
    return sys.stdout.write("o\nthree")


@hr.task(log_prints=True)
def prints_and_fails() -> None:
    print("last words")
    print("and half a line", end="")
    raise ValueError("no")


@hr.task(log_prints=True)
def prints_in_a_thread(copies: bool) -> None:
    copy = contextvars.copy_context()
    in_thread(lambda: copy.run(print, "from a thread") if copies else print("from a thread"))


@hr.task(log_prints=True)
def prints_and_logs() -> None:
    print("one")
    log.warning("two")
    print("three")


def printed(*lines: str) -> list[str]:
    return [f"INFO headrace.prints: {line}" for line in lines]


@row(logged={"prints": printed("a", "b")})
def printed_lines_arrive():
    return prints("a", "b")


@row(result=[None, None], logged={f"prints[{i}]": printed(str(i)) for i in range(2)})
def printed_lines_of_each_child():
    return prints.map(range(2))


@row(logged={"prints": printed("ab")})
def pieces_of_a_line_are_one_line():
    return prints("a", "b", end="")


@row(logged={"prints": printed("ab")})
def a_flush_ends_no_line():
    return prints("a", "b", end="", flush=True)


@row(logged={"prints": printed("a", "b", "c")})
def one_print_of_several_lines():
    return prints("a\nb\nc")


@row(logged={"prints": printed("")})
def an_empty_line():
    return prints("")


@row(logged={"prints": printed("Grüße, 世界 🌍 100 %d")})
def any_characters():
    return prints("Grüße, 世界 🌍 100 %d")


@row(logged={})
def prints_stay_where_nobody_asks_for_them():
    return prints_to_nobody()


@row(result="to a text\n", logged={"prints_elsewhere": printed("to the log")})
def prints_to_other_files():
    return prints_elsewhere()


@row(result=7, logged={"writes": printed("one", "two", "three")})
def writes_to_standard_output():
    return writes()


@row(error=(ValueError, "no"), logged={"prints_and_fails": printed("last words", "and half a line")})
def prints_before_a_failure():
    return prints_and_fails()


@row(logged={"prints_in_a_thread": printed("from a thread")})
def prints_of_a_thread_with_a_copy_of_the_context():
    return prints_in_a_thread(True)


@row(logged={})
def prints_of_a_thread_without():
    return prints_in_a_thread(False)


@row(logged={"prints_and_logs": [*printed("one"), "WARNING tests.context: two", *printed("three")]})
def prints_and_logs_in_order():
    return prints_and_logs()


# -- isolated tasks: the same in a child process ---------------------------------------------------------------------


@row({"n": 3}, result=["isolated_context", "field-2", None, 1, {"n": 3}])
def isolated_context(n: int):
    alone = field.with_options(isolated=True)
    return [alone("flow_name"), alone("task_name"), alone("index"), alone("attempt"), everything(alone("parameters"))]


@hr.task
def everything(parameters: Any) -> dict[str, Any]:
    return dict(parameters)


@row(result=["name-a", "name-b"])
def isolated_run_names():
    return name_of.with_options(isolated=True, run_name="name-{x}").map(["a", "b"])


@row(result=3, attempts={"attempts_until": [3]})
def isolated_attempts():
    return attempts_until.with_options(isolated=True)(3)


@row(result=[5, 6], logged={f"warns[{i}]": [f"WARNING tests.context: got {i + 5}"] for i in range(2)})
def isolated_warnings():
    return warns.with_options(isolated=True).map([5, 6])


@row(result=1, logged={})
def isolated_below_the_level():
    return logs_a_detail.with_options(isolated=True)()


@row(logged={"prints": printed("a", "b")})
def isolated_prints():
    return prints.with_options(isolated=True)("a", "b")


@hr.task(isolated=True)
def warns_and_dies() -> None:
    log.warning("last words")
    os.kill(os.getpid(), signal.SIGKILL)


@row(error=(hr.errors.TaskCrashed, "SIGKILL"), logged={"warns_and_dies": ["WARNING tests.context: last words"]})
def isolated_last_words():
    return warns_and_dies()
