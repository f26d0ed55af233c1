"""Small facts in a storage, as JSON objects that people can read: how a run began, which version came when.

Where the storage has a signing key, the last name of a record is its ``signature``. It is over the record's bytes
without that line, and without the comma before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from headrace.errors import DamagedObject, EnvelopeError
from headrace.storage.files import Files
from headrace.storage.signing import Seal

_BEFORE = b',\n "signature": "'
_AFTER = b'"\n}'


def create_record(files: Files, key: str, facts: Mapping[str, Any]) -> None:
    """Write a record, exclusively.

    Parameters
    ----------
    files : Files
        Of the storage.
    key : str
        Where.
    facts : mapping
        JSON data.

    Raises
    ------
    AlreadyExists
        If the key is taken.
    """
    files.create(key, to_bytes(facts, key, files.seal))


def read_record(files: Files, key: str) -> dict[str, Any]:
    """Return the facts of a record.

    Raises
    ------
    NotFound
        If there is none.
    DamagedObject, UntrustedObject
        If what is there is none, or is not signed as the storage wants it.
    """
    return from_bytes(files.read(key), key, files.seal)


def read_records(files: Files, keys: Iterable[str]) -> dict[str, dict[str, Any] | EnvelopeError]:
    """Return the facts of many records by key; what is not there is left out.

    Returns
    -------
    dict
        In place of the facts of a record that is not good, the error that reading it alone would raise: it hides no
        others.
    """
    found: dict[str, dict[str, Any] | EnvelopeError] = {}
    for key, data in files.read_many(keys).items():
        try:
            found[key] = from_bytes(data, key, files.seal)
        except EnvelopeError as error:
            found[key] = error
    return found


def to_bytes(facts: Mapping[str, Any], where: str, seal: Seal) -> bytes:
    """Return the object for facts.

    Parameters
    ----------
    facts : mapping
        JSON data, not empty; the name ``signature`` is taken.
    where : str
        Its key in the storage.
    seal : Seal
        Of the storage.
    """
    if not facts or "signature" in facts:
        raise ValueError("a record holds facts, and none of them is called signature")
    data = json.dumps(facts, indent=1, ensure_ascii=False).encode(errors="backslashreplace")  # as JSON writes it, too
    signature = seal.sign(where, hashlib.sha256(data).hexdigest())
    return data.removesuffix(b"\n}") + _BEFORE + signature.encode() + _AFTER if signature else data


def from_bytes(data: bytes, where: str, seal: Seal) -> dict[str, Any]:
    """Return the facts of an object.

    Parameters
    ----------
    data : bytes
        The object.
    where : str
        Its key in the storage.
    seal : Seal
        Of the storage.

    Raises
    ------
    DamagedObject
        If it is not the JSON object that was written.
    UntrustedObject
        If it is not signed by a key of the seal.
    """
    body, _, signature = data.rpartition(_BEFORE)
    if body and signature.endswith(_AFTER):
        data = body + b"\n}"
        seal.check(where, hashlib.sha256(data).hexdigest(), signature.removesuffix(_AFTER).decode(errors="replace"))
    else:
        seal.check(where, "", "")
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not facts or "signature" in facts:
        raise DamagedObject(f"{where} is not the JSON object that headrace wrote; restore it from a copy, or delete it")
    return facts
