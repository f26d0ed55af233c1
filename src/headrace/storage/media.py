"""The three kinds of medium below ``Files``: a local disk, this process's memory, and the rest of fsspec.

They differ in one thing that matters here: how an object comes to be whole or not at all, and exclusively.

* On a local disk, a temporary file in the same folder is linked (create) or renamed (replace) to its place.
  fsspec's own exclusive mode on local files is not exclusive: two processes can both win.
* In memory, a lock.
* Object stores do it themselves: a conditional put. fsspec reaches it through ``pipe_file(mode="create")``
  only.

This is the only module that touches fsspec.
"""

from __future__ import annotations

import errno
import os
import secrets
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from headrace.errors import MissingPackage, StorageError

#: seconds within which a store must answer; large objects get more, see ``seconds_for``.
DEADLINE = 15.0
#: bytes per second below which a transfer counts as stuck.
SLOWEST = 1_000_000
#: spelled out once, because inside the classes ``list`` is a method.
Keys = list[str]
_TEMPORARY = ".headrace-tmp-"
_EXTRAS = {
    "s3": "s3", "s3a": "s3",
    "gs": "gcs", "gcs": "gcs",
    "abfs": "azure", "abfss": "azure", "az": "azure", "adl": "azure",
}  # fmt: skip
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class Medium(Protocol):
    """What ``Files`` needs of a medium. Paths are the medium's own; errors may be anyone's."""

    def read(self, path: str) -> bytes:
        """Return the bytes of an object."""
        ...

    def create(self, path: str, data: bytes) -> None:
        """Write an object that is not there yet, else raise ``FileExistsError``."""
        ...

    def replace(self, path: str, data: bytes) -> None:
        """Write an object whether or not it is there."""
        ...

    def exists(self, path: str) -> bool:
        """Whether an object is there."""
        ...

    def list(self, path: str) -> Keys:
        """All objects below a path."""
        ...

    def children(self, path: str) -> Keys:
        """The last parts of all paths right below a path."""
        ...

    def delete(self, path: str) -> None:
        """Remove an object; raise ``FileNotFoundError`` or do nothing if there is none."""
        ...


class LocalDisk:
    """Files of this machine, or of a file system mounted on it."""

    def read(self, path: str) -> bytes:
        """Return the bytes of a file."""
        return Path(path).read_bytes()

    def create(self, path: str, data: bytes) -> None:
        """Write a temporary file and link it to its place."""
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, path)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._create_in_place(path, data)
        finally:
            os.unlink(temporary)

    def _create_in_place(self, path: str, data: bytes) -> None:
        # Some mounted file systems have no hard links. Still exclusive; a reader that comes too early finds a
        # short object, which the envelope reports as such.
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            file.write(data)

    def replace(self, path: str, data: bytes) -> None:
        """Write a temporary file and rename it to its place."""
        temporary = self._write_temporary(path, data)
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise

    def _write_temporary(self, path: str, data: bytes) -> str:
        folder = os.path.dirname(path)
        os.makedirs(folder, exist_ok=True)
        temporary = os.path.join(folder, _TEMPORARY + secrets.token_hex(8))
        try:
            with open(temporary, "xb") as file:
                file.write(data)
        except OSError:  # a full disk, say: leave nothing behind
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return temporary

    def exists(self, path: str) -> bool:
        """Whether a file is there."""
        return os.path.isfile(path)

    def list(self, path: str) -> Keys:
        """All files below a folder, without temporary ones."""
        return [
            os.path.join(folder, name)
            for folder, _, names in os.walk(path, onerror=_raise_unless_missing)
            for name in names
            if not name.startswith(_TEMPORARY)
        ]

    def children(self, path: str) -> Keys:
        """Names in a folder, without temporary files."""
        return [name for name in os.listdir(path) if not name.startswith(_TEMPORARY)]

    def delete(self, path: str) -> None:
        """Remove a file."""
        os.unlink(path)


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error


class Remote:
    """Any other fsspec file system. Asynchronous ones are given a deadline for each answer."""

    def __init__(self, filesystem: Any) -> None:
        self.filesystem = filesystem

    def _call(self, verb: str, *args: Any, deadline: float = DEADLINE, **kwargs: Any) -> Any:
        filesystem = self.filesystem
        if not getattr(filesystem, "async_impl", False):
            return getattr(filesystem, verb)(*args, **kwargs)
        from fsspec.asyn import sync

        return sync(filesystem.loop, getattr(filesystem, f"_{verb}"), *args, timeout=deadline, **kwargs)

    def read(self, path: str) -> bytes:
        """Return the bytes of an object; a large one may take long, a store that is silent may not."""
        # s3fs asks for the size first unless told to read in one piece: one round trip less.
        options = {"max_concurrency": 1} if _is_s3(self.filesystem) else {}
        try:
            return bytes(self._call("cat_file", path, deadline=DEADLINE * 2 / 3, **options))
        except TimeoutError:
            size = self._call("info", path, deadline=DEADLINE / 3).get("size") or 0
            if size < SLOWEST:
                raise
            return bytes(self._call("cat_file", path, deadline=seconds_for(size)))

    def create(self, path: str, data: bytes) -> None:
        """Write an object on the condition that it is not there."""
        self._call("pipe_file", path, data, mode="create", deadline=seconds_for(len(data)))

    def replace(self, path: str, data: bytes) -> None:
        """Write an object."""
        self._call("pipe_file", path, data, deadline=seconds_for(len(data)))

    def exists(self, path: str) -> bool:
        """Whether an object is there, as the store says now."""
        return bool(self._call("info", path)["type"] == "file")

    def list(self, path: str) -> Keys:
        """All objects below a path."""
        return [*self._call("find", path)]

    def children(self, path: str) -> Keys:
        """The last parts of all paths right below a path."""
        found = self._call("ls", path, detail=False)
        return [name.rstrip("/").rpartition("/")[2] for name in found]

    def delete(self, path: str) -> None:
        """Remove an object."""
        self._call("rm_file", path)


