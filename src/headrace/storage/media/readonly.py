"""Media that are read only: HTTP, and whatever else fsspec reaches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from urllib.parse import quote

from headrace.errors import StorageError
from headrace.storage.media.medium import Keys, Place
from headrace.storage.media.opening import filesystem_class, make_filesystem
from headrace.storage.media.remote import Remote

_REMEDY = "to store something, use a folder, s3, gs, abfs or sftp"


class ReadOnly(Remote):
    """Refuses what changes something."""

    writable = False
    why = ""

    def _refuse(self, what: str) -> StorageError:
        return StorageError(f"cannot {what} in {self.url}: {self.why}")

    async def _create(self, key: str, data: bytes, mark: str) -> None:
        raise self._refuse(f"create {key!r}")

    async def _replace(self, key: str, data: bytes) -> None:
        raise self._refuse(f"write {key!r}")

    async def _delete(self, key: str) -> None:
        raise self._refuse(f"delete {key!r}")


class Http(ReadOnly):
    """A web server. What lies at a known location can be read."""

    # Servers differ in what a PUT means, and a page of links is no list of what is there.
    lists = False
    why = (
        "HTTP is read only, and has no listings; to run or copy a flow, give its full location, "
        f"flows/<name>/<sha256>.flow; {_REMEDY}"
    )

    def __init__(self, place: Place) -> None:
        cls = filesystem_class(place, "'headrace[http]'")
        self.filesystem = make_filesystem(place, cls, {"use_listings_cache": False})
        super().__init__(self.filesystem.loop, place.url, place.deadline)

    def _at(self, key: str) -> str:
        return f"{self.url}/{quote(key)}"

    async def _read(self, key: str) -> bytes:
        async with self._answer(key) as answer:
            return bytes(await answer.read())

    async def _size(self, key: str) -> int:
        # Not HEAD, which signed URLs and some servers refuse. The body is not read.
        async with self._answer(key) as answer:
            return int(answer.headers.get("Content-Length", 0))

    @asynccontextmanager
    async def _answer(self, key: str) -> AsyncIterator[Any]:
        # Not fsspec's own look, to which any trouble is a missing object.
        session = await self.filesystem.set_session()
        async with session.get(self.filesystem.encode_url(self._at(key)), **self.filesystem.kwargs) as answer:
            self.filesystem._raise_not_found_for_status(answer, self._at(key))
            if answer.url.path.endswith("/"):  # a folder: the server led us to its page of links
                raise FileNotFoundError(key)
            yield answer

    def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        raise self._refuse(f"list {key!r}")


class Other(ReadOnly):
    """Any other file system of fsspec, asked in threads."""

    why = f"nobody promises that its objects are whole, and created by one writer only, so it is read only; {_REMEDY}"

    def __init__(self, place: Place) -> None:
        from fsspec.asyn import get_loop

        cls = filesystem_class(place) if place.filesystem is None else type(place.filesystem)
        super().__init__(get_loop(), place.url, place.deadline)
        if not cls.async_impl:
            self.concurrency = 1  # few of them can be asked by two threads at once
        self._make = partial(make_filesystem, place, cls, {"skip_instance_cache": True})
        self._made: Any = None
        self._making = asyncio.Lock()
        root = str(cls._strip_protocol(place.url))
        self._root = root if root.endswith("/") or not root else f"{root}/"

    def _at(self, key: str) -> str:
        return self._root + key

    async def _filesystem(self) -> Any:
        # Many connect when they are made. So they are made when they are needed, within the deadline.
        async with self._making:
            if self._made is None:
                self._made = await _in_thread(self._make)
            return self._made

    async def _ask(self, verb: str, *args: Any, **kwargs: Any) -> Any:
        filesystem = await self._filesystem()
        return await _in_thread(lambda: getattr(filesystem, verb)(*args, **kwargs))

    async def _read(self, key: str) -> bytes:
        return bytes(await self._ask("cat_file", self._at(key)))

    async def _size(self, key: str) -> int:
        found = await self._ask("info", self._at(key))
        if found["type"] != "file":
            raise FileNotFoundError(key)
        return int(found.get("size") or 0)

    async def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        if deep:
            yield [path[len(self._root) :] for path in await self._ask("find", self._at(key))]
        else:
            found = await self._ask("ls", self._at(key), detail=False)
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
