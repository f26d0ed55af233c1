"""Tables of what was measured, and what got worse between two files: ``python -m benchmarks.report A B``.

The files are those that the benchmarks write with ``--json``, and pytest with ``--benchmark-json``. With one file, all
that would be compared is listed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

#: What is worse by more than this share counts as worse; below it, the machine's mood decides.
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


class Quantity(NamedTuple):
    """One thing that was measured, and whether more of it is better."""

    value: float
    more: bool = False

    def worse_than(self, earlier: Quantity) -> bool:
        """Whether it is worse by more than the tolerance."""
        if self.more:
            return self.value < earlier.value * (1 - TOLERANCE)
        return self.value > earlier.value / (1 - TOLERANCE)


Quantities = dict[tuple[str, str], Quantity]  # by name of what was measured, and unit


def _of_shape(shape: dict[str, Any]) -> dict[str, Quantity]:
    """By unit: what a benchmark's own file says of one graph. Times only next to raw Dask's: machines differ."""
    found: dict[str, Quantity] = {}
    taken = shape.get("seconds", {})
    if {"raw", "headrace"} <= taken.keys():
        found["times as quick as raw Dask"] = Quantity(ratio(shape), more=True)
    for way in sorted(taken.keys() & {"headrace", "headrace batch"}) if "fsspec" in taken else []:
        ratio_to_plain = median(taken["fsspec"]) / median(taken[way])
        found[f"times as quick as plain fsspec, {way}"] = Quantity(ratio_to_plain, more=True)
    for key, unit in {"moved": "MiB moved between workers", "peak": "MiB at most in workers"}.items():
        if key in shape:
            found[unit] = Quantity(median(shape[key]["headrace"]))
    for name, peak in shape.get("memory", {}).get("peak", {}).items():
        found[f"MiB at most in {name}"] = Quantity(peak)
    for key, unit in {"efficiency": "of the ideal", "free": "of the ideal with a free driver"}.items():
        if key in shape:
            found[unit] = Quantity(median(shape[key]), more=True)
    if "driver" in shape:
        found["µs of the driver per task run"] = Quantity(median(shape["driver"]))
    return found


def _of_micro(benchmark: dict[str, Any]) -> dict[str, Quantity]:
    """By unit: what pytest's file says of one benchmark."""
    facts, found = benchmark["extra_info"], {}
    for key, unit in {"task_runs": "task run", "events": "event", "nodes": "node"}.items():
        if key in facts:
            found[f"µs per {unit}"] = Quantity(1e6 * benchmark["stats"]["median"] / facts[key])
            if "bytes" in facts:
                found[f"bytes per {unit}"] = Quantity(facts["bytes"] / facts[key])
    return found


def quantities(result: dict[str, Any]) -> Quantities:
    """Return all that can be compared of what a benchmark wrote, or pytest."""
    found: Quantities = {}
    for entry in result.get("benchmarks", []):
        name = entry["name"].removeprefix("test_")
        found |= {(name, unit): quantity for unit, quantity in _of_micro(entry).items()}
    for shape in result.get("shapes", []):
        found |= {(shape["name"], unit): quantity for unit, quantity in _of_shape(shape).items()}
    apart = {shape["name"]: shape for shape in result.get("shapes", []) if "seconds" in shape.get("seconds", {})}
    if {"headrace", "raw Dask"} <= apart.keys():  # as `million` writes it, because they do not do the same number
        per_task = [
            median(apart[name]["seconds"]["seconds"]) / apart[name]["tasks"] for name in ("raw Dask", "headrace")
        ]
        found["headrace", "times as quick per task as raw Dask"] = Quantity(per_task[0] / per_task[1], more=True)
    return {key: quantity for key, quantity in found.items() if key[0] != "raw Dask"}


def compare(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return a sentence for each quantity that got worse, or is no longer measured.

    Where there is raw Dask to compare with, ratios to it are compared, because two files may come from two machines,
    or from one that was busier.
    """
    if before.get("quick") or after.get("quick"):
        raise SystemExit(
            "one of the files was written with --quick, which measures nothing; leave it out and measure again"
        )
    earlier, later = quantities(before), quantities(after)
    worse = []
    for (name, unit), was in earlier.items():
        now = later.get((name, unit))
        if now is None:
            worse.append(f"{name}: {unit} is no longer measured")
        elif now.worse_than(was):
            worse.append(f"{name}: {was.value:,.4g} {unit} before, {now.value:,.4g} now")
    return sorted(worse)


def listed(result: dict[str, Any]) -> str:
    """Return all quantities as a Markdown table."""
    lines = [f"| {name} | {quantity.value:,.4g} | {unit} |" for (name, unit), quantity in quantities(result).items()]
    return "\n".join(["| | | |", "|---|--:|---|", *lines])


def where(result: dict[str, Any]) -> str:
    """Return which processor something was measured on."""
    cpu = (
        result["machine"]["cpu"]
        if "machine" in result
        else result.get("machine_info", {}).get("cpu", {}).get("brand_raw")
    )
    return str(cpu)


def main(arguments: list[str] | None = None) -> None:
    """Compare two files; exit code 1 if something got worse."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path, nargs="?")
    options = parser.parse_args(arguments)
    before = json.loads(options.before.read_text())
    if options.after is None:
        print(listed(before))
        return
    after = json.loads(options.after.read_text())
    worse = compare(before, after)
    if where(before) != where(after):
        print(f"measured on different processors, {where(before)} and {where(after)}: compare no absolute times\n")
    print("\n".join(worse) or "nothing got worse")
    raise SystemExit(1 if worse else 0)


if __name__ == "__main__":
    main()
