"""The runner: from a stored flow and parameter values to a plan, and its run."""

from __future__ import annotations

import functools
import gc
import json
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

from headrace import parameters as params
from headrace import pickling
from headrace._version import __version__
from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.core.constants import extract
from headrace.core.flow import FlowDefinition, draw_twice, unstable
from headrace.core.graph import Graph
from headrace.core.plan import Plan
from headrace.core.planning import make_plan
from headrace.core.policy import FlowPolicy
from headrace.core.slices import split
from headrace.core.slots import Const
from headrace.core.summary import Observer
from headrace.errors import NotPicklable
from headrace.execution.base import Executor
from headrace.execution.constants import measure
from headrace.execution.context import Parameters
from headrace.execution.drive import Drive, Record
from headrace.execution.flowrun import FlowRun
from headrace.execution.hooks import Hooks
from headrace.execution.kept import check_targets
from headrace.execution.signals import holding

#: Bytes of a plan beyond which its long lists travel in slices, with the batches, and not to every worker.
LONG = 1 << 20
#: Bytes of a pickled constant beyond which it travels by itself, and not with the plan.
LARGE = 1 << 20
#: The most digests that are remembered, and the most characters of the parameters of one.
MOST_REMEMBERED = 1_000
#: Digests of what this process drew, by location and parameters; the latest at the end.
_DRAWN: dict[tuple[str, str], str] = {}


