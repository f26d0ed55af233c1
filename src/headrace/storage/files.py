"""Bytes under keys, below one URL, on any medium that fsspec reaches.

An object is whole or absent. ``create`` is exclusive: of several writers, in whatever processes, one wins and
the others get ``AlreadyExists``. Foreign exceptions end here; what comes out is an error of headrace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath
from typing import Any, NoReturn

from headrace.errors import AlreadyExists, NotFound, NotPicklable, StorageError
from headrace.storage.concealed import Secrets
from headrace.storage.confidential import has_password, merged, secret_texts
from headrace.storage.credentials import Renewing, ask
from headrace.storage.media import DEADLINE, Keys, Medium, medium_of, open_filesystem, private_memory, root_of
from headrace.storage.signing import UNSEALED, Seal
from headrace.storage.trouble import names_no_bucket, translate

__all__ = ["DEADLINE", "Files", "normal_url", "private_memory"]

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
#: protocols whose first path part is a bucket, without which nothing can be stored.
_BUCKETS = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl"}


def normal_url(url: str | os.PathLike[str]) -> str:
    """Return the URL of a storage in one spelling: absolute, with a protocol, without a trailing slash.

    Parameters
    ----------
    url : str or path
        A URL; a plain path counts as ``file://``.

    Raises
    ------
    StorageError
        If it is empty or chained, holds a password, or names no bucket where one is needed.
    """
    text = os.fspath(url).strip()
    if not text:
        raise StorageError("a storage needs a URL, got an empty text; give e.g. 's3://bucket/flows' or 'flows'")
    if has_password(text):
        raise StorageError(
            "the URL of the storage holds a password or a token, and URLs get written down; give it in storage_options "
            "instead"
        )
    if "::" in text:
        raise StorageError(
            f"cannot use {text!r}: chained URLs hide what other processes write; give the URL of the store itself"
        )
    lead, colon, _ = text.lower().partition(":")
    if colon and lead in _BUCKETS and not text[len(lead) :].startswith("://"):
        raise StorageError(
            f"{text!r} lacks a slash, or two; did you mean '{lead}://{text[len(lead) + 1 :].strip('/')}'?"
        )
    match = _PROTOCOL.match(text)
    protocol, path = (match[1].lower(), text[match.end() :]) if match else ("file", text)
    if protocol in ("file", "local"):
        return "file://" + os.path.abspath(os.path.expanduser(path))
    path = path.rstrip("/")
    if protocol in _BUCKETS and not path.partition("/")[0]:
        raise StorageError(f"{text!r} names no bucket; give one, e.g. '{protocol}://bucket/flows'")
    return f"{protocol}://{path}"


class Files:
    """Objects below one URL.

    Parameters
    ----------
    url : str or path
        Where; see `normal_url`.
    storage_options : mapping, optional
        Given to the fsspec file system. Never changed, written or shown.
    filesystem : fsspec file system, optional
        Use this one instead of making one from the URL's protocol and the options.
    hint : str, optional
        Added to the message when access is denied.
    credentials : str, optional
        Name of a provider of further options; see `headrace.storage.credentials`.
    seal : Seal, optional
        What signs and checks objects; for whoever writes and reads them, not used here. Default: no keys.
    """

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        *,
        hint: str = "",
        credentials: str = "",
        seal: Seal = UNSEALED,
    ) -> None:
        self.url = normal_url(url)
        self.seal = seal
        self._hint = f"; {hint}" if hint else ""
        options = storage_options or {}
        self._secrets = Secrets(secret_texts(options))
        with self._translated("open the storage"):
            if filesystem is None and credentials:
                self._medium: Medium = Renewing(lambda: merged(options, ask(credentials)), self._open)
            else:
                self._medium = self._open(options) if filesystem is None else medium_of(filesystem)
            self._root = root_of(self.url, filesystem)

    def _open(self, options: Mapping[str, Any]) -> Medium:
        self._secrets.add(secret_texts(options))
        return medium_of(open_filesystem(self.url.partition("://")[0], self.url, options))

    def __repr__(self) -> str:
        return f"<Files {self.url}>"

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(f"{self!r} holds credentials, so it does not travel; pickle or serialize the storage")

    def read(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises
        ------
        NotFound
            If there is none.
        """
        path = self._path(key)
        with self._translated(f"read {key!r}"):
            return self._medium.read(path)

    def create(self, key: str, data: bytes) -> None:
        """Write a new object, exclusively.

        Raises
        ------
        AlreadyExists
            If the key is taken.
        """
        path = self._path(key)
        with self._translated(f"create {key!r}"):
            self._medium.create(path, data)

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, in place of an earlier one if there is one; readers see the one or the other.

        Of several writers, the last one wins and none is told. So it is for two things only: hints, which may be
        lost (``storage.costs``), and mending a damaged object with the bytes that its name promises.
        """
        path = self._path(key)
        with self._translated(f"write {key!r}"):
            self._medium.replace(path, data)

    def exists(self, key: str) -> bool:
        """Whether there is an object under a key."""
        path = self._path(key)
        try:
            with self._translated(f"look for {key!r}"):
                return self._medium.exists(path)
        except NotFound:
            return False

    def list(self, prefix: str = "") -> Keys:
        """Return the keys of all objects below a prefix, at any depth, sorted.

        Parameters
        ----------
        prefix : str
            Whole parts of keys: ``"flows/etl"`` has ``"flows/etl/a"`` below it, and not ``"flows/etl2/a"``.
        """
        path = self._path(prefix) if prefix else self._root or "/"
        found: Keys = []
        with self._translated(f"list {prefix!r}"), _empty_if_missing():
            found = self._medium.list(path)
        skip = len(self._root) + 1
        below = f"{prefix.strip('/')}/" if prefix else ""
        keys = (name[skip:] for name in found)
        return sorted(key for key in keys if key.startswith(below) and not key.endswith("/"))

    def children(self, prefix: str = "") -> Keys:
        """Return the next part of every key below a prefix, each once, sorted; without looking deeper.

        Parameters
        ----------
        prefix : str
            As in `list`.
        """
        path = self._path(prefix) if prefix else self._root or "/"
        found: Keys = []
        with self._translated(f"list {prefix!r}"), _empty_if_missing():
            found = self._medium.children(path)
        return sorted({name for name in found if name})

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        path = self._path(key)
        with self._translated(f"delete {key!r}"), _empty_if_missing():
            self._medium.delete(path)

    # -- many at once ----------------------------------------------------------------------------------------

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of objects by key; those that are not there are left out."""
        found = {}
        for key in keys:
            with suppress(NotFound):
                found[key] = self.read(key)
        return found

    def create_many(self, objects: Mapping[str, bytes]) -> set[str]:
        """Write new objects, each exclusively.

        Parameters
        ----------
        objects : mapping of str to bytes
            By key.

        Returns
        -------
        set of str
            The keys that were taken; what is there stays as it is.
        """
        taken = set()
        for key, data in objects.items():
            try:
                self.create(key, data)
            except AlreadyExists:
                taken.add(key)
        return taken

    def exists_many(self, keys: Iterable[str]) -> set[str]:
        """Return those of the keys under which there is an object."""
        return {key for key in keys if self.exists(key)}

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        for key in keys:
            self.delete(key)

    def _path(self, key: str) -> str:
        parts = PurePosixPath(key).parts
        if not parts or ".." in parts or parts[0] == "/":
            raise StorageError(f"{key!r} is not a key of {self.url}: give a relative path without '..'")
        return "/".join((self._root, *parts))

    @contextmanager
    def _translated(self, asked: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            translated = translate(error, asked=asked, url=self.url, hint=self._hint, secrets=self._secrets.forms)
            if translated is error:
                raise
            cause = self._secrets.cause(error)
            try:
                raise translated from cause
            finally:
                translated.__context__ = cause  # and not what Python puts there, which may hold a secret


@contextmanager
def _empty_if_missing() -> Iterator[None]:
    """A folder that is not there is empty; a bucket that is not there is an error."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError) as error:
        if names_no_bucket(error):
            raise
