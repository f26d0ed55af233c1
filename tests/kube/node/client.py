"""The kubelet's way to the API server: it waits when the server is away, as a node does."""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from tests.kube.control.objects import Object, event

log = logging.getLogger("client")
Handler = Callable[[str, Any], Awaitable[None]]
_AWAY = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError, TimeoutError)


class Client:
    def __init__(self, server: str, token: str, ca: str) -> None:
        self.server, self.token = server, token
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._tls = ssl.create_default_context(cafile=ca)
        self._events: dict[tuple[str, ...], Object] = {}
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Client:
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0)
        self._session = aiohttp.ClientSession(headers=self._headers, connector=connector)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None
        return self._session

    async def request(self, method: str, path: str, body: object = None, kind: str | None = None) -> tuple[int, Any]:
        """Ask until there is an answer; a refusal is one."""
        data = None if body is None else json.dumps(body)
        headers = {"Content-Type": kind} if kind else None
        while True:
            try:
                async with self.session.request(method, self.server + path, data=data, headers=headers) as answer:
                    found = await answer.json(content_type=None)
            except _AWAY:
                await asyncio.sleep(0.1)
                continue
            if answer.status >= 400 and answer.status not in (403, 404, 409):
                raise RuntimeError(f"{method} {path}: {answer.status} {found}")
            return answer.status, found

    async def patch(self, path: str, body: object) -> int:
        status, _ = await self.request("PATCH", path, body, "application/merge-patch+json")
        return status

    async def record(self, about: Object, kind: str, reason: str, message: str) -> None:
        """Tell an event; what was told before is counted."""
        new = event(about, kind, reason, message, "kubelet" if reason != "FailedScheduling" else "default-scheduler")
        path = f"/api/v1/namespaces/{new['metadata']['namespace']}/events"
        key = (about["metadata"]["uid"], reason, message)
        known = self._events.get(key)
        if known is not None:
            known["count"] += 1
            change = {"count": known["count"], "lastTimestamp": new["lastTimestamp"]}
            if await self.patch(f"{path}/{known['metadata']['name']}", change) == 200:
                return
        status, made = await self.request("POST", path, new)
        if status == 201:
            self._events[key] = made

    async def follow(self, path: str, handler: Handler) -> None:
        """List and watch, for ever; the handler gets SYNC with all objects, then ADDED, MODIFIED, DELETED."""
        forever = aiohttp.ClientTimeout(total=None, sock_read=330)
        while True:
            try:
                _, listed = await self.request("GET", path)
                await handler("SYNC", listed["items"])
                since = listed["metadata"]["resourceVersion"]
                url = f"{self.server}{path}?watch=true&timeoutSeconds=300&resourceVersion={since}"
                async with self.session.get(url, timeout=forever, read_bufsize=2**24) as answer:
                    async for line in answer.content:
                        change = json.loads(line)
                        if change["type"] == "ERROR":
                            break
                        if change["type"] != "BOOKMARK":
                            await handler(change["type"], change["object"])
            except _AWAY as error:
                log.warning("watch of %s: %r; again", path, error)
                await asyncio.sleep(0.1)
