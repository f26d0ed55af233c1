"""Flows and runs at a URL: the part of ``Storage`` that knows nothing of running.

There is no index that two writers could overwrite. What a storage holds is read off listings: each flow is an object
named by its sha256, and each time it becomes current, a small record is added, its next version.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any, Self

from headrace.code.bundle import Bundle, open_bundle
from headrace.core.flow import FlowDefinition
from headrace.errors import FlowError, HeadraceError, NotFound
from headrace.storage import sources
from headrace.storage.capture import Captured, code_key, open_flow
from headrace.storage.catalog import Catalog
from headrace.storage.contents import large_parts, not_installed, refuse_secrets, secrets_in_code
from headrace.storage.costs import StoredCosts
from headrace.storage.credentials import provider_name
from headrace.storage.envelope import Envelope
from headrace.storage.files import DEADLINE, are_asked_alike, read_url
from headrace.storage.findings import Finding, distinct, warn
from headrace.storage.listing import runs_of
from headrace.storage.origins import MODULE, PICKLE, SCRIPT, source_of
from headrace.storage.preflight import PATIENCE, Preflight
from headrace.storage.resigning import SignedAgain, sign_again
from headrace.storage.resolving import LOCATION, nothing_at
from headrace.storage.run_ids import is_run_id
from headrace.storage.runs import RunRecord
from headrace.storage.signing import KeySources, sources_of
from headrace.storage.spec import StorageSpec
from headrace.storage.uploading import check_origin, upload
from headrace.storage.versions import Versions


class StoredFlows(Catalog):
    """Flows and runs below one URL.

    Parameters
    ----------
    url : str or path
        Any fsspec URL, or a folder.
    storage_options : mapping, optional
        For the fsspec file system. Secrets among them stay in this object: they are never written or shown.
    name : str, optional
        Default: derived from the URL.
    pickle : bool, default True
        Whether pickles are written and read. Without them, flows need ``source="module"`` or ``source="script"``. Who
        can write to the storage can still name scripts of their own, unless there is a signing key.
    filesystem : fsspec file system, optional
        Use this one instead of making one.
    credentials : str or callable, optional
        Who gives further storage options, secret ones, in whichever process needs them: a function without arguments,
        by its name ``"package.module:function"``, or an entry point of the group ``headrace.credentials``. Called when
        they are first needed, and again when access is denied.
    ship_credentials : bool, default False
        Whether the secrets among ``storage_options`` may go to the workers of a run that needs this storage, into their
        memory and over encrypted connections only. Else, workers find credentials themselves.
    signing_keys : str, bytes, path, callable, or a list of them, optional
        Sign what is written, and refuse what is not signed; see `headrace.storage.signing.sources_of`. Default: the
        variable ``HEADRACE_SIGNING_KEY``; an empty list: no keys.
    deadline : float, default 15
        Seconds within which the store must answer; large objects get more.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        *,
        name: str | None = None,
        pickle: bool = True,
        filesystem: Any = None,
        credentials: str | Callable[[], Mapping[str, Any]] | None = None,
        ship_credentials: bool = False,
        signing_keys: KeySources | None = None,
        deadline: float = DEADLINE,
    ) -> None:
        spec = StorageSpec(
            os.fspath(url),
            name or "",
            dict(storage_options or {}),
            credentials=provider_name(credentials),
            ship_credentials=ship_credentials,
            pickle=pickle,
            signing_keys=sources_of(signing_keys),
            deadline=deadline,
        )
        self._open(spec, filesystem)

    def _open(self, spec: StorageSpec, filesystem: Any = None) -> None:
        self.spec = spec
        self.files = spec.open(filesystem)
        self.hints = self.files  # where hints lie; `Flow.run` keeps them longer than the rest
        self.url = spec.url
        self.name = spec.name
        self._staged: dict[str, tuple[Captured, bool]] = {}
        self._refused: set[str] = set()  # of what is staged: what a `build` did not upload
        self._bundles: dict[str, Bundle] = {}
        self._noticed: dict[str, list[Finding]] = {}  # about what is staged
        self._preflight = Preflight()
        #: what the last `build` has noticed about its flows
        self.findings: tuple[Finding, ...] = ()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.url}>"

    # -- flows -----------------------------------------------------------------------------------------------

    def _waiting(self) -> dict[str, str]:
        return {location: flow.name for location, (flow, _) in self._staged.items()}

    def add_flow(
        self,
        flow: FlowDefinition | str,
        *,
        replace: bool = False,
        example: Mapping[str, Any] | None = None,
        source: str | None = None,
    ) -> str:
        """Capture a flow as it is now. `build` uploads it.

        Parameters
        ----------
        flow : Flow or str
            The flow; or, with another source than a pickle, a text that names it: ``"package.module:etl"``,
            ``"folder/flow.py:etl"`` at any URL, ``"git+https://host/repository@COMMIT#path/flow.py:etl"``.
        replace : bool, default False
            Whether it may take the name of a flow of another origin.
        example : mapping, optional
            Parameter values, over the defaults, that the manifest's graph is drawn for.
        source : {"pickle", "module", "script"}, optional
            Where its code lies: here, as a pickle; in a module that is installed where it runs; or in a script. Of the
            latter two, the storage holds the name and what the code must be. Default: a pickle, or, with
            ``pickle=False``, a module.

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
        location = self.stage(flow, replace=replace, example=example, source=source, whole=True)
        self._preflight.prepare(type(flow).__module__)
        captured = self._staged[location][0]
        try:
            refuse_secrets(flow, captured)
        except FlowError:
            del self._staged[location]
            raise
        self._noticed[location] = secrets_in_code(captured) + not_installed(captured) + large_parts(flow, captured)
        return location

    def stage(
        self,
        flow: FlowDefinition | str,
        *,
        replace: bool = False,
        example: Mapping[str, Any] | None = None,
        source: str | None = None,
        whole: bool = False,
    ) -> str:
        """Capture a flow that is executed at once, and maybe never uploaded.

        Parameters
        ----------
        flow, replace, example, source
            As for `add_flow`, which makes ready for `build` besides.
        whole : bool, default False
            Whether packages that are too large to travel are an error. In this process they are not missed.
        """
        kind = source or (PICKLE if self.spec.pickle else MODULE)
        captured = sources.captured(flow, kind, example, self._read_url, pickles=self.spec.pickle, whole=whole)
        if not replace:
            check_origin(self.files, captured, self._origin_here(captured.name))
        for location in [each for each, (flow, _) in self._staged.items() if flow.name == captured.name]:
            if location in self._refused:
                del self._staged[location]
                self._refused.discard(location)
        # The last one added under a name is the newest: taken out and put in again at the end.
        self._staged.pop(captured.location, None)
        self._staged[captured.location] = captured, replace
        return captured.location

    def _origin_here(self, name: str) -> str | None:
        """Where the flow of this name is defined, as far as is known."""
        waiting = [flow.origin for flow, _ in self._staged.values() if flow.name == name]
        if waiting:
            return waiting[-1]
        newest = Versions(self.files).see(name).newest
        return None if newest is None else newest.origin

    def named_flow(self, target: str, source: str) -> FlowDefinition:
        """Return the flow that a text names, without storing it.

        Parameters
        ----------
        target, source : str
            As for `add_flow`.
        """
        found = source_of(target, source, self._read_url)
        return found.load(found.bundle(self._read_url))

    def build(self, *, check: bool = True, deadline: float = PATIENCE) -> Self:
        """Check that each staged flow loads in a fresh interpreter, upload them, and return this storage.

        What else was noticed is in ``findings``; of what may go wrong elsewhere, a ``PreflightWarning`` warns.

        Parameters
        ----------
        check : bool, default True
            Whether to check; who builds many flows, one by one, may have checked them elsewhere.
        deadline : float, default 120.0
            Seconds within which the flows must load.

        Raises
        ------
        MissingModule, UnstableFlow, FlowError
            If a flow does not load, or draws another graph there. Nothing is uploaded then; a flow that is added
            again, as it was mended, takes the place of the one that was refused.
        """
        staged = list(self._staged.items())
        try:
            found = self._preflight.check([captured for _, (captured, _) in staged], deadline) if check else []
        except HeadraceError:
            self._refused.update(self._staged)
            raise
        self._refused.clear()
        noticed = [each for location, _ in staged for each in self._noticed.get(location, ())]
        self.findings = tuple(distinct(noticed + found))
        for location, (captured, replace) in staged:
            upload(self.files, captured, replace=replace)
            self._staged.pop(location, None)
            self._noticed.pop(location, None)
        warn(self.findings, stacklevel=2)
        return self

    def load(self, location: str) -> FlowDefinition:
        """Return a stored flow.

        Parameters
        ----------
        location : str
            As `add_flow` returned it, or whatever else `resolve` takes.

        Raises
        ------
        NotFound, EnvelopeError, MissingModule
            If it is not there, not intact, or its code is not here. Nothing is unpickled before it was
            checked.
        """
        return self._loaded(self._envelope(location))

    def _loaded(self, envelope: Envelope) -> FlowDefinition:
        return sources.load(envelope, self._bundle(envelope), pickles=self.spec.pickle)

    def _read_url(self, url: str) -> bytes:
        """The bytes at any URL; where this storage's service is asked for them, with its options."""
        if are_asked_alike(url, self.url):
            return read_url(url, self.spec.storage_options, self.spec.credentials)
        return read_url(url)

    def manifest(self, location: str) -> dict[str, Any]:
        """Return what a stored flow says about itself, without running code of it.

        Parameters
        ----------
        location : str
            As `add_flow` returned it, or whatever else `resolve` takes.
        """
        return self._envelope(location).header

    def __contains__(self, obj: object) -> bool:
        """Whether a text names a flow here, or this very content of a flow is stored or staged here."""
        if isinstance(obj, str):
            return self._names_a_flow(obj)
        if not isinstance(obj, FlowDefinition):
            return False
        contents = sources.contents_of(obj)
        if any(captured.content in contents for captured, _ in self._staged.values()):
            return True
        stored = {version.location for version in Versions(self.files).of(obj.name)}
        objects = self.files.read_many(sorted(stored))
        found = (open_flow(data, key, self.files.seal).header for key, data in objects.items())
        return any(header["content"] in contents for header in found)

    def _envelope(self, text: str) -> Envelope:
        location = text if LOCATION.fullmatch(text) else self.resolve(text)
        if location in self._staged:
            return open_flow(self._staged[location][0].data, location)
        try:
            data = self.files.read(location)
        except NotFound as error:  # not asked before reading: on a bucket, each question is a round trip
            raise nothing_at(location, self.files) from error
        return open_flow(data, location, self.files.seal)

    def _bundle(self, envelope: Envelope) -> Bundle | None:
        """The first-party code that a flow came with."""
        code = sources.code_of(envelope.header)
        if code is None:
            return None
        if envelope.where in self._staged:
            return self._staged[envelope.where][0].bundle
        known = self._bundles.get(code["sha256"])
        if sources.kind_of(envelope.header) == SCRIPT:
            return sources.fetched(envelope, self._read_url, known)
        if known is None:
            key = code_key(envelope.header["name"], code["sha256"])
            known = open_bundle(self.files.read(key), code["sha256"], code["modules"], key)
            self._bundles = {code["sha256"]: known}  # the next run is probably one of the same flow
        return known

    # -- signing ---------------------------------------------------------------------------------------------

    def sign_again(self, *, unsigned: bool = False) -> SignedAgain:
        """Sign all that lies here with the first signing key: after a new one was put before the old one.

        Parameters
        ----------
        unsigned : bool, default False
            Whether to sign also what has no signature. Then you vouch for whoever could write here until now.

        Returns
        -------
        SignedAgain
            How many objects were signed, and those that are not trusted, which were left alone.

        Raises
        ------
        SigningKeyError
            If there is no key.
        """
        return sign_again(self.files, unsigned=unsigned)

    # -- as data ---------------------------------------------------------------------------------------------

    def _alike(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Self:
        spec = self.spec
        return type(self)(
            url, storage_options, pickle=spec.pickle, signing_keys=spec.signing_keys, deadline=spec.deadline
        )

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
    def deserialize(
        cls,
        data: Mapping[str, Any],
        storage_options: Mapping[str, Any] | None = None,
        signing_keys: KeySources | None = None,
    ) -> Self:
        """Make a storage from what `serialize` returned.

        Parameters
        ----------
        data : mapping
            JSON data.
        storage_options : mapping, optional
            Added to the options in ``data``: the secrets, say. Without them, the environment's credentials
            are used.
        signing_keys : key sources, optional
            In place of those in ``data``, which names files and functions, and never holds keys.

        Raises
        ------
        StorageError
            If the data are not those of a storage.
        """
        storage = cls.__new__(cls)
        storage._open(StorageSpec.deserialize(data, storage_options, signing_keys))
        return storage

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).deserialize, (self.serialize(),)

    # -- runs ------------------------------------------------------------------------------------------------

    def runs(self, limit: int | None = None, *, flow: str | None = None) -> list[RunRecord]:
        """Return the runs, newest first. How they ended is read when they are asked.

        Parameters
        ----------
        limit : int, optional
            Return so many at most, without looking at older ones.
        flow : str, optional
            Only those of the flow with this name.
        """
        return runs_of(self.files, limit, flow)

    def create_run(self, run_id: str, facts: Mapping[str, Any], costs: StoredCosts | None = None) -> RunRecord:
        """Write down that a run begins.

        Parameters
        ----------
        run_id : str
            See `headrace.storage.run_ids.new_run_id`.
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

    def launch_run(self, run_id: str, facts: Mapping[str, Any]) -> RunRecord:
        """Write down that a driver was started for a run, which begins the run itself.

        Parameters
        ----------
        run_id : str
            See `headrace.storage.run_ids.new_run_id`.
        facts : mapping
            As for `create_run`, and ``driver``: where it is; see `headrace.drivers`.
        """
        return RunRecord.launched(self.files, run_id, facts)

    def get_run(self, run_id: str) -> RunRecord:
        """Return one run.

        Raises
        ------
        NotFound
            If there is none of this id.
        """
        record = RunRecord.find(self.files, run_id) if is_run_id(run_id) else None
        if record is None:
            raise NotFound(f"there is no run {run_id!r} in {self.url}; storage.runs() lists those that there are")
        return record
