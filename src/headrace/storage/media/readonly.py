"""Media that are read only: HTTP, and whatever else fsspec reaches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any
from urllib.parse import quote

from headrace.errors import StorageError
from headrace.storage.media.medium import Keys, Place
from headrace.storage.media.opening import filesystem_class, make_filesystem
from headrace.storage.media.remote import Remote

_REMEDY = "write through a folder, s3, gs, abfs or sftp"


class ReadOnly(Remote):
    """Refuses what changes something."""

    writable = False
    why = ""

    def _refuse(self, what: str) -> StorageError:
        return StorageError(f"cannot {what} in {self.url}: {self.why}")

    async def _create(self, key: str, data: bytes) -> None:
        raise self._refuse(f"create {key!r}")

    async def _replace(self, key: str, data: bytes) -> None:
        raise self._refuse(f"write {key!r}")

    async def _delete(self, key: str) -> None:
        raise self._refuse(f"delete {key!r}")


class Http(ReadOnly):
    """A web server. What lies at a known location can be read."""

    why = (
        "HTTP is read only here, and has no listings: servers differ in what a PUT means, and a page of links is no "
        f"list of what is there. Give a flow's full location, flows/<name>/<sha256>.flow; {_REMEDY}"
    )

    def __init__(self, place: Place) -> None:
        cls = filesystem_class(place, "'headrace[http]'")
        self.filesystem = make_filesystem(place, cls, {"use_listings_cache": False})
        super().__init__(self.filesystem.loop, place.url, place.deadline)

    def _at(self, key: str) -> str:
        return f"{self.url}/{quote(key)}"

    async def _read(self, key: str) -> bytes:
        return bytes(await self.filesystem._cat_file(self._at(key)))

    async def _size(self, key: str) -> int:
        # Not HEAD, which signed URLs and some servers refuse; and not fsspec's own look, to which any trouble is a
        # missing object. The body is not read.
        session = await self.filesystem.set_session()
        async with session.get(self.filesystem.encode_url(self._at(key)), **self.filesystem.kwargs) as answer:
            self.filesystem._raise_not_found_for_status(answer, self._at(key))
            return int(answer.headers.get("Content-Length", 0))

    def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        raise self._refuse(f"list {key!r}")


class Other(ReadOnly):
    """Any other file system of fsspec. Those that know no event loop are asked in threads, one at a time."""

    why = f"nobody promises that its objects are whole, and created by one writer only, so it is read only; {_REMEDY}"

    def __init__(self, place: Place) -> None:
        from fsspec.asyn import get_loop

        filesystem = make_filesystem(place, None if place.filesystem is not None else filesystem_class(place))
        self._is_async = bool(filesystem.async_impl)
        super().__init__(filesystem.loop if self._is_async else get_loop(), place.url, place.deadline)
        self.filesystem = filesystem
        if not self._is_async:
            self.concurrency = 1  # few of them can be asked by two threads at once
        self._root = str(filesystem._strip_protocol(place.url)).rstrip("/")

    def _at(self, key: str) -> str:
        return f"{self._root}/{key}" if self._root else key

    async def _ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        if self._is_async:
            return await getattr(self.filesystem, f"_{verb}")(*args, **kwargs)
        return await _in_thread(lambda: getattr(self.filesystem, verb)(*args, **kwargs))

    async def _read(self, key: str) -> bytes:
        return bytes(await self._ask("cat_file", self._at(key)))

    async def _size(self, key: str) -> int:
        found = await self._ask("info", self._at(key))
        if found["type"] != "file":
            raise FileNotFoundError(key)
        return int(found.get("size") or 0)

    async def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        folder = self._at(key) if key else self._root
        if deep:
            skip = len(self._root) + 1 if self._root else 0
            yield [path[skip:] for path in await self._ask("find", folder)]
        else:
            found = await self._ask("ls", folder, detail=False)
            yield [path.rstrip("/").rpartition("/")[2] for path in found]


async def _in_thread(call: Callable[[], Any]) -> Any:
    """Await a call in a thread that, if it hangs, does not keep the process from ending."""
    loop = asyncio.get_running_loop()
    future = loop.create_future()

    def settle(answer: Any, error: BaseException | None) -> None:
        if future.done():  # nobody waits any more
            return
        if error is None:
            future.set_result(answer)
        else:
            future.set_exception(error)

    def run() -> None:
        try:
            answer = call()
        except Exception as error:  # noqa: BLE001 - it is raised where it is awaited
            loop.call_soon_threadsafe(settle, None, error)
        else:
            loop.call_soon_threadsafe(settle, answer, None)

    threading.Thread(target=run, name="headrace-storage", daemon=True).start()
    return await future
