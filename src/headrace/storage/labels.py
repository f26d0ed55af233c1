"""Labels: names such as ``prod`` that point at one version of a flow, and can be moved to another one.

Each move is a record ``flows/<name>/labels/<label>/<n>``, created exclusively and never changed; the highest ``n``
holds. Of two writers that saw the same ``n``, one creates the next and the other is told. So a label changes as by
compare-and-swap on every medium that creates exclusively, and its history stays readable.
"""

from __future__ import annotations

import difflib
import getpass
import re
import socket
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from headrace.errors import AlreadyExists, Conflict, EnvelopeError, FlowError, LeftOut, NoSuchFlow
from headrace.storage.capture import location_of
from headrace.storage.envelope import versions as software
from headrace.storage.files import Files
from headrace.storage.records import create_record, read_records
from headrace.storage.versions import Version, all_at_once, now_after

#: would be read as the newest version, which the name of the flow alone means.
_NEWEST = ("newest", "latest")

_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9_.\-]{0,63}")
_LIKE_SHA256 = re.compile(r"[0-9a-fA-F]{6,64}")
_KEY = re.compile(r"flows/[^/]+/labels/([^/]+)/(\d{8,})")
_MOVE = re.compile(r"\d{8,}")


class Anything:
    """The default of ``expect``: whatever the label points at."""

    def __repr__(self) -> str:
        return "anything"


ANYTHING: Final = Anything()


@dataclass(frozen=True, slots=True)
class LabelChange:
    """One move of a label.

    Attributes
    ----------
    label : str
        Which.
    version : int or None
        Number of the version that it points at since; None if it was taken away.
    location : str or None
        Where that version lies.
    time : datetime
        When, with its zone (UTC).
    by : str
        Who: ``user@host``, as the process that did it says.
    """

    label: str
    version: int | None
    location: str | None
    time: datetime
    by: str


