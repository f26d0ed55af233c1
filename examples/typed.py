"""What type checkers know of a flow: a task that is called in it stands for what it will return.

Nothing but annotations is needed; ``mypy --strict`` and ``pyright`` both pass this file.
"""

from __future__ import annotations

import asyncio
from typing import assert_type

import headrace as hr


@hr.task
def double(x: int, times: int = 1) -> int:
    return 2 * x * times


@hr.task(retries=2, retry_delay=[0.1, 1.0], timeout=30, tags=["net"])
async def fetch(url: str, password: str = hr.Secret("TYPED_EXAMPLE_PASSWORD")) -> bytes:
    await asyncio.sleep(0)
    return url.encode()


@hr.task(nout=2)
def parts(data: bytes) -> tuple[str, int]:
    return data.decode(), len(data)


@hr.task
def total(numbers: list[int]) -> int:
    return sum(numbers)


@hr.flow
def typed(urls: list[str] = ["a", "bb"], start: int = 1) -> dict[str, object]:  # noqa: B006 - it is only read
    number = assert_type(double(start), int)
    pages = assert_type(fetch.map(urls, password=hr.unmapped("none")), list[bytes])
    page = assert_type(fetch("ccc", password="none"), bytes)
    text, length = parts(page)
    assert_type(text, str)
    later = assert_type(double(number, upstream=pages), int)
    lengths = double.map([length, later])
    more = double.map(hr.flatten([[1], [2, 3]]), hr.unmapped(2))
    return {"text": text, "sum": total(lengths), "more": total(more), "named": double.with_options(retries=1)(length)}


if __name__ == "__main__":
    run = typed.run()
    print(run.result())
