"""SFTP, through asyncssh: a temporary file, then a hard link (create) or ``posix-rename`` (replace).

Both are extensions of OpenSSH that other servers have taken over. The plain rename of the protocol should not replace
what is there, but some servers let it; so it creates only where there are no hard links, and after it was tried. The
fsspec package for SFTP (sshfs) offers neither, and checks no host keys; so asyncssh, on which it stands, is used
directly.

Who a server is, is checked against the user's ``known_hosts``, unless ``storage_options`` say otherwise.
"""

from __future__ import annotations

import asyncio
import posixpath
import stat
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import unquote, urlsplit

from headrace.errors import StorageError
from headrace.storage.media.local import TEMPORARY, temporary_beside
from headrace.storage.media.medium import Keys, Place
from headrace.storage.media.opening import missing_package
from headrace.storage.media.remote import SHARE, Remote

#: seconds between two questions whether an idle connection still lives.
KEEPALIVE = 15
#: options that any fsspec file system takes, and that mean nothing here.
_OF_FSSPEC = {"skip_instance_cache", "use_listings_cache", "listings_expiry_time", "max_paths"}


class Sftp(Remote):
    """Files below a folder of an SSH server. Connects when it is first asked, and again when a connection is lost."""

    # Requests of one connection go through one process of the server.
    concurrency = 16

    def __init__(self, place: Place) -> None:
        from fsspec.asyn import get_loop

        try:
            import asyncssh
        except ImportError as error:
            raise missing_package(place, "'headrace[sftp]'") from error
        if place.filesystem is not None:
            raise StorageError(f"{place.url} takes storage_options and no file system; give those of asyncssh.connect")
        super().__init__(get_loop(), place.url, place.deadline)
        parts = urlsplit(place.url)
        self._root = unquote(parts.path).rstrip("/")
        found = {"host": parts.hostname or "", "port": parts.port or (), "username": parts.username or ()}
        options = {name: value for name, value in place.options.items() if name not in _OF_FSSPEC}
        self._options = {"keepalive_interval": KEEPALIVE, **found, **options}
        self._connection: list[Any] = []  # at most one: (connection, SFTP client)
        self._connecting = asyncio.Lock()
        self._rename_replaces: bool | None = None  # known once it was tried
        weakref.finalize(self, _abandon, self._loop, self._connection)
        self._ssh: Any = asyncssh

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}"

    async def _sftp(self) -> Any:
        async with self._connecting:
            if self._connection and self._connection[0][0].is_closed():
                self._connection.clear()
            if not self._connection:
                connection = await self._ssh.connect(**self._options)
                self._connection.append((connection, await connection.start_sftp_client()))
            return self._connection[0][1]

    async def _recover(self) -> None:
        while self._connection:
            self._connection.pop()[0].abort()

    async def _read(self, key: str) -> bytes:
        async with (await self._sftp()).open(self._at(key), "rb") as file:
            return bytes(await file.read())

    async def _create(self, key: str, data: bytes, mark: str) -> None:
        sftp, path = await self._sftp(), self._at(key)

        async def link(temporary: str) -> bool:
            await self._write(sftp, temporary, data)
            try:
                await sftp.link(temporary, path)
            except self._ssh.SFTPError as error:
                # The protocol has no code for it: servers say "failure" for whatever reason.
                if await sftp.lexists(path):
                    raise FileExistsError(key) from error
                if isinstance(error, self._ssh.SFTPConnectionLost):
                    raise
                await self._rename(sftp, temporary, path)
                return False
            return True

        await self._with_temporary(sftp, path, link)

    async def _rename(self, sftp: Any, temporary: str, path: str) -> None:
        """Rename, on a server that has no hard links, unless it would replace what is there."""
        if self._rename_replaces is None:
            self._rename_replaces = await self._does_rename_replace(sftp, path)
        if self._rename_replaces:
            raise StorageError(
                f"cannot create objects in {self.url}: its server has no hard links, and renames over what is there, "
                "so two writers could both win; use an OpenSSH server, or another storage"
            )
        try:
            await sftp.rename(temporary, path)
        except self._ssh.SFTPError as error:
            if await sftp.lexists(path):
                raise FileExistsError(path) from error
            raise

    async def _does_rename_replace(self, sftp: Any, path: str) -> bool:
        there = temporary_beside(path)

        async def rename(temporary: str) -> bool:
            await self._write(sftp, temporary, b"")
            await self._write(sftp, there, b"")
            try:
                await sftp.rename(temporary, there)
            except self._ssh.SFTPFailure:
                return True
            finally:
                await self._remove(sftp, there)
            return False

        return not await self._with_temporary(sftp, path, rename)

    async def _replace(self, key: str, data: bytes) -> None:
        sftp, path = await self._sftp(), self._at(key)

        async def rename(temporary: str) -> bool:
            await self._write(sftp, temporary, data)
            try:
                await sftp.posix_rename(temporary, path)
            except self._ssh.SFTPOpUnsupported as error:
                raise StorageError(
                    f"cannot write {key!r} in place of an earlier object: the server of {self.url} has no "
                    "posix-rename, so readers could find half of it; use an OpenSSH server, or another storage"
                ) from error
            return False

        await self._with_temporary(sftp, path, rename)

    async def _with_temporary(self, sftp: Any, path: str, act: Callable[[str], Awaitable[bool]]) -> bool:
        """Do something with a temporary file beside a path; what it returns tells whether the file is still there."""
        temporary, left = temporary_beside(path), True
        try:
            left = await act(temporary)
        except asyncio.CancelledError:  # whoever ran out of time does not wait for the tidying
            left = False
            task = asyncio.get_running_loop().create_task(self._remove(sftp, temporary))
            _TIDYING.add(task)
            task.add_done_callback(_TIDYING.discard)
            raise
        finally:
            if left:
                await self._remove(sftp, temporary)
        return left

    async def _write(self, sftp: Any, temporary: str, data: bytes) -> None:
        try:
            file = await sftp.open(temporary, "xb")
        except self._ssh.SFTPNoSuchFile:
            await sftp.makedirs(posixpath.dirname(temporary), exist_ok=True)
            file = await sftp.open(temporary, "xb")
        async with file:
            await file.write(data)

    async def _remove(self, sftp: Any, path: str) -> None:
        with suppress(self._ssh.Error, OSError, TimeoutError):
            async with asyncio.timeout(SHARE * self.deadline):
                await sftp.remove(path)

    async def _size(self, key: str) -> int:
        found = await (await self._sftp()).stat(self._at(key))
        if not stat.S_ISREG(found.permissions or stat.S_IFREG):
            raise FileNotFoundError(key)
        return int(found.size or 0)

    async def _delete(self, key: str) -> None:
        await (await self._sftp()).remove(self._at(key))

    async def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        sftp = await self._sftp()
        todo, entered = [self._at(key).rstrip("/") or "/"], set[str]()
        while todo:
            folder = todo.pop()
            names: Keys = []
            for found in await sftp.readdir(folder):
                path = posixpath.join(folder, found.filename)
                if found.filename in (".", "..") or found.filename.startswith(TEMPORARY):
                    continue
                if deep and await self._is_folder(sftp, path, found.attrs.permissions, entered):
                    todo.append(path)
                elif deep:
                    names.append(path[len(self._root) + 1 :])
                else:
                    names.append(found.filename)
            yield names

    async def _is_folder(self, sftp: Any, path: str, mode: int, entered: set[str]) -> bool:
        """Whether a path is a folder that is still to be entered; links lead to folders, too, but not in circles."""
        if stat.S_ISDIR(mode):
            return True
        if not stat.S_ISLNK(mode) or not await sftp.isdir(path):
            return False
        real = await sftp.realpath(path)
        if real in entered:
            return False
        entered.add(real)
        return True


_TIDYING: set[asyncio.Task[None]] = set()


def _abandon(loop: Any, connection: list[Any]) -> None:
    while connection:
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(connection.pop()[0].abort)
