"""Many small objects and a large one, put and got: ``python -m benchmarks.storage``.

On a local folder, on S3 (moto's server, a process of its own), and on the same S3 behind a proxy that adds 30 ms to
each answer (`benchmarks.delay`). Side by side, in turns, in this process:

* ``fsspec``: plain ``pipe_file`` and ``cat_file``, one by one, on a file system as ``fsspec.filesystem`` makes it,
* ``fsspec batch``: its ``pipe`` and ``cat``,
* ``headrace``: ``create`` and ``read``, one by one; each creation is exclusive, which the other two do not do,
* ``headrace batch``: ``create_many`` and ``read_many``,
* ``obstore``: natively, one by one, and ``obstore batch``: 64 at a time; exclusive, too.

What was got is compared with what was put.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from benchmarks.harness import command
from benchmarks.report import grid, machine, seconds
from tests.servers import s3_server, started

DELAY = 0.03
#: Requests that are under way at a time, where it is for us to say.
AT_ONCE = 64
WAYS = ("fsspec", "fsspec batch", "headrace", "headrace batch", "obstore", "obstore batch")


@dataclass(frozen=True)
class Where:
    """A place that nobody else uses.

    Attributes
    ----------
    name : str
        For the table.
    url : str
        Of a folder, or of a bucket.
    options : mapping
        For fsspec.
    """

    name: str
    url: str
    options: Mapping[str, Any] = field(default_factory=dict)


class Way(Protocol):
    """Puts objects and gets them back. The time for that is taken, and what comes before is not."""

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put objects under keys that nothing lies under."""

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them back."""

    def delete(self, keys: list[str]) -> None:
        """Remove them, in whatever time that takes."""


class Plain:
    """fsspec, one by one."""

    def __init__(self, where: Where) -> None:
        import fsspec

        protocol = where.url.partition("://")[0]
        self.filesystem = fsspec.filesystem(protocol, **where.options, skip_instance_cache=True)
        self.root = where.url.partition("://")[2] + "/" + uuid.uuid4().hex
        if protocol == "file":
            self.filesystem.makedirs(self.root)

    def at(self, key: str) -> str:
        """Where fsspec finds a key."""
        return f"{self.root}/{key}"

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put them, one by one."""
        for key, data in objects.items():
            self.filesystem.pipe_file(self.at(key), data)

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them, one by one."""
        return {key: self.filesystem.cat_file(self.at(key)) for key in keys}

    def delete(self, keys: list[str]) -> None:
        """Remove them."""
        self.filesystem.rm([self.at(key) for key in keys])


class PlainBatch(Plain):
    """fsspec, as many at a time as it likes."""

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put them all."""
        self.filesystem.pipe({self.at(key): data for key, data in objects.items()})

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them all."""
        paths = [self.at(key) for key in keys]
        found = self.filesystem.cat(paths)
        if isinstance(found, bytes):  # of one path
            return {keys[0]: found}
        return {key: found[path] for key, path in zip(keys, paths, strict=True)}


class Verbs:
    """headrace, one by one."""

    def __init__(self, where: Where) -> None:
        from headrace.storage.files import Files

        self.files = Files(f"{where.url}/{uuid.uuid4().hex}", where.options)

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put them, one by one."""
        for key, data in objects.items():
            self.files.create(key, data)

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them, one by one."""
        return {key: self.files.read(key) for key in keys}

    def delete(self, keys: list[str]) -> None:
        """Remove them."""
        self.files.delete_many(keys)


class VerbsBatch(Verbs):
    """headrace, in batch forms."""

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put them all."""
        if self.files.create_many(objects):
            raise SystemExit("an object was there already")

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them all."""
        return self.files.read_many(keys)


class Native:
    """obstore without fsspec, one by one."""

    def __init__(self, where: Where) -> None:
        from obstore.store import LocalStore, S3Store

        protocol, _, path = where.url.partition("://")
        if protocol == "file":
            self.store: Any = LocalStore(Path(path) / uuid.uuid4().hex, mkdir=True)
        else:
            self.store = S3Store(
                path,
                prefix=uuid.uuid4().hex,
                endpoint=where.options["endpoint_url"],
                access_key_id=where.options["key"],
                secret_access_key=where.options["secret"],
                region="us-east-1",
                client_options={"allow_http": True, "timeout": "300s"},
            )

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put them, one by one."""
        for key, data in objects.items():
            self.store.put(key, data, mode="create")

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them, one by one."""
        return {key: bytes(self.store.get(key).bytes()) for key in keys}

    def delete(self, keys: list[str]) -> None:
        """Remove them."""
        self.store.delete(keys)


class NativeBatch(Native):
    """obstore without fsspec, some at a time."""

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Put them all."""

        async def put(key: str) -> None:
            await self.store.put_async(key, objects[key], mode="create")

        asyncio.run(_all(put, list(objects)))

    def get(self, keys: list[str]) -> dict[str, bytes]:
        """Get them all."""
        found: dict[str, bytes] = {}

        async def get(key: str) -> None:
            found[key] = bytes(await (await self.store.get_async(key)).bytes_async())

        asyncio.run(_all(get, keys))
        return found


