r"""How an object of headrace looks as bytes: a header that anyone can read, and a payload.

::

    headrace object, format 1\n
    <length of the header in bytes> <sha256 of the header>[ <signature>]\n
    <header: JSON, UTF-8, one line for each name at its top>\n
    <payload>

The header holds its object's kind, the length and sha256 of the payload, and the versions of what wrote it. So the
sha256 of the header stands for all of the object, and is what gets signed; the signature stands outside, because the
same content is the same object, whoever signed it. Nothing in the payload is unpickled before all of that was
checked. The same content gives the same bytes: no times in here.
"""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pickle import UnpicklingError
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
from headrace.storage.signing import UNSEALED, Seal

FORMAT = 1
_MAGIC = b"headrace object, format "
_SECOND = re.compile(rb"([1-9][0-9]{0,9}) ([0-9a-f]{64})(?: ([!-~]{1,120}))?\n")
_SECOND_MAX = 10 + 1 + 64 + 1 + 120 + 1
_OWN = ("kind", "format", "payload", "versions")


@functools.cache
def versions() -> dict[str, str]:
    """Versions of what decides whether a pickle can be read: Python, headrace, dask, cloudpickle."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "headrace": __version__}
    for package in ("dask", "cloudpickle"):
        try:
            found[package] = version(package) or "unknown"  # None if its METADATA is gone
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
    payload : memoryview
        Not unpickled yet; shares the object's bytes, because a copy of hundreds of megabytes takes longer than a look.
    where : str
        Where it was found.
    digest : str
        sha256 of the header, which holds that of the payload: stands for all of the object.
    signature : str
        As it was found, and checked if there was a key to check it with; empty: none.
    """

    header: dict[str, Any]
    payload: memoryview
    where: str
    digest: str
    signature: str

    def part(self, name: str) -> memoryview | None:
        """Return a part of the payload; None if there is none of this name."""
        start = 0
        for each, length in self.header["payload"].get("parts", {}).items():
            if each == name:
                return self.payload[start : start + length]
            start += length
        return None

    def unpickle(self, payload: memoryview | None = None) -> Any:
        """Unpickle the payload, or a part of it.

        Raises
        ------
        IncompatibleObject
            If another Python minor version wrote it: code objects of another version crash the interpreter. Or if
            a later major version of cloudpickle did.
        MissingModule
            If code that it refers to is not here.
        DamagedObject
            If it is no whole pickle.
        """
        check_versions(self.header, self.where)
        try:
            return pickling.loads(self.payload if payload is None else payload, self.where)
        except (EOFError, UnpicklingError) as error:
            raise _damaged(self.where, f"what it holds is no whole pickle ({error})") from error


def pack(
    kind: str,
    header: Mapping[str, Any],
    payload: bytes | Mapping[str, bytes],
    *,
    seal: Seal = UNSEALED,
    where: str = "",
) -> bytes:
    """Put a payload into an envelope.

    Parameters
    ----------
    kind : str
        What it is, e.g. ``"flow"``.
    header : mapping
        JSON data; the names ``kind``, ``format``, ``payload`` and ``versions`` are taken.
    payload : bytes or mapping of str to bytes
        Anything; a mapping: parts that `Envelope.part` returns by name.
    seal : Seal, optional
        Signs it. Default: no keys; see `signed`.
    where : str, optional
        The object's key in its storage, which the signature is for.
    """
    taken = [name for name in _OWN if name in header]
    if taken:
        raise ValueError(f"the header of an envelope sets {', '.join(taken)} itself")
    parts = {}
    pieces = [payload] if isinstance(payload, bytes) else list(payload.values())
    if not isinstance(payload, bytes):
        parts = {"parts": {name: len(part) for name, part in payload.items()}}
    sha256 = hashlib.sha256()
    for piece in pieces:
        sha256.update(piece)
    full = {
        "kind": kind,
        "format": FORMAT,
        "versions": versions(),
        "payload": {"length": sum(map(len, pieces)), "sha256": sha256.hexdigest(), **parts},
        **header,
    }
    # Not all indented: that is written by Python, not by C, and a run of thousands of nodes would wait for it.
    lines = [json.dumps({name: value}, ensure_ascii=False)[1:-1] for name, value in full.items()]
    text = "{{\n {}\n}}".format(",\n ".join(lines)).encode(errors="backslashreplace")  # as JSON writes it, too
    digest = hashlib.sha256(text).hexdigest()
    first, second = b"%s%d\n" % (_MAGIC, FORMAT), _second_line(len(text), digest, seal, where)
    return b"".join((first, second, text, b"\n", *pieces))  # at once, and so copied once


def _second_line(length: int, digest: str, seal: Seal, where: str) -> bytes:
    signature = seal.sign(where, digest)
    return f"{length} {digest}{' ' if signature else ''}{signature}\n".encode()


def signed(data: bytes, where: str, seal: Seal) -> bytes:
    """Return an intact object with a signature for one place, in the stead of the one that it may have.

    Parameters
    ----------
    data : bytes
        The object.
    where : str
        The key that it is written to.
    seal : Seal
        Of the storage; without keys, the object stays as it is.
    """
    if not seal.active:
        return data
    second = _second(data, where)
    line = _second_line(int(second[1]), second[2].decode(), seal, where)
    return b"".join((memoryview(data)[: second.start()], line, memoryview(data)[second.end() :]))