class FlowRunner:
    """A way to run one stored flow, in this process or on an executor.

    Parameters
    ----------
    flow : FlowDefinition
        As loaded.
    location : str
        Where it was loaded from.
    record : callable
        ``record(facts) -> Record`` begins the record of a run.
    drawn : (dict, str), optional
        Parameters, as JSON data, for which the flow was drawn when it was stored, and the digest of that graph.
    pickles : bool, default True
        Whether tasks may keep values as pickles.
    signing : tuple of str, optional
        Where workers find the keys for those; see `Plan`.
    imports : mapping of str to str or None, optional
        The packages that it imports, with their versions where it was stored.
    """

    def __init__(
        self,
        flow: FlowDefinition,
        location: str,
        record: Callable[[dict[str, Any]], Record],
        *,
        drawn: tuple[dict[str, Any], str] | None = None,
        pickles: bool = True,
        signing: tuple[str, ...] | None = None,
        imports: Mapping[str, str | None] | None = None,
    ) -> None:
        self.flow = flow
        self.imports = imports or {}
        self.pickles, self.signing = pickles, signing
        self.drawn = drawn
        self.location = location
        self._record = record

    def __repr__(self) -> str:
        return f"<FlowRunner {self.location}>"

    def run(
        self,
        parameters: Mapping[str, Any] | None = None,
        *,
        executor: Executor | None = None,
        environment: Mapping[str, Any] | None = None,
        observers: Sequence[Observer] = (),
        strings: bool = False,
        run_id: str | None = None,
    ) -> FlowRun:
        """Run the flow, and return when it is over.

        Parameters
        ----------
        parameters : mapping, optional
            Values by parameter name; those with a default may be left out.
        executor : Executor, optional
            Default: batches run in this thread.
        environment : mapping, optional
            Plain data that describes where it runs, for the record.
        observers : sequence of Observer
            Told how the run goes on.
        strings : bool, default False
            Whether the values are text, as from a command line.
        run_id : str, optional
            Default: made from the time.

        Returns
        -------
        FlowRun
            What became of it; a failed task is told there, not raised.

        Raises
        ------
        ParameterError
            If a parameter is unknown, missing or wrong.
        FlowError
            If the flow cannot be drawn.
        NotPicklable
            If a task or a constant cannot travel.
        """
        if executor is None:
            from headrace.execution.inline import InlineExecutor

            executor = InlineExecutor()
        prepared = self.prepare(parameters, strings=strings)
        return prepared.run(
            executor=lambda: executor,
            environment=environment or {"type": executor.kind},
            observers=observers,
            run_id=run_id,
        )

    def prepare(self, parameters: Mapping[str, Any] | None = None, *, strings: bool = False) -> PreparedRun:
        """Do all that can go wrong before anything is set up: check the values, draw, plan, pickle.

        Parameters
        ----------
        parameters, strings
            As for ``run``.

        Raises
        ------
        ParameterError, FlowError, NotPicklable
            As for ``run``.
        """
        with active(self.flow.bundle):
            return self._prepare(parameters or {}, strings)

    def _prepare(self, parameters: Mapping[str, Any], strings: bool) -> PreparedRun:
        values = params.validate(self.flow, parameters, strings=strings)
        as_json = params.to_json(values)
        with _uncollected():
            graph, digest = self._draw(values, as_json)
            plan = make_plan(graph)
            plan.flow, plan.parameters = self.flow.name, Parameters(values)
            plan.pickles, plan.signing = self.pickles, self.signing
            check_targets(plan)
            plan, data = _packed(plan)
        facts = {
            "flow": self.flow.name,
            "location": self.location,
            "parameters": as_json,
            "versions": versions(),
            "digest": digest,
        }
        if self.flow.bundle is not None:
            facts["code"] = self.flow.bundle.facts()
        return PreparedRun(facts, plan, data, self._record, self.flow.policy, self.flow.bundle, self.imports)

    def portable(
        self, parameters: Mapping[str, Any] | None = None, *, strings: bool = False
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Do all that can go wrong before another process is told to run the flow.

        Parameters
        ----------
        parameters, strings
            As for ``run``.

        Returns
        -------
        given : dict
            The parameters as JSON data, from which the other process makes the same values.
        facts : dict
            For the run's launch.

        Raises
        ------
        ParameterError, FlowError, NotPicklable
            As for ``run``; also if a parameter cannot be given to another process.
        """
        with active(self.flow.bundle):
            given = params.portable(self.flow, parameters or {}, strings=strings)
            facts = self._prepare(parameters or {}, strings).facts
        return given, {name: facts[name] for name in ("flow", "location", "parameters", "versions")}

    def _draw(self, values: Mapping[str, Any], as_json: dict[str, Any]) -> tuple[Graph, str]:
        """Draw the graph, and make sure that it depends on nothing but the parameters.

        Flows that could be drawn when they were stored were drawn twice then, and here are compared with that;
        the others are drawn twice now.
        """
        if self.drawn is None:
            return self._draw_checked(values, as_json)
        graph = self.flow.draw(values)
        digest = graph.digest()
        example, expected = self.drawn
        if example == as_json and digest != expected:
            raise unstable(self.flow.name, "draws another graph now than when it was stored, for the same parameters")
        return graph, digest

    def _draw_checked(self, values: Mapping[str, Any], as_json: dict[str, Any]) -> tuple[Graph, str]:
        """Draw twice, or, if this process drew this flow for the same parameters before, compare with that."""
        key = self.location, _beginning(as_json)
        before = _DRAWN.pop(key, None)
        if before is None:
            graph, digest = draw_twice(self.flow, values)
        else:
            graph = self.flow.draw(values)
            digest = graph.digest()
            if digest != before:
                raise unstable(self.flow.name, "draws another graph now than a moment ago, for the same parameters")
        if len(key[1]) < MOST_REMEMBERED:  # else it is but the beginning
            _DRAWN[key] = digest
            while len(_DRAWN) > MOST_REMEMBERED:
                del _DRAWN[next(iter(_DRAWN))]
        return graph, digest


class PreparedRun:
    """A run that only wants an executor.

    Parameters
    ----------
    facts : dict
        For the record.
    plan : Plan
        What to run.
    plan_bytes : bytes
        The same, pickled.
    record : callable
        Begins the record.
    policy : FlowPolicy
        How the flow's runs are treated.
    code : Bundle, optional
        The flow's first-party code.
    imports : mapping of str to str or None, optional
        The packages that it imports, with their versions where it was stored.
    """

    def __init__(
        self,
        facts: dict[str, Any],
        plan: Plan,
        plan_bytes: bytes,
        record: Callable[[dict[str, Any]], Record],
        policy: FlowPolicy,
        code: Bundle | None = None,
        imports: Mapping[str, str | None] | None = None,
    ) -> None:
        self.code = code
        self.imports = imports or {}
        self.facts = facts
        self.plan = plan
        self.plan_bytes = plan_bytes
        self._record = record
        self.policy = policy

    def run(self, **options: Any) -> FlowRun:
        """Begin its record, drive it in this thread, and return when it is over.

        Parameters
        ----------
        **options
            As for ``begin``.
        """
        with holding():
            return self.begin(**options).run()

    def begin(
        self,
        *,
        executor: Callable[[], Executor],
        environment: Mapping[str, Any],
        observers: Sequence[Observer] = (),
        run_id: str | None = None,
    ) -> Drive:
        """Begin its record, and return what drives it, in this thread or in one of its own.

        Parameters
        ----------
        executor : callable
            Brings up and returns where it executes; called in the thread that drives.
        environment, observers, run_id
            As for ``FlowRunner.run``.
        """
        record = self._record({**self.facts, "run_id": run_id, "environment": dict(environment)})
        hooks = Hooks(self.plan, self.policy, self.code)
        with _uncollected():
            return Drive(
                self.facts["flow"], record, self.plan, self.plan_bytes, executor, observers, self.policy, hooks,
                self.code,
            )  # fmt: skip


def _packed(plan: Plan) -> tuple[Plan, bytes]:
    """A plan as it travels, pickled: long lists go with the batches, and no parameter keeps it at home."""
    what = f"flow {plan.flow!r}"
    try:
        data = pickling.dumps(plan, what)
    except NotPicklable:
        plan.parameters = _light(plan.parameters)
        data = pickling.dumps(plan, what)
    if len(data) > LONG:
        plan = split(plan, lambda values: len(pickling.dumps(values, "a list")), LONG // 16)
        plan = extract(plan, measure, LARGE)
        plan.parameters = _light(plan.parameters)
        # Workers have no use for what the flow returns; it may be large, too.
        data = pickling.dumps(replace(plan, result=Const(None)), what)
    return plan, data


def _light(values: Mapping[str, Any]) -> Parameters:
    """The parameters that can travel to each worker, and are no burden there."""
    light, withheld = {}, []
    for name, value in values.items():
        try:
            size = len(pickling.dumps(value, name))
        except NotPicklable:
            size = LONG
        if size > LONG // 16:
            withheld.append(name)
        else:
            light[name] = value
    return Parameters(light, tuple(withheld))


def _beginning(as_json: dict[str, Any]) -> str:
    """Parameters as text, no more of it than is needed to see that it is too long to be remembered."""
    text = ""
    for part in json.JSONEncoder(sort_keys=True).iterencode(as_json):
        text += part
        if len(text) >= MOST_REMEMBERED:
            break
    return text


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector off while a graph is made ready.

    It makes several objects per node, all of which stay. Their mere number has the collector go through the
    process's whole heap, with Dask's in it, which takes longer than all the rest.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@functools.cache
def versions() -> dict[str, str]:
    """Versions that a run's record names."""
    return {
        "headrace": __version__,
        "python": platform.python_version(),
        "dask": version("dask"),
        "distributed": version("distributed"),
        "cloudpickle": version("cloudpickle"),
    }
