"""Rows: retries and their delays, which errors are worth one, and signals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import headrace as hr
from headrace.errors import FlowError, TaskFailed, TriggerFailed
from tests.semantics.rows_basic import Broken, add, always, attempt_of, failing_before, rescue, same, total
from tests.semantics.table import F, K, S, T, row


def is_odd(error: BaseException) -> bool:
    return str(error).endswith(("1", "3"))


def undecided(error: BaseException) -> bool:
    raise LookupError("who knows")


def no_delay(attempts: int) -> float:
    raise ArithmeticError(f"after {attempts}")


def wrong_delay(attempts: int) -> Any:
    return "soon"


def by_attempt(attempts: int) -> float:
    return 0.01 * (attempts - 1)


def deep(signal: BaseException) -> None:
    """A helper of a helper; what it raises passes through what catches exceptions."""
    try:
        _deeper(signal)
    except Exception as error:
        raise AssertionError("a signal was caught as an exception") from error


def _deeper(signal: BaseException) -> None:
    raise signal


@hr.task
def skip_odd(x: int) -> int:
    if x % 2:
        raise hr.Skip(f"{x} is odd")
    return x


@hr.task
def skip_quietly() -> None:
    raise hr.Skip


@hr.task(retries=2)
def skip_at_last(path: str) -> None:
    if attempt_of(path) == 1:
        raise Broken("not yet")
    raise hr.Skip("in the end")


@hr.task(retries=3)
def give_up(*_: Any) -> None:
    raise hr.Fail("there is no point")


@hr.task(retries=3)
def give_up_because() -> None:
    try:
        raise KeyError("the cause")
    except KeyError as cause:
        raise hr.Fail("there is no point") from cause


@hr.task
def give_up_quietly() -> None:
    raise hr.Fail


@hr.task
def signal_from_afar(kind: Callable[[str], BaseException]) -> None:
    deep(kind("from afar"))


def asking(times: int, *, delay: float | None = None, **policy: Any) -> hr.Task[..., int]:
    """A task that asks for another attempt so often."""

    @hr.task(**policy)
    def ask(path: str) -> int:
        attempt = attempt_of(path)
        if attempt <= times:
            raise hr.Retry(f"number {attempt} was not enough", delay=delay)
        return attempt

    return ask


@hr.task(retries=1)
def wrong_wish() -> None:
    raise hr.Retry(delay=-1)


# -- delays and what is worth a retry ------------------------------------------------------------------------------


@row({"path": "?"}, result="done after 3", flaky=[S], attempts={"flaky": [3]})
def a_list_of_delays(path: str) -> Any:
    return failing_before(2, retries=3, retry_delay=[0, 0.01])(path)


@row({"path": "?"}, result="done after 4", flaky=[S], attempts={"flaky": [4]})
def the_last_of_a_list_of_delays_stays(path: str) -> Any:
    return failing_before(3, retries=3, retry_delay=[0.01])(path)


@row({"path": "?"}, result="done after 3", flaky=[S], attempts={"flaky": [3]})
def a_function_of_delays(path: str) -> Any:
    return failing_before(2, retries=2, retry_delay=by_attempt)(path)


@row({"path": "?"}, result="done after 3", flaky=[S], attempts={"flaky": [3]})
def exponential_delays(path: str) -> Any:
    return failing_before(2, retries=2, retry_delay=hr.exponential(0.005, jitter=0.5))(path)


@row({"path": "?"}, error=(ArithmeticError, "after 1"), flaky=[F], attempts={"flaky": [1]})
def a_function_of_delays_that_raises(path: str) -> Any:
    return failing_before(2, retries=5, retry_delay=no_delay)(path)


@row({"path": "?"}, error=(FlowError, "returned 'soon' after 1 attempts"), flaky=[F])
def a_function_of_delays_that_returns_nonsense(path: str) -> Any:
    return failing_before(2, retries=5, retry_delay=wrong_delay)(path)


@row({"path": "?"}, result="done after 2", flaky=[S], attempts={"flaky": [2]})
def a_type_that_is_worth_a_retry(path: str) -> Any:
    return failing_before(1, retries=2, retry_on=Broken)(path)


@row({"path": "?"}, result="done after 2", flaky=[S], attempts={"flaky": [2]})
def types_that_are_worth_a_retry(path: str) -> Any:
    return failing_before(1, retries=2, retry_on=(OSError, Exception))(path)


@row({"path": "?"}, error=(Broken, "attempt 1"), flaky=[F], attempts={"flaky": [1]})
def a_type_that_is_not_worth_a_retry(path: str) -> Any:
    return failing_before(1, retries=2, retry_on=(OSError, ValueError))(path)


@row({"path": "?"}, error=(Broken, "attempt 2"), flaky=[F], attempts={"flaky": [2]})
def a_predicate_is_asked_for_each_error(path: str) -> Any:
    return failing_before(9, retries=5, retry_on=is_odd)(path)


@row({"path": "?"}, error=(LookupError, "who knows"), flaky=[F], attempts={"flaky": [1]})
def a_predicate_that_raises(path: str) -> Any:
    return failing_before(9, retries=5, retry_on=undecided)(path)


@row({"path": "?"}, result=["done after 2", 3], flaky=[S], same=[S])
def others_go_on_while_a_retry_waits(path: str) -> Any:
    return same([failing_before(1, retries=1, retry_delay=0.02)(path), add(1, 2)])


# -- hr.Skip -------------------------------------------------------------------------------------------------------


@row(result=None, skip_odd=[K], says={"skip_odd": ["^3 is odd$"]})
def a_task_skips_itself() -> Any:
    return skip_odd(3)


@row(result=None, skip_quietly=[K], says={"skip_quietly": [""]})
def a_skip_needs_no_reason() -> Any:
    return skip_quietly()


@row(result=[0, None, 2], skip_odd=[S, K, S], same=[S, K, S], says={"skip_odd": ["", "1 is odd", ""]})
def a_skipped_child_skips_its_line_only() -> Any:
    return same.map(skip_odd.map([0, 1, 2]))


@row(result=None, skip_odd=[S, K], total=[K], says={"total": [""]})
def a_skipped_child_skips_a_reduction() -> Any:
    return total(skip_odd.map([0, 1]))


@row(result=[[0, None]], skip_odd=[S, K], keep=[S])
def a_reduction_may_take_what_was_skipped_as_none() -> Any:
    return [same.with_options(name="keep", skip_on_upstream_skip=False)(skip_odd.map([0, 1]))]


@row(
    {"path": "?"}, result=None, skip_at_last=[K], attempts={"skip_at_last": [2]}, says={"skip_at_last": ["in the end"]}
)
def a_later_attempt_may_skip(path: str) -> Any:
    return skip_at_last(path)


@row(result=None, signal_from_afar=[K], says={"signal_from_afar": ["from afar"]})
def a_helper_may_skip() -> Any:
    return signal_from_afar(hr.Skip)


# -- hr.Fail -------------------------------------------------------------------------------------------------------


@row(error=(TaskFailed, "^there is no point$"), give_up=[F], attempts={"give_up": [1]}, says={"give_up": ["no point"]})
def a_task_that_fails_for_good_is_not_tried_again() -> Any:
    return give_up()


@row(error=(TaskFailed, "^there is no point$"), give_up_because=[F])
def a_fail_may_have_a_cause() -> Any:
    return give_up_because()


@row(error=(TaskFailed, "'give_up_quietly' raised hr.Fail without saying why"), give_up_quietly=[F])
def a_fail_without_a_message_still_says_which_task() -> Any:
    return give_up_quietly()


@row(result=["there is no point"], give_up=[F], rescue=[S])
def what_follows_a_fail_receives_an_ordinary_exception() -> Any:
    return rescue(give_up())


@row(error=(TaskFailed, "no point"), give_up=[F, F], same=[T, T], says={"same": ["did not run"] * 2})
def children_fail_for_good_each_by_itself() -> Any:
    return same.map(give_up.map([1, 2]))


@row(error=(TaskFailed, "^from afar$"), signal_from_afar=[F])
def a_helper_may_fail() -> Any:
    return signal_from_afar(hr.Fail)


@row(error=(TriggerFailed, "did not run"), add=[S], wants_disaster=[T])
def what_waits_for_failures_fails_without_any() -> Any:
    return same.with_options(name="wants_disaster", trigger="all_failed")(add(1))


# -- hr.Retry ------------------------------------------------------------------------------------------------------


@row({"path": "?"}, result=3, ask=[S], attempts={"ask": [3]})
def a_task_may_ask_for_another_attempt(path: str) -> Any:
    return asking(2, retries=2)(path)


@row({"path": "?"}, result=3, ask=[S], attempts={"ask": [3]})
def a_task_may_say_when_it_wants_another_attempt(path: str) -> Any:
    return asking(2, delay=0.01, retries=2, retry_delay=100)(path)


@row({"path": "?"}, result=2, ask=[S], attempts={"ask": [2]})
def a_wish_counts_more_than_what_is_worth_a_retry(path: str) -> Any:
    return asking(1, retries=2, retry_on=OSError)(path)


@row({"path": "?"}, error=(TaskFailed, r"\(number 3 was not enough\), but has used its retries=2"), ask=[F])
def wishes_are_bounded_by_retries(path: str) -> Any:
    return asking(9, retries=2)(path)


@row({"path": "?"}, error=(TaskFailed, "has no retries; allow some with @task"), ask=[F], attempts={"ask": [1]})
def a_wish_without_retries_fails_and_says_so(path: str) -> Any:
    return asking(9)(path)


@row(error=(FlowError, "delay must be seconds >= 0, got -1"), wrong_wish=[F], attempts={"wrong_wish": [2]})
def a_wish_that_cannot_be_meant_is_an_error_of_the_task() -> Any:
    return wrong_wish()


@row({"path": "?"}, result=["int"], ask=[S], always=[S])
def what_follows_waits_until_a_wish_is_fulfilled(path: str) -> Any:
    return always(asking(1, delay=0.01, retries=1)(path))
