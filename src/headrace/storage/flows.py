"""Flows and runs at a URL: the part of ``Storage`` that knows nothing of running.

There is no index that two writers could overwrite. What a storage holds is read off a listing: each flow is
an object named by its sha256, and each time it becomes current, a small record with a time in its name is
added.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, Self

from headrace.code.bundle import Bundle, open_bundle
from headrace.core.flow import FlowDefinition
from headrace.errors import AlreadyExists, NotFound
from headrace.storage.capture import (
    KIND,
    Captured,
    capture,
    code_key,
    content_of,
    load_flow,
    location_of,
    open_flow,
)
from headrace.storage.check import check_in_fresh_interpreter
from headrace.storage.costs import StoredCosts
from headrace.storage.envelope import Envelope, open_envelope, versions
from headrace.storage.files import Files
from headrace.storage.records import create_record, read_record
from headrace.storage.runs import RunRecord
from headrace.storage.spec import StorageSpec

_LOCATION = re.compile(r"flows/(?P<name>[^/]+)/(?P<sha256>[0-9a-f]{64})\.flow")
_VERSION = re.compile(r"flows/(?P<name>[^/]+)/versions/(?P<time>\d{8}T\d{6}\.\d{6}Z)-(?P<sha256>[0-9a-f]{64})")
_TIME = "%Y%m%dT%H%M%S.%fZ"


class Version(NamedTuple):
    """One version of a stored flow.

    Attributes
    ----------
    time : datetime
        When it became the newest, with its zone (UTC).
    location : str
        Where it lies in the storage.
    """

    time: datetime
    location: str


class StoredFlows:
    """Flows and runs below one URL.

    Parameters
    ----------
    url : str or path
        Any fsspec URL, or a folder.
    storage_options : mapping, optional
        For the fsspec file system. Secrets among them stay in this object: they are never written or shown.
    name : str, optional
        Default: derived from the URL.
    filesystem : fsspec file system, optional
        Use this one instead of making one.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        filesystem: Any = None,
    ) -> None:
        spec = StorageSpec(os.fspath(url), name or "", dict(storage_options or {}))
        self._open(spec, filesystem)

    def _open(self, spec: StorageSpec, filesystem: Any = None) -> None:
        self.spec = spec
        self.files = Files(spec.url, spec.storage_options, filesystem, hint=spec.hint)
        self.hints = self.files  # where hints lie; `Flow.run` keeps them longer than the rest
        self.url = spec.url
        self.name = spec.name
        self._staged: dict[str, tuple[Captured, bool]] = {}
        self._bundles: dict[str, Bundle] = {}

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    # -- flows -----------------------------------------------------------------------------------------------

    @property
    def flows(self) -> dict[str, str]:
        """Flow name → location of the newest version, as the medium says now, and what is staged here."""
        newest: dict[str, tuple[str, str]] = {}
        for key in self.files.list("flows"):
            match = _VERSION.fullmatch(key)
            if match:
                name, *version = match.groups()
                newest[name] = max(newest.get(name, ("", "")), (version[0], version[1]))
        found = {name: location_of(name, sha256) for name, (_, sha256) in newest.items()}
        found.update((flow.name, location) for location, (flow, _) in self._staged.items())
        return dict(sorted(found.items()))

    def add_flow(self, flow: FlowDefinition, *, replace: bool = False, example: Mapping[str, Any] | None = None) -> str:
        """Capture a flow as it is now. `build` uploads it.

        Parameters
        ----------
        flow : Flow
            The flow.
        replace : bool, default False
            Whether it may take the name of a flow of another origin.
        example : mapping, optional
            Parameter values, over the defaults, that the manifest's graph is drawn for.

        Returns
        -------
        str
            Its location. The same content has the same location.

        Raises
        ------
        AlreadyExists
            If a flow of another origin has the name.
        NotPicklable, ParameterError, UnstableFlow
            If it cannot be stored, or does not always draw the same graph.
        """
        captured = capture(flow, example)
        if not replace:
            self._check_origin(captured)
        # The last one added under a name is the newest: taken out and put in again at the end.
        self._staged.pop(captured.location, None)
        self._staged[captured.location] = captured, replace
        return captured.location

    def build(self) -> Self:
        """Check that each staged flow loads in a fresh interpreter, upload them, and return this storage.

        Raises
        ------
        MissingModule, UnstableFlow, FlowError
            If a flow does not load, or draws another graph there. Nothing is uploaded then.
        """
        staged = list(self._staged.items())
        check_in_fresh_interpreter([captured for _, (captured, _) in staged])
        for location, (captured, replace) in staged:
            if not replace:
                self._check_origin(captured, staged=False)
            self._upload(captured)
            self._staged.pop(location, None)
        return self

    def load(self, location: str) -> FlowDefinition:
        """Return a stored flow.

        Parameters
        ----------
        location : str
            As `add_flow` returned it, or a flow's name.

        Raises
        ------
        NotFound, EnvelopeError, MissingModule
            If it is not there, not intact, or its code is not here. Nothing is unpickled before it was
            checked.
        """
        envelope = self._envelope(location)
        return load_flow(envelope, self._bundle(envelope))

    def manifest(self, location: str) -> dict[str, Any]:
        """Return what a stored flow says about itself, without running code of it.

        Parameters
        ----------
        location : str
            As `add_flow` returned it, or a flow's name.
        """
        return self._envelope(location).header

    def resolve(self, text: str) -> str:
        """Return the location that a text means.

        Parameters
        ----------
        text : str
            A location, or the name of a flow, which means its newest version.

        Raises
        ------
        NotFound
            If there is no such flow; names those that there are.
        """
        if text in self._staged:
            return text
        if _LOCATION.fullmatch(text):
            if self.files.exists(text):
                return text
            raise self._nothing_at(text)
        flows = self.flows
        if text in flows:
            return flows[text]
        close = difflib.get_close_matches(text, flows, n=1)
        known = ", ".join(map(repr, flows)) or "none yet"
        raise NotFound(
            f"there is no flow {text!r} in {self.url}{f' (did you mean {close[0]!r}?)' if close else ''}; "
            f"known are {known}"
        )

    def __contains__(self, obj: object) -> bool:
        """Whether a flow name is taken, or this very content of a flow is stored or staged here."""
        if isinstance(obj, str):
            return obj in self.flows
        if not isinstance(obj, FlowDefinition):
            return False
        content = content_of(obj)
        if any(captured.content == content for captured, _ in self._staged.values()):
            return True
        stored = {sha256 for _, sha256 in self._versions(obj.name)}
        return any(self.manifest(location_of(obj.name, sha256))["content"] == content for sha256 in stored)

    def _envelope(self, text: str) -> Envelope:
        location = text if _LOCATION.fullmatch(text) else self.resolve(text)
        if location in self._staged:
            return open_envelope(self._staged[location][0].data, location, KIND)
        try:
            data = self.files.read(location)
        except NotFound as error:  # not asked before reading: on a bucket, each question is a round trip
            raise self._nothing_at(location) from error
        return open_flow(data, location)

    def _bundle(self, envelope: Envelope) -> Bundle | None:
        """The first-party code that a flow came with."""
        code = envelope.header.get("code")
        if code is None:
            return None
        if envelope.where in self._staged:
            return self._staged[envelope.where][0].bundle
        known = self._bundles.get(code["sha256"])
        if known is None:
            key = code_key(envelope.header["name"], code["sha256"])
            known = open_bundle(self.files.read(key), code["sha256"], code["modules"], key)
            self._bundles = {code["sha256"]: known}  # the next run is probably one of the same flow
        return known

    def _nothing_at(self, location: str) -> NotFound:
        return NotFound(f"there is no flow at {location} in {self.url}; see storage.flows for those that there are")

    # -- versions --------------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a flow that were uploaded, newest last.

        Parameters
        ----------
        name : str
            Of the flow. What was never stored has no versions.
        """
        return [Version(_moment(time), location_of(name, sha256)) for time, sha256 in self._versions(name)]

    def _versions(self, name: str) -> list[tuple[str, str]]:
        """(time, sha256) of each version of a flow, newest last."""
        matches = map(_VERSION.fullmatch, self.files.list(f"flows/{name}/versions"))
        return sorted((match["time"], match["sha256"]) for match in matches if match)

    def _check_origin(self, captured: Captured, *, staged: bool = True) -> None:
        """Refuse a flow whose name belongs to a flow that is defined elsewhere."""
        origin = self._origin(captured.name, staged=staged)
        if origin is not None and not _same_origin(origin, captured.origin):
            raise AlreadyExists(
                f"flow {captured.name!r} of {captured.origin} cannot be stored in {self.url}: the name "
                f"belongs to the flow of {origin}; give it another name, or say add_flow(..., replace=True)",
                origin=origin,
            )

    def _origin(self, name: str, *, staged: bool) -> str | None:
        waiting = [flow.origin for flow, _ in self._staged.values() if flow.name == name] if staged else []
        if waiting:
            return waiting[-1]
        known = self._versions(name)
        if not known:
            return None
        return str(read_record(self.files, _version_key(name, *known[-1])).get("origin"))

    def _upload(self, captured: Captured) -> None:
        known = self._versions(captured.name)
        if (bundle := captured.bundle) is not None:  # first, so that nobody finds the flow without it
            self._create(code_key(captured.name, bundle.sha256), bundle.data, bundle.sha256)
        self._create(captured.location, captured.data, captured.sha256)
        if known and known[-1][1] == captured.sha256:
            return
        record = {"sha256": captured.sha256, "origin": captured.origin, "headrace": versions()["headrace"]}
        key = _version_key(captured.name, _time_after(known), captured.sha256)
        try:
            create_record(self.files, key, record)
        except AlreadyExists:
            return  # the same content at the same microsecond: the record says the same

    def _create(self, key: str, data: bytes, sha256: str) -> None:
        """The name holds the digest, so what is there is the same, unless it was damaged: then write it anew."""
        try:
            self.files.create(key, data)
        except AlreadyExists:
            if hashlib.sha256(self.files.read(key)).hexdigest() != sha256:
                self.files.replace(key, data)

    # -- as data ---------------------------------------------------------------------------------------------

    def serialize(self) -> dict[str, Any]:
        """Return this storage as JSON data, without secrets.

        Returns
        -------
        dict
            ``url``, ``name``, ``storage_options`` without whatever looks secret, and ``omitted``: the names
            of the options that were left out. What is staged is not part of it: `build` first.
        """
        return self.spec.serialize()

    @classmethod
    def deserialize(cls, data: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> Self:
        """Make a storage from what `serialize` returned.

        Parameters
        ----------
        data : mapping
            JSON data.
        storage_options : mapping, optional
            Added to the options in ``data``: the secrets, say. Without them, the environment's credentials
            are used.

        Raises
        ------
        StorageError
            If the data are not those of a storage.
        """
        storage = cls.__new__(cls)
        storage._open(StorageSpec.deserialize(data, storage_options))
        return storage

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).deserialize, (self.serialize(),)

    # -- runs ------------------------------------------------------------------------------------------------

    def runs(self) -> list[RunRecord]:
        """Return the runs, newest first. Only listed; each is read when it is asked for something."""
        # A folder alone is no run: who created it was interrupted before the run's first object was there.
        keys = set(self.files.list("runs"))
        run_ids = sorted({key.split("/")[1] for key in keys}, reverse=True)
        return [RunRecord(self.files, run_id) for run_id in run_ids if RunRecord.key_of(run_id) in keys]

    def create_run(self, run_id: str, facts: Mapping[str, Any], costs: StoredCosts | None = None) -> RunRecord:
        """Write down that a run begins.

        Parameters
        ----------
        run_id : str
            See `headrace.storage.runs.new_run_id`.
        facts : mapping
            JSON data: ``flow``, ``location``, ``parameters``, ``environment``. Versions and start are added.
        costs : StoredCosts, optional
            Those of the flow's tasks, if this process drives the run.

        Raises
        ------
        AlreadyExists
            If the id is taken.
        """
        return RunRecord.create(self.files, run_id, facts, costs)

    def get_run(self, run_id: str) -> RunRecord:
        """Return one run.

        Raises
        ------
        NotFound
            If there is none of this id.
        """
        if not run_id or "/" in run_id or not self.files.exists(RunRecord.key_of(run_id)):
            raise NotFound(f"there is no run {run_id!r} in {self.url}; storage.runs() lists those that there are")
        return RunRecord(self.files, run_id)


def _same_origin(one: str, other: str) -> bool:
    """Whether two flows come from the same place; a script that is run calls itself ``__main__``."""
    (module, _, name), (other_module, _, other_name) = one.partition(":"), other.partition(":")
    return name == other_name and (module == other_module or "__main__" in (module, other_module))


def _version_key(name: str, time: str, sha256: str) -> str:
    return f"flows/{name}/versions/{time}-{sha256}"


def _time_after(known: list[tuple[str, str]]) -> str:
    """Now; or, if this machine's clock is behind, just after the newest version that its writer has seen."""
    now = datetime.now(UTC)
    if known:
        now = max(now, _moment(known[-1][0]) + timedelta(microseconds=1))
    return now.strftime(_TIME)


def _moment(time: str) -> datetime:
    return datetime.strptime(time, _TIME).replace(tzinfo=UTC)
