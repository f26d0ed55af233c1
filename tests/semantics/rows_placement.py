"""Rows: limits by task and by tag, priorities, and threads inside tasks."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import headrace as hr
from headrace.errors import FlowError
from tests.semantics.rows_basic import total
from tests.semantics.table import F, K, S, row

NAP = 0.01
Span = tuple[float, float]  # seconds on a clock that all processes of a machine share


def rest(x: Any = None) -> Any:
    began = time.monotonic()
    time.sleep(NAP)
    return began, time.monotonic()


nap = hr.task(name="nap")(rest)
one_nap = hr.task(name="one_nap", max_running=1)(rest)
tagged = hr.task(name="tagged", tags=["db"])(rest)
other = hr.task(name="other", tags=["db", "slow"], priority=1)(rest)


@hr.task(max_running=1)
async def one_wait(x: Any = None) -> Any:
    began = time.monotonic()
    await asyncio.sleep(NAP)
    return began, time.monotonic()


@hr.task(max_running=4)
async def wait_for_four(x: int, path: str) -> Span:
    """Goes on when four have begun, so that these were at work at the same time."""
    began = time.monotonic()
    Path(f"{path}-{x}").touch()
    async with asyncio.timeout(20):
        while len(list(Path(path).parent.iterdir())) < 4:
            await asyncio.sleep(NAP)
    return began, time.monotonic()


@hr.task
def overlap(*spans: Any) -> int:
    """How many ran at the same time, at most."""
    flat = [span for part in spans for span in (part if isinstance(part, list) else [part])]
    moments = sorted([(end, -1) for _, end in flat] + [(began, 1) for began, _ in flat])
    most = now = 0
    for _, change in moments:
        now += change
        most = max(most, now)
    return most


@hr.task(max_running=1, retries=2)
def flaky_nap(x: int, path: str) -> Any:
    span = rest()
    with open(f"{path}-{x}", "a") as file:
        file.write("x")
    with open(f"{path}-{x}") as file:
        if len(file.read()) < 3:
            raise OSError("not yet")
    return span


@hr.task(max_running=1)
def odd_fails(x: int) -> int:
    if x % 2:
        raise ValueError(f"{x} is odd")
    return x


@hr.task(max_running=2)
def skip_all(x: int) -> None:
    raise hr.Skip("not today")


@hr.task(max_running=1)
def add(x: int, y: int = 1) -> int:
    return x + y


# -- limits ------------------------------------------------------------------------------------------------------


@row(result=1, one_nap=[S] * 8)
def limit_of_a_mapped_task() -> Any:
    return overlap(one_nap.map(list(range(8))))


@row(result=1, one_wait=[S] * 8)
def limit_of_coroutines() -> Any:
    return overlap(one_wait.map(list(range(8))))


@row({"path": "?"}, result=4)
def limit_of_coroutines_that_allows_several(path: str) -> Any:
    return overlap(wait_for_four.map(list(range(40)), path=hr.unmapped(path)))


@row(result=1)
@hr.flow(max_running={"db": 1})
def limit_of_coroutines_by_tag() -> Any:
    wait = one_wait.with_options(max_running=None, tags=["db"])
    return overlap(wait.map([1, 2, 3, 4]), *[wait(number) for number in range(4)], tagged.map([1, 2]))


@row(result=1)
def limit_over_calls_of_a_task() -> Any:
    return overlap(*[one_nap(number) for number in range(8)])


@row(result=1)
def limit_over_all_options_of_a_task() -> Any:
    return overlap(one_nap.map([1, 2, 3]), one_nap.with_options(priority=2, name="again").map([1, 2, 3]))


@row(result=1)
@hr.flow(max_running={"db": 1})
def limit_by_tag_over_tasks() -> Any:
    return overlap(tagged.map([1, 2, 3, 4]), other.map([1, 2, 3, 4]))


@row(result=1)
@hr.flow(max_running={"db": 4, "slow": 1})
def limit_by_the_stricter_tag() -> Any:
    return overlap(other.map([1, 2, 3, 4, 5, 6]))


@row(result=1)
@hr.flow(max_running={"db": 1})
def limit_by_tag_and_by_task() -> Any:
    return overlap(tagged.with_options(max_running=2).map([1, 2, 3, 4]), tagged.map([1, 2, 3]))


@row(result=12)
@hr.flow(max_running={"absent": 1})
def limit_of_a_tag_that_no_task_has() -> Any:
    return total(add.map([1, 2, 6]))


@row({"path": "?"}, result=1, attempts={"flaky_nap": [3, 3, 3]})
def limit_with_retries(path: str) -> Any:
    return overlap(flaky_nap.map([1, 2, 3], path=hr.unmapped(path)))


@row(error=(ValueError, "1 is odd"), odd_fails=[S, F, S, F])
def limit_with_failures() -> Any:
    return odd_fails.map([0, 1, 2, 3])


@row(result=[None, None], skip_all=[K, K], add=[K, K])
def limit_with_skips() -> Any:
    return add.map(skip_all.map([1, 2]))


@row(result=[6, 8, 10])
def limit_in_the_middle_of_a_chain() -> Any:
    return double.map(add.map(double.map([1, 1.5, 2.0])))


@hr.task
def double(x: float) -> int:
    return int(2 * x)


@row(result=4950)
def limit_of_many_small() -> Any:
    return total(add.map(list(range(100)), y=hr.unmapped(0)))


@row(result=15)
def limit_of_a_loop() -> Any:
    value = add(0)
    for _ in range(14):
        value = add(value)
    return value


@row(result=[3, 2])
def limit_larger_than_the_cluster() -> Any:
    return [add.with_options(max_running=100)(2), add.with_options(max_running=100)(1)]


# -- priorities and tags -----------------------------------------------------------------------------------------


@row(result=[3, 3, 3])
def priority_changes_no_value() -> Any:
    return [nap_free.with_options(priority=priority)(priority) for priority in (-5, 0, 7)]


@hr.task(tags=("cheap", "plain"))
def nap_free(x: int) -> int:
    return 3


# -- threads inside tasks ----------------------------------------------------------------------------------------


@row(result=[0, 1, 4, 9])
def threads_of_a_pool_in_a_task() -> Any:
    return pooled(4)


@hr.task
def pooled(n: int) -> list[int]:
    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(lambda x: x * x, range(n)))


@row(result=True)
def threads_of_numpy_in_a_task() -> Any:
    return multiplied(200)


@hr.task
def multiplied(n: int) -> bool:
    return bool(np.allclose((np.eye(n) @ np.ones((n, n))), 1))


@row(result=["a", "b"])
def threads_that_wait_for_each_other_in_a_task() -> Any:
    return handed_over()


@hr.task
def handed_over() -> list[str]:
    told, ready = ["a"], threading.Event()
    thread = threading.Thread(target=lambda: (told.append("b"), ready.set()))
    thread.start()
    assert ready.wait(10)
    return told


@row(error=(FlowError, "tasks cannot be called|outside|while"), drawing_in_a_thread=[F])
def threads_draw_nothing() -> Any:
    return drawing_in_a_thread()


@hr.task
def drawing_in_a_thread() -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: add.map([1])).result()