async def _all(ask: Callable[[str], Any], keys: list[str]) -> None:
    free = asyncio.Semaphore(AT_ONCE)

    async def one(key: str) -> None:
        async with free:
            await ask(key)

    async with asyncio.TaskGroup() as group:
        for key in keys:
            group.create_task(one(key))


CLASSES: dict[str, Callable[[Where], Way]] = dict(
    zip(WAYS, (Plain, PlainBatch, Verbs, VerbsBatch, Native, NativeBatch), strict=True)
)


@contextmanager
def places() -> Iterator[list[Where]]:
    """Start the servers, and say where objects can be put."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-benchmark-"))
        server = stack.enter_context(s3_server())
        proxy = [sys.executable, "-m", "benchmarks.delay", server.endpoint.rpartition(":")[2], "--seconds", str(DELAY)]
        far, _ = stack.enter_context(started(proxy, r"listening on (http://127\.0\.0\.1:\d+)"))
        yield [
            Where("folder", f"file://{folder}"),
            Where("S3", server.new_bucket(), server.storage_options),
            Where("S3 + 30 ms", server.new_bucket(), {**server.storage_options, "endpoint_url": far}),
        ]


def timed(action: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Return the seconds that something took, and its answer."""
    start = time.perf_counter()
    answer = action(*arguments)
    return time.perf_counter() - start, answer


def compared(where: Where, objects: Mapping[str, bytes], ways: tuple[str, ...], rounds: int) -> dict[str, Any]:
    """Put and get the objects in all ways in turns; return the seconds of each, by verb and way."""
    taken: dict[str, dict[str, list[float]]] = {"put": {}, "get": {}}
    keys = list(objects)
    for turn in range(rounds):
        for name in ways if turn % 2 == 0 else ways[::-1]:
            way = CLASSES[name](where)
            way.put({"first": b"of a connection"})
            way.get(["first"])
            put, _ = timed(way.put, objects)
            get, found = timed(way.get, keys)
            if found != objects:
                raise SystemExit(f"{name} on {where.name}: what was got is not what was put")
            way.delete(keys)
            taken["put"].setdefault(name, []).append(put)
            taken["get"].setdefault(name, []).append(get)
    return taken


def measure(rounds: int, *, quick: bool = False) -> dict[str, Any]:
    """Measure and return what was found, as JSON data."""
    many, large = (30, 2_000_000) if quick else (1000, 100_000_000)
    one_by_one = tuple(way for way in WAYS if "batch" not in way)
    small = {f"{number:04}": os.urandom(1024) for number in range(many)}
    sizes = (
        (f"{many:,} x 1 KB", small, WAYS),
        (f"{large // 1_000_000} MB", {"large": os.urandom(large)}, one_by_one),
    )
    found = []
    with places() as stores:
        for where in stores:
            for size, objects, ways in sizes:
                for verb, taken in compared(where, objects, ways, rounds).items():
                    found.append({"name": f"{where.name}: {verb} {size}", "tasks": len(objects), "seconds": taken})
    return {"machine": machine(), "rounds": rounds, "quick": quick, "shapes": found}


def table(found: dict[str, Any]) -> str:
    """Return it as a Markdown table."""

    def cell(way: str) -> Callable[[dict[str, Any]], str]:
        text = seconds(way)
        return lambda shape: text(shape) if way in shape["seconds"] else "–"  # noqa: RUF001 - as in the other tables

    def ratio(shape: dict[str, Any]) -> str:
        ours = shape["seconds"].get("headrace batch") or shape["seconds"]["headrace"]
        return f"{median(shape['seconds']['fsspec']) / median(ours):.1f}"

    return grid(found, "seconds", {way: cell(way) for way in WAYS} | {"fsspec / headrace": ratio})


def main(arguments: list[str] | None = None) -> None:
    """Measure, print the table, write the JSON."""
    command("storage", __doc__, measure, table, arguments)


if __name__ == "__main__":
    main()
