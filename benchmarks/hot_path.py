"""What a task costs, in headrace and in raw Dask: ``python -m benchmarks.hot_path``.

Each graph is executed in turns by both on the same cluster, headrace first in every other round. A round's time
runs from the graph's description (the call of ``execute``; the building of the dict) to its answer in this
process, so both pay for describing, sending, running and fetching. Every answer is checked.
"""

from __future__ import annotations

import time
from typing import Any

from benchmarks.harness import alternate, command, local, result
from benchmarks.montage import montage_shapes
from benchmarks.report import table
from benchmarks.shapes import Shape, shapes


def drawing(shape: Shape) -> float:
    """Return the seconds that drawing and planning take, which are a part of headrace's time."""
    from headrace.core.planning import make_plan

    start = time.perf_counter()
    make_plan(shape.flow.graph(**shape.parameters))
    return time.perf_counter() - start


def measure(rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure all shapes and return what was found, as JSON data."""
    found = []
    with local() as bench:
        for shape in shapes(quick=quick) + montage_shapes(quick=quick):
            times = alternate(bench, shape, rounds) | {"drawing": [drawing(shape) for _ in range(rounds)]}
            found.append({"name": shape.name, "tasks": shape.tasks, "seconds": times})
    return result(found, rounds, quick=quick)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    command("hot_path", __doc__, measure, table, arguments)


if __name__ == "__main__":
    main()
