"""What a storage keeps of a run: how it began, and how it ended. Both are written once."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from headrace import pickling
from headrace.code.bundle import Bundle, open_bundle
from headrace.code.space import active
from headrace.errors import (
    AlreadyExists,
    DamagedObject,
    EnvelopeError,
    HeadraceError,
    NotFound,
    RunError,
    TaskFailed,
    ValueReleased,
)
from headrace.storage.capture import code_key
from headrace.storage.costs import INSTANT, StoredCosts
from headrace.storage.envelope import Envelope, open_envelope, pack, versions
from headrace.storage.files import Files
from headrace.storage.plain import plain_bytes, refusal
from headrace.storage.records import create_record, read_record, read_records

KIND = "outcome"
#: how many runs are read at the same time to find those of a flow.
_WINDOW = 100
_KINDS = {"flow": str, "location": str, "start": str, "parameters": dict, "environment": dict, "versions": dict}
_RUNNING = "Running"
_SUCCESS = "Success"


def new_run_id() -> str:
    """Return an id for a run: begins with the time (UTC), to the microsecond, so that ids sort by age."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}"


class RunRecord:
    """A run as its storage knows it, readable from any process. Nothing is read before it is asked for.

    Parameters
    ----------
    files : Files
        Of the storage.
    run_id : str
        Its id.
    costs : StoredCosts, optional
        Those of the flow's tasks, for who drives the run.
    """

    def __init__(self, files: Files, run_id: str, costs: StoredCosts | None = None) -> None:
        self._files = files
        self.run_id = run_id
        self._costs = costs
        self._facts: dict[str, Any] | None = None
        self._end: Envelope | None = None

    @staticmethod
    def key_of(run_id: str) -> str:
        """Return the key of the object that says how a run began."""
        return f"runs/{run_id}/run.json"

    @classmethod
    def create(cls, files: Files, run_id: str, facts: Mapping[str, Any], costs: StoredCosts | None = None) -> RunRecord:
        """Write down that a run begins; see `StoredFlows.create_run`."""
        start = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        full = {"run_id": run_id, "start": start, "versions": versions(), **facts}
        create_record(files, cls.key_of(run_id), full)
        return cls(files, run_id, costs)

    def __repr__(self) -> str:
        try:
            return f"<RunRecord {self.run_id} of {self.flow or '?'}: {self.state}>"
        except HeadraceError as error:  # a list that has it is shown all the same
            return f"<RunRecord {self.run_id}: {type(error).__name__}>"

    @property
    def facts(self) -> dict[str, Any]:
        """All that was written down when the run began."""
        if self._facts is None:
            self._facts = self._read_facts()
        return self._facts

    def _read_facts(self) -> dict[str, Any]:
        key = self.key_of(self.run_id)
        facts = read_record(self._files, key)
        if wrong := _wrong(facts):
            raise DamagedObject(f"{key} tells no {', '.join(wrong)} as headrace does; restore it, or delete the run")
        return facts

    @property
    def flow(self) -> str | None:
        """The flow's name."""
        return self.facts.get("flow")

    @property
    def location(self) -> str | None:
        """Where the flow lies in the storage."""
        return self.facts.get("location")

    @property
    def parameters(self) -> dict[str, Any]:
        """The parameter values, as JSON data."""
        return dict(self.facts.get("parameters") or {})

    @property
    def environment(self) -> dict[str, Any] | None:
        """The serialized environment."""
        return self.facts.get("environment")

    @property
    def versions(self) -> dict[str, str]:
        """Versions of Python, headrace, dask and cloudpickle that drove the run."""
        return dict(self.facts.get("versions") or {})

    @property
    def start(self) -> str:
        """When it began: ISO, UTC."""
        return str(self.facts.get("start"))

    def earlier_costs(self) -> dict[str, float]:
        """Return seconds per task run in earlier runs of the flow, by task; a hint, at once or not at all."""
        return {} if self._costs is None else self._costs.means()

    # -- the end ---------------------------------------------------------------------------------------------

    @property
    def _outcome_key(self) -> str:
        return f"runs/{self.run_id}/outcome"

    def _ended(self) -> Envelope | None:
        if self._end is None:
            try:
                data = self._files.read(self._outcome_key)
            except NotFound:
                return None
            end = open_envelope(data, self._outcome_key, KIND, self._files.seal)
            if not isinstance(end.header.get("outcome"), dict) or "has_result" not in end.header:
                raise DamagedObject(f"{self._outcome_key} does not tell how the run ended; restore it from a copy")
            self._end = end
        return self._end

    @property
    def outcome(self) -> dict[str, Any] | None:
        """How the run ended; None as long as it has not."""
        end = self._ended()
        return None if end is None else dict(end.header["outcome"])

    @property
    def state(self) -> str:
        """``"Running"`` as long as there is no outcome, else the outcome's state."""
        outcome = self.outcome
        return _RUNNING if outcome is None else str(outcome.get("state"))

    @property
    def _format(self) -> str:
        return "pickle" if self._files.pickles else "json"

    def pack(self, result: Any) -> bytes:
        """Return a result as the storage keeps it: pickled, or as JSON where it holds no pickles.

        Raises
        ------
        NotPicklable, TypeError, ValueError
            If it cannot be kept.
        """
        return pickling.dumps(result, "the result") if self._files.pickles else plain_bytes(result)

    def finish(
        self, outcome: Mapping[str, Any], result: bytes | None = None, costs: Mapping[str, float] | None = None
    ) -> None:
        """Write down how the run ended.

        Parameters
        ----------
        outcome : mapping
            JSON data, with ``state``; for a run that failed, ``errors``: a list of dicts with ``node``,
            ``type``, ``message`` and ``traceback``.
        result : bytes, optional
            The result of the flow, as `pack` gave it, if it shall be kept.
        costs : mapping of str to float, optional
            Seconds per task run, by task, for the flow's next run: a hint, which is written at the same time or
            not at all.

        Raises
        ------
        AlreadyExists
            If the run has an outcome already.
        """
        header = {"outcome": dict(outcome), "has_result": result is not None, "result_format": self._format}
        kept = self._costs.keep(costs) if self._costs is not None and costs else None
        try:
            data = pack(KIND, header, result or b"", seal=self._files.seal, where=self._outcome_key)
            self._files.create(self._outcome_key, data)
        except AlreadyExists:
            raise AlreadyExists(
                f"run {self.run_id} has an outcome already: somebody else finished it; the first one stays"
            ) from None
        if kept is not None:
            kept.wait(INSTANT)

    def result(self) -> Any:
        """Return the result of the flow.

        Raises
        ------
        RunError, TaskFailed
            If the run has not ended yet, or did not succeed.
        ValueReleased
            If the result was not kept.
        """
        end = self._ended()
        if end is None:
            raise RunError(f"run {self.run_id} has not ended yet, so it has no result; ask again when it has")
        outcome = end.header["outcome"]
        if outcome.get("state") != _SUCCESS:
            raise self._failure(outcome)
        is_json = end.header.get("result_format") == "json"
        if not end.header["has_result"]:
            cannot = "has no JSON form, and the storage holds no pickles" if is_json else "cannot be pickled"
            raise ValueReleased(
                f"the result of run {self.run_id} was not kept in {self._files.url}, because it was too "
                f"large or {cannot}; let the last task write it to a file and return its address"
            )
        if is_json:
            return json.loads(bytes(end.payload))
        if not self._files.pickles:
            raise refusal(f"the result of run {self.run_id} is", "open it without that, if you trust it")
        with active(self._bundle()):
            return end.unpickle()

    def _bundle(self) -> Bundle | None:
        """The first-party code that the result may be of; None if the storage has it no more, or never had it."""
        code = self.facts.get("code")
        key = code_key(str(self.flow), code["sha256"]) if code else ""
        try:
            return open_bundle(self._files.read(key), code["sha256"], code["modules"], key) if code else None
        except NotFound:
            return None

    def _failure(self, outcome: Mapping[str, Any]) -> RunError:
        errors = outcome.get("errors") or []
        begin = f"run {self.run_id} ended as {outcome.get('state')}"
        if not errors:
            return RunError(f"{begin}, so it has no result; record.outcome says more")
        first = errors[0]
        more = f" (and {len(errors) - 1} more: record.outcome['errors'])" if len(errors) > 1 else ""
        told = f"{first.get('type', 'error')}: {first.get('message', '')}".rstrip(": ")
        text = f"{begin}: task {first.get('node')!r} failed with {told}{more}"
        if first.get("traceback"):
            text += f"\n\n{first['traceback']}"
        return TaskFailed(text, run_id=self.run_id, node=first.get("node"))


