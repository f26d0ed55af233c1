"""Bytes under keys, below one URL, on any medium that fsspec reaches.

An object is whole or absent. ``create`` is exclusive: of several writers, in whatever processes, one wins and
the others get ``AlreadyExists``. Each verb ends within a deadline. Foreign exceptions end here; what comes out is an
error of headrace.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import Any, NoReturn

from headrace.errors import AlreadyExists, HeadraceError, NotFound, NotPicklable, StorageError
from headrace.storage.concealed import Secrets
from headrace.storage.confidential import has_password, merged, secret_texts
from headrace.storage.credentials import Renewing, ask
from headrace.storage.media import DEADLINE, PROTOCOLS, Keys, Medium, open_medium, private_memory
from headrace.storage.media.medium import Place
from headrace.storage.signing import UNSEALED, Seal
from headrace.storage.trouble import meaning, names_no_bucket, translate

__all__ = ["DEADLINE", "Files", "normal_url", "private_memory"]

_PROTOCOL = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*)://")
#: protocols whose first path part is a bucket, without which nothing can be stored.
_BUCKETS = {protocol for protocol, row in PROTOCOLS.items() if row.bucket}


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
    if colon and lead in PROTOCOLS and not text[len(lead) :].startswith("://"):
        rest = text[len(lead) + 1 :]
        meant = rest if lead == "file" else rest.strip("/")
        raise StorageError(f"{text!r} lacks a slash, or two; did you mean '{lead}://{meant}'?")
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
    deadline : float, default 15
        Seconds within which the store must answer; for large objects, one more per megabyte. A folder takes the time
        that its file system takes.
    """

    #: whether objects may hold pickles; what writes or reads some asks for it
    pickles: bool = True

    def __init__(
        self,
        url: str | os.PathLike[str],
        storage_options: Mapping[str, Any] | None = None,
        filesystem: Any = None,
        *,
        hint: str = "",
        credentials: str = "",
        seal: Seal = UNSEALED,
        deadline: float = DEADLINE,
    ) -> None:
        self.url = normal_url(url)
        self.seal = seal
        self._hint = f"; {hint}" if hint else ""
        self._deadline = deadline
        options = dict(storage_options or {})
        self._secrets = Secrets()

        def opened(options: Mapping[str, Any]) -> Medium:
            self._secrets.add(secret_texts(options))
            return open_medium(Place(self.url, options, deadline, filesystem))

        with self._translated("open the storage"):
            if credentials and filesystem is None:
                self._medium: Medium = Renewing(lambda: merged(options, ask(credentials)), opened)
            else:
                self._medium = opened(options)

    def __repr__(self) -> str:
        return f"<Files {self.url}>"

    def __reduce__(self) -> NoReturn:
        raise NotPicklable(f"{self!r} holds credentials, so it does not travel; pickle or serialize the storage")

    @property
    def writable(self) -> bool:
        """Whether objects can be created there: not by HTTP, say."""
        return self._medium.writable

    @property
    def lists(self) -> bool:
        """Whether it can be told what lies there: not by HTTP."""
        return self._medium.lists

    def read(self, key: str) -> bytes:
        """Return an object's bytes.

        Raises
        ------
        NotFound
            If there is none.
        """
        place = self._place(key)
        with self._translated(f"read {key!r}"):
            return self._medium.read(place)

    def create(self, key: str, data: bytes) -> None:
        """Write a new object, exclusively.

        A store may do what it was asked and lose the answer. It is asked again then, and says that the object is
        there. Object stores keep a mark beside it that tells whose it is; elsewhere, over SFTP that is, it counts as
        created here if it holds the same bytes. So writers of which only one may win must write different bytes.

        Raises
        ------
        AlreadyExists
            If the key is taken.
        """
        place = self._place(key)
        with self._translated(f"create {key!r}"):
            self._medium.create(place, data)

    def replace(self, key: str, data: bytes) -> None:
        """Write an object, in place of an earlier one if there is one; readers see the one or the other.

        Of several writers, the last one wins and none is told. So it is for two things only: hints, which may be
        lost (``storage.costs``), and mending a damaged object with the bytes that its name promises.
        """
        place = self._place(key)
        with self._translated(f"write {key!r}"):
            self._medium.replace(place, data)

    def exists(self, key: str) -> bool:
        """Whether there is an object under a key."""
        place = self._place(key)
        try:
            with self._translated(f"look for {key!r}"):
                return self._medium.exists(place)
        except NotFound as error:
            if names_no_bucket(error):
                raise
            return False

    def list(self, prefix: str = "") -> Keys:
        """Return the keys of all objects below a prefix, at any depth, sorted.

        Parameters
        ----------
        prefix : str
            Whole parts of keys: ``"flows/etl"`` has ``"flows/etl/a"`` below it, and not ``"flows/etl2/a"``.
        """
        place = self._place(prefix) if prefix else ""
        found: Keys = []
        with self._translated(f"list {prefix!r}"), _empty_if_missing():
            found = self._medium.list(place)
        below = f"{place}/" if place else ""
        return sorted(key for key in found if key.startswith(below) and not key.endswith("/"))

    def children(self, prefix: str = "") -> Keys:
        """Return the next part of every key below a prefix, each once, sorted; without looking deeper.

        Parameters
        ----------
        prefix : str
            As in `list`.
        """
        place = self._place(prefix) if prefix else ""
        found: Keys = []
        with self._translated(f"list {prefix!r}"), _empty_if_missing():
            found = self._medium.children(place)
        return sorted({name for name in found if name})

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens if there is none."""
        place = self._place(key)
        with self._translated(f"delete {key!r}"), _empty_if_missing():
            self._medium.delete(place)

    # -- many at once ----------------------------------------------------------------------------------------

    def read_many(self, keys: Iterable[str]) -> dict[str, bytes]:
        """Return the bytes of objects by key; those that are not there are left out."""
        found = self._each("read", "read", dict.fromkeys(keys, ()), NotFound)
        return {key: data for key, data in found.items() if not isinstance(data, NotFound)}

    def create_many(self, objects: Mapping[str, bytes]) -> set[str]:
        """Write new objects, each exclusively; see `create`.

        Parameters
        ----------
        objects : mapping of str to bytes
            By key.

        Returns
        -------
        set of str
            The keys that were taken; what is there stays as it is.
        """
        found = self._each("create", "create", {key: (data,) for key, data in objects.items()}, AlreadyExists)
        return {key for key, outcome in found.items() if isinstance(outcome, AlreadyExists)}

    def exists_many(self, keys: Iterable[str]) -> set[str]:
        """Return those of the keys under which there is an object."""
        found = self._each("exists", "look for", dict.fromkeys(keys, ()), NotFound)
        return {key for key, outcome in found.items() if outcome is True}

    def delete_many(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are passed over."""
        self._each("delete", "delete", dict.fromkeys(keys, ()), NotFound)

    def _each(
        self, verb: str, asked: str, calls: Mapping[str, tuple[Any, ...]], expected: type[HeadraceError]
    ) -> dict[str, Any]:
        """Ask the medium many times; return what came of each, and raise the first error that was not expected."""
        todo = [(self._place(key), *more) for key, more in calls.items()]
        with self._translated(f"{asked} {len(todo)} objects"):
            outcomes = self._medium.each(verb, todo)
        found: dict[str, Any] = {}
        for key, outcome in zip(calls, outcomes, strict=True):
            found[key] = outcome
            if isinstance(outcome, Exception):
                found[key] = self._translate(outcome, f"{asked} {key!r}")
                if not isinstance(found[key], expected) or names_no_bucket(outcome):
                    self._raise(found[key], outcome)
        return found

    def _place(self, key: str) -> str:
        parts = PurePosixPath(key).parts
        if not parts or ".." in parts or parts[0] == "/":
            raise StorageError(f"{key!r} is not a key of {self.url}: give a relative path without '..'")
        return "/".join(parts)

    @contextmanager
    def _translated(self, asked: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            translated = self._translate(error, asked)
            if translated is error:
                raise
            self._raise(translated, error)

    def _raise(self, translated: HeadraceError, error: Exception) -> NoReturn:
        cause = self._secrets.cause(error)
        try:
            raise translated from cause
        finally:
            translated.__context__ = cause  # and not what Python puts there, which may hold a secret

    def _translate(self, error: Exception, asked: str) -> HeadraceError:
        return translate(
            error, asked=asked, url=self.url, hint=self._hint, secrets=self._secrets.forms, deadline=self._deadline
        )


def are_asked_alike(url: str, other: str) -> bool:
    """Whether what gives access to one URL may be sent to where another one leads: the same service, by its address.

    Of object stores, the options say where the service is; of all else, the URL does.
    """
    (protocol, _, rest), (other_protocol, _, other_rest) = url.partition("://"), other.partition("://")
    same_host = protocol in _BUCKETS or rest.partition("/")[0] == other_rest.partition("/")[0]
    return protocol == other_protocol and same_host


def read_url(url: str, storage_options: Mapping[str, Any] | None = None, credentials: str = "") -> bytes:
    """Return the bytes at a URL.

    Parameters
    ----------
    url : str
        Of one object.
    storage_options, credentials : mapping and str, optional
        As for `Files`.

    Raises
    ------
    NotFound
        If there is none.
    """
    folder, _, name = url.rpartition("/")
    return Files(folder, storage_options, credentials=credentials).read(name)


@contextmanager
def _empty_if_missing() -> Iterator[None]:
    """A folder that is not there is empty; a bucket that is not there is an error."""
    try:
        yield
    except Exception as error:
        if meaning(error) is not NotFound or names_no_bucket(error):
            raise
