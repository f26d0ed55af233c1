"""A flow whose module does not load everywhere."""

import os

import headrace as hr

if os.environ.get("SEED_BROKEN"):
    raise RuntimeError("there is no display")


@hr.task
def draw(x: int) -> int:
    return x


@hr.flow
def broken(x: int = 1):
    return draw(x)
