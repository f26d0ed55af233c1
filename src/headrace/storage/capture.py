"""A flow, captured at one moment: the bytes of its object in a storage, and the way back.

The manifest (the envelope's header) can be read by anyone without running code of the flow. The payload holds
two pickles, each as bytes of its own, so that the flow can be loaded without its example: the flow, and the
parameter values that it was drawn for.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from headrace import parameters, pickling
from headrace.code.bundle import Bundle, bundle_for
from headrace.code.fresh import refresh
from headrace.code.space import active, unchanging, wait_for_own
from headrace.code.tracked import identified
from headrace.code.units import imported_by
from headrace.core.flow import SURROUNDINGS, FlowDefinition, draw_twice
from headrace.core.graph import Graph
from headrace.core.policy import options_of
from headrace.core.task import Task
from headrace.errors import DamagedObject
from headrace.storage.envelope import Envelope, check_versions, digest_of, open_envelope, pack
from headrace.storage.imports import foreign, lacking, packages_of
from headrace.storage.manifest import wrong_in
from headrace.storage.signing import UNSEALED, Seal

KIND = "flow"


@dataclass(frozen=True, slots=True)
class Captured:
    """The object of one flow.

    Attributes
    ----------
    name, origin : str
        The flow's name and where it is defined.
    content : str
        sha256 of the pickled flow and its bundle, whatever it was drawn for.
    data : bytes
        The object, not signed.
    sha256 : str
        Of the header, which names that of the payload.
    bundle : Bundle or None
        The first-party code that it reaches.
    holds_code : bool, default True
        Whether the storage holds that; else it lies elsewhere.
    imports : frozenset of str, default empty
        Modules of others that it may import.
    lacking : tuple of str, default ()
        Those that it needs, by the first part of their names, and that are not installed here.
    """

    name: str
    origin: str
    content: str
    data: bytes
    sha256: str
    bundle: Bundle | None
    holds_code: bool = True
    imports: frozenset[str] = frozenset()
    lacking: tuple[str, ...] = ()

    @property
    def location(self) -> str:
        """The key of the object in any storage."""
        return location_of(self.name, self.sha256)


def code_key(name: str, sha256: str) -> str:
    """Return the key of a bundle that a flow of this name refers to."""
    return f"flows/{name}/code/{sha256}.zip"


def location_of(name: str, sha256: str) -> str:
    """Return the key of a flow's object."""
    return f"flows/{name}/{sha256}.flow"


def capture(flow: FlowDefinition, example: Mapping[str, Any] | None = None, *, whole: bool = True) -> Captured:
    """Pickle a flow as it is now, and write its manifest.

    Parameters
    ----------
    flow : FlowDefinition
        The flow.
    example : mapping, optional
        Parameter values, over the defaults, that the manifest's graph is drawn for.
    whole : bool, default True
        Whether a package of the user's that is too large to travel is an error; else it is left out.

    Raises
    ------
    ParameterError, NotPicklable, UnstableFlow, FlowError
        If the example does not fit, the flow cannot travel, or it draws two graphs for the same parameters.
    """
    with active(flow.arrived):
        return _capture(flow, example, whole)


def _capture(flow: FlowDefinition, example: Mapping[str, Any] | None, whole: bool) -> Captured:
    met = pickling.Met()
    body, bundle = _pickle_fresh(flow, met, whole)
    values = parameters.example_values(flow, example)
    graph = draw_twice(flow, values)[0] if values is not None else None
    example_body = None
    if values is not None:
        before = len(met.modules)
        example_body = pickling.dumps(values, f"the example values of flow {flow.name!r}", met=met)
        bundle = _bundle_of(flow, met, whole) if len(met.modules) > before else bundle
    content = _content(body, bundle)
    units = bundle.units if bundle is not None else {}
    modules = imported_by(met.modules, units)
    header = {
        **manifest_of(flow, graph, values, content),
        "code": None if bundle is None else bundle.facts(),
        "imports": packages_of(modules),
    }
    parts = {"flow": body} if example_body is None else {"flow": body, "example": example_body}
    data = pack(KIND, header, parts)
    return Captured(
        flow.name, flow.qualified_name, content, data, digest_of(data), bundle,
        imports=frozenset(foreign(modules)), lacking=lacking(modules, met.needed, units),
    )  # fmt: skip


def _pickle_fresh(flow: FlowDefinition, met: pickling.Met, whole: bool) -> tuple[bytes, Bundle | None]:
    """Pickle a flow and find the code that it reaches; what was edited since it was loaded is loaded again first."""
    with unchanging():
        body = pickle_flow(flow, met, whole)
        bundle = _bundle_of(flow, met, whole)
        if bundle is not None and flow.arrived is None and wait_for_own(bundle.modules):
            body = pickle_flow(flow, met, whole)
            bundle = _bundle_of(flow, met, whole)
        if bundle is not None and flow.arrived is None and refresh(bundle.units):
            body = pickle_flow(flow, met, whole)
            bundle = _bundle_of(flow, met, whole)
    return body, bundle


def _bundle_of(flow: FlowDefinition, met: pickling.Met, whole: bool) -> Bundle | None:
    """The code that a flow reaches; one that was loaded keeps what it came with, imported here or not."""
    arrived: Bundle | None = flow.arrived
    return arrived if arrived is not None else bundle_for(met.modules, whole=whole)


