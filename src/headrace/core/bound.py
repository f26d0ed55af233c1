"""Bound flows: a flow with its parameters, as a task may return it; and how a worker draws it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from headrace.core.graph import Graph, GraphDrawing
from headrace.errors import FlowError


class Bound:
    """A flow with values for its parameters. A task that returns one goes on as that flow.

    Made by ``flow.bind(...)``.

    Parameters
    ----------
    name : str
        Of the flow.
    draw : callable
        Draws it, into the drawing that is current, and returns its result.
    parameters : mapping
        One value per parameter.
    """

    __slots__ = ("_graph", "draw", "name", "parameters")

    def __init__(self, name: str, draw: Callable[..., Any], parameters: Mapping[str, Any]) -> None:
        self.name = name
        self.draw = draw
        self.parameters = dict(parameters)
        self._graph: Graph | None = None

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r:.40}" for name, value in self.parameters.items())
        return f"<flow {self.name} bound to {values or 'nothing'}>"

    def graph(self) -> Graph:
        """Draw the flow, once. Its graph may be empty, if the result is known already."""
        if self._graph is None:
            drawing = GraphDrawing()
            with drawing.active():
                result = self.draw(**self.parameters)
            self._graph = drawn(self.name, drawing, result).graph()
        return self._graph


def drawn(name: str, drawing: GraphDrawing, result: Any) -> Bound:
    """Return a flow that is drawn already.

    Parameters
    ----------
    name : str
        Of what drew it.
    drawing : GraphDrawing
        What was drawn.
    result : object
        What the flow returns; a bound flow stands for itself, if nothing was drawn.

    Raises
    ------
    FlowError
        If it cannot be.
    """
    if type(result) is Bound:
        if not drawing.nodes:
            return result
        raise FlowError(
            f"{name!r} called tasks and returned a bound flow; call that flow, {result.name}(...), so that its nodes "
            "are drawn beside the others, and return what it returns"
        )
    bound = Bound(name, dict, {})
    bound._graph = drawing.finish(name, result, may_be_empty=True)
    return bound
