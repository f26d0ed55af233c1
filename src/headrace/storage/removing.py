"""Taking flows out of a storage, such that who reads meanwhile finds what was there, or nothing.

A version is gone in one moment, when it is marked as removed; a flow, when the record of its newest version is deleted.
What the records named is deleted after them.
"""

from __future__ import annotations

from collections.abc import Iterable

from headrace.errors import Conflict, EnvelopeError
from headrace.storage.capture import code_key, open_flow
from headrace.storage.files import Files
from headrace.storage.labels import Labels
from headrace.storage.listing import runs_of
from headrace.storage.runs import RunRecord
from headrace.storage.versions import Version, Versions

#: how many runs are looked at, from the newest, for one that is going on.
NEWEST_RUNS = 200


def check_unused(files: Files, name: str, removed: Iterable[Version], *, whole: bool) -> None:
    """Refuse to remove what labels point at, or what a run that has not ended began with.

    Parameters
    ----------
    files : Files
        Of the storage.
    name : str
        Of the flow.
    removed : iterable of Version
        Which versions shall go.
    whole : bool
        Whether that is the whole flow.

    Raises
    ------
    Conflict
        Names the labels, or the run.
    """
    removed = list(removed)
    numbers = {version.number for version in removed}
    what = f"flow {name!r}" if whole else f"version {removed[0].number} of flow {name!r}"
    begin = f"{what} in {files.url} is not removed"
    labels = sorted(label for label, change in Labels(files).current(name).items() if change.version in numbers)
    if labels:
        raise Conflict(
            f"{begin}, because {_told('label', labels)} at it; move or untag them, or force it "
            "(force=True; --force), which takes the labels away",
            labels=labels,
        )
    locations = {version.location for version in removed}
    newest = runs_of(files, limit=NEWEST_RUNS)
    going_on = [run for run in newest if _location(run) in locations and not _has_ended(run)]
    if going_on:
        raise Conflict(
            f"{begin}, because run {going_on[0].run_id} of it has not ended, or its driver died; wait for its end, or "
            "force it (force=True; --force)",
            run_id=going_on[0].run_id,
        )


def _location(run: RunRecord) -> str | None:
    try:
        return run.location
    except EnvelopeError:
        return None  # a damaged record tells of no flow, and holds none


def _has_ended(run: RunRecord) -> bool:
    try:
        return run.outcome is not None
    except EnvelopeError:
        return True  # how, nobody can read any more


def remove_versions(files: Files, name: str, removed: Iterable[Version]) -> None:
    """Remove versions of a flow that keeps others."""
    removed = list(removed)
    versions, labels = Versions(files), Labels(files)
    numbers = {version.number for version in removed}
    for label, change in labels.current(name).items():
        if change.version in numbers:
            labels.move(name, label, None, expect=change.version)
    versions.mark_removed(name, sorted(numbers))
    # Only what no version names any more, as it is now: one of the same content may have come back meanwhile.
    named = {version.location for version in versions.of(name)}
    files.delete_many(sorted({version.location for version in removed} - named))
    _remove_code(files, name, named)


def remove_flow(files: Files, name: str) -> None:
    """Remove a flow with all that lies below its name now; what others store meanwhile stays."""
    versions = Versions(files)
    keys = set(files.list(f"flows/{name}"))
    newest = versions.newest_key(name)
    records = {key for key in keys if key.startswith(f"flows/{name}/versions/")}
    marks = {key for key in records if key.endswith(".removed")}
    files.delete_many(sorted(records - marks - {newest}))
    if newest is not None:
        files.delete(newest)
    files.delete_many(sorted(marks))
    named = {version.location for version in versions.of(name)}
    code = {key for key in keys if key.startswith(f"flows/{name}/code/")}
    files.delete_many(sorted(keys - records - code - named))
    _remove_code(files, name, named)


def remove_runs(files: Files, name: str, locations: Iterable[str] | None) -> None:
    """Remove the runs of a flow, or only those of some of its versions; those that have not ended stay."""
    wanted = None if locations is None else set(locations)
    for run in runs_of(files, flow=name):
        location = _location(run) or ""
        is_meant = location.startswith(f"flows/{name}/") if wanted is None else location in wanted
        if is_meant and _has_ended(run):
            files.delete(RunRecord.launch_key_of(run.run_id))
            files.delete(RunRecord.key_of(run.run_id))  # without them, it is not listed any more
            files.delete_many(files.list(f"runs/{run.run_id}"))


def _remove_code(files: Files, name: str, named: Iterable[str]) -> None:
    """Remove the code bundles that none of the flows at these locations names."""
    bundles = {f"flows/{name}/code/{child}" for child in files.children(f"flows/{name}/code")}
    if not bundles:
        return
    headers = [open_flow(data, key, files.seal).header for key, data in files.read_many(named).items()]
    needed = {code_key(name, code["sha256"]) for header in headers if (code := header.get("code"))}
    files.delete_many(sorted(bundles - needed))


def _told(what: str, names: list[str]) -> str:
    quoted = ", ".join(map(repr, names))
    return f"{what} {quoted} points" if len(names) == 1 else f"{what}s {quoted} point"
