"""A million task runs on ten thousand threads, virtually: ``python -m benchmarks.simulate``.

The real machine steers a flow on a virtual cluster (``benchmarks.virtual``): task runs of 10 ms on average,
log-normal, and a latency of 5 ms each way. The CPU time that the driver really takes for it passes on the virtual
clock too. Printed are the efficiency (the ideal over the virtual time that the run took; the ideal is the larger of
work / threads and the critical path), with the driver's time and without, and what a task run costs the driver.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import headrace as hr
from benchmarks.harness import command
from benchmarks.report import grid, machine
from benchmarks.shapes import inc_task, total_task
from benchmarks.virtual import Circumstances, VirtualCluster, critical_path, draw_durations
from headrace.core.graph import draw
from headrace.core.plan import Plan
from headrace.core.planning import make_plan

TASKS = 1_000_000


def wide(tasks: int) -> Any:
    """One map, and its sum."""
    return total_task(inc_task.map(range(tasks - 1)))


def deep(tasks: int) -> Any:
    """Four maps, each over the one before, of four tasks."""
    value: Any = range(tasks // 4)
    for depth in range(4):
        value = hr.task(inc_task.function, name=f"inc_{depth}").map(value)
    return value


def reductions(tasks: int) -> Any:
    """A hundred maps, each into a sum of its own, and the sum of these."""
    return total_task([total_task(inc_task.map(range(tasks // 100 - 1))) for _ in range(100)])


FLOWS: dict[str, Callable[[int], Any]] = {"wide": wide, "deep": deep, "reductions": reductions}


def plan_of(flow: str, tasks: int) -> Plan:
    """Return the plan of one of the flows."""
    return make_plan(draw(flow, FLOWS[flow], {"tasks": tasks}))


def simulate(plan: Plan, circumstances: Circumstances, profile: cProfile.Profile | None = None) -> dict[str, Any]:
    """Simulate a plan once, and return what was found, as JSON data."""
    durations = draw_durations(plan, circumstances)
    work = sum(float(seconds.sum(dtype=float)) for seconds in durations)
    critical = critical_path(plan, durations)
    cluster = VirtualCluster(plan, durations, circumstances, profile)
    gc.collect()
    account = cluster.run()
    tasks = sum(map(len, durations))
    ideal = max(work / circumstances.threads, critical)
    return asdict(account) | {
        "tasks": tasks,
        "work": work,
        "critical": critical,
        "ideal": ideal,
        "efficiency": ideal / account.makespan,
        "driver": 1e6 * (account.machine + account.messages) / tasks,
    }


def measure(
    rounds: int,
    *,
    quick: bool = False,
    flow: list[str] | None = None,
    tasks: int = TASKS,
    threads: int = Circumstances.threads,
    profile: bool = False,
    **more: Any,
) -> dict[str, Any]:
    """Simulate all flows and return what was found, as JSON data."""
    tasks, threads = (min(tasks, 10_000), min(threads, 100)) if quick else (tasks, threads)
    circumstances = Circumstances(threads=threads, **more)
    found = []
    for name in flow or FLOWS:
        plan = plan_of(name, tasks)
        profiler = cProfile.Profile() if profile else None
        # In turns: with the driver's time, and as if it took none.
        ways = (
            [circumstances] if circumstances.free_driver else [circumstances, replace(circumstances, free_driver=True)]
        )
        rows = [[simulate(plan, way, profiler) for way in ways] for _ in range(rounds)]
        all_of = {key: [row[0][key] for row in rows] for key in rows[0][0]}
        entry = {"name": name, "tasks": rows[0][0]["tasks"], "free": [row[-1]["efficiency"] for row in rows]}
        found.append(all_of | entry)
        if profiler is not None:
            pstats.Stats(profiler, stream=sys.stderr).sort_stats("tottime").print_stats(25)
    return {
        "machine": machine(),
        "circumstances": asdict(circumstances),
        "rounds": rounds,
        "quick": quick,
        "shapes": found,
    }


def cell(key: str, form: str) -> Callable[[dict[str, Any]], str]:
    """Return what makes a cell of the median of a quantity."""
    return lambda shape: format(median(shape[key]), form)


def table(found: dict[str, Any]) -> str:
    """Return it as a Markdown table."""
    columns = {
        "task runs": lambda shape: f"{shape['tasks']:,}",
        "ideal s": cell("ideal", ",.3f"),
        "critical path s": cell("critical", ",.3f"),
        "virtual s": cell("makespan", ",.3f"),
        "efficiency": cell("efficiency", ".1%"),
        "with a free driver": cell("free", ".1%"),
        "driver µs per task run": cell("driver", ",.2f"),
        "of it machine s": cell("machine", ",.2f"),
        "messages s": cell("messages", ",.2f"),
        "batches": cell("batches", ",.0f"),
        "hand-backs": cell("hand_backs", ",.0f"),
        "ready ranges": cell("ready", ",.0f"),
    }
    where = found["circumstances"]
    return grid(found, f"{where['threads']:,} virtual threads, {1e3 * where['mean']:g} ms on average", columns)


def more(parser: argparse.ArgumentParser) -> None:
    """Add this command's own options."""
    usual = Circumstances()
    parser.add_argument("--flow", action="append", choices=FLOWS, help="only this one; may be repeated")
    parser.add_argument("--tasks", type=int, default=TASKS, help="task runs (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usual.threads, help="virtual threads (default: %(default)s)")
    parser.add_argument("--mean", type=float, default=usual.mean, help="seconds per task run (default: %(default)s)")
    parser.add_argument(
        "--spread", type=float, default=usual.spread, help="sigma of the logarithm of durations (default: %(default)s)"
    )
    parser.add_argument("--latency", type=float, default=usual.latency, help="seconds each way (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=usual.seed, help="of all that is random (default: %(default)s)")
    parser.add_argument("--free-driver", action="store_true", help="let the driver's CPU time not pass at all")
    parser.add_argument("--profile", action="store_true", help="print where the machine's time goes; slows it down")


def main(arguments: list[str] | None = None) -> None:
    """Simulate, print the table, write the JSON."""
    command("simulate", __doc__, measure, table, arguments, rounds=1, extra=more)


if __name__ == "__main__":
    main()
