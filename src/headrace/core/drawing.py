"""Which drawing the current thread of control is in; nothing else, so that tasks need not know drawings."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol


class Drawing(Protocol):
    """What a task needs of a flow that is being drawn."""

    def add_call(self, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, mapped: bool) -> Any:
        """Add a node and return it."""
        ...

    def begin_block(self, node: Any) -> Any:
        """What is drawn from now on begins after a node."""
        ...

    def end_block(self, block: Any, node: Any) -> None:
        """A node that was just drawn comes after all of the block."""
        ...


CURRENT: ContextVar[Drawing | None] = ContextVar("headrace_drawing", default=None)


def current_drawing() -> Drawing | None:
    """Return the drawing that calls of tasks add nodes to, if there is one."""
    return CURRENT.get()
