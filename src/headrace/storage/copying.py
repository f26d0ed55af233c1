"""Flows, their versions, labels and runs, from one storage to another.

What was copied already is not read again, so that a copy that was interrupted goes on where it stood, and a repeated
one adds what came since. Each object is checked against its digest before it is written. Of a version, the record comes
last: who reads the other storage meanwhile finds whole versions only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice

from headrace.errors import Conflict, DamagedObject, NotFound
from headrace.storage.capture import code_key, open_flow
from headrace.storage.envelope import open_envelope, signed
from headrace.storage.files import Files
from headrace.storage.labels import Labels
from headrace.storage.listing import runs_of
from headrace.storage.origins import PICKLE
from headrace.storage.plain import refusal
from headrace.storage.resigning import opened
from headrace.storage.runs import KIND as OUTCOME
from headrace.storage.runs import RunRecord
from headrace.storage.sources import kind_of
from headrace.storage.versions import Version, Versions

#: how many objects are held in memory at the same time.
_AT_ONCE = 32


@dataclass
class Copied:
    """What a copy did.

    Attributes
    ----------
    versions : dict of str to list of int
        Numbers of the versions that were new in the other storage, by flow.
    objects, size : int
        How many objects were written for them, and how many bytes.
    runs : int
        How many runs were new there.
    labels_kept : dict of str to list of str
        Labels, by flow, that were moved in the other storage, too, so that they stay as they are there.
    runs_going_on : int
        How many runs were left out because they have not ended.
    """

    versions: dict[str, list[int]] = field(default_factory=dict)
    objects: int = 0
    size: int = 0
    runs: int = 0
    labels_kept: dict[str, list[str]] = field(default_factory=dict)
    runs_going_on: int = 0


def copy_flow(source: Files, target: Files, name: str, copied: Copied) -> None:
    """Copy all versions of a flow, with their numbers, and its labels.

    Parameters
    ----------
    source, target : Files
        Of the two storages.
    name : str
        Of the flow.
    copied : Copied
        What was done is added to it.

    Raises
    ------
    Conflict
        If the other storage has another history of that flow. Nothing of it is copied then.
    """
    there = Versions(target)
    ours, theirs = Versions(source).of(name), {version.number: version for version in there.of(name)}
    for version in ours:
        other = theirs.get(version.number)
        if other is not None and other.sha256 != version.sha256:
            raise _another_history(name, source, target, version, other)
    known = {*theirs, *there.removed(name)}  # what was removed there does not come back
    missing = [version for version in ours if version.number not in known]
    _copy_objects(source, target, name, missing, copied)
    added = there.take_over(name, missing)
    if added:
        copied.versions[name] = added
    kept = Labels(target).copy(name, Labels(source))
    if kept:
        copied.labels_kept[name] = kept


def copy_location(source: Files, target: Files, name: str, location: str, copied: Copied) -> None:
    """Copy a flow of which only its location is known, because its storage has no listings."""
    header = open_flow(source.read(location), location, source.seal).header
    # Its number, time and labels are not known; the other storage gives it a number and a time of its own.
    version = Version(0, location, datetime.now(UTC), str(header.get("origin")))
    copy_version(source, target, name, version, copied)


def copy_version(source: Files, target: Files, name: str, version: Version, copied: Copied) -> None:
    """Copy one version, which becomes the newest in the other storage, as if it were built there."""
    seen = Versions(target).see(name)
    if seen.newest is not None and seen.newest.sha256 == version.sha256:
        return
    _copy_objects(source, target, name, [version], copied)
    added = Versions(target).add(name, version.sha256, version.origin, seen)
    copied.versions.setdefault(name, []).append(added.number)


def copy_runs(source: Files, target: Files, name: str, copied: Copied) -> None:
    """Copy the runs of a flow that have ended."""
    there = set(target.children("runs"))
    for run in runs_of(source, flow=name):
        named_by = (RunRecord.launch_key_of(run.run_id), RunRecord.key_of(run.run_id))
        if run.run_id in there and target.exists_many(named_by):
            continue
        if run.outcome is None:
            copied.runs_going_on += 1
            continue
        # These objects last: without them, the run is not listed.
        parts = source.list(f"runs/{run.run_id}")
        for keys in [*_batches(key for key in parts if key not in named_by), [key for key in parts if key in named_by]]:
            objects = {key: _run_object(source, target, key, data) for key, data in _in_order(source, keys)}
            target.create_many(objects)
        copied.runs += 1


def _copy_objects(source: Files, target: Files, name: str, versions: Iterable[Version], copied: Copied) -> None:
    locations = sorted({version.location for version in versions})
    there = target.exists_many(locations)
    for keys in _batches([location for location in locations if location not in there]):
        flows = dict(_in_order(source, keys))
        code: set[str] = set()
        for location, data in flows.items():
            header = open_flow(data, location, source.seal).header
            if kind_of(header) == PICKLE and not target.pickles:
                raise refusal(f"flow {name!r} at {location} is", "store it with source='module' or source='script'")
            if header.get("code"):
                code.add(code_key(name, header["code"]["sha256"]))
        _copy_code(source, target, code, copied)  # before the flows that name it
        _write(target, {location: signed(data, location, target.seal) for location, data in flows.items()}, copied)


def _copy_code(source: Files, target: Files, keys: set[str], copied: Copied) -> None:
    bundles = dict(_in_order(source, sorted(keys - target.exists_many(keys))))
    for key, data in bundles.items():
        if hashlib.sha256(data).hexdigest() not in key:
            raise DamagedObject(f"{key} in {source.url} is not what its name says; restore it, or store the flow again")
    _write(target, bundles, copied)


def _write(target: Files, objects: dict[str, bytes], copied: Copied) -> None:
    taken = target.create_many(objects)
    copied.objects += len(objects) - len(taken)
    copied.size += sum(len(data) for key, data in objects.items() if key not in taken)


def _run_object(source: Files, target: Files, key: str, data: bytes) -> bytes:
    """An object of a run, intact, and signed as the other storage wants it."""
    data = opened(key, data, source.seal, target.seal)
    if key.endswith("/outcome") and not target.pickles:
        header = open_envelope(data, key, OUTCOME).header
        if header["has_result"] and header.get("result_format") != "json":
            raise refusal(f"the result at {key} is", "copy without runs")
    return data


def _in_order(source: Files, keys: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    found = source.read_many(keys)
    for key in keys:
        if key not in found:
            raise NotFound(f"{key} was removed from {source.url} while it was copied; copy again")
        yield key, found[key]


def _batches(keys: Iterable[str]) -> Iterator[list[str]]:
    rest = iter(keys)
    while batch := list(islice(rest, _AT_ONCE)):
        yield batch


def _another_history(name: str, source: Files, target: Files, ours: Version, theirs: Version) -> Conflict:
    return Conflict(
        f"flow {name!r} of {source.url} has another history in {target.url}: version {ours.number} is "
        f"{ours.sha256[:8]} here and {theirs.sha256[:8]} there; copy a single version, e.g. {name}@{ours.number}, "
        "which becomes the newest there, or remove the flow there first"
    )
