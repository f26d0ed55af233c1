"""Rows: ``async def`` tasks, alone, in maps and chains, and how they end."""

from __future__ import annotations

import asyncio
import decimal
import functools
import os
import threading
from typing import Any

import headrace as hr
from headrace.errors import FlowError, SecretReturned, TaskFailed, TaskTimedOut
from tests.semantics.rows_basic import Broken, total
from tests.semantics.table import LATE, F, K, S, T, row

os.environ["HEADRACE_ROWS_ASYNC"] = "sentinel-a5b1d0"
SECRET = hr.Secret("HEADRACE_ROWS_ASYNC")


async def plus(x: int, more: int) -> int:
    await asyncio.sleep(0)
    return x + more


class Adder:
    def __init__(self, more: int) -> None:
        self.more = more

    async def __call__(self, x: int) -> int:
        await asyncio.sleep(0)
        return x + self.more


add_two = hr.task(name="add_two")(functools.partial(plus, more=2))
add_three = hr.task(name="add_three")(Adder(3))


@hr.task
async def add(x: int, y: int = 1) -> int:
    await asyncio.sleep(0.001)
    return x + y


@hr.task
async def at_once(x: int) -> int:
    return x


@hr.task
def double(x: int) -> int:
    return 2 * x


@hr.task
async def upto(n: int) -> list[int]:
    await asyncio.sleep(0)
    return list(range(n))


@hr.task(nout=2)
async def both(x: int) -> tuple[int, int]:
    return x, -x


@hr.task
async def odd_fails(x: int) -> int:
    await asyncio.sleep(0)
    if x % 2:
        raise Broken(f"{x} is odd")
    return x


@hr.task
async def odd_skips(x: int) -> int:
    await asyncio.sleep(0)
    if x % 2:
        raise hr.Skip("odd")
    return x


@hr.task
async def gives_up() -> None:
    raise hr.Fail("no use")


async def _flaky(path: str) -> int:
    await asyncio.sleep(0)
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 3:
        raise Broken("not yet")
    return os.path.getsize(path)


flaky = hr.task(name="flaky", retries=2)(_flaky)
flaky_later = hr.task(name="flaky_later", retries=2, retry_delay=0.01)(_flaky)
too_flaky = hr.task(name="too_flaky", retries=1)(_flaky)


