"""A real workflow: Montage, which makes one picture of the sky out of many, as a graph of nodes.

``montage.json`` is an instance that WfCommons drew after recorded ones (``python -m benchmarks.make_montage``). Each of
its tasks is a node with its parents as arguments: some 90 long ones, some 800 short ones that take two or more of their
values each, a few that take hundreds.

A task waits for a share of its time and then mixes its parents' values. It sleeps, and does not keep a core busy:
scheduler and driver often share the cores with the workers, and a task that spins would take from them, so that its
length, and not what is measured, would decide.
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import headrace as hr
from benchmarks.shapes import Shape

FILE = Path(__file__).with_name("montage.json")
#: The times together are 46.5 hours, so a hundredth of them would keep two threads busy for a quarter of an hour per
#: round; with this share it is some nine seconds. The longest tasks take a quarter of a second then, most of them 5 ms.
SHARE = 1e-4


class Job(NamedTuple):
    """One task of the instance: its program, its seconds, and which tasks before it are its parents."""

    kind: str
    seconds: float
    parents: list[int]


@functools.cache
def jobs() -> list[Job]:
    """Return the instance, parents first."""
    data = json.loads(FILE.read_text())
    return [Job(data["kinds"][kind], seconds, parents) for kind, seconds, parents in data["tasks"]]


def step(kind: str, seconds: float, number: int, *values: int) -> int:
    """Wait, and mix the values such that their order matters."""
    if seconds:
        time.sleep(seconds)
    for value in values:
        number = (31 * number + value) % 1_000_003
    return number


def montage_calls(share: float) -> Callable[..., Any]:
    def calls(call: Callable[..., Any], gather: Callable[..., Any]) -> Any:
        made: list[Any] = []
        ends = set(range(len(jobs())))
        for number, job in enumerate(jobs()):
            ends.difference_update(job.parents)
            made.append(call(step, job.kind, share * job.seconds, number, *[made[at] for at in job.parents]))
        return call(step, "end", 0.0, 0, *[made[at] for at in sorted(ends)])

    return calls


@functools.cache
def tasks() -> dict[str, Any]:
    """Return a task for each program."""
    return {kind: hr.task(step, name=kind) for kind in sorted({job.kind for job in jobs()} | {"end"})}


@hr.flow
def montage(share: float) -> Any:
    known = tasks()
    return montage_calls(share)(lambda function, kind, *arguments: known[kind](kind, *arguments), list)


def montage_shapes(*, quick: bool = False) -> list[Shape]:
    """Return Montage with tasks that do nothing, and with tasks that take a share of their time."""
    answer = montage_calls(0.0)(lambda function, *arguments: function(*arguments), list)
    shares = {"Montage, no-ops": 0.0, f"Montage, times / {1 / SHARE:,.0f}": SHARE / 100 if quick else SHARE}
    return [
        Shape(name, len(jobs()) + 1, montage, {"share": share}, montage_calls(share), answer)
        for name, share in shares.items()
    ]
