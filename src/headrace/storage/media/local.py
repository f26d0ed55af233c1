"""Folders of this machine, or of a file system that is mounted on it.

A temporary file in the same folder is linked (create) or renamed (replace) to its place. fsspec's own exclusive mode on
local files is not exclusive: two processes can both win.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import suppress
from pathlib import Path

from headrace.storage.media.medium import Keys, OneByOne, Place

#: how the names of temporary files begin, on a folder and over SFTP; they are never listed.
TEMPORARY = ".headrace-tmp-"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


def temporary_beside(path: str) -> str:
    """Return a path in the same folder that nobody else uses."""
    return os.path.join(os.path.dirname(path), TEMPORARY + secrets.token_hex(8))


class LocalDisk(OneByOne):
    """Files below a folder."""

    def __init__(self, place: Place) -> None:
        self._root = place.url.removeprefix("file://").rstrip("/")

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    def read(self, key: str) -> bytes:
        """Return the bytes of a file."""
        return Path(self._at(key)).read_bytes()

    def create(self, key: str, data: bytes) -> None:
        """Write a temporary file and link it to its place."""
        path = self._at(key)
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, path)
        except FileExistsError:
            # Over NFS the first answer can be lost; what was asked again says "exists". A second name says who won.
            if os.stat(temporary).st_nlink != 2:
                raise
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._claim_and_rename(temporary, path)
        finally:
            with suppress(FileNotFoundError):  # renamed
                os.unlink(temporary)

    def _claim_and_rename(self, temporary: str, path: str) -> None:
        # Some mounted file systems have no hard links. Still exclusive; who reads between the two steps finds an empty
        # object, which the envelope reports as such.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(path)
            raise

    def replace(self, key: str, data: bytes) -> None:
        """Write a temporary file and rename it to its place."""
        path = self._at(key)
        temporary = self._write_temporary(path, data)
        try:
            os.replace(temporary, path)
        except OSError:
            os.unlink(temporary)
            raise

    def _write_temporary(self, path: str, data: bytes) -> str:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        temporary = temporary_beside(path)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
        except OSError:  # a full disk, say: leave nothing behind
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            raise
        return temporary

    def exists(self, key: str) -> bool:
        """Whether a file is there."""
        return os.path.isfile(self._at(key))

    def list(self, key: str) -> Keys:
        """All files below a folder, without temporary ones; through links to folders, too, as the other verbs go."""
        found: Keys = []
        entered = set()
        for folder, folders, names in os.walk(self._at(key), onerror=_raise_unless_missing, followlinks=True):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in entered:  # a link that leads back
                folders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            found += [os.path.join(folder, name) for name in names if not name.startswith(TEMPORARY)]
        return [path[len(self._root) + 1 :] for path in found]

    def children(self, key: str) -> Keys:
        """Names in a folder, without temporary files."""
        return [name for name in os.listdir(self._at(key)) if not name.startswith(TEMPORARY)]

    def delete(self, key: str) -> None:
        """Remove a file."""
        os.unlink(self._at(key))


def _raise_unless_missing(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
