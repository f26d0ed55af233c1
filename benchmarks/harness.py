"""What all benchmarks share: one cluster, two ways to use it, rounds in turns, checked answers, a command line."""

from __future__ import annotations

import argparse
import gc
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.report import machine
from benchmarks.shapes import Shape, shapes

THREADS = 2
#: Without dashboards; the web servers, which are there nevertheless, where nobody else reaches them, on any port.
QUIET = {"dashboard_address": "127.0.0.1:0", "scheduler_kwargs": {"dashboard": False}}
OPTIONS = {
    "n_workers": THREADS, "threads_per_worker": 1, "processes": True,
    "worker_dashboard_address": "127.0.0.1:0", **QUIET,
}  # fmt: skip


class Bench:
    """One cluster, and both ways to use it."""

    def __init__(self, client: Any) -> None:
        import headrace as hr

        self.client = client
        self.storage = hr.Storage(f"memory://benchmarks-{uuid.uuid4().hex[:8]}")
        self.environment = hr.DaskEnvironment(client)
        self.environment.setup(self.storage)

    def settle(self) -> None:
        """Wait until the cluster has let go of what ran last, so that it does not do so at the cost of what is next."""
        end = time.monotonic() + 30
        while time.monotonic() < end and (
            self.client.run_on_scheduler(_tasks) or any(self.client.run(_values).values())
        ):
            time.sleep(0.02)

    def headrace(self, shape: Shape) -> float:
        """Run the flow and return the seconds it took."""
        # `add_flow` would start an interpreter for a build, which would take its time from what is timed.
        location = self.storage.stage(shape.flow)
        gc.collect()
        self.settle()
        start = time.perf_counter()
        run = self.environment.execute(self.storage, location, shape.parameters)
        answer = run.result()
        seconds = time.perf_counter() - start
        check(shape, answer, "headrace")
        return seconds

    def raw(self, shape: Shape) -> float:
        """Give the same graph to Dask and return the seconds it took."""
        gc.collect()
        self.settle()
        start = time.perf_counter()
        graph, key = shape.raw(uuid.uuid4().hex)
        answer = self.client.get(graph, key)
        seconds = time.perf_counter() - start
        check(shape, answer, "raw Dask")
        return seconds

    def warm(self) -> None:
        """Let both ways import what they need, and connections open."""
        for shape in shapes(quick=True)[::2]:
            self.raw(shape)
            self.headrace(shape)


def _tasks(dask_scheduler: Any) -> int:
    return len(dask_scheduler.tasks)


def _values(dask_worker: Any) -> int:
    return len(dask_worker.data)


def check(shape: Shape, answer: Any, who: str) -> None:
    """Refuse to measure something wrong."""
    expected = shape.expected()
    if answer != expected:
        raise SystemExit(f"{shape.name}: {who} answered {answer!r} instead of {expected!r}")


@contextmanager
def local() -> Iterator[Bench]:
    """Start a cluster of two processes with one thread each, warm."""
    from distributed import Client, LocalCluster

    with LocalCluster(**OPTIONS) as cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(THREADS)
        bench = Bench(client)
        bench.warm()
        yield bench


def turns(rounds: int) -> Iterator[str]:
    """Yield who is next: both ways in each round, headrace first in every other."""
    for turn in range(rounds):
        yield from ("raw", "headrace") if turn % 2 == 0 else ("headrace", "raw")


def alternate(bench: Bench, shape: Shape, rounds: int) -> dict[str, list[float]]:
    """Run a shape both ways in turns, and return the seconds of each."""
    times: dict[str, list[float]] = {"raw": [], "headrace": []}
    for way in turns(rounds):
        times[way].append(getattr(bench, way)(shape))
    return times


def result(found: list[dict[str, Any]], rounds: int, *, quick: bool) -> dict[str, Any]:
    """Return what was found as JSON data, with where."""
    return {"machine": machine(), "cluster": OPTIONS, "rounds": rounds, "quick": quick, "shapes": found}


def command(
    name: str,
    about: str | None,
    measure: Callable[..., dict[str, Any]],
    table: Callable[[dict[str, Any]], str],
    arguments: list[str] | None,
    *,
    rounds: int = 3,
    extra: Callable[[argparse.ArgumentParser], object] = id,
) -> None:
    """Be the command of a benchmark: measure, print the table, write the JSON.

    Parameters
    ----------
    name : str
        The module's name.
    about : str or None
        What it measures.
    measure : callable
        Gets the options: ``rounds``, ``quick`` and what ``extra`` adds.
    table : callable
        Turns what it returns into Markdown.
    arguments : list of str, optional
        The command line; by default that of this process.
    rounds : int
        How often, unless asked otherwise.
    extra : callable
        Adds options of its own to the parser.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="in small: does it work, not how fast is it")
    parser.add_argument("--rounds", type=int, default=rounds, help="how often each is measured (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write what was measured")
    extra(parser)
    options = vars(parser.parse_args(arguments))
    file = options.pop("json")
    if options["rounds"] < 1:
        parser.error("--rounds must be at least 1")
    found = measure(**options)
    print(table(found))
    if file is not None:
        file.write_text(json.dumps(found, indent=2) + "\n")
        print(f"\nwritten to {file}")
