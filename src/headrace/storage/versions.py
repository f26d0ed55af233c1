"""The versions of stored flows: which content was current since when, numbered from 1.

A version is a record ``flows/<name>/versions/<number>``, created exclusively: of two writers that saw the same newest
number, one takes the next, and the other looks again. A number is never given twice, because the record of a version
that was removed stays, with ``<number>.removed`` beside it.

Older storages hold records ``versions/<time>-<sha256>`` instead. They are the first versions, by time.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from headrace.errors import AlreadyExists, EnvelopeError, LeftOut, NoSuchFlow
from headrace.storage.capture import location_of
from headrace.storage.envelope import versions as software
from headrace.storage.files import Files
from headrace.storage.records import create_record, read_records, to_bytes

#: how many listings are asked for at the same time.
AT_ONCE = 16

_NUMBERED = re.compile(r"(\d{8,})(\.removed)?")
_TIMED = re.compile(r"(\d{8}T\d{6}\.\d{6}Z)-([0-9a-f]{64})")
_TIME = "%Y%m%dT%H%M%S.%fZ"
_SHA256 = re.compile(r"[0-9a-f]{64}")

Item = TypeVar("Item")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a stored flow.

    Attributes
    ----------
    number : int
        From 1; the newest has the highest. Never given to another version.
    location : str
        Where it lies in the storage. Versions of the same content share it.
    time : datetime
        When it became the newest, with its zone (UTC).
    origin : str
        Where the flow is defined: ``module:qualname``.
    labels : tuple of str
        That point at it now.
    """

    number: int
    location: str
    time: datetime
    origin: str
    labels: tuple[str, ...] = ()

    @property
    def flow(self) -> str:
        """The flow's name."""
        return self.location.split("/")[1]

    @property
    def sha256(self) -> str:
        """Of the flow's object, which stands in its location."""
        return self.location.rpartition("/")[2].removesuffix(".flow")


@dataclass(frozen=True, slots=True)
class Seen:
    """What a writer saw before it adds a version.

    Attributes
    ----------
    newest : Version or None
        None if there is none.
    highest : int
        Highest number that was ever given.
    """

    newest: Version | None
    highest: int


@dataclass(frozen=True, slots=True)
class _Listed:
    """Keys of version records by number, with and without those that were removed."""

    kept: dict[int, str]
    removed: frozenset[int]

    @property
    def highest(self) -> int:
        return max([*self.kept, *self.removed], default=0)


