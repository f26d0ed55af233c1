"""The graphs that are measured: each as a flow, as a raw Dask graph, and as a sequential computation.

The tasks do next to nothing, so what is measured is what a task costs beyond its own work.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import headrace as hr

SEED = 7


def inc(x: int) -> int:
    return x + 1


def add(a: int, b: int) -> int:
    return a + b


def mix(a: int, b: int, c: int) -> int:
    return (a + 3 * b + 7 * c) % 1_000_003


def total(values: list[int]) -> int:
    return sum(values)


inc_task, add_task, mix_task, total_task = map(hr.task, (inc, add, mix, total))


@dataclass(frozen=True)
class Shape:
    """One graph to measure.

    Attributes
    ----------
    name : str
        Names it in tables.
    tasks : int
        How many task runs it has.
    flow : Flow
        The graph as a flow.
    parameters : dict
        What the flow is run with.
    calls : callable
        ``calls(call, gather)`` draws the same graph by calling ``call(function, *arguments)``.
    answer : object, optional
        The answer, if there is a quicker way to it than to compute it task by task.
    """

    name: str
    tasks: int
    flow: Any
    parameters: dict[str, Any]
    calls: Callable[..., Any]
    answer: Any = None

    def expected(self) -> Any:
        """Compute the answer without either."""
        if self.answer is not None:
            return self.answer
        return self.calls(lambda function, *arguments: function(*arguments), list)

    def raw(self, salt: str) -> tuple[dict[Any, Any], Any]:
        """Return the graph for ``Client.get``, with keys that no other round has, and the key of its answer."""
        from dask._task_spec import List, Task, TaskRef

        graph: dict[Any, Any] = {}

        def call(function: Callable[..., Any], *arguments: Any) -> Any:
            key = (f"{function.__name__}-{salt}", len(graph))
            graph[key] = Task(key, function, *arguments)
            return TaskRef(key)

        answer = self.calls(call, lambda values: List(*values))
        return graph, answer.key


# -- wide: a map, then a sum --------------------------------------------------------------------------------


@hr.flow
def wide(n: int) -> Any:
    return total_task(inc_task.map(range(n)))


def wide_calls(n: int) -> Callable[..., Any]:
    return lambda call, gather: call(total, gather([call(inc, i) for i in range(n)]))


# -- chain: each task waits for the one before ----------------------------------------------------------------


@hr.flow
def chain(n: int) -> Any:
    value = inc_task(0)
    for _ in range(n - 1):
        value = inc_task(value)
    return value


def chain_calls(n: int) -> Callable[..., Any]:
    def calls(call: Callable[..., Any], gather: Callable[..., Any]) -> Any:
        value = call(inc, 0)
        for _ in range(n - 1):
            value = call(inc, value)
        return value

    return calls


# -- tree: pairs are added until one is left -------------------------------------------------------------------


@hr.flow
def tree(leaves: int) -> Any:
    level = [inc_task(i) for i in range(leaves)]
    while len(level) > 1:
        level = [add_task(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def tree_calls(leaves: int) -> Callable[..., Any]:
    def calls(call: Callable[..., Any], gather: Callable[..., Any]) -> Any:
        level = [call(inc, i) for i in range(leaves)]
        while len(level) > 1:
            level = [call(add, a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
        return level[0]

    return calls


# -- layered: each task has three random parents in the layer before ------------------------------------------


def parents(per_layer: int, layers: int) -> list[list[list[int]]]:
    """Return, for each layer after the first and each of its tasks, three of the layer before."""
    chance = random.Random(SEED)
    return [[chance.sample(range(per_layer), 3) for _ in range(per_layer)] for _ in range(layers - 1)]


@hr.flow
def layered(per_layer: int, layers: int) -> Any:
    level = [inc_task(i) for i in range(per_layer)]
    for layer in parents(per_layer, layers):
        level = [mix_task(*[level[at] for at in three]) for three in layer]
    return total_task(level)


def layered_calls(per_layer: int, layers: int) -> Callable[..., Any]:
    def calls(call: Callable[..., Any], gather: Callable[..., Any]) -> Any:
        level = [call(inc, i) for i in range(per_layer)]
        for layer in parents(per_layer, layers):
            level = [call(mix, *[level[at] for at in three]) for three in layer]
        return call(total, gather(level))

    return calls


def shapes(*, quick: bool = False) -> list[Shape]:
    """Return what is measured; with ``quick``, the same in small, to see that it works."""
    widths = (50, 100) if quick else (1_000, 10_000)
    length, leaves, per_layer, layers = (20, 16, 6, 4) if quick else (500, 1_024, 100, 20)
    return [
        *(Shape(f"wide {n:,}", n + 1, wide, {"n": n}, wide_calls(n)) for n in widths),
        Shape(f"chain {length:,}", length, chain, {"n": length}, chain_calls(length)),
        Shape(f"tree {leaves:,}", 2 * leaves - 1, tree, {"leaves": leaves}, tree_calls(leaves)),
        Shape(
            f"layered {per_layer * layers:,}",
            per_layer * layers + 1,
            layered,
            {"per_layer": per_layer, "layers": layers},
            layered_calls(per_layer, layers),
        ),
    ]
