"""What a text means that names a flow in a storage. The one place that knows.

=====================================  =================================================================
``etl``                                its newest version
``etl@3``                              version 3
``etl@prod``                           where the label points
``etl@ab12cd``                         the version whose digest begins so; at least six characters
``flows/etl/<sha256>.flow``            a location
``<url of the storage>#etl@3``         the same, with the storage before it; a location with ``/``
=====================================  =================================================================

What stands behind ``@`` is a number if a version has it, then the beginning of a digest, then a label; no label can be
called like a number or a digest.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import NamedTuple

from headrace.core.flow import check_name
from headrace.errors import FlowError, NoSuchFlow
from headrace.storage.files import Files
from headrace.storage.labels import Labels
from headrace.storage.versions import Versions

LOCATION = re.compile(r"flows/(?P<name>[^/]+)/(?P<sha256>[0-9a-f]{64})\.flow")
_NUMBER = re.compile(r"[1-9]\d*")
#: a digest is given by so many characters at least: fewer are typing errors, or labels.
_SHORTEST = 6
_SHA256 = re.compile(rf"[0-9a-fA-F]{{{_SHORTEST},64}}")
#: how many known names are told.
_MOST_KNOWN = 10


class Found(NamedTuple):
    """What a text means.

    Attributes
    ----------
    name : str
        Of the flow.
    location : str
        Where it lies.
    number : int or None
        Of the version, where the text says it or it was found on the way.
    whole : bool
        Whether the text names the flow, and no version of it.
    """

    name: str
    location: str
    number: int | None = None
    whole: bool = False


def find(text: str, files: Files, staged: Mapping[str, str]) -> Found:
    """Find the flow that a text means.

    Parameters
    ----------
    text : str
        As in the table above.
    files : Files
        Of the storage.
    staged : mapping of str to str
        Location → name of the flows that are not uploaded yet, the newest last.

    Raises
    ------
    NoSuchFlow
        If there is none, or it means several; says what there is.
    """
    if not isinstance(text, str):
        raise NoSuchFlow(f"a flow in {files.url} is named by a text, such as 'etl' or 'etl@3', not by {text!r:.60}")
    text = _inside(text, files.url)
    place = LOCATION.fullmatch(text)
    if place:
        if text not in staged and not files.exists(text):
            raise nothing_at(text, files)
        return Found(place["name"], text)
    name, mark, which = text.partition("@")
    if mark and not which:
        raise NoSuchFlow(f"{text!r} does not say which version is meant; give {name}, {name}@3 or {name}@label")
    if mark:
        return _one_of(name, which, files, staged)
    waiting = [location for location, each in staged.items() if each == name]
    if waiting:
        return Found(name, waiting[-1], whole=True)
    newest = Versions(files).see(name).newest if _is_name(name) else None
    if newest is None:
        raise _unknown(name, files, staged)
    return Found(name, newest.location, newest.number, whole=True)


def nothing_at(location: str, files: Files) -> NoSuchFlow:
    """Return the error that says that nothing is at a location."""
    return NoSuchFlow(f"there is no flow at {location} in {files.url}; see storage.flows for those that there are")


def _inside(text: str, url: str) -> str:
    """The text without the URL of the storage before it."""
    for mark in ("#", "/"):
        if text.startswith(url + mark):
            return text[len(url) + 1 :]
    if "://" in text:
        raise NoSuchFlow(f"{text!r} does not lie in {url}; open the storage where it does: Storage(...)")
    return text


def _one_of(name: str, which: str, files: Files, staged: Mapping[str, str]) -> Found:
    if not _is_name(name):
        raise _unknown(name, files, staged)
    is_digest = _SHA256.fullmatch(which)
    if _NUMBER.fullmatch(which):
        try:
            version = Versions(files).get(name, int(which))
        except NoSuchFlow:
            if not is_digest:
                raise
        else:
            return Found(name, version.location, version.number)
    if is_digest:
        return _by_digest(name, which.lower(), files, staged)
    change = Labels(files).get(name, which)
    assert change.location is not None  # `get` raises if it points nowhere
    return Found(name, change.location, change.version)


def _by_digest(name: str, prefix: str, files: Files, staged: Mapping[str, str]) -> Found:
    folder = f"flows/{name}"
    keys = {f"{folder}/{child}" for child in files.children(folder)}
    keys |= {location for location, each in staged.items() if each == name}
    matches = sorted(key for key in keys if LOCATION.fullmatch(key) and key.startswith(f"{folder}/{prefix}"))
    if len(matches) == 1:
        return Found(name, matches[0])
    if not matches:
        raise NoSuchFlow(f"no version of flow {name!r} in {files.url} has a digest that begins with {prefix!r}")
    told = ", ".join(f"{name}@{match[len(folder) + 1 :][: len(prefix) + 6]}" for match in matches)
    raise NoSuchFlow(f"{name}@{prefix} means several versions in {files.url}; give more characters: {told}")


def _is_name(text: str) -> bool:
    try:
        check_name(text)
    except FlowError:
        return False
    return True


def _unknown(name: str, files: Files, staged: Mapping[str, str]) -> NoSuchFlow:
    names = sorted({*Versions(files).names(), *staged.values()} - {name})
    close = difflib.get_close_matches(name, names, n=1)
    known = ", ".join(map(repr, names[:_MOST_KNOWN])) or "none yet"
    more = f" and {len(names) - _MOST_KNOWN:,} more" if len(names) > _MOST_KNOWN else ""
    return NoSuchFlow(
        f"there is no flow {name!r} in {files.url}{f' (did you mean {close[0]!r}?)' if close else ''}; "
        f"known are {known}{more}"
    )
