"""A proxy before a server, on a loopback port, that does to requests and connections what networks do."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from tests.servers import Server

#: what a proxy can do to a request, beside passing it on; a number is a status that it answers itself
RESET, LOSE, HALF, SILENT = "break before it arrives", "lose the answer", "break in mid-answer", "say nothing"
Fault = str | int | None


def every(count: int, fault: Fault, method: str = "") -> Callable[[int, str], Fault]:
    """The same fault for each so-manieth request of a method, counted from the first."""
    seen = 0

    def choose(_: int, asked: str) -> Fault:
        nonlocal seen
        if not re.match(method, asked):
            return None
        seen += 1
        return fault if seen % count == 1 or count == 1 else None

    return choose


def first(count: int, fault: Fault, method: str = "") -> Callable[[int, str], Fault]:
    """The same fault for the first requests of a method."""
    seen = 0

    def choose(_: int, asked: str) -> Fault:
        nonlocal seen
        seen += bool(re.match(method, asked))
        return fault if re.match(method, asked) and seen <= count else None

    return choose


@dataclass
class Proxy:
    """A proxy.

    Attributes
    ----------
    upstream : str
        ``host:port`` of the server.
    http : bool
        Whether it understands requests. If not, it passes bytes on, until it is ``cut``, ``frozen`` or ``down``.
    choose : callable
        (number of the request, its first line) → what to do to it.
    asked : list of str
        The first lines of the requests that came.
    down : bool
        Whether new connections are broken at once.
    broken : int
        How many were.
    """

    upstream: str
    http: bool = True
    choose: Callable[[int, str], Fault] = field(default=lambda number, asked: None)
    asked: list[str] = field(default_factory=list)
    address: str = ""
    down: bool = False
    broken: int = 0
    _frozen: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: Any = None
    _open: set[asyncio.StreamWriter] = field(default_factory=set)

    def cut(self) -> None:
        """Break all connections."""

        def abort() -> None:
            for writer in list(self._open):
                writer.transport.abort()

        self._loop.call_soon_threadsafe(abort)

    def freeze(self) -> None:
        """Let nothing through any more on the connections that there are; nobody is told."""
        self._loop.call_soon_threadsafe(lambda: self._frozen.update(self._open))

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            self.broken += 1
            return
        self._open.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                if self.http:
                    await self._one_request(reader, writer)
                else:
                    await self._pass_on(reader, writer)
        finally:
            self._open.discard(writer)
            writer.close()

    async def _one_request(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Each request gets a connection of its own: the server is told to close it, and the client sees that."""
        head = await reader.readuntil(b"\r\n\r\n")
        if re.search(rb"(?i)\r\nexpect: 100-continue", head):
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = re.sub(rb"(?i)\r\nexpect: 100-continue", b"", head)
        body = await _body(reader, head)
        asked = head.partition(b"\r\n")[0].decode()
        self.asked.append(asked)
        fault = self.choose(len(self.asked), asked)
        if fault == RESET:
            writer.transport.abort()
        elif fault == SILENT:
            await reader.read()  # until the client gives up
        elif isinstance(fault, int):
            writer.write(b"HTTP/1.1 %d Because\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % fault)
        else:
            answer = await self._answer(head, body)
            if fault == LOSE:
                writer.transport.abort()
                return
            start = answer.find(b"\r\n\r\n") + 4
            writer.write(answer[: start + (len(answer) - start) // 2] if fault == HALF else answer)
            await writer.drain()

    async def _answer(self, head: bytes, body: bytes) -> bytes:
        host, port = self.upstream.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head)[:-2] + b"Connection: close\r\n\r\n" + body)
            answer = await reader.read()
        finally:
            writer.close()
        head, middle, content = answer.partition(b"\r\n\r\n")
        head = re.sub(rb"(?i)\r\nconnection: [^\r]*", b"", head) + b"\r\nConnection: close"
        # Some say where to go on; that leads through here, too.
        return head.replace(self.upstream.encode(), self.address.encode()) + middle + content

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host, port = self.upstream.split(":")
        server_reader, server_writer = await asyncio.open_connection(host, int(port))
        self._open.add(server_writer)

        async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            with suppress(OSError):
                while (data := await source.read(65536)) or target in self._frozen:
                    if target in self._frozen:
                        await asyncio.Event().wait()
                    target.write(data)
                    await target.drain()
            target.close()

        try:
            await asyncio.gather(copy(reader, server_writer), copy(server_reader, writer))
        finally:
            self._open.discard(server_writer)


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    if found := re.search(rb"(?i)\r\ncontent-length: *(\d+)", head):
        return await reader.readexactly(int(found[1]))
    if not re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        return b""
    body = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        chunk = await reader.readexactly(int(line.split(b";")[0], 16) + 2)
        body += line + chunk
        if chunk == b"\r\n":
            return body


@contextmanager
def proxy_before(server: Server | str) -> Iterator[Proxy]:
    """Run a proxy before a server, or before any address, in a thread of this process."""
    endpoint = server if isinstance(server, str) else server.endpoint
    proxy = Proxy(endpoint.rpartition("/")[2], http=endpoint.startswith("http"))
    ready, done = threading.Event(), asyncio.Event()

    async def serve() -> None:
        proxy._loop = asyncio.get_running_loop()
        listener = await asyncio.start_server(proxy._connected, "127.0.0.1", 0)
        proxy.address = "{}:{}".format(*listener.sockets[0].getsockname())
        ready.set()
        await done.wait()
        listener.close()
        for writer in list(proxy._open):
            writer.transport.abort()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield proxy
    finally:
        proxy._loop.call_soon_threadsafe(done.set)
        thread.join()


def led_to(address: str, server: Server, given: str | Mapping[str, Any]) -> Any:
    """A URL or storage options that lead to another address than the server's."""
    upstream = server.endpoint.rpartition("/")[2]
    if isinstance(given, str):
        return given.replace(upstream, address)
    return {name: led_to(address, server, value) if isinstance(value, str) else value for name, value in given.items()}
