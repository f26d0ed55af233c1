"""Dynamic tasks: the function draws a flow when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.core.bound import Bound
from headrace.core.task import Task


def drawing(task: Task[..., Any], call: Callable[..., Any]) -> Callable[..., Any]:
    """Let a dynamic task draw a flow (a guard, see ``execution.loaded``)."""
    if not task.policy.dynamic:
        return call

    def drawn(source: Any, child: int) -> Bound:
        bound = Bound(task.name, lambda: call(source, child), {})
        bound.graph()
        return bound

    return drawn