def runs_of(files: Files, limit: int | None = None, flow: str | None = None) -> list[RunRecord]:
    """Return runs, newest first.

    A folder alone is no run: who created it was interrupted before the run's first object was there. All runs are read
    off one listing; of some, only those are looked at that may be wanted.

    Parameters
    ----------
    files : Files
        Of the storage.
    limit : int, optional
        Return so many at most.
    flow : str, optional
        Only those of the flow with this name. A run whose first object is damaged may be of any flow, so it is
        returned, and says so when it is asked for something.
    """
    if limit is None and flow is None:
        keys = set(files.list("runs"))
        run_ids = sorted({key.split("/")[1] for key in keys}, reverse=True)
        return [RunRecord(files, run_id) for run_id in run_ids if RunRecord.key_of(run_id) in keys]
    found: list[RunRecord] = []
    run_ids = sorted(files.children("runs"), reverse=True)
    size = min(limit or _WINDOW, _WINDOW)
    while run_ids and (limit is None or len(found) < limit):
        window, run_ids = run_ids[:size], run_ids[size:]
        facts = read_records(files, map(RunRecord.key_of, window))
        for run_id in window:
            told = facts.get(RunRecord.key_of(run_id))
            if told is None or (flow is not None and not isinstance(told, EnvelopeError) and told.get("flow") != flow):
                continue
            record = RunRecord(files, run_id)
            record._facts = None if isinstance(told, EnvelopeError) or _wrong(told) else told
            found.append(record)
        size = _WINDOW
    return found[:limit]


def _wrong(facts: Mapping[str, Any]) -> list[str]:
    """The names of facts that are not of the kind that headrace writes."""
    return [name for name, kind in _KINDS.items() if not isinstance(facts.get(name), (kind, type(None)))]
