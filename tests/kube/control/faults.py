"""What tests break in the API server. Each is a request to ``/_bench/...`` by an administrator."""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.kube.control.access import Access
from tests.kube.control.objects import Refused


class Listener:
    """The API server's socket, which can be closed for a while: the server is gone, its state is not."""

    def __init__(self, runner: web.AppRunner, first: socket.socket, tls: ssl.SSLContext) -> None:
        self._runner, self._address, self._tls = runner, first.getsockname(), tls
        self._site: web.BaseSite = web.SockSite(runner, first, ssl_context=tls)

    async def open(self) -> None:
        await self._site.start()

    async def leave(self, back: Path) -> None:
        """Be away until this file is there."""
        await asyncio.sleep(0.05)  # the answer to who asked for it goes out
        await self._site.stop()
        assert self._runner.server is not None
        for connection in list(self._runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        while not back.exists():
            await asyncio.sleep(0.05)
        self._site = web.TCPSite(self._runner, *self._address, ssl_context=self._tls, reuse_address=True)
        await self._site.start()


class Faults:
    def __init__(self, access: Access) -> None:
        self.listener: Listener | None = None
        self._access = access
        #: rules: method, path (a pattern), times, and what happens: delay, drop, status, reason, message
        self._rules: list[dict[str, Any]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def meet(self, request: web.Request) -> None:
        """Do to a request what the first rule for it says."""
        for rule in self._rules:
            if rule.get("method", request.method) == request.method and re.search(rule["path"], request.path_qs):
                rule["times"] = rule.get("times", 1) - 1
                if rule["times"] <= 0:
                    self._rules.remove(rule)
                await asyncio.sleep(rule.get("delay", 0))
                if rule.get("drop") and request.transport is not None:
                    request.transport.abort()
                if "status" in rule:
                    reason = rule.get("reason", "InternalError")
                    raise Refused(rule["status"], reason, rule.get("message", "Internal error occurred"))
                return

    async def command(self, name: str, body: Any) -> None:
        match name:
            case "requests":
                self._rules = body
            case "forbid":
                self._access.forbidden.add(tuple(body))
            case "allow":
                self._access.forbidden.discard(tuple(body))
            case "away":
                assert self.listener is not None
                task = asyncio.create_task(self.listener.leave(Path(body)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            case _:
                raise Refused(404, "NotFound", f"no fault {name}")
