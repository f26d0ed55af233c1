"""Bound flows: a flow with its parameters, as a task may return it; and how a worker draws it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.core.flow import FlowDefinition
from headrace.core.graph import Graph, GraphDrawing
from headrace.errors import FlowError


class Bound:
    """A flow with values for its parameters. A task that returns one goes on as that flow.

    Made by ``flow.bind(...)``.

    Parameters
    ----------
    flow : FlowDefinition or None
        The flow; None if it is drawn already.
    parameters : mapping
        One value per parameter.
    graph : Graph, optional
        As it was drawn.
    """

    __slots__ = ("_graph", "flow", "parameters")

    def __init__(self, flow: FlowDefinition | None, parameters: Mapping[str, Any], graph: Graph | None = None) -> None:
        self.flow = flow
        self.parameters = dict(parameters)
        self._graph = graph

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r:.40}" for name, value in self.parameters.items())
        return f"<flow {self.name} bound to {values or 'nothing'}>"

    @property
    def name(self) -> str:
        """The flow's name."""
        return self.flow.name if self.flow is not None else "drawn by a task"

    def graph(self) -> Graph:
        """Draw the flow, once. Its graph may be empty, if the result is known already."""
        if self._graph is None:
            assert self.flow is not None
            self._graph = self.flow.draw(self.parameters, may_be_empty=True)
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
    return Bound(None, {}, drawing.finish(name, result, may_be_empty=True))