def digest_of(data: bytes) -> str:
    """Return what stands for all of an object that was just packed: the sha256 of its header."""
    return _second(data, "")[2].decode()


def open_envelope(data: bytes, where: str, kind: str, seal: Seal = UNSEALED) -> Envelope:
    """Check an object from its first byte to its last.

    Parameters
    ----------
    data : bytes
        The whole object.
    where : str
        The object's key in its storage, which the signature is for.
    kind : str
        What is expected to be there.
    seal : Seal, optional
        Whose signatures are trusted. Default: no keys, so no signature is asked for.

    Raises
    ------
    ForeignObject, NewerFormat, TruncatedObject, DamagedObject, UntrustedObject, EnvelopeError
        If it is not an intact object of this kind.
    """
    second = _second(data, where)
    text, start = _header_text(data, second, where)
    digest, signature = second[2].decode(), (second[3] or b"").decode()
    seal.check(where, digest, signature)  # before its JSON is read: what nobody signed is of no interest
    header = _header(text, where)
    if header["kind"] != kind:
        raise EnvelopeError(
            f"{where} holds {header['kind']!r:.60}, not {kind!r}; check which object was meant",
            expected=kind,
            found=header["kind"],
        )
    payload = memoryview(data)[start:]
    length = header["payload"]["length"]
    if len(payload) < length:
        raise _truncated(where, f"{len(payload)} of {length} bytes of its payload are there")
    if len(payload) > length:
        raise _damaged(where, f"{len(payload) - length} bytes follow after its end")
    if hashlib.sha256(payload).hexdigest() != header["payload"]["sha256"]:
        raise _damaged(where, "its payload does not match its sha256")
    return Envelope(header, payload, where, digest, signature)


def check_versions(header: Mapping[str, Any], where: str) -> None:
    """Refuse what another minor version of Python wrote, or a later major version of cloudpickle.

    Raises
    ------
    IncompatibleObject
        If what is pickled would not load, or run, here.
    """
    written = header.get("versions", {})
    python, here = str(written.get("python", "unknown")), platform.python_version()
    if _minor(python) != _minor(here):
        raise IncompatibleObject(
            f"{where} was written by Python {python}, and this is Python {here}: pickled code does not run "
            f"across minor versions; use Python {_minor(python)}, or store it again with Python "
            f"{_minor(here)}",
            written=python,
            here=here,
        )
    cloudpickle, here = str(written.get("cloudpickle", "unknown")), versions()["cloudpickle"]
    if (_major(cloudpickle) or 0) > (_major(here) or 0):
        raise IncompatibleObject(
            f"{where} was written by cloudpickle {cloudpickle}, and here is cloudpickle {here}, which cannot read it; "
            f"upgrade: pip install --upgrade 'cloudpickle>={cloudpickle}'",
            written=cloudpickle,
            here=here,
        )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _major(version: str) -> int | None:
    digits = version.partition(".")[0]
    return int(digits) if digits.isdecimal() and len(digits) < 10 else None


def _second(data: bytes, where: str) -> re.Match[bytes]:
    """The line before the header: length, sha256, and signature if there is one."""
    start = _check_first_line(data, where)
    match = _SECOND.match(data, start)
    if match is None:
        if len(data) - start < _SECOND_MAX and b"\n" not in data[start:]:
            raise _truncated(where, "it ends before its header")
        raise _damaged(where, "the line before its header is not as written")
    return match


def _header_text(data: bytes, second: re.Match[bytes], where: str) -> tuple[bytes, int]:
    """The header, as bytes that match their sha256, and where the payload begins."""
    begin, end = second.end(), second.end() + int(second[1])
    if len(data) < end + 1:
        raise _truncated(where, "it ends within its header")
    text = data[begin:end]
    if hashlib.sha256(text).hexdigest().encode() != second[2] or data[end : end + 1] != b"\n":
        raise _damaged(where, "its header does not match its sha256")
    return text, end + 1


def _header(text: bytes, where: str) -> dict[str, Any]:
    """The header as data, with the names that every object has; what else there may be is kept."""
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        header = None
    if not (isinstance(header, dict) and _is_payload(header.get("payload"))):
        raise _damaged(where, "its header is not as headrace writes it")
    if not (isinstance(header.get("kind"), str) and isinstance(header.get("versions"), dict)):
        raise _damaged(where, "its header lacks kind or versions")
    return header


def _is_payload(payload: Any) -> bool:
    if not (isinstance(payload, dict) and _is_length(payload.get("length"))):
        return False
    parts = payload.get("parts", {"": payload["length"]})
    if not (isinstance(parts, dict) and all(map(_is_length, parts.values()))):
        return False
    return sum(parts.values()) == payload["length"] and isinstance(payload.get("sha256"), str)


def _is_length(value: Any) -> bool:
    return type(value) is int and value >= 0


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
