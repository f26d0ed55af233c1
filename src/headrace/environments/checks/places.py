"""Whether those that need a storage reach the same one, may write there, and see what others wrote.

One process leaves an object there, of a name that nobody else uses; the workers look whether they find it, and leave
answers beside it; the first one looks whether these are there, and removes all. A worker writes only where it found
something: what is not the same place gets nothing.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace.environments.checks.sites import HERE, Here, Site, who
from headrace.errors import HeadraceError, NotFound, SetupError
from headrace.storage.findings import ERROR, NOTE, Finding, finding_of
from headrace.storage.spec import StorageSpec

#: Seconds within which a store must answer the questions of a check.
DEADLINE = 5.0
#: The most workers that are asked: those of one cluster are configured alike.
MOST = 100
_KEY = ".headrace-check"
_SHARED = "use a folder that all machines mount{}, or a bucket, such as s3://bucket/flows"


@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody reads and writes.

    Attributes
    ----------
    what : str
        For people.
    spec : StorageSpec
        Where it is, and how it is reached.
    here : bool, default True
        Whether this process needs it, too.
    """

    what: str
    spec: StorageSpec
    here: bool = True

    @property
    def is_local(self) -> bool:
        """Whether it is a folder, which is of one machine, unless that is mounted on others."""
        return self.spec.url.startswith("file://")


def visit(place: Place, site: Site, workers: Sequence[str]) -> list[Finding]:
    """Return what is wrong with a place, as seen from here and from the workers.

    Parameters
    ----------
    place : Place
        Which.
    site : Site
        Where tasks run.
    workers : sequence of str
        Addresses of those that need it.
    """
    if place.spec.url.startswith("memory:"):
        return [] if site.shares_memory or not workers else [_in_memory(place)]
    workers = workers[:MOST]
    beginner, first, others = (Here(), HERE, workers) if place.here else (site, workers[0], workers[1:])
    spec = replace(place.spec, deadline=min(place.spec.deadline, DEADLINE))
    key = f"{_KEY}-{secrets.token_hex(8)}"

    def begin(function: Any, *args: Any) -> Any:
        gone = SetupError(f"{first} is gone; look at its log, and check again")
        return beginner.ask(function, *args, of=[first]).get(first, gone)

    left = begin(leave, spec, key)
    if isinstance(left, BaseException):
        return [_told(place, left, [first], workers)]
    if not left:
        return [_read_only(place)]
    spec = replace(spec, url=left)
    try:
        answers = site.ask(answer, spec, key, of=others) if others else {}
    except BaseException:  # Ctrl-C, or a worker that hangs: what was left there goes all the same
        with suppress(SetupError):
            begin(collect, spec, key, [])
        raise
    tokens = {address: token for address, token in answers.items() if isinstance(token, str)}
    seen = begin(collect, spec, key, list(tokens.values()))
    if isinstance(seen, BaseException):
        return [_told(place, seen, [first], workers)]
    problems: dict[str, tuple[BaseException, list[str]]] = {
        str(error): (error, [each for each, other in answers.items() if str(other) == str(error)])
        for error in answers.values()
        if isinstance(error, BaseException)
    }
    if unseen := [address for address, token in tokens.items() if token not in seen]:
        problems[""] = NotFound(""), unseen
    return [_told(place, error, where, workers) for error, where in problems.values()]


def leave(spec: StorageSpec, key: str) -> str | HeadraceError:
    """Leave something to be found; return the URL where, or an empty text if nobody may write there.

    A folder that is not there yet is not made: the next one above it is as good.

    Parameters
    ----------
    spec : StorageSpec
        Where.
    key : str
        Under which name.
    """
    try:
        if spec.url.startswith("file://"):
            folder = Path(spec.url.removeprefix("file://"))
            there = next(each for each in (folder, *folder.parents) if each.is_dir())
            spec = replace(spec, url=f"file://{there}")
        files = spec.open()
        if not files.writable:
            return ""
        files.create(key, key.encode())
    except HeadraceError as error:
        return error
    return spec.url


def answer(spec: StorageSpec, key: str) -> str | HeadraceError:
    """Find what was left, and leave an answer beside it, whose name is returned.

    Parameters
    ----------
    spec : StorageSpec
        Where.
    key : str
        Of what was left.
    """
    try:
        files = spec.open()
        if files.read(key) != key.encode():
            raise NotFound(f"there is another {key}")
        token = f"{key}-{secrets.token_hex(8)}"
        files.create(token, b"")
    except HeadraceError as error:
        return error
    return token


def collect(spec: StorageSpec, key: str, tokens: Sequence[str]) -> set[str] | HeadraceError:
    """Return which answers are there, and remove all.

    Parameters
    ----------
    spec : StorageSpec
        Where.
    key : str
        Of what was left.
    tokens : sequence of str
        Names of the answers.
    """
    try:
        files = spec.open()
        seen = files.exists_many(tokens)
        files.delete_many([key, *seen])
    except HeadraceError as error:
        return error
    return seen


def _told(place: Place, error: BaseException, where: Sequence[str], workers: Sequence[str]) -> Finding:
    """Return what went wrong as a finding."""
    named = who(where, workers)
    if not isinstance(error, NotFound) or HERE in where:
        found = finding_of(error, place.what)
        return replace(found, message=f"from {named}: {found.message}")
    if place.is_local:
        return Finding(
            ERROR,
            place.what,
            f"{named} does not share this folder: what another process wrote is not there",
            _SHARED.format(", under the same path"),
        )
    return Finding(
        ERROR,
        place.what,
        f"{named} reaches another store under this URL: what another process wrote is not there",
        "give the workers the same endpoint, region and account, in storage_options or in their environment",
    )


def _in_memory(place: Place) -> Finding:
    return Finding(
        ERROR,
        place.what,
        "lies in the memory of one process, which the workers do not share",
        _SHARED.format(""),
    )


def _read_only(place: Place) -> Finding:
    return Finding(
        NOTE,
        place.what,
        "is read only, so whether the workers can write there was not tried",
        "nothing, unless tasks are to write there: then use a folder or a bucket",
    )
