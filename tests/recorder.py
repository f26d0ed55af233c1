"""A TCP proxy that keeps every byte that passes, in both directions."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Recorder:
    """Listens on a loopback port, and passes on to another one, which may be opened later."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self._target: tuple[str, int] | None = None
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"tcp://127.0.0.1:{self.port}"

    def pass_on_to(self, port: int) -> None:
        self._target = ("127.0.0.1", port)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                try:
                    far = socket.create_connection(self._target or ("127.0.0.1", 1))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=pair, daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while chunk := source.recv(1 << 16):
                with self._lock:
                    self.heard += chunk
                sink.sendall(chunk)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        for each in (self._server, *self._sockets):
            each.close()
