r"""How an object of headrace looks as bytes: a header that anyone can read, and a payload.

::

    headrace object, format 1\n
    <length of the header in bytes> <sha256 of the header>\n
    <header: JSON, UTF-8, one line for each name at its top>\n
    <payload>

The header holds its object's kind, the length and sha256 of the payload, and the versions of what wrote it.
Nothing in the payload is unpickled before all of that was checked. The same content gives the same bytes: no
times in here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace import pickling
from headrace._version import __version__
from headrace.errors import (
    DamagedObject,
    EnvelopeError,
    ForeignObject,
    IncompatibleObject,
    NewerFormat,
    TruncatedObject,
)

FORMAT = 1
_MAGIC = b"headrace object, format "
_SECOND = re.compile(rb"([1-9][0-9]{0,9}) ([0-9a-f]{64})\n")
_SECOND_MAX = 10 + 1 + 64 + 1
_OWN = ("kind", "format", "payload", "versions")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides whether a pickle can be read: Python, headrace, dask, cloudpickle."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "headrace": __version__}
    for package in ("dask", "cloudpickle"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "unknown"
    return found


@dataclass(frozen=True, slots=True)
class Envelope:
    """An object that was found intact.

    Attributes
    ----------
    header : dict
        JSON data.
    payload : bytes
        Not unpickled yet.
    where : str
        Where it was found.
    """

    header: dict[str, Any]
    payload: bytes
    where: str

    def unpickle(self, payload: bytes | None = None) -> Any:
        """Unpickle the payload, or a part of it.

        Raises
        ------
        IncompatibleObject
            If another Python minor version wrote it: code objects of another version crash the interpreter.
        MissingModule
            If code that it refers to is not here.
        """
        check_python(self.header, self.where)
        return pickling.loads(self.payload if payload is None else payload, self.where)


def pack(kind: str, header: Mapping[str, Any], payload: bytes) -> bytes:
    """Put a payload into an envelope.

    Parameters
    ----------
    kind : str
        What it is, e.g. ``"flow"``.
    header : mapping
        JSON data; the names ``kind``, ``format``, ``payload`` and ``versions`` are taken.
    payload : bytes
        Anything.
    """
    taken = [name for name in _OWN if name in header]
    if taken:
        raise ValueError(f"the header of an envelope sets {', '.join(taken)} itself")
    full = {
        "kind": kind,
        "format": FORMAT,
        "versions": versions(),
        "payload": {"length": len(payload), "sha256": hashlib.sha256(payload).hexdigest()},
        **header,
    }
    # Not all indented: that is written by Python, not by C, and a run of thousands of nodes would wait for it.
    lines = [json.dumps({name: value}, ensure_ascii=False)[1:-1] for name, value in full.items()]
    text = "{{\n {}\n}}".format(",\n ".join(lines)).encode()
    second = f"{len(text)} {hashlib.sha256(text).hexdigest()}\n".encode()
    return b"%s%d\n%s%s\n%s" % (_MAGIC, FORMAT, second, text, payload)


def read_header(data: bytes, where: str) -> dict[str, Any]:
    """Return the header of an object, checked; the payload may be missing.

    Parameters
    ----------
    data : bytes
        The object, or its beginning.
    where : str
        For messages.
    """
    return _split(data, where)[0]


def open_envelope(data: bytes, where: str, kind: str) -> Envelope:
    """Check an object from its first byte to its last.

    Parameters
    ----------
    data : bytes
        The whole object.
    where : str
        For messages.
    kind : str
        What is expected to be there.

    Raises
    ------
    ForeignObject, NewerFormat, TruncatedObject, DamagedObject, EnvelopeError
        If it is not an intact object of this kind.
    """
    header, start = _split(data, where)
    if header.get("kind") != kind:
        raise EnvelopeError(
            f"{where} holds {header.get('kind')!r}, not {kind!r}; check which object was meant",
            expected=kind,
            found=header.get("kind"),
        )
    payload = data[start:]
    length = header["payload"]["length"]
    if len(payload) < length:
        raise _truncated(where, f"{len(payload)} of {length} bytes of its payload are there")
    if len(payload) > length:
        raise _damaged(where, f"{len(payload) - length} bytes follow after its end")
    if hashlib.sha256(payload).hexdigest() != header["payload"]["sha256"]:
        raise _damaged(where, "its payload does not match its sha256")
    return Envelope(header, payload, where)


def check_python(header: Mapping[str, Any], where: str) -> None:
    """Refuse what another minor version of Python wrote.

    Raises
    ------
    IncompatibleObject
        If its pickled code would not run here.
    """
    written = str(header.get("versions", {}).get("python", "unknown"))
    here = platform.python_version()
    if _minor(written) != _minor(here):
        raise IncompatibleObject(
            f"{where} was written by Python {written}, and this is Python {here}: pickled code does not run "
            f"across minor versions; use Python {_minor(written)}, or store it again with Python "
            f"{_minor(here)}",
            written=written,
            here=here,
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _split(data: bytes, where: str) -> tuple[dict[str, Any], int]:
    """The header, and where the payload begins."""
    start = _check_first_line(data, where)
    match = _SECOND.match(data, start)
    if match is None:
        if b"\n" not in data[start:] and len(data) - start < _SECOND_MAX:
            raise _truncated(where, "it ends before its header")
        raise _damaged(where, "the line before its header is not as written")
    begin, end = match.end(), match.end() + int(match[1])
    if len(data) < end + 1:
        raise _truncated(where, "it ends within its header")
    text = data[begin:end]
    if hashlib.sha256(text).hexdigest().encode() != match[2] or data[end : end + 1] != b"\n":
        raise _damaged(where, "its header does not match its sha256")
    header = json.loads(text)
    return header, end + 1


def _check_first_line(data: bytes, where: str) -> int:
    if not data.startswith(_MAGIC):
        if _MAGIC.startswith(data):
            raise _truncated(where, f"{len(data)} bytes are there")
        raise ForeignObject(f"{where} was not written by headrace (it begins with {data[:16]!r}); check the URL")
    digits, newline, _ = data[len(_MAGIC) : len(_MAGIC) + 8].partition(b"\n")
    if not newline and len(data) < len(_MAGIC) + 8:
        raise _truncated(where, "it ends in its first line")
    if not newline or not digits.isdigit():
        raise _damaged(where, "its first line is not as written")
    if int(digits) > FORMAT:
        raise NewerFormat(
            f"{where} has format {int(digits)}, and headrace {__version__} knows formats up to {FORMAT}; "
            "upgrade: pip install --upgrade headrace",
            format=int(digits),
        )
    if digits != b"%d" % FORMAT:
        raise _damaged(where, "its format number is not one that was ever written")
    return len(_MAGIC) + len(digits) + 1


def _truncated(where: str, what: str) -> TruncatedObject:
    return TruncatedObject(f"{where} is cut short: {what}; store it again, or restore it from a copy")


def _damaged(where: str, what: str) -> DamagedObject:
    return DamagedObject(f"{where} is damaged: {what}; nothing of it was used. Store it again, or restore a copy")
