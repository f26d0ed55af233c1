"""The graphs whose tasks do something: sleep, keep a core busy, make large arrays. Each is drawn once, for both ways.

What a worker calls stands here and not in the commands' own modules, so that it is imported there, not sent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import headrace as hr
from benchmarks.shapes import SEED, Shape, total, total_task

Call = Callable[..., Any]


def draw(calls: Callable[[Call, Call], Any]) -> Any:
    """Draw a graph as a flow's."""
    return calls(lambda function, *arguments: TASKS[function](*arguments), list)


# -- naps: independent tasks that take their time --------------------------------------------------------------


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


nap_task = hr.task(nap)


@hr.flow
def naps(lengths: list[float]) -> Any:
    return total_task(nap_task.map(lengths))


def napping(name: str, lengths: list[float]) -> Shape:
    """Return the shape of naps, and their sum."""

    def calls(call: Call, gather: Call) -> Any:
        return call(total, gather([call(nap, length) for length in lengths]))

    return Shape(name, len(lengths) + 1, naps, {"lengths": lengths}, calls, sum(lengths))


def heavy_tail(count: int, least: float, most: float) -> list[float]:
    """Return lengths of which most are near the least, and a few are a thousand times as long: Pareto, cut off."""
    chance = random.Random(SEED)
    return [min(most, least * chance.paretovariate(0.7)) for _ in range(count)]


# -- grids: steps of tasks that depend on the step before ---------------------------------------------------------

PATTERNS = ("stencil", "fft", "tree", "random", "trivial")


def spin(seconds: float, *values: int) -> int:
    """Keep a core busy, and mix the values such that their order matters."""
    end = time.perf_counter() + seconds
    mixed = 1
    for value in values:
        mixed = (31 * mixed + value) % 1_000_003
    while time.perf_counter() < end:
        pass
    return mixed


spin_task = hr.task(spin)


def grid_parents(pattern: str, width: int, steps: int) -> list[list[list[int]]]:
    """Return, for each step and each of its tasks, which of the step before it depends on.

    A stencil depends on itself and its neighbours; fft on itself and those at a distance that doubles with each step;
    a tree doubles in width until it is wide enough; random is itself and two others; trivial depends on nothing.
    """
    chance = random.Random(SEED)
    strides = max(1, (width - 1).bit_length())

    def near(task: int, stride: int) -> list[int]:
        return [other for other in (task - stride, task, task + stride) if 0 <= other < width]

    def parents(step: int, task: int) -> list[int]:
        match pattern:
            case "stencil":
                return near(task, 1)
            case "fft":
                return near(task, 1 << (step - 1) % strides)
            case "tree":
                return [task // 2 if 1 << (step - 1) < width else task]
            case "random":
                return sorted({task, *chance.sample(range(width), 2)})
            case _:
                return []

    grid: list[list[list[int]]] = []
    for step in range(steps):
        wide = min(width, 1 << min(step, 30)) if pattern == "tree" else width
        grid.append([parents(step, task) if step else [] for task in range(wide)])
    return grid


def grid_calls(pattern: str, width: int, steps: int, seconds: float) -> Callable[[Call, Call], Any]:
    def calls(call: Call, gather: Call) -> Any:
        level: list[Any] = []
        everything = []
        for step in grid_parents(pattern, width, steps):
            level = [call(spin, seconds, task, *[level[at] for at in some]) for task, some in enumerate(step)]
            everything += level
        return call(total, gather(everything if pattern == "trivial" else level))

    return calls


@hr.flow
def grid(pattern: str, width: int, steps: int, seconds: float) -> Any:
    return draw(grid_calls(pattern, width, steps, seconds))


def spinning(pattern: str, width: int, steps: int, seconds: float) -> Shape:
    """Return the shape of a pattern whose tasks take so many seconds."""
    answer = grid_calls(pattern, width, steps, 0.0)(lambda function, *arguments: function(*arguments), list)
    tasks = sum(map(len, grid_parents(pattern, width, steps))) + 1
    parameters = {"pattern": pattern, "width": width, "steps": steps, "seconds": seconds}
    return Shape(f"{pattern} {width}", tasks, grid, parameters, grid_calls(**parameters), answer)


# -- arrays: values that are expensive to move -------------------------------------------------------------------


def make(position: int, size: int) -> Any:
    """Return an array of so many bytes."""
    import numpy as np

    return np.full(size // 8, position, dtype=np.int64)


def change(array: Any) -> Any:
    return 2 * array + 1


def join(left: Any, right: Any) -> Any:
    return left + right


def digest(array: Any) -> int:
    return int(array.sum())


make_task, change_task, join_task, digest_task = map(hr.task, (make, change, join, digest))
TASKS = {total: total_task, spin: spin_task, join: join_task, digest: digest_task, make: make_task, change: change_task}


def reduced(call: Call, level: list[Any]) -> Any:
    """Join in pairs until one is left."""
    while len(level) > 1:
        level = [call(join, left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
    return call(digest, level[0])


def array_calls(count: int, size: int) -> Callable[[Call, Call], Any]:
    def calls(call: Call, gather: Call) -> Any:
        return reduced(call, [call(change, call(make, position, size)) for position in range(count)])

    return calls


@hr.flow
def arrays(count: int, size: int) -> Any:
    return draw(array_calls(count, size))


@hr.flow
def mapped_arrays(count: int, size: int) -> Any:
    changed: Any = change_task.map(make_task.map(range(count), hr.unmapped(size)))
    return draw(lambda call, gather: reduced(call, [changed[position] for position in range(count)]))


def moving(name: str, flow: Any, count: int, size: int) -> Shape:
    """Return the shape of a map, a map and a reduction in pairs, over ``count`` arrays of ``size`` bytes."""
    answer = size // 8 * count**2
    return Shape(name, 3 * count, flow, {"count": count, "size": size}, array_calls(count, size), answer)
