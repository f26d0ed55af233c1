from __future__ import annotations

import pickle

import pytest

import headrace as hr
from headrace.errors import FlowError


def test_delays_grow_up_to_the_most():
    delay = hr.exponential(0.5, 3, most=10)
    assert [delay(attempts) for attempts in (1, 2, 3, 4, 10_000)] == [0.5, 1.5, 4.5, 10, 10]


def test_jitter_spreads_delays_around_what_they_were():
    delay = hr.exponential(1, most=4, jitter=0.25)
    found = [delay(3) for _ in range(500)]
    assert min(found) >= 3
    assert max(found) <= 5
    assert max(found) - min(found) > 1


def test_they_travel_and_are_equal():
    assert pickle.loads(pickle.dumps(hr.exponential(1))) == hr.exponential(1.0, 2.0)


def test_they_are_a_retry_delay():
    delay = hr.exponential(2)
    assert hr.task(retries=1, retry_delay=delay)(print).policy.retry_delay is delay


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"first": -1}, "first must be a number from 0 on, got -1"),
        ({"first": "1"}, "first must be"),
        ({"first": float("nan")}, "first must be"),
        ({"first": 1, "factor": 0.5}, "factor must be a number from 1 on"),
        ({"first": 1, "most": float("inf")}, "most must be"),
        ({"first": 1, "jitter": 1.5}, "jitter must be from 0 to 1, got 1.5"),
    ],
)
def test_numbers_that_cannot_be_meant(numbers, message):
    with pytest.raises(FlowError, match=message):
        hr.exponential(**numbers)
