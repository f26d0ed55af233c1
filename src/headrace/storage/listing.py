"""The runs of a storage, newest first. A folder alone is none: who created it was interrupted before it began."""

from __future__ import annotations

from headrace.errors import EnvelopeError
from headrace.storage.files import Files
from headrace.storage.records import read_records
from headrace.storage.runs import RunRecord, wrong_facts

#: how many runs are read at the same time to find those of a flow.
_WINDOW = 100


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
        return [record for run_id in run_ids if (record := _listed(files, run_id, keys)) is not None]
    found: list[RunRecord] = []
    run_ids = sorted(files.children("runs"), reverse=True)
    size = min(limit or _WINDOW, _WINDOW)
    while run_ids and (limit is None or len(found) < limit):
        window, run_ids = run_ids[:size], run_ids[size:]
        facts = read_records(files, map(RunRecord.key_of, window))
        not_begun = [run_id for run_id in window if RunRecord.key_of(run_id) not in facts]
        launches = read_records(files, map(RunRecord.launch_key_of, not_begun)) if not_begun else {}
        for run_id in window:
            told = facts.get(RunRecord.key_of(run_id), launches.get(RunRecord.launch_key_of(run_id)))
            if told is None or (flow is not None and not isinstance(told, EnvelopeError) and told.get("flow") != flow):
                continue
            record = RunRecord(files, run_id)
            record._begun = RunRecord.key_of(run_id) in facts
            if not isinstance(told, EnvelopeError) and not wrong_facts(told):
                record._facts, record._launch = (told, None) if record._begun else (None, told)
            found.append(record)
        size = _WINDOW
    return found[:limit]


def _listed(files: Files, run_id: str, keys: set[str]) -> RunRecord | None:
    """The run, if it is among all keys in the storage."""
    record = RunRecord(files, run_id)
    record._begun = RunRecord.key_of(run_id) in keys
    return record if record._begun or RunRecord.launch_key_of(run_id) in keys else None
