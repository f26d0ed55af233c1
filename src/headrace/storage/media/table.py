"""One row per protocol: which medium it is, and what that promises."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import cast

from headrace.storage.media.medium import Medium, Place
from headrace.storage.media.memory import private_memory

__all__ = ["PROTOCOLS", "Row", "open_medium", "private_memory"]


@dataclass(frozen=True)
class Row:
    """What a protocol promises.

    Attributes
    ----------
    medium : str
        ``module:class`` in this package.
    create : str
        How an object comes to be whole or not at all, by one writer only; empty if it is refused.
    replace : str
        How readers see the one or the other; empty if it is refused.
    lists : bool
        Whether listings say what is there now.
    bucket : bool
        Whether the first part of the path is a bucket, which headrace never makes.
    """

    medium: str
    create: str
    replace: str
    lists: bool = True
    bucket: bool = False


_FOLDER = Row("local:LocalDisk", "temporary file, then a hard link", "temporary file, then rename")
_S3 = Row("objects:S3", "PUT with If-None-Match", "PUT", bucket=True)
_GCS = Row("objects:GCS", "insert with ifGenerationMatch=0", "insert", bucket=True)
_AZURE = Row("objects:Azure", "PUT with If-None-Match", "PUT", bucket=True)
_SFTP = Row("sftp:Sftp", "temporary file, then a hard link", "temporary file, then posix-rename")
_HTTP = Row("readonly:Http", "", "", lists=False)
_OTHER = Row("readonly:Other", "", "")

PROTOCOLS = {
    "file": _FOLDER,
    "memory": Row("memory:Memory", "a lock", "a lock"),
    "s3": _S3, "s3a": _S3,
    "gs": _GCS, "gcs": _GCS,
    "abfs": _AZURE, "abfss": _AZURE, "az": _AZURE,
    "sftp": _SFTP, "ssh": _SFTP,
    "http": _HTTP, "https": _HTTP,
}  # fmt: skip


def row_of(place: Place) -> Row:
    """Return the row of a URL; of a given file system, that of the file system."""
    if place.filesystem is None:
        return PROTOCOLS.get(place.protocol, _OTHER)
    known = place.filesystem.protocol
    known = (known,) if isinstance(known, str) else tuple(known)
    return next((PROTOCOLS[protocol] for protocol in known if protocol in PROTOCOLS), _OTHER)


def open_medium(place: Place) -> Medium:
    """Open the medium of a URL.

    Raises
    ------
    MissingPackage, StorageError
        If the protocol needs a package that is not installed, or nobody knows it.
    """
    module, _, name = row_of(place).medium.partition(":")
    return cast(Medium, getattr(importlib.import_module(f"headrace.storage.media.{module}"), name)(place))
