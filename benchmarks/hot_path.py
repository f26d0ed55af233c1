"""What a task costs, in headrace and in raw Dask: ``python -m benchmarks.hot_path``.

Each graph is executed in turns by both on the same cluster, headrace first in every other round. A round's time
runs from the graph's description (the call of ``execute``; the building of the dict) to its answer in this
process, so both pay for describing, sending, running and fetching. Every answer is checked.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
import uuid
from pathlib import Path
from typing import Any

from benchmarks.report import machine, table
from benchmarks.shapes import Shape, shapes


class Bench:
    """One cluster, and both ways to use it."""

    def __init__(self, client: Any) -> None:
        import headrace as hr

        self.client = client
        self.storage = hr.Storage(f"memory://benchmarks-{uuid.uuid4().hex[:8]}")
        self.environment = hr.DaskEnvironment(client)
        self.environment.setup(self.storage)

    def headrace(self, shape: Shape) -> float:
        """Run the flow and return the seconds it took."""
        location = self.storage.add_flow(shape.flow)
        gc.collect()
        start = time.perf_counter()
        run = self.environment.execute(self.storage, location, shape.parameters)
        answer = run.result()
        seconds = time.perf_counter() - start
        check(shape, answer, "headrace")
        return seconds

    def raw(self, shape: Shape) -> float:
        """Give the same graph to Dask and return the seconds it took."""
        gc.collect()
        start = time.perf_counter()
        graph, key = shape.raw(uuid.uuid4().hex)
        answer = self.client.get(graph, key)
        seconds = time.perf_counter() - start
        check(shape, answer, "raw Dask")
        return seconds


def drawing(shape: Shape) -> float:
    """Return the seconds that drawing and planning take, which are a part of headrace's time."""
    from headrace.core.plan import make_plan

    start = time.perf_counter()
    make_plan(shape.flow.graph(**shape.parameters))
    return time.perf_counter() - start


def check(shape: Shape, answer: Any, who: str) -> None:
    """Refuse to measure something wrong."""
    expected = shape.expected()
    if answer != expected:
        raise SystemExit(f"{shape.name}: {who} answered {answer!r} instead of {expected!r}")


def measure(rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure all shapes and return what was found, as JSON data."""
    from distributed import Client, LocalCluster

    options = {"n_workers": 2, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    found = []
    with LocalCluster(**options) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2)
        bench = Bench(client)
        for shape in shapes(quick=True)[::2]:  # both ways import what they need, and connections open
            bench.raw(shape)
            bench.headrace(shape)
        for shape in shapes(quick=quick):
            times: dict[str, list[float]] = {"raw": [], "headrace": [], "drawing": []}
            for turn in range(rounds):
                for way in ("raw", "headrace") if turn % 2 == 0 else ("headrace", "raw"):
                    times[way].append(getattr(bench, way)(shape))
                times["drawing"].append(drawing(shape))
            found.append({"name": shape.name, "tasks": shape.tasks, "seconds": times})
    return {"machine": machine(), "cluster": options, "rounds": rounds, "quick": quick, "shapes": found}


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.hot_path", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small graphs: does it work, not how fast is it")
    parser.add_argument("--rounds", type=int, default=3, help="how often each graph runs each way (default: 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write what was measured")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    result = measure(options.rounds, quick=options.quick)
    print(table(result))
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")
        print(f"\nwritten to {options.json}")


if __name__ == "__main__":
    main()
