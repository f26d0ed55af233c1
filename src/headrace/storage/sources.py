"""Where the code of a stored flow lies: in the storage, as a pickle; in an installed module; or in a script.

Of a module or a script, a storage holds the name and what the code must be: the graph that it draws, the sha256 of a
file, the commit of a repository. Loading gets the code from there, and refuses other code than was stored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from headrace import parameters
from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.code.units import imported_by
from headrace.core.flow import FlowDefinition, draw_twice
from headrace.errors import (
    ChangedSource,
    FlowError,
    HeadraceError,
    ParameterError,
)
from headrace.storage import capture
from headrace.storage.capture import Captured, manifest_of
from headrace.storage.envelope import Envelope, digest_of, pack
from headrace.storage.imports import foreign, lacking, packages_of
from headrace.storage.origins import PICKLE, Reader, Source, source_from, source_of
from headrace.storage.plain import refusal


def captured(
    target: FlowDefinition | str,
    kind: str,
    example: Mapping[str, Any] | None,
    read: Reader,
    *,
    pickles: bool,
    whole: bool = True,
) -> Captured:
    """Capture a flow as it is now, as a pickle, or as the name of where its code lies.

    Parameters
    ----------
    target : FlowDefinition or str
        A flow, or, but for pickles, a text that names one.
    kind : {"pickle", "module", "script"}
        How.
    example : mapping, optional
        Parameter values, over the defaults, that the manifest's graph is drawn for.
    read : callable
        Returns the bytes at a URL.
    pickles : bool
        Whether one may be made.
    whole : bool, default True
        Whether a package that is too large to travel is an error; else it is left out of a pickle's code.

    Raises
    ------
    PickleRefused, NotPicklable, ParameterError, UnstableFlow, FlowError, NotFound, MissingModule
        If it cannot be captured so.
    """
    if kind != PICKLE:
        source = source_of(target, kind, read)
        bundle = source.bundle(read)
        with active(bundle):
            return _captured_by_name(source.load(bundle), source, bundle, example)
    if not pickles:
        raise refusal("a flow with source='pickle' would be", "add it with source='module' or source='script'")
    if isinstance(target, str):
        raise FlowError(f"{target!r} is a text, not a flow; give the flow, or say source='module' or source='script'")
    return capture.capture(target, example, whole=whole)


def _captured_by_name(
    flow: FlowDefinition, source: Source, bundle: Bundle | None, example: Mapping[str, Any] | None
) -> Captured:
    """The object of a flow whose code lies elsewhere; nothing in it is a pickle."""
    values = parameters.example_values(flow, example)
    graph, digest = draw_twice(flow, values) if values is not None else (None, None)
    if values is not None and _digest_again(flow, values) != digest:
        if example:
            raise ParameterError(
                f"flow {flow.name!r}: its example values do not come back from JSON as they are, and there shall be no "
                "pickle of them; give plain values, or parameters with annotations that make them of plain values"
            )
        graph, values = None, None  # a default that has no JSON form: nothing can be compared later
    known = manifest_of(flow, graph, values, "")
    content = _digest_of(known)
    where = source.data() if bundle is None else {**source.data(), "code": bundle.facts()}
    units = bundle.units if bundle is not None else {}
    modules = imported_by(bundle.modules, units) if bundle is not None else set()
    header = {**known, "content": content, "imports": packages_of(modules), "source": where}
    data = pack(capture.KIND, header, b"")
    return Captured(
        flow.name, flow.qualified_name, content, data, digest_of(data), bundle, holds_code=False,
        imports=frozenset(foreign(modules)), lacking=lacking(modules, set(), units),
    )  # fmt: skip


#: what is known of a flow without its code
_CONTENT = ("origin", "parameters", "tasks", "digest")


def _digest_of(manifest: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps([manifest[name] for name in _CONTENT]).encode()).hexdigest()


def contents_of(flow: FlowDefinition) -> set[str]:
    """Return what ``Captured.content`` would be: of its pickle, and of what is known of it without its code."""
    values = parameters.example_values(flow)
    graph = flow.draw(values) if values is not None else None
    return {capture.content_of(flow), _digest_of(manifest_of(flow, graph, values, ""))}


def _digest_again(flow: FlowDefinition, values: Mapping[str, Any]) -> str | None:
    """The digest of the graph for values that went through JSON; None if they do not fit any more."""
    try:
        return flow.draw(_from_json(flow, parameters.to_json(values))).digest()
    except HeadraceError:
        return None


def _from_json(flow: FlowDefinition, example: Mapping[str, Any]) -> dict[str, Any]:
    return parameters.validate(flow, parameters.from_json(example))


def load(envelope: Envelope, bundle: Bundle | None, *, pickles: bool = True) -> FlowDefinition:
    """Return the flow of a checked object.

    Parameters
    ----------
    envelope : Envelope
        Checked.
    bundle : Bundle or None
        The code that its header names.
    pickles : bool, default True
        Whether one may be read.

    Raises
    ------
    PickleRefused, ChangedSource, MissingModule, IncompatibleObject
        If its code must not, or cannot, be loaded.
    """
    header = envelope.header
    if kind_of(header) == PICKLE:
        if not pickles:
            raise refusal(
                f"the flow at {envelope.where} is",
                "store it anew with source='module' or source='script', or open the storage without pickle=False if "
                "you trust whoever writes to it",
            )
        return capture.load_flow(envelope, bundle)
    source = source_from(header["source"], envelope.where)
    with active(bundle):
        flow = source.load(bundle)
        _compare(flow, source, header)
    flow.bundle = flow.arrived = bundle
    return flow


def _compare(flow: FlowDefinition, source: Source, header: Mapping[str, Any]) -> None:
    """Refuse a flow that draws another graph than when it was stored."""
    if header["digest"] is None:
        return
    try:
        digest = flow.draw(_from_json(flow, header["example"])).digest()
    except ParameterError as error:
        digest = str(error)
    if digest != header["digest"]:
        raise ChangedSource(
            f"flow {flow.name!r} draws another graph here than when it was stored, for the same parameters: "
            f"{source.changed()}"
        )


def fetched(envelope: Envelope, read: Reader, known: Bundle | None) -> Bundle | None:
    """Return the code of a script from where it lies, compared with what was stored.

    Parameters
    ----------
    envelope : Envelope
        Checked.
    read : callable
        Returns the bytes at a URL.
    known : Bundle or None
        The same, if it is known already.

    Raises
    ------
    ChangedSource, NotFound, AccessDenied, Unreachable
        If it cannot be had, or is not what it was.
    """
    if known is not None:
        return known
    bundle = source_from(envelope.header["source"], envelope.where).bundle(read)
    expected = (code_of(envelope.header) or {})["sha256"]
    if bundle is None or bundle.sha256 != expected:
        raise ChangedSource(
            f"the code of {envelope.where} is not what was stored, although it has the same name; somebody forged it, "
            "or the flow was stored by another version of headrace: look at what changed, and store it again"
        )
    return bundle


def code_of(header: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return sha256 and modules of the bundle that a flow's header names, in the storage or elsewhere."""
    return header.get("code") or (header.get("source") or {}).get("code")


def kind_of(header: Mapping[str, Any]) -> str:
    """Return the kind of source that a flow's header names."""
    return str((header.get("source") or {}).get("kind", PICKLE))