class Memory(Remote):
    """A dict of this process; a lock makes creation exclusive."""

    _lock = threading.Lock()

    def create(self, path: str, data: bytes) -> None:
        """Write an object that is not there yet."""
        with self._lock:
            if self.filesystem.exists(path):
                raise FileExistsError(path)
            self.filesystem.pipe_file(path, data)

    def replace(self, path: str, data: bytes) -> None:
        """Write an object."""
        with self._lock:
            self.filesystem.pipe_file(path, data)

    def list(self, path: str) -> Keys:
        """All objects below a path."""
        with self._lock:  # a dict must not change while it is walked
            return super().list(path)

    def children(self, path: str) -> Keys:
        """The last parts of all paths right below a path."""
        with self._lock:
            return super().children(path)


def seconds_for(size: int) -> float:
    """How long moving so many bytes may take."""
    return DEADLINE + size / SLOWEST


def medium_of(filesystem: Any) -> Medium:
    """Choose the medium of an fsspec file system."""
    protocols = filesystem.protocol
    protocols = (protocols,) if isinstance(protocols, str) else tuple(protocols)
    if "memory" in protocols:
        return Memory(filesystem)
    return LocalDisk() if "file" in protocols else Remote(filesystem)


def open_filesystem(protocol: str, url: str, options: Mapping[str, Any]) -> Any:
    """Make the fsspec file system of a URL.

    Parameters
    ----------
    protocol : str
        The part before ``://``.
    url : str
        For messages.
    options : mapping
        The user's storage options; never changed.

    Raises
    ------
    MissingPackage, StorageError
        If the protocol needs a package that is not installed, or nobody knows it.
    """
    import fsspec

    try:
        cls = fsspec.get_filesystem_class(protocol)
    except ImportError as error:
        raise _missing_package(protocol, url, error) from error
    except ValueError:
        raise StorageError(
            f"cannot use {url}: no package on this machine knows the protocol {protocol!r}; common ones are "
            "file, memory, s3, gs, abfs. Correct the URL, or install the fsspec package for it",
            protocol=protocol,
        ) from None
    return cls(**_with_defaults(protocol, cls, options))


def root_of(url: str, filesystem: Any = None) -> str:
    """Return the path of a URL within its file system, without a slash at its end.

    Parameters
    ----------
    url : str
        In its one spelling.
    filesystem : fsspec file system, optional
        Default: the class of the URL's protocol tells, so that none need be opened.
    """
    import fsspec

    knows = filesystem or fsspec.get_filesystem_class(url.partition("://")[0])
    return str(knows._strip_protocol(url)).rstrip("/")


def _missing_package(protocol: str, url: str, error: ImportError) -> MissingPackage:
    from fsspec.registry import known_implementations

    known = known_implementations.get(protocol, {})
    package = known.get("class", "").partition(".")[0]
    if protocol in _EXTRAS:
        advice = f"pip install 'headrace[{_EXTRAS[protocol]}]'"
    elif package and package != "fsspec":
        advice = f"pip install {package}"
    else:  # a class of fsspec itself, which needs some other package
        advice = f"pip install the package that is named here: {known.get('err') or error}"
    return MissingPackage(f"{url} needs a package for {protocol}:// that is not installed; {advice}", protocol=protocol)


def _with_defaults(protocol: str, cls: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings below the user's."""
    merged = dict(options)
    if getattr(cls, "async_impl", False):
        # A cached listing hides what other processes wrote.
        merged["use_listings_cache"] = False
    if protocol in ("s3", "s3a"):
        ours = {"connect_timeout": 4, "read_timeout": 10, "retries": {"max_attempts": 1}}
        merged["config_kwargs"] = {**ours, **(options.get("config_kwargs") or {})}
    return merged


def _is_s3(filesystem: Any) -> bool:
    protocol = filesystem.protocol
    return "s3" in ((protocol,) if isinstance(protocol, str) else protocol)


def private_memory() -> Any:
    """Return an in-memory fsspec file system that shares nothing and ends with its last reference.

    Returns
    -------
    fsspec.implementations.memory.MemoryFileSystem
        With a store of its own.
    """
    from fsspec.implementations.memory import MemoryFileSystem

    return MemoryFileSystem(global_store=False, skip_instance_cache=True)
