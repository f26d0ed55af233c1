"""``Storage``: what lies at a URL, and the ways to run it.

The ways to run it stand here, above the ``storage`` package, so that what reads and writes objects knows nothing of
execution.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from headrace.core.flow import FlowDefinition
from headrace.core.secret import Secret, secret_json
from headrace.drivers import RUN_ID_VARIABLE, start_process
from headrace.errors import RunError, StorageError
from headrace.storage.costs import StoredCosts
from headrace.storage.files import Files, private_memory
from headrace.storage.flows import StoredFlows
from headrace.storage.run_ids import new_run_id
from headrace.storage.runs import RunRecord
from headrace.stored import StoredFlow

if TYPE_CHECKING:
    from headrace.execution.runner import FlowRunner

#: The environment variables that ``python -m headrace execute`` reads. Values are JSON, but for the last two.
STORAGE_VARIABLE = "HEADRACE_STORAGE"
STORAGE_OPTIONS_VARIABLE = "HEADRACE_STORAGE_OPTIONS"
PARAMETERS_VARIABLE = "HEADRACE_PARAMETERS"
ENVIRONMENT_VARIABLE = "HEADRACE_ENVIRONMENT"
FLOW_VARIABLE = "HEADRACE_FLOW"


class Storage(StoredFlows):
    """Flows and runs at any fsspec URL.

    Parameters
    ----------
    url : str or path
        A folder, or any fsspec URL: ``s3://bucket/flows``, ``gs://…``, ``abfs://…``, ``sftp://…``, ``memory://…``. What
        is read only, as ``https://…``, gives flows at full locations; records of their runs end with this process.
    storage_options : mapping, optional
        Passed to the fsspec file system, e.g. ``{"endpoint_url": …}``. Secrets among them stay in this process.
    name : str, optional
        Default: derived from the URL.
    pickle : bool, default True
        Whether pickles are written and read. Without them, flows need ``source="module"`` or ``source="script"``. Who
        can write to the storage can still name scripts of their own, unless there is a signing key.
    signing_keys : str, bytes, path, callable, or a list of them, optional
        Keys of which the first signs all that is written, and without a signature by one of which nothing is used: the
        key itself, a `Path` or ``"file:PATH"``, ``"env:NAME"``, or a function or its ``"module:name"``. Default: what
        the variable ``HEADRACE_SIGNING_KEY`` holds, if it is set; an empty list: none. They never leave this process.
    deadline : float, default 15
        Seconds within which the store must answer; an object of many megabytes gets one more for each.

    Examples
    --------
    >>> storage = Storage("memory://example")
    >>> storage.flows
    {}
    """

    #: flows that are drawn themselves, and not as they were stored, by location
    _live: Mapping[str, FlowDefinition] = MappingProxyType({})

    def __getitem__(self, text: str) -> StoredFlow:
        """Return a flow to look at: ``storage["etl"]``, ``storage["etl@3"]``, ``storage["etl@prod"]``.

        Raises
        ------
        NoSuchFlow
            Also a ``KeyError``. Names the flows that there are.
        """
        return StoredFlow(self, self._find(text), self.get_runner)

    def get_runner(self, location: str) -> FlowRunner:
        """Return a way to run a flow in this process or on an executor.

        Parameters
        ----------
        location : str
            As ``add_flow`` returned it, or whatever else `resolve` takes: ``"etl"``, ``"etl@3"``, ``"etl@prod"``.

        Raises
        ------
        NotFound, EnvelopeError, MissingModule
            If it is not there, not intact, or its code is not here.
        """
        from headrace.execution.runner import FlowRunner  # only who runs flows waits for what that needs

        envelope = self._envelope(location)
        if envelope.where in self._staged:  # who runs what is staged may never build it
            self._preflight.stand_down()
        flow = self._live.get(location)
        if flow is None:
            flow = self._loaded(envelope)
        else:
            flow.bundle = self._bundle(envelope)
        return FlowRunner(
            flow,
            envelope.where,
            self._begin_run,
            drawn=_drawn(envelope.header),
            pickles=self.spec.pickle,
            signing=self.spec.seal.references,
            imports=envelope.header.get("imports"),
        )

    def with_live(self, flow: FlowDefinition, location: str) -> Storage:
        """Return this storage for one run that the flow object itself starts: that object is drawn, not its copy.

        So its hooks are those that its author holds, and what they refer to is not copied. Tasks are copied anyway.

        Parameters
        ----------
        flow : FlowDefinition
            Just captured.
        location : str
            Where.
        """
        storage = object.__new__(type(self))  # shares all that it holds, what is staged, too; pickling would not
        vars(storage).update(vars(self), _live={location: flow})
        return storage

    def _begin_run(self, facts: dict[str, Any]) -> RunRecord:
        run_id = facts.pop("run_id") or new_run_id()
        if not self.files.writable:  # the run is recorded, too, but nobody else sees it
            return RunRecord.create(Files("memory://run", filesystem=private_memory()), run_id, facts)
        costs = StoredCosts(self.hints, facts["flow"])  # read while the rest of the run begins
        return self.create_run(run_id, facts, costs)

    def get_env_runner(self, location: str) -> EnvRunner:
        """Return a way to run a flow where only environment variables get in.

        Parameters
        ----------
        location : str
            As ``add_flow`` returned it, or whatever else `resolve` takes: ``"etl"``, ``"etl@3"``, ``"etl@prod"``. What
            it means is decided now.

        Raises
        ------
        StorageError
            If other processes cannot reach the flow: this storage is in memory, or was not built.
        """
        location = self.resolve(location)
        if self.url.startswith("memory:"):
            raise StorageError(
                f"a flow in {self.url} cannot be run by another process, because memory is not shared; "
                "store it in a folder or a bucket"
            )
        if not self.files.writable:
            raise StorageError(
                f"a flow in {self.url} cannot be run by another process, because what became of it cannot be written "
                "there; run it here, get_runner(...), or copy it to a folder or a bucket"
            )
        if location in self._staged:
            raise StorageError(f"{location} is not uploaded to {self.url} yet; call storage.build() first")
        return EnvRunner(self, location)


def _drawn(manifest: Mapping[str, Any]) -> tuple[dict[str, Any], str] | None:
    """For which parameters the manifest's graph was drawn, and its digest."""
    digest = manifest.get("digest")
    return (dict(manifest["example"]), str(digest)) if digest is not None else None


