"""``Flow``: a flow as its author holds it, with the verbs that run, draw and describe it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self, overload

from headrace import parameters as params
from headrace.core.bound import Bound
from headrace.core.flow import FlowDefinition
from headrace.core.graph import Graph
from headrace.core.policy import FlowPolicy
from headrace.core.summary import Observer
from headrace.errors import FlowError

# Who loads a flow loads this module: a build's clean interpreter, ``headrace show``, each script. What only running
# one needs is half of all the modules there are, so it is imported when a flow runs.
if TYPE_CHECKING:
    from headrace.environments.base import Environment
    from headrace.execution.flowrun import FlowRun
    from headrace.storage.files import Files
    from headrace.store import Storage

#: what `Flow.run` takes for itself.
_RESERVED = frozenset({"environment", "observers", "raise_on_failure"})


class DrawnGraph(Graph):
    """A graph for people to look at: ``print`` shows a tree, a notebook a picture."""

    name = ""
    parameters: Mapping[str, Any] = MappingProxyType({})

    def __str__(self) -> str:
        from headrace.report.text import graph_tree

        return graph_tree(self.describe())

    def _repr_html_(self) -> str:
        from headrace.report.html import graph_html

        return graph_html(self.name, self.describe(), self.parameters)


class Flow(FlowDefinition):
    """A named graph of nodes, with typed parameters.

    Made by ``@hr.flow`` from a function that draws the graph when a run starts, or built by hand::

        with hr.Flow("etl") as flow:
            day = hr.Parameter("day", str)
            load(fetch(day))

    Attributes
    ----------
    storage : Storage or None
        Where it lives; set by its owner.
    environment : Environment or None
        Where ``run`` executes it by default.
    location : str or None
        Where it lies in the storage.
    """

    def __init__(self, name: str, function: Callable[..., Any] | None = None, **options: Any) -> None:
        super().__init__(name, function, policy=FlowPolicy(**options))
        self.storage: Storage | None = None
        self.environment: Environment | None = None
        self.location: str | None = None

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __getstate__(self) -> dict[str, Any]:
        """What travels: not where it lives or runs, which its manifest tells."""
        return {**super().__getstate__(), "storage": None, "environment": None, "location": None}

    def run(
        self,
        *,
        environment: Environment | None = None,
        observers: Sequence[Observer] = (),
        raise_on_failure: bool = False,
        **parameters: Any,
    ) -> FlowRun:
        """Run the flow, and return when it is over.

        The same as storing the flow, in memory or in ``flow.storage``, and executing it from there, but for its hooks:
        here, they are the functions themselves, and there, copies.

        Parameters
        ----------
        environment : Environment, optional
            Where to run it. Default: ``flow.environment``, else this process.
        observers : sequence of Observer
            Told how the run goes on, e.g. ``headrace.report.console.ConsoleObserver()``.
        raise_on_failure : bool, default False
            Whether a run that does not succeed raises what its ``result()`` would; the run is the exception's ``run``.
        **parameters
            Values by parameter name; those with a default may be left out.

        Returns
        -------
        FlowRun
            What became of it; a failed task is told there, not raised.

        Raises
        ------
        ParameterError
            If a parameter is unknown, missing or wrong.
        NotPicklable
            If a task or a constant cannot travel.
        FlowError
            If the flow has a parameter named like one of these arguments: it can be executed from a storage only.
        KeyboardInterrupt
            After Ctrl-C, when what was set up is cleaned up; the run is its ``run``.
        """
        where, storage, location = self._placed(environment)
        run = where.execute(storage, location, parameters, observers=observers)
        return _good(run) if raise_on_failure else run

    def start(
        self,
        *,
        environment: Environment | None = None,
        observers: Sequence[Observer] = (),
        **parameters: Any,
    ) -> FlowRun:
        """Start a run, and return it on its way; ``wait()`` waits for its end, ``cancel()`` asks for it.

        Parameters
        ----------
        environment, observers, **parameters
            As for ``run``.
        """
        where, storage, location = self._placed(environment)
        return where.start(storage, location, parameters, observers=observers)

    async def run_async(
        self,
        *,
        environment: Environment | None = None,
        observers: Sequence[Observer] = (),
        raise_on_failure: bool = False,
        **parameters: Any,
    ) -> FlowRun:
        """Run the flow without blocking the event loop, as in a notebook: ``run = await flow.run_async(...)``.

        When the task that awaits it is cancelled, so is the run, and what was set up is cleaned up first.

        Parameters
        ----------
        environment, observers, raise_on_failure, **parameters
            As for ``run``.
        """
        where, storage, location = self._placed(environment)
        run = await where.execute_async(storage, location, parameters, observers=observers)
        return _good(run) if raise_on_failure else run

    def _placed(self, environment: Environment | None) -> tuple[Environment, Storage, str]:
        """Where to run it, and where it lies now."""
        from headrace.environments.local import LocalEnvironment

        for name in _RESERVED.intersection(self.signature.parameters):
            raise FlowError(
                f"flow {self.name!r} has a parameter {name!r}, and {self.name}.run(...) has an argument of that name; "
                f"rename the parameter, or execute the flow from a storage: environment.execute(storage, location, "
                f"{{{name!r}: ...}})"
            )
        storage = self.storage or _passing_storage()
        location = storage.stage(self, replace=True)
        return environment or self.environment or LocalEnvironment(), storage.with_live(self, location), location

    def bind(self, **parameters: Any) -> Bound:
        """Return the flow with values for its parameters, for a task to return: the task run goes on as this flow.

        Parameters
        ----------
        **parameters
            Values by parameter name; those with a default may be left out.

        Returns
        -------
        Bound
            The flow's nodes join the run when a task returns it, and its result is the task's value.

        Raises
        ------
        ParameterError
            If a parameter is unknown, missing or wrong.
        """
        return Bound(self, params.validate(self, parameters))

    def graph(self, **parameters: Any) -> Graph:
        """Draw the graph for parameter values, without running anything.

        Parameters
        ----------
        **parameters
            Values by parameter name; those with a default may be left out.
        """
        values = params.validate(self, parameters)
        drawn = self.draw(values)
        graph = DrawnGraph(drawn.nodes, drawn.result, drawn.deciding)
        graph.name, graph.parameters = self.name, params.to_json(values)
        return graph

    def serialize(self, example: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the flow's manifest as JSON data, with its storage, environment and location.

        Parameters
        ----------
        example : mapping, optional
            Parameter values, over the defaults, that the manifest's graph is drawn for.
        """
        from headrace.storage.capture import capture, open_flow

        captured = capture(self, example)
        data = open_flow(captured.data, captured.location).header
        data["storage"] = self.storage.serialize() if self.storage is not None else None
        data["location"] = self.location
        return data

    def __repr__(self) -> str:
        return f"<Flow {self.name}{self.signature}>"

    def _repr_html_(self) -> str:
        from headrace.report.html import graph_html

        values = params.example_values(self)
        nodes = self.draw(values).describe() if values is not None else []
        declared = {row["name"]: row["annotation"] for row in params.describe(self)}
        shown = params.to_json(values) if values is not None else declared
        return graph_html(self.name, nodes, shown)


