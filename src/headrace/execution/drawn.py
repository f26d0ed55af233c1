"""Dynamic tasks: the function draws a flow when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.core.bound import Bound, drawn
from headrace.core.graph import GraphDrawing
from headrace.core.task import Task

Call = Callable[[Any, int], Any]


def drawing(task: Task[..., Any], call: Call) -> Call:
    """Let a dynamic task draw a flow. A guard (``execution.loaded``).

    Parameters
    ----------
    task : Task
        Whose calls.
    call : callable
        ``call(source, child)``; where the source is an ``Execution``.
    """
    if not task.policy.dynamic:
        return call

    def draw(source: Any, child: int) -> Bound:
        made = GraphDrawing()
        with made.active():
            result = call(source, child)
        return drawn(task.name, made, result)

    return draw