class Labels:
    """The labels of all flows below one URL.

    Parameters
    ----------
    files : Files
        Of the storage.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def current(self, name: str) -> dict[str, LabelChange]:
        """Return where each label of a flow points now, by label."""
        return self.of_all([name])[name]

    def of_all(self, names: Sequence[str]) -> dict[str, dict[str, LabelChange]]:
        """Return where each label of some flows points now, by flow and label: one listing for each, many at once.

        A label whose last record is not good is left out with a warning: it must not hide the others.
        """
        newest: dict[tuple[str, str], str] = {}
        for name, listed in zip(names, all_at_once(self._listed, names), strict=True):
            newest.update(((name, label), key) for label, _, key in listed)  # in order, so the last one stays
        facts = read_records(self._files, newest.values())
        found: dict[str, dict[str, LabelChange]] = {name: {} for name in names}
        for (name, label), key in newest.items():
            if key in facts:  # else the flow was removed meanwhile
                try:
                    change = _change(name, label, key, facts[key])
                except EnvelopeError as error:
                    warnings.warn(f"a label is left out: {error}", LeftOut, stacklevel=4)
                    continue
                if change.version is not None:
                    found[name][label] = change
        return found

    def history(self, name: str, label: str | None = None) -> list[LabelChange]:
        """Return all changes of a flow's labels, or of one of them, oldest first."""
        changes = self._read([key for each, _, key in self._listed(name) if label in (None, each)])
        return sorted(changes, key=lambda change: change.time)

    def get(self, name: str, label: str) -> LabelChange:
        """Return where a label points now.

        Raises
        ------
        NoSuchFlow
            If there is none; names those that there are.
        """
        change = self._last(name, label)[1] if _LABEL.fullmatch(label) else None
        if change is not None and change.version is not None:
            return change
        known = sorted(self.current(name))
        close = difflib.get_close_matches(label, known, n=1)
        raise NoSuchFlow(
            f"flow {name!r} in {self._files.url} has no label {label!r}"
            f"{f' (did you mean {close[0]!r}?)' if close else ''}; its labels are "
            f"{', '.join(map(repr, known)) or 'none yet'}"
        )

    def move(
        self, name: str, label: str, version: Version | None, expect: int | Anything | None = ANYTHING
    ) -> LabelChange:
        """Let a label point at a version.

        Parameters
        ----------
        name : str
            Of the flow.
        label : str
            Which.
        version : Version or None
            At which; None takes the label away.
        expect : int or None, optional
            Number of the version that it must point at until now; None: at none. Without it, the last of several
            writers wins.

        Raises
        ------
        Conflict
            If it points elsewhere, or somebody else moves it at the same time; says who.
        """
        check_label(label)
        while True:
            number, last = self._last(name, label)
            now = last.version if last is not None else None
            if not isinstance(expect, Anything) and now != expect:
                raise self._conflict(name, label, expect, last)
            if last is not None and now == (version and version.number):
                return last
            time = now_after(None if last is None else last.time)
            facts = {
                "version": version.number if version else None,
                "sha256": version.sha256 if version else None,
                "time": time.isoformat(timespec="microseconds"),
                "by": _who(),
                "headrace": software()["headrace"],
            }
            key = f"flows/{name}/labels/{label}/{number + 1:08d}"
            try:
                create_record(self._files, key, facts)
            except AlreadyExists:
                continue  # somebody was faster: look where it points now
            return _change(name, label, key, facts)

    def copy(self, name: str, source: Labels) -> list[str]:
        """Take over a flow's labels from another storage, with their history; return those that go their own way here.

        Parameters
        ----------
        name : str
            Of the flow.
        source : Labels
            Of the other storage. What its labels did since the last time is added; a label that was moved here, too,
            stays as it is.
        """
        ours = {(label, number): key for label, number, key in self._listed(name)}
        theirs = {(label, number): key for label, number, key in source._listed(name)}
        read = read_records(self._files, ours.values())
        facts = read_records(source._files, theirs.values())
        own = {
            label
            for (label, number), key in ours.items()
            if (label, number) not in theirs or read.get(key) != facts.get(theirs[label, number])
        }
        for (label, number), key in sorted(theirs.items()):
            if label in own or (label, number) in ours or key not in facts:
                continue
            _change(name, label, key, facts[key])  # raises if it is not good
            try:
                create_record(self._files, key, facts[key])  # type: ignore[arg-type]
            except AlreadyExists:
                own.add(label)  # somebody moves it here at this moment
        return sorted(own)

    def _listed(self, name: str) -> list[tuple[str, int, str]]:
        """(label, number, key) of all records, in order."""
        matches = map(_KEY.fullmatch, self._files.list(f"flows/{name}/labels"))
        return sorted((match[1], int(match[2]), match[0]) for match in matches if match)

    def _last(self, name: str, label: str) -> tuple[int, LabelChange | None]:
        folder = f"flows/{name}/labels/{label}"
        numbers = [int(child) for child in self._files.children(folder) if _MOVE.fullmatch(child)]
        if not numbers:
            return 0, None
        return max(numbers), next(iter(self._read([f"{folder}/{max(numbers):08d}"])), None)

    def _read(self, keys: Sequence[str]) -> list[LabelChange]:
        facts = read_records(self._files, keys)
        changes = []
        for key in keys:
            if key in facts:
                _, name, _, label, _ = key.split("/")
                changes.append(_change(name, label, key, facts[key]))
        return changes

    def _conflict(self, name: str, label: str, expect: int | None, last: LabelChange | None) -> Conflict:
        points = "it points at none" if last is None or last.version is None else f"it points at version {last.version}"
        who = "" if last is None else f" since {last.by} changed it at {last.time:%Y-%m-%d %H:%M:%S} UTC"
        expected = "no version" if expect is None else f"version {expect}"
        return Conflict(
            f"label {label!r} of flow {name!r} in {self._files.url} was expected to point at {expected}, but {points}"
            f"{who}; decide again, knowing that",
            label=label,
            version=last.version if last is not None else None,
        )


def check_label(label: str) -> str:
    """Return a label if it can be one, and cannot be read as anything else.

    Raises
    ------
    FlowError
        Otherwise.
    """
    if not isinstance(label, str) or not _LABEL.fullmatch(label):
        raise FlowError(
            f"a label cannot be {label!r}: give a letter, and up to 63 more letters, digits, and '_', '-', '.', e.g. "
            "'prod'"
        )
    if label.lower() in _NEWEST:
        raise FlowError(f"a label cannot be {label!r}: the newest version is what the flow's name alone means")
    if _LIKE_SHA256.fullmatch(label):
        raise FlowError(
            f"a label cannot be {label!r}: it could be read as the beginning of a digest; give e.g. '{label}-1'"
        )
    return label


def _change(name: str, label: str, key: str, facts: dict[str, Any] | EnvelopeError) -> LabelChange:
    if isinstance(facts, EnvelopeError):
        raise facts
    version, sha256 = facts.get("version"), facts.get("sha256")
    try:
        time = datetime.fromisoformat(str(facts.get("time")))
    except ValueError:
        time = None
    good = (version is None and sha256 is None) or (type(version) is int and re.fullmatch(r"[0-9a-f]{64}", str(sha256)))
    if time is None or time.tzinfo is None or not good:
        raise EnvelopeError(f"{key} is not the record of a label that headrace wrote; restore it, or delete it")
    location = None if sha256 is None else location_of(name, str(sha256))
    return LabelChange(label, version, location, time, str(facts.get("by")))


def _who() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container whose user has no name
        user = "somebody"
    return f"{user}@{socket.gethostname()}"
