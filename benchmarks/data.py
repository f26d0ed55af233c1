"""Values that are expensive to move: ``python -m benchmarks.data``.

64 arrays of 16 MiB are made, changed, and added in pairs until one is left, by headrace and by raw Dask in turns on
the same cluster. Measured are the time, the bytes that workers sent to each other (from Dask's own log of transfers),
and the largest memory of the workers together.
"""

from __future__ import annotations

from statistics import median
from typing import Any

from benchmarks.harness import Bench, command, local, result, turns
from benchmarks.memory import MIB, Peaks, processes
from benchmarks.report import grid, ratio_of, seconds
from benchmarks.shapes import Shape
from benchmarks.work import arrays, mapped_arrays, moving


def data_shapes(*, quick: bool = False) -> list[Shape]:
    """Return what is measured: drawn array by array, and with the two maps as maps."""
    count, size = (8, 2 * MIB) if quick else (64, 16 * MIB)
    return [moving("drawn", arrays, count, size), moving("mapped", mapped_arrays, count, size)]


def _sent(dask_worker: Any) -> int:
    """Bytes that a worker sent to other workers since it was asked last."""
    workers = sum(entry["total"] for entry in dask_worker.transfer_incoming_log)
    dask_worker.transfer_incoming_log.clear()
    return int(workers)


def moved(bench: Bench) -> float:
    """MiB that went from worker to worker since the last call."""
    return sum(bench.client.run(_sent).values()) / MIB


def measure(rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure and return what was found, as JSON data."""
    found = []
    with local() as bench:
        watched = processes(bench.client)
        for shape in data_shapes(quick=quick):
            times: dict[str, list[float]] = {"raw": [], "headrace": []}
            bytes_moved: dict[str, list[float]] = {"raw": [], "headrace": []}
            peaks: dict[str, list[float]] = {"raw": [], "headrace": []}
            for way in turns(rounds):
                bench.settle()
                moved(bench)
                with Peaks(watched) as memory:
                    times[way].append(getattr(bench, way)(shape))
                bytes_moved[way].append(moved(bench))
                peaks[way].append(memory.peak["workers"])
            entry = {"name": shape.name, "tasks": shape.tasks, "seconds": times}
            found.append(entry | {"moved": bytes_moved, "peak": peaks})
    return result(found, rounds, quick=quick)


def table(found: dict[str, Any]) -> str:
    """Return it as a Markdown table."""

    def both(what: str) -> Any:
        return lambda shape: " / ".join(f"{median(shape[what][way]):,.0f}" for way in ("raw", "headrace"))

    columns = {
        "raw Dask": seconds("raw"),
        "headrace": seconds("headrace"),
        "raw / headrace": ratio_of,
        "MiB moved, raw / headrace": both("moved"),
        "peak MiB of workers": both("peak"),
    }
    return grid(found, "seconds", columns)


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    command("data", __doc__, measure, table, arguments)


if __name__ == "__main__":
    main()
