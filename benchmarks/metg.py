"""The smallest tasks that are worth it: ``python -m benchmarks.metg``.

The minimum effective task granularity (METG) of "Task Bench: A Parameterized Benchmark for Evaluating Parallel
Runtime Performance" (Slaughter et al., SC20): the smallest duration of a task at which a graph runs at half of the
ideal speed. The ideal is that each step takes as many turns as its tasks need on the cluster's threads, and nothing
else takes time. Tasks wait busily, by the clock. The duration is searched for, with headrace and with raw Dask on the
same cluster, one after the other for each pattern; the time includes describing the graph and fetching the answer.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from benchmarks.harness import THREADS, command, local, result, turns
from benchmarks.report import grid, ratio_of
from benchmarks.work import PATTERNS, grid_parents, spinning

HALF = 0.5
#: A search is over when it knows the duration this well.
NEAR = 1.15
#: Seconds after which a search is content with less.
ENOUGH = 40.0


def slots(pattern: str, width: int, steps: int) -> int:
    """Return how many tasks each thread executes one after the other, at least."""
    sizes = [len(step) for step in grid_parents(pattern, width, steps)]
    if pattern == "trivial":
        sizes = [sum(sizes)]
    return sum(-(-size // THREADS) for size in sizes)


def search(wall: Callable[[float], float], in_a_row: int, enough: float = ENOUGH) -> tuple[float, list[list[float]]]:
    """Find the shortest duration at which half of the ideal speed is reached.

    Bisection, but for the first guesses: if what comes on top of the tasks' own time were a constant, half of the
    ideal speed would be reached where the tasks take as long as that.

    Parameters
    ----------
    wall : callable
        Runs the graph with tasks of so many seconds, and returns the seconds that it took.
    in_a_row : int
        How many tasks take their time one after the other.
    enough : float
        Seconds after which a rough answer is good enough.

    Returns
    -------
    duration : float
        Seconds of a task; half of the ideal speed was reached with it.
    tries : list of [duration, wall]
        What was run.
    """
    low, high, duration, began = 0.0, math.inf, 1e-3, time.perf_counter()
    tries: list[list[float]] = []
    while high > low * NEAR and (math.isinf(high) or time.perf_counter() - began < enough):
        seconds = wall(duration)
        tries.append([duration, seconds])
        if in_a_row * duration / seconds >= HALF:
            high = duration
        else:
            low = duration
        guess = seconds / in_a_row - duration
        if len(tries) > 2 and low > 0 and math.isfinite(high):
            duration = math.sqrt(low * high)
        else:
            duration = min(max(guess, low * NEAR**0.5, duration / 10), high / NEAR**0.5, duration * 10)
    return high, tries


def measure(
    rounds: int, *, quick: bool = False, pattern: list[str] | None = None, enough: float = ENOUGH
) -> dict[str, Any]:
    """Search for all patterns and return what was found, as JSON data."""
    widths, steps = ((4,), 5) if quick else ((2 * THREADS, 32), 50)
    enough = min(enough, 0.5) if quick else enough
    found = []
    with local() as bench:
        for name, width in [(name, width) for width in widths for name in pattern or PATTERNS]:
            best: dict[str, list[float]] = {"raw": [], "headrace": []}
            tried: dict[str, list[list[list[float]]]] = {"raw": [], "headrace": []}
            for way in turns(rounds):
                run = getattr(bench, way)
                duration, tries = search(
                    lambda seconds, run=run, name=name, width=width: run(spinning(name, width, steps, seconds)),
                    slots(name, width, steps),
                    enough,
                )
                best[way].append(duration)
                tried[way].append(tries)
                print(f"{name} {width}, {way}: {1e6 * duration:,.0f} µs", file=sys.stderr, flush=True)
            tasks = spinning(name, width, steps, 0.0).tasks
            found.append({"name": f"{name} {width}", "tasks": tasks, "seconds": best, "tries": tried})
    return result(found, rounds, quick=quick)


def table(found: dict[str, Any]) -> str:
    """Return it as a Markdown table."""
    each = {"tasks": lambda shape: f"{shape['tasks']:,}", "raw Dask": microseconds("raw")}
    return grid(found, "METG in µs", each | {"headrace": microseconds("headrace"), "raw / headrace": ratio_of})


def microseconds(way: str) -> Callable[[dict[str, Any]], str]:
    """Return what makes a cell of the median duration."""
    return lambda shape: f"{1e6 * median(shape['seconds'][way]):,.0f}"


def more(parser: argparse.ArgumentParser) -> None:
    """Add this command's own options."""
    parser.add_argument("--pattern", action="append", choices=PATTERNS, help="only this one; may be repeated")
    parser.add_argument(
        "--enough", type=float, default=ENOUGH, metavar="SECONDS", help="the most for a search (default: %(default)s)"
    )


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    command("metg", __doc__, measure, table, arguments, rounds=1, extra=more)


if __name__ == "__main__":
    main()
