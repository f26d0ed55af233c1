"""A proxy on a loopback port that adds a delay to what a server answers: ``python -m benchmarks.delay PORT``.

It delays and does not throttle: each piece of an answer is passed on so many seconds after it came, however many
pieces are on their way at the same time. Connections stay open as long as both ends want. What the client sends is
passed on at once.
"""

from __future__ import annotations

import argparse
import asyncio
from contextlib import suppress

HOST = "127.0.0.1"
PIECE = 1 << 18


async def forward(source: asyncio.StreamReader, sink: asyncio.StreamWriter, seconds: float) -> None:
    """Pass on what comes, each piece so many seconds later, and the end as well."""
    now = asyncio.get_running_loop().time
    pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

    async def pour() -> None:
        while True:
            due, piece = await pieces.get()
            if due > now():
                await asyncio.sleep(due - now())
            if not piece:
                return
            sink.write(piece)
            await sink.drain()

    pouring = asyncio.create_task(pour())
    with suppress(ConnectionError):
        while piece := await source.read(PIECE):
            pieces.put_nowait((now() + seconds, piece))
    pieces.put_nowait((now() + seconds, b""))
    with suppress(ConnectionError):
        await pouring
        if sink.can_write_eof():
            sink.write_eof()


async def serve(port: int, seconds: float) -> None:
    """Stand before a port, and say at which."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, server = await asyncio.open_connection(HOST, port)
        await asyncio.gather(forward(reader, server, 0.0), forward(upstream, writer, seconds))
        server.close()
        writer.close()

    listening = await asyncio.start_server(connected, HOST, 0)
    print(f"listening on http://{HOST}:{listening.sockets[0].getsockname()[1]}", flush=True)
    await listening.serve_forever()


def main() -> None:
    """Be the proxy until somebody ends this process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.delay", description=__doc__)
    parser.add_argument("port", type=int, help="of the server, on this machine")
    parser.add_argument("--seconds", type=float, default=0.03, help="how much later (default: %(default)s)")
    options = parser.parse_args()
    asyncio.run(serve(options.port, options.seconds))


if __name__ == "__main__":
    main()