def _good(run: FlowRun) -> FlowRun:
    """The run, if it succeeded; else raise why it did not."""
    from headrace.execution.flowrun import attach

    error = run.error
    if error is None:
        return run
    attach(error, run)
    raise error


def _passing_storage() -> Storage:
    """A storage in memory that ends with its run; but what tasks cost, this process's next run of the flow knows."""
    from headrace.storage.files import private_memory
    from headrace.store import Storage

    storage = Storage("memory://run", name="run", filesystem=private_memory(), signing_keys=())
    storage.hints = _hints()
    return storage


@functools.cache
def _hints() -> Files:
    from headrace.storage.files import Files, private_memory

    return Files("memory://hints", filesystem=private_memory())


@overload
def flow(function: Callable[..., Any], /) -> Flow: ...
@overload
def flow(
    *,
    name: str | None = None,
    timeout: float | None = None,
    max_running: Mapping[str, int] | None = None,
    max_depth: int = 50,
    on_state: Callable[..., object] | None = None,
    on_failure: Callable[..., object] | None = None,
) -> Callable[[Callable[..., Any]], Flow]: ...


def flow(function: Callable[..., Any] | None = None, /, *, name: str | None = None, **options: Any) -> Any:
    """Make a flow of a function that draws its graph.

    The function is called when a run starts, with the run's real, validated parameter values, so loops and conditions
    over parameters are plain Python. Each call of a task in it adds a node. It must be free of side effects, and draw
    the same graph for the same parameters.

    Parameters
    ----------
    function : callable, optional
        Given by the decorator syntax. Its parameters are the flow's, with their annotations and defaults.
    name : str, default the function's name
        Names the flow in a storage.
    timeout : float, optional
        Seconds that a run may take, from its start. Then it is stopped like a cancelled one, and ends as TimedOut.
    max_running : dict of str to int, optional
        By tag: how many task runs of tasks with this tag may run at the same time.
    max_depth : int, default 50
        How many levels deep tasks may return flows whose tasks return flows.
    on_state : callable, optional
        Called with what changed, the old state of the run and the new one, where it was started.
    on_failure : callable, optional
        Called with what failed and its exception, if a run does not end well.

    Raises
    ------
    FlowError
        If the name, or a parameter, cannot be.
    """

    def decorate(function: Callable[..., Any]) -> Flow:
        return Flow(name or function.__name__, function, **options)

    return decorate if function is None else decorate(function)
