"""Small facts in a storage, as JSON objects that people can read: how a run began, which version came when."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from headrace.errors import DamagedObject, EnvelopeError
from headrace.storage.files import Files


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
    files.create(key, to_bytes(facts))


def read_record(files: Files, key: str) -> dict[str, Any]:
    """Return the facts of a record.

    Raises
    ------
    NotFound
        If there is none.
    DamagedObject
        If what is there is none.
    """
    return from_bytes(files.read(key), f"{key} in {files.url}")


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
            found[key] = from_bytes(data, f"{key} in {files.url}")
        except EnvelopeError as error:
            found[key] = error
    return found


def to_bytes(facts: Mapping[str, Any]) -> bytes:
    """Return the object for facts."""
    return json.dumps(facts, indent=1, ensure_ascii=False).encode()


def from_bytes(data: bytes, where: str) -> dict[str, Any]:
    """Return the facts of an object.

    Parameters
    ----------
    data : bytes
        The object.
    where : str
        For messages.

    Raises
    ------
    DamagedObject
        If it is not the JSON object that was written.
    """
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise DamagedObject(f"{where} is not the JSON object that headrace wrote; restore it from a copy, or delete it")
    return facts