class Versions:
    """The versions of all flows below one URL.

    Parameters
    ----------
    files : Files
        Of the storage.
    """

    def __init__(self, files: Files) -> None:
        self._files = files

    def names(self) -> list[str]:
        """Return the names below which anything of a flow lies; one that is being stored may have no version yet."""
        return self._files.children("flows")

    def of(self, name: str, *, strict: bool = True) -> list[Version]:
        """Return the versions of a flow, oldest first, without their labels.

        Parameters
        ----------
        name : str
            Of the flow.
        strict : bool, default True
            Whether a record that is not good is an error. Else it is left out with a warning: for those who look only.
        """
        listed = self._listed(name)
        return self._read(name, {number: listed.kept[number] for number in sorted(listed.kept)}, strict=strict)

    def newest(self, names: Iterable[str]) -> dict[str, Version]:
        """Return the newest versions of flows by name, of those that have any.

        One listing and one small read for each flow, many at the same time. A flow whose newest record is not good is
        left out with a warning: it must not hide the others.
        """
        names = list(names)
        newest = {
            name: (number := max(listed.kept), listed.kept[number])
            for name, listed in zip(names, all_at_once(self._listed, names), strict=True)
            if listed.kept
        }
        facts = read_records(self._files, [key for _, key in newest.values()])
        found = {}
        for name, (number, key) in newest.items():
            if key in facts:  # else it was removed between the listing and now
                try:
                    found[name] = _version(name, number, key, facts[key])
                except EnvelopeError as error:
                    warnings.warn(f"flow {name!r} is left out: {error}", LeftOut, stacklevel=4)
        return found

    def see(self, name: str) -> Seen:
        """Return the newest version of a flow, and the highest number that was ever given."""
        listed = self._listed(name)
        newest = None
        if listed.kept:
            number = max(listed.kept)
            newest = next(iter(self._read(name, {number: listed.kept[number]})), None)
        return Seen(newest, listed.highest)

    def get(self, name: str, number: int) -> Version:
        """Return one version.

        Raises
        ------
        NoSuchFlow
            If there is none of this number; says which there are.
        """
        key, gone = _key(name, number), f"{_key(name, number)}.removed"
        facts = read_records(self._files, [key, gone])
        if key in facts and gone not in facts:
            return _version(name, number, key, facts[key])
        listed = self._listed(name)
        if number in listed.kept:
            return self._read(name, {number: listed.kept[number]})[0]
        begin = f"flow {name!r} in {self._files.url} has no version {number}"
        if number in listed.removed:
            raise NoSuchFlow(f"{begin} any more: it was removed; it has {_numbers(listed.kept)}")
        if not listed.kept:
            raise NoSuchFlow(f"{begin}: nothing was stored under that name")
        raise NoSuchFlow(f"{begin}; it has {_numbers(listed.kept)}")

    def add(self, name: str, sha256: str, origin: str, seen: Seen, fits: Callable[[Version], object] = bool) -> Version:
        """Make a content the newest version of a flow, whatever others do meanwhile.

        Parameters
        ----------
        name : str
            Of the flow.
        sha256 : str
            Of its object, which is stored already.
        origin : str
            Where the flow is defined.
        seen : Seen
            What there was just now.
        fits : callable, optional
            Told of each version that others add meanwhile; raises if there must be none such before this one.

        Returns
        -------
        Version
            The one that there was, if the content was the newest already.
        """
        number = 0
        while True:
            newest = seen.newest
            if newest is not None and newest.sha256 == sha256:
                return newest
            number = max(number, seen.highest) + 1
            now = now_after(None if newest is None else newest.time)
            version = Version(number, location_of(name, sha256), now, origin)
            try:
                create_record(self._files, _key(name, number), _facts(version))
            except AlreadyExists:
                seen = self.see(name)  # somebody was faster, so somebody has got on
                if seen.newest is not None:
                    fits(seen.newest)
            else:
                return version

    def take_over(self, name: str, versions: Sequence[Version]) -> list[int]:
        """Write versions of another storage with their own numbers and times; return the numbers that were new here.

        Raises
        ------
        AlreadyExists
            If another content has taken one of the numbers meanwhile.
        """
        by_key = {_key(name, version.number): version for version in versions}
        taken = self._files.create_many(
            {key: to_bytes(_facts(version), key, self._files.seal) for key, version in by_key.items()}
        )
        for key in sorted(taken):
            if self.get(name, by_key[key].number).sha256 != by_key[key].sha256:
                raise AlreadyExists(f"{key} in {self._files.url} was written by somebody else meanwhile; copy again")
        return [version.number for key, version in by_key.items() if key not in taken]

    def removed(self, name: str) -> frozenset[int]:
        """Return the numbers of the versions that were removed."""
        return self._listed(name).removed

    def mark_removed(self, name: str, numbers: Iterable[int]) -> None:
        """Remove versions in one moment each; their numbers stay taken."""
        now = datetime.now(UTC).strftime(_TIME)
        for number in numbers:
            try:
                create_record(self._files, f"{_key(name, number)}.removed", {"time": now})
            except AlreadyExists:
                continue  # somebody else removed it

    def newest_key(self, name: str) -> str | None:
        """Return the key of the newest version's record; None if there is no version."""
        kept = self._listed(name).kept
        return kept[max(kept)] if kept else None

    def _listed(self, name: str) -> _Listed:
        folder = f"flows/{name}/versions"
        children = self._files.children(folder)
        timed = sorted(child for child in children if _TIMED.fullmatch(child))
        kept = {place: f"{folder}/{child}" for place, child in enumerate(timed, 1)}
        removed = set()
        for match in filter(None, map(_NUMBERED.fullmatch, children)):
            if match[2]:
                removed.add(int(match[1]))
            else:
                kept[int(match[1])] = f"{folder}/{match[0]}"
        return _Listed({number: key for number, key in kept.items() if number not in removed}, frozenset(removed))

    def _read(self, name: str, keys: dict[int, str], *, strict: bool = True) -> list[Version]:
        facts = read_records(self._files, keys.values())
        found = []
        for number, key in keys.items():
            if key in facts:  # else the flow was removed meanwhile
                try:
                    found.append(_version(name, number, key, facts[key]))
                except EnvelopeError as error:
                    if strict:
                        raise
                    warnings.warn(f"version {number} of flow {name!r} is left out: {error}", LeftOut, stacklevel=4)
        return found


def now_after(time: datetime | None) -> datetime:
    """Return the time, but after that of an earlier writer, whose clock may be ahead of this machine's."""
    now = datetime.now(UTC)
    if time is None or time < now:
        return now
    return time + timedelta(microseconds=1) if time.year < datetime.max.year else time


def all_at_once(function: Callable[[Item], Answer], items: Sequence[Item]) -> list[Answer]:
    """Call a function that waits for a store with each item, some at the same time; return its answers in order."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), "headrace-list") as pool:
        return list(pool.map(function, items))


def _key(name: str, number: int) -> str:
    return f"flows/{name}/versions/{number:08d}"


def _facts(version: Version) -> dict[str, Any]:
    """What a record says of a version; its number is the record's name."""
    time = version.time.strftime(_TIME)
    return {"sha256": version.sha256, "origin": version.origin, "time": time, "headrace": software()["headrace"]}


def _version(name: str, number: int, key: str, facts: dict[str, Any] | EnvelopeError) -> Version:
    if isinstance(facts, EnvelopeError):
        raise facts
    timed = _TIMED.fullmatch(key.rpartition("/")[2])
    time, sha256 = timed.groups() if timed else (facts.get("time"), facts.get("sha256"))
    try:
        moment = datetime.strptime(str(time), _TIME).replace(tzinfo=UTC)
    except ValueError:
        moment = None
    if moment is None or not _SHA256.fullmatch(str(sha256)):
        raise EnvelopeError(f"{key} is not the record of a version that headrace wrote; restore it, or delete it")
    return Version(number, location_of(name, str(sha256)), moment, str(facts.get("origin")))


def _numbers(kept: Collection[int]) -> str:
    numbers = sorted(kept)
    if not numbers:
        return "none"
    if len(numbers) == numbers[-1] - numbers[0] + 1 and len(numbers) > 2:
        return f"{numbers[0]} to {numbers[-1]}"
    shown = ", ".join(map(str, numbers[-10:]))
    return f"… {shown}" if len(numbers) > 10 else shown
