from __future__ import annotations

import functools
import math
import pickle

import pytest

import headrace as hr
from headrace.core.policy import Policy
from headrace.core.task import Task
from headrace.errors import FlowError


@hr.task
def double(x, factor=2):
    """Doc of double."""
    return x * factor


@pytest.mark.parametrize("option", [{"isolated": True}, {"target": "{x}"}])
def test_a_dynamic_task_takes_no_option_that_is_for_what_it_draws(option):
    with pytest.raises(FlowError, match=r"left out of a dynamic task"):
        hr.task(dynamic=True, **option)(lambda x: x)


def test_outside_of_a_flow_it_is_the_function():
    assert double(21) == 42
    assert double.__name__ == "double"
    assert double.__doc__ == "Doc of double."
    assert double.name == "double"
    assert double.qualified_name == "tests.core.test_task:double" or double.qualified_name.endswith("test_task:double")
    assert repr(double) == "<Task double>"


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retrys": 1}, "unknown option 'retrys'; known are name, retries, retry_delay, retry_on"),
        ({"retries": -1}, "retries must be a whole number from 0 on, got -1"),
        ({"retries": 1.5}, "retries must be a whole number"),
        ({"retry_delay": -1}, "retry_delay must be seconds >= 0, .* got -1"),
        ({"retry_delay": math.nan}, "retry_delay must be seconds >= 0, .* got nan"),
        ({"retry_delay": math.inf}, "retry_delay must be seconds >= 0, .* got inf"),
        ({"retry_delay": "1"}, "retry_delay must be seconds"),
        ({"nout": 0}, "nout must be a whole number from 1 on, got 0"),
        ({"nout": "2"}, "nout must be"),
        ({"trigger": "never"}, "trigger must be a function or one of (?!.*cleanup)all_successful, all_failed"),
        ({"name": 5}, "a task needs a name, got 5"),
    ],
)
def test_options_that_cannot_be_meant(options, told):
    with pytest.raises(FlowError, match=told):
        hr.task(**options)(lambda: None)
    with pytest.raises(FlowError, match=told):
        double.with_options(**options)


def test_with_options_leaves_the_task_alone():
    other = double.with_options(retries=3, name="other")
    assert (other.name, other.policy.retries, other.function) == ("other", 3, double.function)
    assert (double.name, double.policy.retries) == ("double", 0)
    assert other.with_options().policy == other.policy


def test_a_task_of_a_task_takes_new_options():
    assert hr.task(retries=2)(double).policy == Policy(name="double", retries=2)


def test_functions_without_a_name():
    assert hr.task(lambda: 1).name == "lambda"
    assert hr.task(name="mine")(lambda: 1).name == "mine"


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: hr.task(5), "@task needs a function, got 5"),
        (lambda: Task(lambda upstream: 1, Policy(name="t")), "a parameter named 'upstream'"),
    ],
)
def test_what_cannot_be_a_task(make, told):
    with pytest.raises(FlowError, match=told):
        make()


async def later(x=1):
    return x


class Caller:
    async def __call__(self):
        return 1


async def stream():
    yield 1


@pytest.mark.parametrize("function", [later, functools.partial(later, 2), Caller()])
def test_async_functions_are_known(function):
    assert hr.task(name="later")(function).is_async
    assert pickle.loads(pickle.dumps(hr.task(later))).is_async


def test_plain_functions_are_not_async():
    assert not hr.task(len).is_async
    assert not hr.task(lambda: later()).is_async


def test_async_generators_are_refused():
    with pytest.raises(FlowError, match=r"'stream' is an async generator.*returns a list"):
        hr.task(stream)


@pytest.mark.parametrize("option", ["isolated", "dynamic"])
def test_async_tasks_have_options_that_they_cannot_have(option):
    with pytest.raises(FlowError, match=f"'later' is `async def`, and {option}=True is for plain functions"):
        hr.task(**{option: True})(later)


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda: double.map([1]), r"double'.map\(...\) was called outside of a flow"),
        (lambda: double(1, upstream=[]), "got upstream= outside of a flow"),
    ],
)
def test_words_of_the_flow_language_outside_of_a_flow(use, told):
    with pytest.raises(FlowError, match=told):
        use()
