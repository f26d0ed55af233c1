"""Tasks that are long enough for any scheduler: ``python -m benchmarks.coarse``.

Sleeps, all alike or with a heavy tail, by headrace and by raw Dask in turns, next to the ideal: what the cluster's
threads need if nothing but the sleeps takes time. Batches must not cost such tasks anything, and nobody may wait
behind a slow neighbour.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.harness import THREADS, alternate, command, local, result
from benchmarks.report import grid, ratio_of, seconds
from benchmarks.work import heavy_tail, napping


def lengths(*, quick: bool = False) -> dict[str, list[float]]:
    """Return the seconds of each nap; with ``quick``, a quarter as many, a tenth as long."""
    few, short = (4, 10) if quick else (1, 1)
    return {
        "40 x 100 ms": [0.1 / short] * (40 // few),
        "6 x 1 s": [1.0 / short] * 6,
        "400 x 10 ms": [0.01 / short] * (400 // few),
        "heavy tail": heavy_tail(400 // few, 0.002 / short, 2.0 / short),
    }


def ideal(naps: list[float]) -> float:
    """Return the seconds below which no scheduler can get: equal shares, the longest alone, or whole turns."""
    turns = -(-len(naps) // THREADS) * min(naps)
    return max(sum(naps) / THREADS, max(naps), turns)


def measure(rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure all of them and return what was found, as JSON data."""
    found = []
    with local() as bench:
        for name, naps in lengths(quick=quick).items():
            shape = napping(name, naps)
            times = alternate(bench, shape, rounds) | {"ideal": [ideal(naps)]}
            found.append({"name": name, "tasks": shape.tasks, "seconds": times})
    return result(found, rounds, quick=quick)


def of_ideal(shape: dict[str, Any]) -> str:
    """Return how much of the threads' time headrace used, as a cell."""
    return f"{100 * shape['seconds']['ideal'][0] / median(shape['seconds']['headrace']):.1f} %"


def table(found: dict[str, Any]) -> str:
    """Return it as a Markdown table."""
    columns = {way: seconds(way) for way in ("ideal", "raw", "headrace")}
    return grid(found, "seconds", columns | {"of the ideal": of_ideal, "raw / headrace": ratio_of})


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    command("coarse", __doc__, measure, table, arguments)


if __name__ == "__main__":
    main()
