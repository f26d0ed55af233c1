"""What the commands do that look at a storage, and tidy it up, such as ``ls`` and ``tag``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer

from headrace import cli_support as support
from headrace.errors import EnvelopeError, HeadraceError, NoSuchFlow, NotFound

if TYPE_CHECKING:
    from headrace.loading import Target
    from headrace.storage.copying import Copied
    from headrace.storage.findings import Finding
    from headrace.store import Storage


def target_in(text: str) -> Target:
    """Take apart what names a flow in a storage; it is an error if it names code, or no flow."""
    from headrace.loading import parse_target

    found = parse_target(text)
    if found.is_code:
        raise typer.BadParameter(
            f"{text!r} names code, and a flow in a storage is wanted, such as s3://bucket/flows#etl"
        )
    if not found.flow:
        raise typer.BadParameter(f"{text!r} does not say which flow is meant; give {text}#FLOW")
    return found


# -- looking -----------------------------------------------------------------------------------------------------


def list_flows(store: Storage, url: str) -> None:
    """Print the flows of a storage, as they are now."""
    from headrace.report.stored import print_flows
    from headrace.storage.versions import all_at_once

    flows = store.newest()
    if not flows:
        support.remark(f"no flows in {store.url} yet; headrace add FILE.py:FLOW {support.quoted(url)} stores one")
        return

    def manifest(location: str) -> dict[str, Any] | HeadraceError:
        try:
            return store.manifest(location)
        except (EnvelopeError, NotFound) as error:  # one that is damaged, or was just removed, hides no others
            return error

    rows = []
    manifests = all_at_once(manifest, [version.location for version in flows.values()])
    for (name, version), told in zip(flows.items(), manifests, strict=True):
        if isinstance(told, HeadraceError):
            support.remark(f"flow {name!r} does not tell more: {told}")
        rows.append((name, version.number, version.labels, version.time, told if isinstance(told, dict) else None))
    print_flows(support.console(), rows)


def list_versions(store: Storage, text: str) -> None:
    """Print the versions of a flow, newest first."""
    from headrace.report.stored import print_versions

    versions = store[text].versions
    rows = [
        (version.number, version.labels, version.time, version.sha256[:8], version.origin)
        for version in reversed(versions)
    ]
    print_versions(support.console(), rows)


def list_runs(store: Storage, limit: int, flow: str | None = None) -> None:
    """Print the newest runs in a storage, or those of one flow."""
    from headrace.report.stored import parse_moment, print_runs

    records = store.runs(limit + 1, flow=flow)
    rows = []
    for record in records[:limit]:
        try:
            elapsed = (record.outcome or {}).get("elapsed")
            rows.append((record.run_id, record.flow or "?", record.state, parse_moment(record.start), elapsed))
        except (EnvelopeError, NotFound) as error:  # one that is damaged, or was just deleted, hides no others
            support.remark(f"left out run {record.run_id}: {error}")
    if rows:
        print_runs(support.console(), rows)
    elif not records:
        support.remark(f"no runs{f' of {flow!r}' if flow else ''} in {store.url} yet")
    if len(records) > limit:
        support.remark("… and older ones; --limit shows more")


def version_line(store: Storage, location: str) -> str:
    """Tell which versions lie at a location, with their labels."""
    from headrace.report.stored import age

    if not store.files.lists:
        return ""
    name = location.split("/")[1]
    versions = store.versions(name)
    here = [version for version in versions if version.location == location]
    told = []
    for version in here:
        labels = f" ({', '.join(version.labels)})" if version.labels else ""
        told.append(f"version {version.number}{labels}, {age(version.time)} old")
    if not here:
        return ""
    newest = "the newest" if versions[-1] in here else f"the newest is {versions[-1].number}"
    return f"{'; '.join(told)}; {newest}"


def print_findings(findings: Sequence[Finding], where: str) -> None:
    """Print what a check has found, the worst first.

    Parameters
    ----------
    findings : sequence of Finding
        What.
    where : str
        Where it looked.
    """
    from headrace.report.stored import print_findings as print_table

    if findings:
        print_table(support.console(), [(each.level, each.subject, each.message, each.remedy) for each in findings])
    support.remark(f"looked at {where}: " + (_numbers(findings) or "found nothing wrong"))


def _numbers(findings: Sequence[Finding]) -> str:
    counts = Counter(each.level for each in findings)
    return ", ".join(f"{number} {level}{'s' if number > 1 else ''}" for level, number in counts.items())


# -- changing ----------------------------------------------------------------------------------------------------


def tag(store: Storage, text: str, label: str, expect: str | None) -> None:
    """Let a label point at what a text names."""
    from headrace.storage.labels import ANYTHING

    name, mark, which = text.partition("@")
    if mark and not which:
        raise NoSuchFlow(f"{text!r} does not say which version is meant; give {name} for the newest, or {name}@3")
    before = store.labels(name).get(label)
    version = store.tag(name, label, which or None, expect=ANYTHING if expect is None else _expected(expect))
    was = f", before at version {before}" if before not in (None, version.number) else ""
    support.remark(f"{label} points at version {version.number} of {name} in {store.url}{was}")


def untag(store: Storage, name: str, label: str, expect: str | None) -> None:
    """Take a label away."""
    from headrace.storage.labels import ANYTHING

    store.untag(name, label, expect=ANYTHING if expect is None else _expected(expect))
    support.remark(f"{label} points at no version of {name} in {store.url} any more")


def _expected(text: str) -> int | str | None:
    if text == "none":
        return None
    return int(text) if text.isdecimal() else text


def remove(store: Storage, text: str, *, runs: bool, force: bool) -> None:
    """Remove a flow, or a version."""
    removed = store.remove(text, runs=runs, force=force)
    if removed:
        whose = f"of {removed[0].flow}" if "@" in text else f"and with them flow {removed[0].flow}"
        support.remark(f"removed {_versions([version.number for version in removed])} {whose} from {store.url}")
    else:
        support.remark(f"removed flow {text}, of which no version could be read, from {store.url}")


def copy(store: Storage, target: Storage, text: str | None, *, runs: bool) -> None:
    """Copy flows, and tell what was new there."""
    with support.err_console().status(f"copying to {target.url} …", spinner="dots"):
        copied = store.copy_to(target, text, runs=runs)
    for name, numbers in copied.versions.items():
        support.remark(f"{name}: {_versions(numbers)}")
    for name, labels in copied.labels_kept.items():
        support.remark(f"{name}: {', '.join(labels)} stay{'s' if len(labels) == 1 else ''} as in {target.url}")
    support.remark(_sum(copied, target.url))


def _sum(copied: Copied, url: str) -> str:
    parts = [f"{_count(copied.objects, 'object')} ({copied.size:,} bytes)"] if copied.objects else []
    if copied.runs:
        parts.append(_count(copied.runs, "run"))
    nothing = f"{url} had all of their content" if copied.versions else f"nothing is new for {url}"
    told = f"copied {' and '.join(parts)} to {url}" if parts else nothing
    left = f"; left out {_count(copied.runs_going_on, 'run')} without an end" if copied.runs_going_on else ""
    return told + left


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _versions(numbers: Sequence[int]) -> str:
    """``version 2``, or ``versions 1-3, 7``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    told = ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
    return f"version{'' if len(numbers) == 1 else 's'} {told}"
