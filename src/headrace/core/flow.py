"""Flows as definitions: a name, parameters, and how to draw the graph. Running them is above (``headrace.flow``)."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

from headrace.core.annotations import resolved_signature
from headrace.core.drawing import CURRENT, current_drawing
from headrace.core.graph import Graph, GraphDrawing, draw
from headrace.core.node import Node, ParameterNode
from headrace.core.policy import FlowPolicy
from headrace.errors import FlowError, ParameterError, UnstableFlow

#: Graphs with more nodes are drawn once only: a second drawing would cost more than some 20 ms.
MOST_TWICE = 500

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\- ]*")


def check_name(name: str) -> str:
    """Return a flow's name if it can be one part of a URL.

    Raises
    ------
    FlowError
        Otherwise.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name) or len(name) > 100:
        raise FlowError(
            f"a flow cannot be named {name!r}: the name becomes one part of a URL, so give up to 100 letters, digits, "
            "and '_', '-', '.', ' ' after the first (no '/')"
        )
    return name


#: what a flow object knows of where it lives; it is no part of what the flow is, and can hold credentials.
SURROUNDINGS = ("storage", "environment", "location")


class FlowDefinition:
    """A named graph of nodes, with typed parameters.

    Made from a function that draws the graph when a run starts, or built by hand in a ``with`` block.

    Parameters
    ----------
    function : callable, optional
        Draws the graph; its signature declares the parameters.
    name : str
        Names the flow in a storage.
    policy : FlowPolicy, optional
        How its runs are treated.
    """

    #: what the flow's signature was when it was pickled: only then are the types that it names at hand for certain.
    _kept_signature: inspect.Signature | None = None
    #: the first-party code that its runs take along (``headrace.code``); it is no part of what the flow is.
    bundle: Any = None
    #: the same, of a flow that was loaded from a storage: its modules are these, and not what lies here.
    arrived: Any = None

    def __init__(
        self, name: str, function: Callable[..., Any] | None = None, *, policy: FlowPolicy | None = None
    ) -> None:
        self.name = check_name(name)
        self.policy = policy or FlowPolicy()
        self.function = function
        self.built: Graph | None = None
        self.own_parameters: dict[str, inspect.Parameter] = {}
        self._drawing: GraphDrawing | None = None
        self._token: Any = None
        self._returned: Any = _NOTHING
        self.__doc__ = inspect.getdoc(function) if function is not None else None
        if function is not None:
            for parameter in inspect.signature(function).parameters.values():
                if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
                    raise FlowError(
                        f"flow {name!r}: parameter {str(parameter)!r} has no fixed name; flows take named "
                        "parameters only"
                    )

    # -- built by hand -------------------------------------------------------------------------------------------

    def __enter__(self) -> FlowDefinition:
        if self.function is not None:
            raise FlowError(f"flow {self.name!r} is drawn by a function, so it cannot be built by hand as well")
        if self.built is not None:
            raise FlowError(f"flow {self.name!r} is built already; make a new hr.Flow for another graph")
        if current_drawing() is not None:
            raise FlowError(f"flow {self.name!r} cannot be built while another flow is drawn; call flows instead")
        self._drawing = GraphDrawing()
        self._drawing.flow = self  # type: ignore[attr-defined]
        self._token = CURRENT.set(self._drawing)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, traceback: object) -> None:
        CURRENT.reset(self._token)
        drawing, self._token = self._drawing, None
        if kind is None and drawing is not None:
            graph = drawing.finish(self.name, None)
            result = self._returned if self._returned is not _NOTHING else _terminal_value(drawing, graph)
            self.built = drawing.finish(self.name, result)

    def __getstate__(self) -> dict[str, Any]:
        """What travels: not the drawing, whose nodes were for the author's hands only."""
        kept = self.signature if self.function is not None else None
        state = {name: value for name, value in self.__dict__.items() if name not in ("bundle", "arrived")}
        return {**state, "_drawing": None, "_token": None, "_returned": None, "_kept_signature": kept}

    def __renew__(self, newer: FlowDefinition) -> None:
        """Become what the edited source of the module says, wherever this flow is held."""
        kept = {name: self.__dict__[name] for name in SURROUNDINGS if name in self.__dict__}
        self.__dict__.update(newer.__dict__, **kept)

    def returns(self, value: Any) -> None:
        """Say what a flow built by hand returns.

        Parameters
        ----------
        value : node, or a container of nodes and constants
            Default: the value of the only node that no other node waits for, or, when there are several such
            nodes, a dict from name to value.
        """
        if self._token is None:
            raise FlowError(f"flow {self.name!r}: call returns(...) inside its `with` block")
        self._returned = value

    # -- drawing -------------------------------------------------------------------------------------------------

    @property
    def signature(self) -> inspect.Signature:
        """The parameters, as a signature; annotations are types, but for those that nobody can resolve."""
        if self._kept_signature is not None:
            return self._kept_signature
        if self.function is not None:
            return resolved_signature(self.function)
        return inspect.Signature(list(self.own_parameters.values()))

    @property
    def qualified_name(self) -> str:
        """Where the flow comes from: ``module:qualname`` of its function, or its name if it was built by hand."""
        function = self.function
        if function is None:
            return f"built:{self.name}"
        return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', self.name)}"

    def draw(self, values: Mapping[str, Any], *, may_be_empty: bool = False) -> Graph:
        """Draw the graph for parameter values that are complete and of the right types.

        Parameters
        ----------
        values : mapping
            One value per parameter.
        may_be_empty : bool
            Whether it may have no node, because its result is known.
        """
        if self.function is not None:
            return draw(self.name, self.function, values, may_be_empty=may_be_empty)
        if self.built is None:
            raise FlowError(f"flow {self.name!r} has no graph: build it in a block `with hr.Flow({self.name!r}):`")
        return self.built.bind(values)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Inline this flow into the flow that is being drawn; arguments may be nodes."""
        drawing = current_drawing()
        if drawing is None:
            raise FlowError(
                f"flow {self.name!r} was called outside of a flow; to execute it, write {self.name}.run(...), "
                f"to look at its graph, {self.name}.graph(...)"
            )
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ParameterError(
                f"flow {self.name!r} was called with arguments that it does not take: {error}"
            ) from None
        bound.apply_defaults()
        assert isinstance(drawing, GraphDrawing)
        if self.function is not None:
            with drawing.inner():
                return self.function(**bound.arguments)
        if self.built is None:
            raise FlowError(f"flow {self.name!r} has no graph yet")
        return drawing.include(self.built, bound.arguments)


def draw_twice(flow: FlowDefinition, values: Mapping[str, Any]) -> tuple[Graph, str]:
    """Draw a flow, twice if that is quick, and return the graph and its digest.

    Raises
    ------
    UnstableFlow
        If the two differ.
    """
    graph = flow.draw(values)
    digest = graph.digest()
    if len(graph) <= MOST_TWICE and flow.draw(values).digest() != digest:
        raise unstable(flow.name, "was drawn twice with the same parameters and gave two graphs")
    return graph, digest


def unstable(name: str, what: str) -> UnstableFlow:
    """Return the error for a flow whose graph depends on more than its parameters."""
    return UnstableFlow(
        f"flow {name!r} {what}; a graph may depend on nothing but the parameters: take randomness, the "
        "clock, files and changing globals into tasks or parameters, and loop over sorted(...) in place of a "
        "set",
        flow=name,
    )


_NOTHING = object()


def _terminal_value(drawing: GraphDrawing, graph: Graph) -> Any:
    terminal = {graph.nodes[index].name: Node(drawing, index) for index in graph.terminal()}
    return next(iter(terminal.values())) if len(terminal) == 1 else terminal


def parameter(name: str, annotation: Any = Any, default: Any = inspect.Parameter.empty) -> ParameterNode:
    """Declare a parameter of the flow that is being built by hand (``hr.Parameter``).

    Parameters
    ----------
    name : str
        Its name.
    annotation : type, default Any
        What a given value is validated and converted to.
    default : object, optional
        Used when a run gives none. Without it, the parameter is required.
    """
    flow = getattr(current_drawing(), "flow", None)
    if flow is None:
        raise FlowError(
            f"hr.Parameter({name!r}) belongs inside `with hr.Flow(...):`; a function decorated with @hr.flow "
            "declares parameters in its signature"
        )
    if name in flow.own_parameters:
        raise FlowError(f"flow {flow.name!r} has a parameter {name!r} already")
    flow.own_parameters[name] = inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )
    return ParameterNode(current_drawing(), name)