def _inherited() -> dict[str, str]:
    """The variables of this process, but for where the run is executed that this process itself was started for."""
    return {name: value for name, value in os.environ.items() if name != ENVIRONMENT_VARIABLE}


def _json_form(value: object) -> dict[str, str]:
    if isinstance(value, Secret):
        return secret_json(value)
    raise TypeError(f"parameters must be JSON data or secrets to be put into a variable, got a {type(value).__name__}")


class EnvRunner:
    """Runs one stored flow in a fresh interpreter that knows environment variables only.

    Parameters
    ----------
    storage : Storage
        Where the flow lies.
    location : str
        Which flow.
    """

    def __init__(self, storage: Storage, location: str) -> None:
        self.storage = storage
        self.location = location

    def __repr__(self) -> str:
        return f"<EnvRunner {self.location}>"

    def variables(
        self,
        parameters: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> dict[str, str]:
        """Return the environment variables that say what to run; no secrets are among them.

        Parameters
        ----------
        parameters : mapping, optional
            Values by parameter name, as JSON data, and secrets.
        environment : mapping, optional
            As ``Environment.serialize()`` returns it. Default: the flow's own, else this process.
        run_id : str, optional
            Default: made by the process that runs.
        """
        found = {
            STORAGE_VARIABLE: json.dumps(self.storage.serialize()),
            FLOW_VARIABLE: self.location,
            PARAMETERS_VARIABLE: json.dumps(dict(parameters or {}), default=_json_form),
        }
        if environment is not None:
            found[ENVIRONMENT_VARIABLE] = json.dumps(dict(environment))
        if run_id is not None:
            found[RUN_ID_VARIABLE] = run_id
        return found

    def _shipped(self) -> dict[str, str]:
        """The credentials of the storage, if they may travel: a child's environment stays on this machine."""
        spec = self.storage.spec
        return {STORAGE_OPTIONS_VARIABLE: json.dumps(spec.plain_secrets())} if spec.ship_credentials else {}

    def start(
        self, parameters: Mapping[str, Any] | None, environment: Mapping[str, Any] | None, run_id: str
    ) -> dict[str, Any]:
        """Start to run the flow in a process that outlives this one, and return where that is, for a launch.

        Parameters
        ----------
        parameters, environment, run_id
            As for `variables`.

        Raises
        ------
        RunError
            If no process can be started.
        """
        said = self.variables(parameters, environment, run_id)
        return start_process({**_inherited(), **self._shipped(), **said}, run_id)

    def run(
        self,
        env: Mapping[str, str] | None = None,
        *,
        parameters: Mapping[str, Any] | None = None,
        environment: Mapping[str, Any] | None = None,
        timeout: float | None = None,
    ) -> RunRecord:
        """Run the flow in a fresh interpreter, and return when it is over.

        Parameters
        ----------
        env : mapping of str to str, optional
            Further environment variables, over those of this process: credentials, say, or
            ``HEADRACE_STORAGE_OPTIONS`` with storage options as JSON.
        parameters : mapping, optional
            Values by parameter name, as JSON data.
        environment : mapping, optional
            As ``Environment.serialize()`` returns it. Default: the flow's own, else the new process itself.
        timeout : float, optional
            Seconds after which the process is killed.

        Returns
        -------
        RunRecord
            What became of it, readable from any process.

        Raises
        ------
        RunError
            If the run could not begin; tells what the process said.
        """
        run_id = new_run_id()
        said = subprocess.run(
            [sys.executable, "-m", "headrace", "execute"],
            env={
                **_inherited(),
                **self._shipped(),
                **self.variables(parameters, environment, run_id),
                **dict(env or {}),
            },
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        record = RunRecord.find(self.storage.files, run_id)
        if record is None:
            raise RunError(
                f"the run of {self.location} in {self.storage.url} could not begin; its process ended with "
                f"code {said.returncode} and said: {said.stderr.strip() or said.stdout.strip() or 'nothing'}",
                returncode=said.returncode,
            )
        return record
