"""A dict of this process: nobody else sees it, and it ends with the process."""

from __future__ import annotations

import threading
from typing import Any

from headrace.storage.media.medium import Keys, OneByOne, Place

_LOCK = threading.Lock()


class Memory(OneByOne):
    """An in-memory file system of fsspec; a lock makes creation exclusive."""

    def __init__(self, place: Place) -> None:
        self.filesystem = place.filesystem or _shared_memory()
        self._root = str(self.filesystem._strip_protocol(place.url)).rstrip("/")

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def read(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return bytes(self.filesystem.cat_file(self._at(key)))

    def create(self, key: str, data: bytes) -> None:
        """Write an object that is not there yet."""
        with _LOCK:
            if self.filesystem.exists(self._at(key)):
                raise FileExistsError(key)
            self.filesystem.pipe_file(self._at(key), data)

    def replace(self, key: str, data: bytes) -> None:
        """Write an object."""
        with _LOCK:
            self.filesystem.pipe_file(self._at(key), data)

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return bool(self.filesystem.isfile(self._at(key)))

    def list(self, key: str) -> Keys:
        """All objects below a key."""
        with _LOCK:  # a dict must not change while it is walked
            found = self.filesystem.find(self._at(key))
        return [path[len(self._root) + 1 :] for path in found]

    def children(self, key: str) -> Keys:
        """The next parts of all keys below a key."""
        with _LOCK:
            found = self.filesystem.ls(self._at(key), detail=False)
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.filesystem.rm_file(self._at(key))


def _shared_memory() -> Any:
    from fsspec.implementations.memory import MemoryFileSystem

    return MemoryFileSystem()


def private_memory() -> Any:
    """Return an in-memory fsspec file system that shares nothing and ends with its last reference.

    Returns
    -------
    fsspec.implementations.memory.MemoryFileSystem
        With a store of its own.
    """
    from fsspec.implementations.memory import MemoryFileSystem

    return MemoryFileSystem(global_store=False, skip_instance_cache=True)