def _content(body: bytes, bundle: Bundle | None) -> str:
    return hashlib.sha256(body + (bundle.sha256.encode() if bundle is not None else b"")).hexdigest()


def pickle_flow(flow: FlowDefinition, met: pickling.Met | None = None, whole: bool = True) -> bytes:
    """Pickle a flow without its surroundings.

    Parameters
    ----------
    flow : FlowDefinition
        The flow.
    met : Met, optional
        Receives what it refers to.
    whole : bool, default True
        As for `capture`.

    Raises
    ------
    NotPicklable
        Names the task or constant that cannot travel.
    """
    bare = copy.copy(flow)
    for name in SURROUNDINGS:
        if name in bare.__dict__:
            bare.__dict__[name] = None
    met = met if met is not None else pickling.Met()
    met.tracked.clear()
    data = pickling.dumps(bare, f"flow {flow.name!r}", met=met)
    bundle = _bundle_of(flow, met, whole) if met.tracked else None
    return identified(data, met.tracked, bundle.sha256 if bundle is not None else "")


def content_of(flow: FlowDefinition) -> str:
    """Return what ``Captured.content`` would be."""
    met = pickling.Met()
    with active(flow.arrived):
        body = pickle_flow(flow, met)
    return _content(body, _bundle_of(flow, met, whole=True))


def manifest_of(
    flow: FlowDefinition, graph: Graph | None, values: Mapping[str, Any] | None, content: str
) -> dict[str, Any]:
    """Return what a flow's object says about it to readers that do not unpickle.

    Parameters
    ----------
    flow : FlowDefinition
        The flow.
    graph : Graph or None
        As drawn for ``values``.
    values : mapping or None
        Parameter values of the example.
    content : str
        sha256 of the pickled flow and its bundle.
    """
    environment = getattr(flow, "environment", None)
    return {
        "name": flow.name,
        "origin": flow.qualified_name,
        "doc": (flow.__doc__ or "").strip().partition("\n")[0],
        "content": content,
        "parameters": parameters.describe(flow),
        "tasks": _tasks(flow, graph),
        "example": None if values is None else parameters.to_json(values),
        "graph": None if graph is None else graph.describe(),
        "digest": None if graph is None else graph.digest(),
        "environment": None if environment is None else environment.serialize(),
    }


def _tasks(flow: FlowDefinition, graph: Graph | None) -> list[dict[str, Any]]:
    """Each task once: those in the graph, or, if none could be drawn, those that the function refers to."""
    graph = graph or flow.built
    tasks = [node.task for node in graph.nodes] if graph is not None else _referenced_tasks(flow)
    found: dict[str, dict[str, Any]] = {}
    for task in tasks:
        row = {"name": task.name, "origin": task.qualified_name, **options_of(task.policy)}
        found.setdefault(repr(row), row)
    return list(found.values())


def _referenced_tasks(flow: FlowDefinition) -> list[Task[..., Any]]:
    return [value for value in pickling.references(flow.function) if isinstance(value, Task)]


def open_flow(data: bytes, where: str, seal: Seal = UNSEALED) -> Envelope:
    """Check the object of a flow.

    Parameters
    ----------
    data : bytes
        The object.
    where : str
        Its location; the name must fit the bytes.
    seal : Seal, optional
        Of the storage. Default: no keys.

    Raises
    ------
    EnvelopeError
        If it is not the intact object that belongs there.
    """
    envelope = open_envelope(data, where, KIND, seal)
    if where != location_of(str(envelope.header.get("name")), envelope.digest):
        raise DamagedObject(
            f"{where} holds an intact flow, but another one than its name says: somebody moved or "
            "replaced the file; store the flow again"
        )
    wrong = wrong_in(envelope.header)
    if wrong:
        raise DamagedObject(f"{where} tells {', '.join(wrong)} not as headrace does; store the flow again")
    if envelope.header.get("source") is None and not envelope.part("flow"):
        raise DamagedObject(f"{where} holds a flow that is no flow: its payload lacks it; store the flow again")
    example = envelope.part("example")
    if example is not None and not example:
        raise DamagedObject(f"{where} holds an example that is empty; store the flow again")
    return envelope


def load_flow(envelope: Envelope, bundle: Bundle | None = None) -> FlowDefinition:
    """Unpickle the flow of a checked object.

    Parameters
    ----------
    envelope : Envelope
        The object.
    bundle : Bundle, optional
        The code that its manifest names.

    Raises
    ------
    IncompatibleObject, MissingModule
        If its code cannot run here.
    """
    check_versions(envelope.header, envelope.where)
    with active(bundle):
        flow = envelope.unpickle(envelope.part("flow"))
    if not isinstance(flow, FlowDefinition):
        raise DamagedObject(
            f"{envelope.where} holds the pickle of a {type(flow).__name__}, not of a flow; store the flow again"
        )
    flow.bundle = flow.arrived = bundle
    return flow


def load_example(envelope: Envelope) -> dict[str, Any] | None:
    """Unpickle the parameter values that the manifest's graph was drawn for."""
    part = envelope.part("example")
    return None if part is None else cast("dict[str, Any]", envelope.unpickle(part))
