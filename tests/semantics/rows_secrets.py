"""Rows: secrets as arguments, parameters and defaults, and what becomes of their text."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass
from typing import Any

import headrace as hr
from headrace.errors import FlowError, SecretNotFound, SecretReturned, TaskFailed
from tests.semantics.table import F, K, S, row

# Workers in other processes inherit the environment of the process that starts them.
os.environ["HEADRACE_ROWS_SECRET"] = "sentinel-5c1f'2e"
os.environ["HEADRACE_ROWS_SHORT"] = "abc"
os.environ["HEADRACE_ROWS_EMPTY"] = ""
SECRET, SHORT = hr.Secret("HEADRACE_ROWS_SECRET"), hr.Secret("HEADRACE_ROWS_SHORT")
TEXT = 16


@dataclass
class Login:
    user: str
    password: Any


class Awkward(Exception):
    """One that holds more than its text."""

    def __init__(self, text: str, held: str) -> None:
        super().__init__(text)
        self.held = held


@hr.task
def length(text: Any) -> int:
    return len(text)


@hr.task
def lengths(x: int, text: str) -> int:
    return x * len(text)


@hr.task
def with_default(x: int, text: str = SECRET) -> int:
    return x * len(text)


@hr.task
def by_hand() -> int:
    return len(SECRET.get())


@hr.task
def inside(login: Login) -> list[Any]:
    return [type(login).__name__, login.user, len(login.password)]


@hr.task
def parts(config: Any) -> list[int]:
    return [len(part) for part in (config.values() if isinstance(config, dict) else config)]


@hr.task
def give(text: Any) -> Any:
    return text


@hr.task
def give_inside(text: str) -> Any:
    return {"deep": [("x", {"url": f"https://user:{text}@host"})]}


@hr.task
def give_bytes(text: str) -> Any:
    return [text.encode()]


@hr.task
def give_by_hand() -> Any:
    return [SECRET.get()]


@hr.task(retries=1)
def give_at_second(path: str, text: str) -> Any:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 2:
        raise ValueError("first")
    return text


@hr.task
def say(text: str) -> None:
    raise ValueError(f"cannot log in with {text}")


@hr.task
def say_repr(text: str) -> None:
    raise ValueError(f"cannot log in with {text!r}")


@hr.task
def say_from(text: str) -> None:
    try:
        raise KeyError(text)
    except KeyError as error:
        raise ValueError("cannot log in") from error


@hr.task
def log(text: str) -> None:
    logging.getLogger("rows.secrets").warning("logging in with %s", text)


@hr.task(log_prints=True)
def prints(text: str) -> None:
    print("logging in with", text)


@hr.task(run_name="login-{text}")
def name(text: str) -> str:
    return hr.context().run_name


@hr.task
def hold(text: str) -> None:
    raise Awkward("cannot log in", text)


@hr.task
def say_nothing(text: str) -> None:
    raise ValueError("cannot log in")


@hr.task(trigger="any_failed")
def told_of(error: Any) -> list[Any]:
    return [type(error).__name__, os.environ["HEADRACE_ROWS_SECRET"] in str(error)]


@hr.task(trigger="any_failed")
def kind(error: Any) -> str:
    return type(error).__name__


# -- arriving ----------------------------------------------------------------------------------------------------


@row(result=TEXT, length=[S])
def secret_as_argument():
    return length(SECRET)


@row(result=TEXT)
def secret_by_keyword():
    return length(text=SECRET)


@row(result=TEXT)
def secret_as_default_of_a_parameter(password: str = SECRET):
    return length(password)


@row({"password": SECRET}, result=TEXT)
def secret_as_value_of_a_parameter(password: str):
    return length(password)


@row({"port": SECRET}, result=TEXT)
def secret_passes_for_any_annotation(port: int):
    return length(port)


@row({"config": {"user": "me", "password": SECRET}}, result=[2, TEXT])
def secret_inside_a_parameter(config: dict[str, str]):
    return parts(config)


@row(result=3 * TEXT)
def secret_as_default_of_a_task():
    return with_default(3)


@row(result=6)
def default_of_a_task_gives_way():
    return with_default(3, "no")


@row(result=[TEXT, 2 * TEXT])
def secret_as_default_of_a_mapped_task():
    return with_default.map([1, 2])


@row(result=[TEXT, 2 * TEXT], lengths=[S, S])
def secret_unmapped():
    return lengths.map([1, 2], hr.unmapped(SECRET))


@row(result=[TEXT, 3, TEXT])
def secrets_mapped_over():
    return length.map([SECRET, SHORT, SECRET])


@row(result=[2, TEXT])
def secret_in_a_list():
    return parts(["me", SECRET])


@row(result=[2, TEXT])
def secret_in_a_dict():
    return parts({"user": "me", "password": SECRET})


@row(result=["Login", "me", TEXT])
def secret_in_a_dataclass():
    return inside(Login("me", SECRET))


@row(result=[3, TEXT])
def secret_beside_a_node():
    return parts([give("abc"), SECRET])


@row(result=TEXT)
def secret_got_by_hand():
    return by_hand()


@row(result=TEXT)
def secret_through_a_flow_in_a_flow():
    @hr.flow(name="secret_inner")
    def inner(password: str = SECRET):
        return length(password)

    return inner()


with hr.Flow("secret_in_a_flow_built_by_hand") as built:
    length(hr.Parameter("password", str))
row({"password": SECRET}, result=TEXT)(built)

with hr.Flow("secrets_in_a_list_of_a_flow_built_by_hand") as built:
    length.map(hr.Parameter("passwords"))
row({"passwords": [SECRET, SHORT]}, result=[TEXT, 3])(built)

with hr.Flow("secret_in_a_built_flow_that_is_inlined") as to_inline:
    length(hr.Parameter("password", str))


@row(result=TEXT)
def secret_for_a_flow_that_was_built():
    return to_inline(password=SECRET)


# -- not being there ---------------------------------------------------------------------------------------------


@row(error=(SecretNotFound, r"no secret 'NO_SUCH'.*variable NO_SUCH.*file .*NO_SUCH"), length=[F])
def secret_that_is_nowhere():
    return length(hr.Secret("NO_SUCH"))


@row(error=(SecretNotFound, "HEADRACE_ROWS_EMPTY \\(which is empty\\)"), length=[F])
def secret_that_is_empty():
    return length(hr.Secret("HEADRACE_ROWS_EMPTY"))


@row(error=(SecretNotFound, "NO_SUCH"), lengths=[F, F])
def secret_that_is_nowhere_fails_each_child():
    return lengths.map([1, 2], hr.unmapped(hr.Secret("NO_SUCH")))


@row(result="SecretNotFound", length=[F], kind=[S])
def secret_that_is_nowhere_can_be_handled():
    return kind(length(hr.Secret("NO_SUCH")))


# -- not being returned ------------------------------------------------------------------------------------------


@row(error=(SecretReturned, "task give returned the text of a secret"), give=[F])
def secret_returned():
    return give(SECRET)


@row(error=(SecretReturned, "task give_inside returned"), give_inside=[F])
def secret_returned_deep_inside():
    return give_inside(SECRET)


@row(error=(SecretReturned, "task give_bytes returned"), give_bytes=[F])
def secret_returned_as_bytes():
    return give_bytes(SECRET)


@row(error=(SecretReturned, "task give_by_hand returned"), give_by_hand=[F])
def secret_returned_that_was_got_by_hand():
    return give_by_hand()


@row(error=(SecretReturned, r"task give\[1\] returned"), give=[S, F, S])
def secret_returned_by_one_child():
    return give.map(["a", SECRET, "b"])


@row({"path": "?"}, error=(SecretReturned, "task give_at_second"), give_at_second=[F])
def secret_returned_by_the_second_attempt(path: str):
    return give_at_second(path, SECRET)


@row(result="SecretReturned", give=[F], kind=[S])
def secret_returned_is_not_passed_on():
    return kind(give(SECRET))


@row(result="abc")
def short_secrets_are_not_recognised():
    return give(SHORT)


# -- not being told ----------------------------------------------------------------------------------------------


@row(error=(TaskFailed, r"^ValueError: cannot log in with \*\*\*\n"), say=[F])
def secret_in_a_message():
    return say(SECRET)


@row(error=(TaskFailed, r"cannot log in with \"\*\*\*\"\n"), say_repr=[F])
def secret_in_a_message_as_its_repr():
    return say_repr(SECRET)


@row(error=(TaskFailed, r"KeyError: .\*\*\*"), say_from=[F])
def secret_in_the_cause_of_an_error():
    return say_from(SECRET)


@row(error=(TaskFailed, "Awkward: cannot log in"), hold=[F])
def secret_held_by_an_error():
    return hold(SECRET)


@row(error=(ValueError, "^cannot log in$"), say_nothing=[F])
def errors_without_the_secret_stay_what_they_are():
    return say_nothing(SECRET)


@row(result=["TaskFailed", False], say=[F], told_of=[S])
def secret_in_a_message_is_not_told_to_others():
    return told_of(say(SECRET))


@row(logged={"log": ["WARNING rows.secrets: logging in with ***"]})
def secret_in_a_log():
    return log(SECRET)


@row(logged={"prints": ["INFO headrace.prints: logging in with ***"]})
def secret_in_a_print():
    return prints(SECRET)


@row(result="login-***")
def secret_in_the_name_of_a_task_run():
    return name(SECRET)


# -- in isolated tasks -------------------------------------------------------------------------------------------


def got_apart(**options: Any) -> Any:
    """Make an isolated task, which looks the secret up itself, of a task that is given it."""

    def decorate(given: hr.Task[..., Any]) -> hr.Task[..., Any]:
        function = given.function

        @hr.task(isolated=True, name="apart", **options)
        def apart() -> Any:
            return function(SECRET.get())

        return apart

    return decorate


def apart(given: hr.Task[..., Any], **options: Any) -> hr.Task[..., Any]:
    return given.with_options(isolated=True, **options)


@row(result=TEXT)
def an_isolated_task_is_given_a_secret():
    return apart(length)(SECRET)


@row(result=TEXT)
def an_isolated_task_gets_a_secret_by_hand():
    return apart(by_hand)()


@row(error=(SecretReturned, "task give returned"), give=[F])
def secret_returned_by_an_isolated_task():
    return apart(give)(SECRET)


@row(error=(SecretReturned, "task apart returned"), apart=[F])
def secret_returned_by_an_isolated_task_that_got_it():
    return got_apart()(give)()


@row(error=(SecretReturned, r"task give_by_hand\[1\] returned"))
def secret_returned_by_the_second_task_of_a_child():
    return apart(own_or_got, name="give_by_hand").map([False, True])


@hr.task
def own_or_got(gets: bool) -> Any:
    return SECRET.get() if gets else "own"


@row(error=(TaskFailed, r"ValueError: cannot log in with \*\*\*\n"), say=[F])
def secret_in_the_message_of_an_isolated_task():
    return apart(say)(SECRET)


@row(error=(TaskFailed, r"ValueError: cannot log in with \*\*\*\n"), apart=[F])
def secret_in_the_message_of_an_isolated_task_that_got_it():
    return got_apart()(say)()


@row(error=(ValueError, "^cannot log in$"), apart=[F])  # causes stay in the child
def secret_in_the_cause_of_an_error_of_an_isolated_task():
    return got_apart()(say_from)()


@row(error=(TaskFailed, "Awkward: cannot log in"), apart=[F])
def secret_held_by_an_error_of_an_isolated_task():
    return got_apart()(hold)()


@row(error=(TaskFailed, r"\*\*\*"), attempts={"apart": [2]})
def an_isolated_error_with_a_secret_is_worth_another_attempt():
    return got_apart(retries=1, retry_on=ValueError)(say)()


@hr.task
def skip(text: str) -> None:
    raise hr.Skip(f"not for {text}")


@row(apart=[K], says={"apart": [r"^not for \*\*\*$"]})
def an_isolated_skip_with_a_secret():
    return got_apart()(skip)()


@row(logged={"apart": ["WARNING rows.secrets: logging in with ***"]})
def secret_in_a_log_of_an_isolated_task_that_got_it():
    return got_apart()(log)()


@row(logged={"log": ["WARNING rows.secrets: logging in with ***"]})
def secret_in_a_log_of_an_isolated_task():
    return apart(log)(SECRET)


@row(logged={"apart": ["INFO headrace.prints: logging in with ***"]})
def secret_in_a_print_of_an_isolated_task_that_got_it():
    return got_apart(log_prints=True)(prints)()


# -- in tasks that go on as flows --------------------------------------------------------------------------------


@hr.task(dynamic=True)
def drawn_with(password: Any) -> Any:
    return [type(password).__name__, length(password), lengths.map([1, 2], hr.unmapped(password))]


@hr.task(dynamic=True)
def drawn_with_login(login: Login) -> Any:
    return [type(login.password).__name__, inside(login)]


@hr.task(dynamic=True)
def drawn_with_default(text: str = SECRET) -> Any:
    return length(text)


@hr.task(dynamic=True)
def drawn_with_text(password: Any) -> Any:
    return length(f"{password}")


@hr.task(dynamic=True)
def drawn_by_hand(password: Any) -> Any:
    return length(password.get())


@hr.flow
def measured(password: Any):
    return length(password)


@hr.task
def bound_to(password: Any) -> Any:
    return measured.bind(password=password)


@hr.task
def bound_to_name() -> Any:
    return measured.bind(password=SECRET)


@row(result=["Secret", TEXT, [TEXT, 2 * TEXT]])
def a_dynamic_task_receives_the_name_of_a_secret():
    return drawn_with(SECRET)


@row(result=[["Secret", TEXT, [TEXT, 2 * TEXT]], ["Secret", 3, [3, 6]]])
def dynamic_children_receive_names_of_secrets():
    return drawn_with.map([SECRET, SHORT])


@row(result=["Secret", ["Login", "me", TEXT]])
def a_dynamic_task_receives_a_name_in_a_dataclass():
    return drawn_with_login(Login("me", SECRET))


@row(result=TEXT)
def a_dynamic_task_with_a_secret_as_default():
    return drawn_with_default()


@row(error=(hr.errors.NodeUsedAsValue, "HEADRACE_ROWS_SECRET.* is only a name"), drawn_with_text=[F])
def a_dynamic_task_cannot_use_a_secret_as_a_text():
    return drawn_with_text(SECRET)


@row(error=(hr.errors.NodeUsedAsValue, r"`\.get\(\)` uses the secret"), drawn_by_hand=[F])
def a_dynamic_task_cannot_get_a_secret():
    return drawn_by_hand(SECRET)


@row(error=(SecretReturned, "task bound_to returned"), bound_to=[F])
def a_flow_bound_to_the_text_of_a_secret():
    return bound_to(SECRET)


@row(error=(SecretReturned, "task bound_to returned"), bound_to=[F])
def an_isolated_task_that_binds_a_flow_to_the_text_of_a_secret():
    return apart(bound_to)(SECRET)


@row(result=TEXT)
def a_flow_bound_to_the_name_of_a_secret():
    return bound_to_name()


@hr.task
def shorter(text: str, key: str) -> str:
    return text[: len(key) // 8]


@row(result="ab")
def a_loop_is_given_a_secret():
    return hr.loop(shorter, "abcdef", SECRET, until=lambda text: len(text) < 3)


# -- in targets --------------------------------------------------------------------------------------------------


@hr.task
def fetch(folder: str, key: Any) -> int:
    return 1


@hr.task
def fetch_as(folder: str, login: Login) -> int:
    return len(login.password)


@hr.task
def leak(folder: str, key: str) -> Any:
    return {"key": key}


@hr.task
def files_of(folder: str, _: Any = None) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.exists(folder) else []


IN_URL = "of task 'fetch' would have the text of a secret in its URL.*secret here: key;"


@row({"folder": "?"}, error=(FlowError, IN_URL), fetch=[F])
def a_target_that_names_a_secret(folder: str):
    return fetch.with_options(target="{folder}/{key}")(folder, SECRET)


@row({"folder": "?"}, error=(FlowError, IN_URL), fetch=[F])
def a_target_that_names_a_short_secret(folder: str):
    return fetch.with_options(target="{folder}/{key}")(folder, SHORT)


@row({"folder": "?"}, error=(FlowError, IN_URL), fetch=[F])
def a_target_that_names_a_part_of_a_secret(folder: str):
    return fetch.with_options(target="{folder}/{key[0]}")(folder, SECRET)


@row({"folder": "?"}, error=(FlowError, IN_URL), fetch=[F])
def a_target_function_that_uses_a_secret(folder: str):
    return fetch.with_options(target=lambda folder, key: f"{folder}/{key}")(folder, SECRET)


@row({"folder": "?"}, error=(FlowError, "text of a secret in its URL.*secret here: login;"), fetch_as=[F])
def a_target_that_names_a_secret_in_an_argument(folder: str):
    return fetch_as.with_options(target="{folder}/{login.password}")(folder, Login("me", SECRET))


@row({"folder": "?", "key": SECRET}, error=(FlowError, "secret here: key;"), length=[F])
def a_target_that_names_a_parameter_that_is_a_secret(folder: str, key: str):
    return length.with_options(target="{folder}/{key}")("abc")


@row({"folder": "?"}, result=[TEXT, ["me"]])
def a_target_that_names_what_stands_beside_a_secret(folder: str):
    found = fetch_as.with_options(target="{folder}/{login.user}")(folder, Login("me", SECRET))
    return [found, files_of(folder, found)]


@row({"folder": "?"}, result=["SecretReturned", []], leak=[F])
def a_secret_is_not_written_to_a_target(folder: str):
    error = kind(leak.with_options(target="{folder}/x.json")(folder, SECRET))
    return [error, files_of(folder, error)]


def _no_such(folder: str, key: Any) -> str:
    raise ValueError(f"no folder for {key.get()}")


@row({"folder": "?"}, error=(TaskFailed, r"no folder for \*\*\*\n"), fetch=[F])
def secret_in_an_error_of_a_target(folder: str):
    return fetch.with_options(target=_no_such)(folder, SECRET)


@row({"folder": "?"}, error=(FlowError, IN_URL), fetch=[F])
def a_target_function_that_looks_a_secret_up(folder: str):
    return fetch.with_options(target=lambda folder, key: f"{folder}/{key.get()}")(folder, SECRET)


@hr.task
def written(folder: str) -> str:
    os.makedirs(folder)
    with open(f"{folder}/x.json", "w") as file:
        json.dump({"token": os.environ["HEADRACE_ROWS_SECRET"]}, file)
    return folder


@row({"folder": "?"}, error=(SecretReturned, "what lies at .*x.json.* holds the text of a secret"), fetch=[F])
def a_secret_in_a_target_is_not_read(folder: str):
    return fetch.with_options(target="{folder}/x.json")(written(folder), SECRET)
