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
        self.draw: Callable[..., Any] | None = draw
        self.parameters = dict(parameters)
        self._graph: Graph | None = None

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r:.40}" for name, value in self.parameters.items())
        return f"<flow {self.name} bound to {values or 'nothing'}>"

    def graph(self) -> Graph:
        """Draw the flow, once. Its graph may be empty, if the result is known already."""
        if self._graph is None:
            assert self.draw is not None
            self._graph = self._drawn(self.draw)
            self.draw = None
        return self._graph

    def _drawn(self, draw: Callable[..., Any]) -> Graph:
        drawing = GraphDrawing()
        with drawing.active():
            result = draw(**self.parameters)
        if type(result) is Bound:
            if drawing.nodes:
                raise FlowError(
                    f"{self.name!r} called tasks and returned a bound flow; call that flow, {result.name}(...), "
                    "so that its nodes are drawn beside the others, and return what it returns"
                )
            return result.graph()
        return drawing.finish(self.name, result, may_be_empty=True)
