"""What a storage keeps of a run: how it was launched, if it is detached, how it began, where it runs, how it ended.

Each is written once: the launch by who started the driver, the rest by the driver. Two drivers of one run cannot both
begin it. Of a driver that has ended without writing the end, who finds that out writes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Self

from headrace import pickling
from headrace.code.bundle import Bundle, open_bundle
from headrace.code.space import active
from headrace.core.state import State
from headrace.drivers import Driver, driver_of
from headrace.errors import (
    AlreadyExists,
    DamagedObject,
    DriverLost,
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
from headrace.storage.records import create_record, read_record
from headrace.storage.run_ids import checked_run_id

KIND = "outcome"
_KINDS = {"flow": str, "location": str, "start": str, "parameters": dict, "environment": dict, "versions": dict}
_STARTING = "Starting"
_RUNNING = State.RUNNING.label
_SUCCESS = State.SUCCESS.label
#: Seconds between two looks at a run that is waited for: the first ones, and at most.
FIRST_PAUSE, PAUSE = 0.1, 2.0
#: Seconds within which a driver ends that has not begun its run.
ENDS = 10.0
#: How many lines of a driver's log are told when it died.
LAST_LINES = 20


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
        self._launch: dict[str, Any] | None = None
        self._found: dict[str, Any] | None = None
        self._begun = True  # False: when it was last looked for, there was its launch only
        self._end: Envelope | None = None

    @staticmethod
    def key_of(run_id: str) -> str:
        """Return the key of the object that says how a run began."""
        return f"runs/{run_id}/run.json"

    @staticmethod
    def launch_key_of(run_id: str) -> str:
        """Return the key of the object that says how a detached run was launched."""
        return f"runs/{run_id}/launch.json"

    @classmethod
    def create(cls, files: Files, run_id: str, facts: Mapping[str, Any], costs: StoredCosts | None = None) -> RunRecord:
        """Write down that a run begins; see `StoredFlows.create_run`."""
        create_record(files, cls.key_of(run_id), _full(run_id, facts))
        return cls(files, run_id, costs)

    @classmethod
    def launched(cls, files: Files, run_id: str, facts: Mapping[str, Any]) -> RunRecord:
        """Write down that a run was launched; see `StoredFlows.launch_run`."""
        record = cls(files, run_id)
        record._begun, record._launch = False, _full(run_id, facts)
        create_record(files, cls.launch_key_of(run_id), record._launch)
        return record

    @classmethod
    def find(cls, files: Files, run_id: str) -> RunRecord | None:
        """Return a run; None if there is none of this id."""
        record = cls(files, run_id)
        if not files.exists(cls.key_of(run_id)):
            record._begun = False
            if not files.exists(cls.launch_key_of(run_id)):
                return None
        return record

    def __repr__(self) -> str:
        try:
            return f"<RunRecord {self.run_id} of {self.flow or '?'}: {self.state}>"
        except HeadraceError as error:  # a list that has it is shown all the same
            return f"<RunRecord {self.run_id}: {type(error).__name__}>"

    @property
    def facts(self) -> dict[str, Any]:
        """All that was written down when the run began; before, when it was launched."""
        if self._facts is None:
            try:
                self._facts = _checked(self._files, self.key_of(self.run_id))
            except NotFound:
                if self._begun:
                    raise
                return self.launch  # not kept as the facts: the beginning will tell more
        return self._facts

    @property
    def launch(self) -> dict[str, Any]:
        """All that was written down when a detached run was launched.

        Raises
        ------
        NotFound
            If it was not launched, but driven by who started it.
        """
        if self._launch is None:
            self._launch = _checked(self._files, self.launch_key_of(self.run_id))
        return self._launch

    @property
    def url(self) -> str:
        """Where it lies."""
        return f"{self._files.url}/runs/{self.run_id}"

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
        """The environment as data; of one that came up when the run had begun, as it was then."""
        if self._found is None:
            with suppress(NotFound):
                self._found = _checked(self._files, self._found_key)
        return (self._found or self.facts).get("environment")

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

    @property
    def _found_key(self) -> str:
        return f"runs/{self.run_id}/environment.json"

    def found(self, environment: Mapping[str, Any]) -> None:
        """Write down what was not known of the environment when the run began; at most once.

        Parameters
        ----------
        environment : mapping
            JSON data, instead of that with which the run began.
        """
        create_record(self._files, self._found_key, {"environment": dict(environment)})

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
            told = end.header.get("outcome")
            if not isinstance(told, dict) or "has_result" not in end.header:
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
        """The outcome's state; before, ``"Running"``, or ``"Starting"``, if it was launched and has not begun."""
        outcome = self.outcome
        if outcome is not None:
            return str(outcome.get("state"))
        return _RUNNING if self._has_begun() else _STARTING

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._ended() is not None

    def _has_begun(self) -> bool:
        self._begun = self._begun or self._files.exists(self.key_of(self.run_id))
        return self._begun

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
            raise RunError(
                f"run {self.run_id} has not ended yet, so it has no result; ask again when it has, record.wait() waits"
            )
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
        if first.get("node") is None:  # what kept it from an end of its own
            lost = first.get("type") == DriverLost.__name__
            told = first.get("message", "") if lost else f"{first.get('type')}: {first.get('message', '')}"
            return (DriverLost if lost else RunError)(f"{begin}: {told}", run_id=self.run_id)
        more = f" (and {len(errors) - 1} more: record.outcome['errors'])" if len(errors) > 1 else ""
        told = f"{first.get('type', 'error')}: {first.get('message', '')}".rstrip(": ")
        text = f"{begin}: task {first.get('node')!r} failed with {told}{more}"
        if first.get("traceback"):
            text += f"\n\n{first['traceback']}"
        return TaskFailed(text, run_id=self.run_id, node=first.get("node"))

    # -- detached --------------------------------------------------------------------------------------------

    def wait(self, timeout: float | None = None) -> Self:
        """Wait until it has ended. Ctrl-C ends the waiting, not the run.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which to return in any case; then ``done`` tells.

        Raises
        ------
        DriverLost
            If what drives it has died, or cannot start. If that is certain, the run has ended as Crashed.
        RunError
            If something else kept it from an end of its own: a cluster that did not come up, say.
        """
        driver = None if self.done else self._driver()
        for pause in _pauses(timeout):
            if self.done:
                break
            if driver is None:
                time.sleep(pause)
                continue
            seen = driver.look()
            # It may have written the end, and ended, since that was looked for.
            if seen.standing in ("gone", "lost") and not self.done:
                raise self._lost(seen.told, for_good=seen.standing == "gone")
            driver.wait(pause)
        outcome = self.outcome or {}
        errors = outcome.get("errors")
        if outcome.get("state") == State.CRASHED.label and errors and errors[0].get("node") is None:
            raise self._failure(outcome)
        return self

    def cancel(self) -> None:
        """Have a detached run end: it is cancelled, and what it has set up is cleaned up; ``wait`` waits for that.

        Raises
        ------
        RunError
            If it was not detached, or cannot be cancelled from here; says what to do.
        """
        if self.done:
            return
        driver = self._needed_driver("cannot be cancelled from here; whoever started it can, with Ctrl-C for instance")
        seen = driver.look()
        if seen.standing == "gone":
            if not self.done:
                self._lost(seen.told, for_good=True)
            return
        driver.end()
        for pause in _pauses(ENDS):
            if self.done or self._has_begun():
                return
            # One that has not begun may end without a word; then nobody else would tell how.
            if driver.look().standing == "gone" and not self.done:
                self._write_end(State.CANCELLED, "RunCancelled", "it was cancelled before it began")
            driver.wait(pause)

    def logs(self, lines: int | None = None) -> str:
        """Return what the driver of a detached run has said: progress, remarks, errors, what tasks of its own print.

        Parameters
        ----------
        lines : int, optional
            Only so many, the last ones.

        Raises
        ------
        RunError
            If it was not detached, or its log cannot be read from here; says where it can.
        """
        return self._needed_driver("has no log; whoever started it was told how it went").log(lines)

    def stop_before_begin(self, state: State, kind: str, message: str, traceback: str = "") -> None:
        """Write down, as the driver, what keeps a launched run from beginning; nothing, if it has begun."""
        if not self._has_begun():
            self._write_end(state, kind, message, traceback)

    def _driver(self) -> Driver | None:
        """Who drives it; None if that is the process which started it."""
        try:
            return driver_of(self.launch["driver"], self.run_id)
        except NotFound:
            return None

    def _needed_driver(self, what: str) -> Driver:
        driver = self._driver()
        if driver is None:
            raise RunError(f"run {self.run_id} was not started with detach=True, so it {what}")
        return driver

    def _lost(self, told: str, *, for_good: bool) -> RunError:
        """What to raise of a driver that does not go on; if that is for good, the run has ended."""
        try:
            said = self.logs(LAST_LINES).rstrip()
        except HeadraceError:
            said = ""
        told = f"{told}; it said last:\n{said}" if said else f"{told}; it left no log"
        if not for_good:
            return DriverLost(f"run {self.run_id} does not go on: {told}", run_id=self.run_id)
        self._write_end(State.CRASHED, DriverLost.__name__, told)
        return self._failure(self.outcome or {})

    def _write_end(self, state: State, kind: str, message: str, traceback: str = "") -> None:
        elapsed = datetime.now(UTC) - datetime.fromisoformat(self.start)
        error = {"node": None, "type": kind, "message": message, "traceback": traceback}
        outcome = {"state": state.label, "elapsed": elapsed.total_seconds(), "nodes": [], "errors": [error]}
        with suppress(AlreadyExists):  # then somebody else has found it out
            self.finish({**outcome, "n_errors": 1})


def _pauses(timeout: float | None) -> Iterator[float]:
    """Yield seconds to wait, longer and longer, until the time is over."""
    end = float("inf") if timeout is None else time.monotonic() + timeout
    pause = FIRST_PAUSE
    while (left := end - time.monotonic()) > 0:
        yield min(pause, left)
        pause = min(1.5 * pause, PAUSE)


def _full(run_id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    start = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"run_id": checked_run_id(run_id), "start": start, "versions": versions(), **facts}


def _checked(files: Files, key: str) -> dict[str, Any]:
    facts = read_record(files, key)
    if wrong := wrong_facts(facts):
        raise DamagedObject(f"{key} tells no {', '.join(wrong)} as headrace does; restore it, or delete the run")
    return facts


def wrong_facts(facts: Mapping[str, Any]) -> list[str]:
    """Return the names of facts that are not of the kind that headrace writes.

    Parameters
    ----------
    facts : mapping
        Of a beginning, or of a launch.
    """
    return [name for name, kind in _KINDS.items() if not isinstance(facts.get(name), (kind, type(None)))]
