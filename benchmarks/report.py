"""Tables of what was measured, and what got worse between two files: ``python -m benchmarks.report A B``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

#: a ratio that fell by more than this share counts as worse; below it, the machine's mood decides.
TOLERANCE = 0.2


def machine() -> dict[str, Any]:
    """Return where something was measured."""
    from headrace import __version__

    model = platform.processor() or platform.machine()
    facts = Path("/proc/cpuinfo")
    if facts.exists():
        names = [line.partition(":")[2].strip() for line in facts.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model,
        "cores": cores,
        "load": [round(load, 2) for load in os.getloadavg()],
        "system": platform.system(),
        "python": platform.python_version(),
        "dask": version("dask"),
        "distributed": version("distributed"),
        "headrace": __version__,
    }


def ratio(shape: dict[str, Any]) -> float:
    """Return how many times as long raw Dask took: above 1, headrace is quicker."""
    return median(shape["seconds"]["raw"]) / median(shape["seconds"]["headrace"])


def ratio_of(shape: dict[str, Any]) -> str:
    """Return the ratio as a cell of a table."""
    return f"{ratio(shape):.2f}"


def each(way: str) -> Callable[[dict[str, Any]], str]:
    """Return what makes a cell of the median microseconds per task."""
    return lambda shape: f"{1e6 * median(shape['seconds'][way]) / shape['tasks']:,.1f}"


def seconds(way: str) -> Callable[[dict[str, Any]], str]:
    """Return what makes a cell of the median seconds."""
    return lambda shape: f"{median(shape['seconds'][way]):,.3f}"


def grid(result: dict[str, Any], what: str, columns: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    """Return measurements as a Markdown table: where and what, then a line per shape and a cell per column."""
    where = result["machine"]
    lines = [
        f"{where['cpu']}, {where['cores']} cores, load {where['load'][0]}, Python {where['python']}, "
        f"distributed {where['distributed']}; median of {result['rounds']} rounds, {what}",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "--:|" * len(columns),
    ]
    rows = [[shape["name"], *(cell(shape) for cell in columns.values())] for shape in result["shapes"]]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def table(result: dict[str, Any]) -> str:
    """Return what ``hot_path`` measured."""
    columns = {
        "tasks": lambda shape: f"{shape['tasks']:,}",
        "raw Dask": each("raw"),
        "headrace": each("headrace"),
        "of it drawing": each("drawing"),
        "raw / headrace": ratio_of,
    }
    return grid(result, "µs per task", columns)


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a sentence for each graph whose ratio to raw Dask got worse.

    Ratios, because two files may come from two machines, or from one that was busier.
    """
    earlier = {shape["name"]: shape for shape in before["shapes"]}
    later = {shape["name"]: shape for shape in after["shapes"]}
    worse = [f"{name}: is no longer measured" for name in earlier if name not in later]
    for name in later.keys() & earlier.keys():
        was, now = ratio(earlier[name]), ratio(later[name])
        if now < was * (1 - TOLERANCE):
            worse.append(f"{name}: {was:.2f} times as quick as raw Dask before, {now:.2f} times now")
    return sorted(worse)


def main(arguments: list[str] | None = None) -> None:
    """Compare two files; exit code 1 if something got worse."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    options = parser.parse_args(arguments)
    worse = compare(json.loads(options.before.read_text()), json.loads(options.after.read_text()))
    print("\n".join(worse) or "nothing got worse")
    raise SystemExit(1 if worse else 0)


if __name__ == "__main__":
    main()
