"""A map of a million no-ops, and their sum: ``python -m benchmarks.million``.

Wall time, and the largest resident memory of driver, scheduler and workers (together), each of which is a process of
its own. headrace and raw Dask get a new driver process and a new cluster each, because a process does not always give
memory back. Raw Dask executes graphs of doubling size as long as the next one promises to be done within a minute.
"""

from __future__ import annotations

import argparse
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from statistics import median
from typing import Any

from benchmarks.harness import QUIET, THREADS, Bench, command, result
from benchmarks.memory import Peaks, processes
from benchmarks.report import each, grid
from benchmarks.shapes import Shape, wide, wide_calls

TASKS = 1_000_000
#: Seconds that raw Dask gets for one graph.
MINUTE = 60.0
WAYS = {"headrace": "headrace", "raw": "raw Dask"}


def adding(tasks: int) -> Shape:
    """Return the shape of a map and a sum."""
    return Shape(f"{tasks:,}", tasks + 1, wide, {"n": tasks}, wide_calls(tasks), tasks * (tasks + 1) // 2)


def observed(bench: Bench, way: str, tasks: int) -> dict[str, Any]:
    """Run it once and return seconds and memory."""
    with Peaks(processes(bench.client)) as memory:
        seconds = getattr(bench, way)(adding(tasks))
    return {"tasks": tasks, "seconds": seconds, "start": memory.start, "peak": memory.peak}


def largest(bench: Bench, first: int, most: int) -> dict[str, Any]:
    """Let raw Dask do as much as it can within a minute."""
    done = observed(bench, "raw", first)
    while done["tasks"] < most and 2.2 * done["seconds"] < MINUTE:
        done = observed(bench, "raw", min(2 * done["tasks"], most))
    return done


def alone(way: str, tasks: int, first: int) -> dict[str, Any]:
    """Measure one way on a new cluster; called in a new process."""
    from distributed import Client
    from distributed.deploy.subprocess import SubprocessCluster

    options = {"n_workers": THREADS, "threads_per_worker": 1, **QUIET}
    with SubprocessCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(THREADS)
        bench = Bench(client)
        bench.warm()
        return observed(bench, way, tasks) if way == "headrace" else largest(bench, first, tasks)


def measure(rounds: int, *, quick: bool = False, tasks: int = TASKS) -> dict[str, Any]:
    """Measure both ways and return what was found, as JSON data."""
    tasks, first = (min(tasks, 5_000), 500) if quick else (tasks, 12_500)
    new = multiprocessing.get_context("spawn")
    found = []
    for way, title in WAYS.items():
        with ProcessPoolExecutor(1, mp_context=new, max_tasks_per_child=1) as one:
            all_rounds = [one.submit(alone, way, tasks, first).result() for _ in range(rounds)]
        done = min(entry["tasks"] for entry in all_rounds)
        alike = [entry for entry in all_rounds if entry["tasks"] == done]
        memory = {
            moment: {name: median(entry[moment][name] for entry in alike) for name in alike[0][moment]}
            for moment in ("start", "peak")
        }
        times = {"seconds": [entry["seconds"] for entry in alike]}
        found.append({"name": title, "tasks": done, "seconds": times, "memory": memory})
    return result(found, rounds, quick=quick)


def table(found: dict[str, Any]) -> str:
    """Return it as a Markdown table."""

    def memory(name: str) -> Any:
        return lambda shape: f"{shape['memory']['start'][name]:,.0f} → {shape['memory']['peak'][name]:,.0f}"

    columns = {
        "no-ops": lambda shape: f"{shape['tasks']:,}",
        "seconds": lambda shape: f"{median(shape['seconds']['seconds']):,.2f}",
        "µs per task": each("seconds"),
    }
    return grid(found, "memory in MiB", columns | {name: memory(name) for name in ("driver", "scheduler", "workers")})


def more(parser: argparse.ArgumentParser) -> None:
    """Add this command's own options."""
    parser.add_argument("--tasks", type=int, default=TASKS, help="how many no-ops (default: %(default)s)")


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    command("million", __doc__, measure, table, arguments, rounds=1, extra=more)


if __name__ == "__main__":
    main()