@hr.task(retries=1)
async def asks_again(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    if os.path.getsize(path) < 2:
        raise hr.Retry("once more")
    return os.path.getsize(path)


@hr.task(trigger="any_failed")
async def rescue(*causes: Any) -> list[str]:
    await asyncio.sleep(0)
    return [type(cause).__name__ for cause in causes]


@hr.task(trigger="all_finished")
async def kind(value: Any) -> str:
    return type(value).__name__


@hr.task(timeout=0.2)
async def sleepy(x: int) -> int:
    await asyncio.sleep(60 * (x % 2))
    return x


@hr.task(timeout=0.2, retries=1)
async def sleepy_again(path: str) -> int:
    with open(path, "a") as file:
        file.write("x")
    await asyncio.sleep(60 if os.path.getsize(path) < 2 else 0)
    return os.path.getsize(path)


@hr.task(timeout=0.02)
async def deaf() -> None:
    threading.Event().wait(0.05)  # blocks its loop, so that nobody can tell it


@hr.task
async def own_timeout() -> str:
    try:
        async with asyncio.timeout(0.01):
            await asyncio.sleep(60)
    except TimeoutError:
        return "mine"
    return "none"


@hr.task
async def raises_timeout() -> None:
    raise TimeoutError("of my own")


@hr.task
async def cancels_itself() -> None:
    raise asyncio.CancelledError("by itself")


@hr.task
async def gathers(xs: list[int]) -> list[int]:
    return await asyncio.gather(*(plus(x, 1) for x in xs))


@hr.task
async def meets(x: int, others: int) -> int:
    """Goes on only when as many coroutines as that are waiting at the same time."""
    _waiting.add(x)
    try:
        async with asyncio.timeout(20):
            while len(_waiting) < others:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
    finally:
        _waiting.discard(x)
    return x


_waiting: set[int] = set()


@hr.task
async def keeps_its_own(x: int) -> bool:
    decimal.setcontext(decimal.Context(prec=x + 1))  # it is kept in a context variable
    await asyncio.sleep(0.005)
    return decimal.getcontext().prec == x + 1


@hr.task
def forgets_to_wait(x: int) -> Any:
    return plus(x, 1)


@hr.task
async def awaits_half(x: int) -> Any:
    return plus(x, 1)


@hr.task
def runs_a_loop(x: int) -> int:
    return asyncio.run(plus(x, 1))


@hr.task
async def large(x: int) -> bytes:
    await asyncio.sleep(0)
    return bytes(1 << 19)


@hr.task
def length(data: bytes) -> int:
    return len(data)


@hr.task
async def secret_length(text: str) -> int:
    await asyncio.sleep(0)
    return len(text)


@hr.task
async def give(text: str) -> str:
    await asyncio.sleep(0)
    return text


@hr.task
async def say(text: str) -> None:
    await asyncio.sleep(0)
    raise ValueError(f"cannot log in with {text}")


@hr.task
async def in_parts(x: int) -> list[int]:
    return [x] * x


# -- values ------------------------------------------------------------------------------------------------------


@row(result=3, add=[S])
def async_single():
    return add(2)


@row(result=2, at_once=[S])
def async_that_never_waits():
    return at_once(2)


@row(result=3)
def async_partial():
    return add_two(1)


@row(result=4)
def async_callable():
    return add_three(1)


@row(result=5)
def async_chain():
    return add(add(add(2)))


@row(result=6)
def async_and_plain_in_a_chain():
    return double(add(double(add(0))))


@row(result=list(range(1, 101)), add=[S] * 100)
def async_map():
    return add.map(list(range(100)))


@row(result=[3, 4, 5])
def async_map_over_a_map():
    return add.map(add.map(add.map([0, 1, 2])))


@row(result=[4, 6, 8])
def async_map_between_plain_ones():
    return double.map(add.map([1, 2, 3]))


@row(result=[3, 5, 7])
def async_map_over_a_plain_map():
    return add.map(double.map([1, 2, 3]))


@row(result=6)
def async_map_is_gathered():
    return total(add.map([0, 1, 2]))


@row(result=[1, 2, 3, 4])
def async_gives_what_is_mapped_over():
    return add.map(upto(4))


@row(result=[2, 3, 3])
def async_children_are_flattened():
    return add.map(hr.flatten(in_parts.map([1, 2])))


@row(result=[11, 12])
def async_unmapped():
    return add.map([1, 2], hr.unmapped(upto(11)[10]))


@row(result=[1, -1])
def async_with_two_outputs():
    first, second = both(1)
    return [first, second]


@row(result=12)
def async_child_is_taken_alone():
    return add(add.map([1, 2, 10])[2])


@row(result=[1, 2, 3])
def async_gather_inside():
    return gathers([0, 1, 2])


@row(result=0)
def async_map_over_nothing():
    return total(add.map([]))


@row(result=[1 << 19] * 20, large=[S] * 20)
def async_values_that_end_batches_early():
    return length.map(large.map(list(range(20))))


# -- at the same time --------------------------------------------------------------------------------------------


@row(result=list(range(8)))
def async_children_wait_at_the_same_time():
    return meets.map(list(range(8)), hr.unmapped(4))  # two threads, or processes, have four each at least


@row(result=list(range(8)))
def async_single_nodes_wait_at_the_same_time():
    return [meets(x, 4) for x in range(8)]


@row(result=[True] * 50)
def async_children_have_contexts_of_their_own():
    return keeps_its_own.map(list(range(50)))


@row(result=6)
def async_chains_meet_in_one():
    return total([add(double(add(0))), double(add(0)), at_once(1)])


@row(result=[4, 6])
def plain_tasks_beside_async_ones_may_run_loops():
    return runs_a_loop.map(add.map([2, 4]))


# -- ends --------------------------------------------------------------------------------------------------------


@row(error=(Broken, "1 is odd"), odd_fails=[S, F, S, F])
def async_failures_by_child():
    return odd_fails.map([0, 1, 2, 3])


@row(error=(Broken, "1 is odd"), odd_fails=[S, F, S], add=[S, T, S])
def async_failures_stop_their_own_chain():
    return add.map(odd_fails.map([0, 1, 2]))


@row(result=[["Broken"]], odd_fails=[F], rescue=[S])
def async_failure_is_handled():
    return [rescue(odd_fails(1))]


@row(result=["int", "Broken", "int"], odd_fails=[S, F, S])
def async_failures_are_handled_child_by_child():
    return kind.map(odd_fails.map([0, 1, 2]))


@row(result=[1, None, 3], odd_skips=[S, K, S], add=[S, K, S])
def async_skips_go_on_child_by_child():
    return add.map(odd_skips.map([0, 1, 2]))


@row(error=(TaskFailed, "no use"), gives_up=[F], attempts={"gives_up": [1]})
def async_fails_for_good():
    return gives_up()


@row({"path": "?"}, result=3, attempts={"flaky": [3]})
def async_is_tried_again(path: str):
    return flaky(path)


@row({"path": "?"}, result=3, attempts={"flaky_later": [3]})
def async_is_tried_again_later(path: str):
    return flaky_later(path)


@row({"path": "?"}, error=(Broken, "not yet"), too_flaky=[F], attempts={"too_flaky": [2]})
def async_is_tried_in_vain(path: str):
    return too_flaky(path)


@row({"path": "?"}, result=2, attempts={"asks_again": [2]})
def async_asks_for_another_attempt(path: str):
    return asks_again(path)


@row(error=(asyncio.CancelledError, "by itself"), cancels_itself=[F])
def async_that_cancels_itself_failed():
    return cancels_itself()


# -- time --------------------------------------------------------------------------------------------------------


@row(error=(TaskTimedOut, r"longer than its timeout of 0\.2 s, and was stopped"), sleepy=[S, LATE, S])
def async_times_out_by_child():
    return sleepy.map([0, 1, 2])


@row({"path": "?"}, result=2, attempts={"sleepy_again": [2]})
def async_timed_out_is_tried_again(path: str):
    return sleepy_again(path)


@row(error=(TaskTimedOut, r"timeout of 0\.02 s, and did not stop"), deaf=[LATE])
def async_that_does_not_hear_of_its_timeout():
    return deaf()


@row(result="mine")
def async_has_timeouts_of_its_own():
    return own_timeout()


@row(error=(TimeoutError, "of my own"), raises_timeout=[F])
def async_that_raises_a_timeout_failed():
    return raises_timeout()


# -- mistakes ----------------------------------------------------------------------------------------------------


@row(error=(FlowError, "task forgets_to_wait returned a coroutine of plus.*async def"), forgets_to_wait=[F])
def plain_task_that_returns_a_coroutine():
    return forgets_to_wait(1)


@row(error=(FlowError, "task awaits_half returned a coroutine"), awaits_half=[F])
def async_task_that_returns_a_coroutine():
    return awaits_half(1)


# -- secrets -----------------------------------------------------------------------------------------------------


@row(result=15)
def secret_for_an_async_task():
    return secret_length(SECRET)


@row(error=(SecretReturned, r"task give\[1\]"), give=[S, F, S])
def secret_returned_by_an_async_child():
    return give.map(["a", SECRET, "b"])


@row(error=(TaskFailed, r"cannot log in with \*\*\*"), say=[F])
def secret_in_a_message_of_an_async_task():
    return say(SECRET)
