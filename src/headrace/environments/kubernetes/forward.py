"""A port forward that lasts: local ports that lead to a pod, through the API server, whichever pod it is at the time.

The local ports listen as long as the forward is open, so that whoever lost a connection reconnects to the same address.
For each connection that is taken, the pod is looked up anew by its labels, and a websocket of its own is opened to it.
When either end closes, or the websocket falls silent, that connection is closed, and nothing else. While there is no
ready pod, or no API server, a connection waits for it for some seconds.

kr8s brings the credentials and finds the pod. Its own forward is not used: it keeps to one pod, all its connections go
through one session, which is closed when credentials are renewed, and it ends with exceptions that nobody awaits.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from headrace.environments.kubernetes.snapshot import is_leaving, is_ready

logger = logging.getLogger(__name__)

#: A port of a pod, or its name.
Target = int | str

#: Seconds for which a connection waits for a ready pod and an API server that lets it through.
WAIT = 10.0
#: Seconds within which one attempt must be answered.
ANSWER = 5.0
#: Seconds between two attempts.
PAUSE = 0.25
#: Seconds of silence after which the other end is asked for a sign of life, and within which it must give one. Nothing
#: else tells that this machine slept, or that a firewall forgot the connection.
SILENCE = 10.0
#: Most bytes that are read, and sent, at once.
CHUNK = 2**18
#: Seconds to wait, at the end, for the thread.
LEAVE = 5.0


class Forward:
    """Local ports that lead to a pod. They are served by one thread, with an event loop of its own.

    Parameters
    ----------
    access : mapping of str to str or None
        Arguments of ``kr8s.asyncio.api``: ``kubeconfig``, ``context``.
    namespace : str
        Of the pod.
    selector : str
        Labels by which the pod is found, ``"app=store"``; a ready one is taken.
    targets : sequence of int or str
        Ports of the pod, or their names.

    Attributes
    ----------
    ports : dict of int or str to int
        By target: the local port, on the loopback interface.
    """

    def __init__(
        self, access: Mapping[str, str | None], namespace: str, selector: str, targets: Sequence[Target]
    ) -> None:
        self._access = dict(access)
        self._namespace = namespace
        self._selector = selector
        self._api: Any = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._over = asyncio.Event()
        begun: Future[dict[Target, int]] = Future()
        self._thread = threading.Thread(target=self._run, args=(targets, begun), name="headrace-forward", daemon=True)
        self._thread.start()
        try:
            self.ports = begun.result()
        except BaseException:  # Ctrl-C
            self.close()
            raise

    def close(self) -> None:
        """Listen no more, and end all connections and the thread. May be repeated."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            self._thread.join(LEAVE)

    def _run(self, targets: Sequence[Target], begun: Future[dict[Target, int]]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve(targets, begun))
            except Exception as error:  # noqa: BLE001 - is raised where the forward was asked for
                begun.set_exception(error)

    async def _serve(self, targets: Sequence[Target], begun: Future[dict[Target, int]]) -> None:
        import kr8s.asyncio

        async with asyncio.timeout(WAIT):
            open_api: Any = kr8s.asyncio.api
            self._api = await open_api(**self._access)
        servers = {
            target: await asyncio.start_server(partial(self._accept, target), "127.0.0.1", 0, limit=CHUNK)
            for target in targets
        }
        begun.set_result({target: server.sockets[0].getsockname()[1] for target, server in servers.items()})
        await self._over.wait()  # what is under way then is cancelled with the loop
        for server in servers.values():
            server.close()

    def _accept(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Not left to asyncio, which would complain of each connection that is under way at the end.
        task = self._loop.create_task(self._take(target, reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _take(self, target: Target, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection, from its beginning to its end."""
        try:
            async with AsyncExitStack() as stack:
                wire = await self._wire(stack, target, WAIT)
                await _Carrier(wire, reader, writer).carry()
        except Exception as error:  # noqa: BLE001 - of many libraries; who connected sees the end, and tries again
            logger.debug("a connection to port %s of the pod with %s ended: %r", target, self._selector, error)
        finally:
            writer.close()  # what has come is still handed over

    def check(self, timeout: float) -> None:
        """Make sure that there is a way to the pod, or raise why there is none.

        Parameters
        ----------
        timeout : float
            Seconds for which to try.
        """
        asyncio.run_coroutine_threadsafe(self._check(timeout), self._loop).result()

    async def _check(self, timeout: float) -> None:
        async with AsyncExitStack() as stack:
            for target in self.ports:
                await self._wire(stack, target, timeout)

    async def _wire(self, stack: AsyncExitStack, target: Target, timeout: float) -> Any:
        """Open a websocket to the pod, once there is a way."""
        end = time.monotonic() + timeout
        while True:
            attempt = AsyncExitStack()
            try:
                async with asyncio.timeout(ANSWER):
                    wire = await self._open(attempt, target)
            except Exception as error:
                await attempt.aclose()
                if time.monotonic() > end or is_forbidden(error):
                    raise
                await asyncio.sleep(PAUSE)
            else:
                stack.push_async_exit(attempt)
                return wire

    async def _open(self, stack: AsyncExitStack, target: Target) -> Any:
        import httpx
        import httpx_ws

        pod = await self._pod()
        auth = self._api.auth
        session = httpx.AsyncClient(
            base_url=auth.server,
            headers={"Authorization": f"Bearer {auth.token}"} if auth.token else {},
            verify=await auth.ssl_context(),
            proxy=auth.proxy,
            timeout=ANSWER,
        )
        await stack.enter_async_context(session)
        wire: Any = await stack.enter_async_context(
            httpx_ws.aconnect_ws(
                f"/api/v1/namespaces/{self._namespace}/pods/{pod['metadata']['name']}/portforward",
                session,
                params={"ports": str(_number(pod, target))},
                extensions={"sni_hostname": auth.tls_server_name} if auth.tls_server_name else {},
                # It would take a slow reader for a dead writer.
                keepalive_ping_interval_seconds=None,
                max_message_size_bytes=CHUNK,
            )
        )
        # Its last words would have to be waited for on a dead connection; the end of the connection says as much.
        stack.push_async_callback(wire.stream.aclose)
        return wire

    async def _pod(self) -> dict[str, Any]:
        query = {"labelSelector": self._selector}
        async with self._api.call_api(url="pods", namespace=self._namespace, params=query) as answer:
            for pod in answer.json()["items"]:
                if is_ready(pod) and not is_leaving(pod):
                    return pod  # type: ignore[no-any-return]
        raise ConnectionError(f"no pod with {self._selector} is ready")


class _Carrier:
    """Carries bytes between a local connection and a websocket, until one of them ends."""

    def __init__(self, wire: Any, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._reader = reader
        self._writer = writer
        self._heard = time.monotonic()
        self._busy = False  # whoever connected takes his time; what comes meanwhile cannot be heard

    async def carry(self) -> None:
        """Return when one end is closed, or does not answer any more."""
        ways = [asyncio.ensure_future(way()) for way in (self._there, self._back, self._listen)]
        try:
            done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in done:
                way.result()
        finally:
            for way in ways:
                way.cancel()
            await asyncio.wait(ways)

    async def _there(self) -> None:
        while data := await self._reader.read(CHUNK):
            await self._wire.send_bytes(b"\0" + data)  # channel 0 carries data, both ways

    async def _back(self) -> None:
        opened = set()
        while True:
            message = await self._wire.receive_bytes()
            self._heard = time.monotonic()
            channel = message[0]
            if channel not in opened:  # the first message of each channel repeats the number of the port
                opened.add(channel)
            elif channel:
                raise ConnectionError(message[1:].decode(errors="replace"))
            else:
                self._writer.write(memoryview(message)[1:])
                self._busy = True
                await self._writer.drain()
                self._busy = False

    async def _listen(self) -> None:
        while True:
            await asyncio.sleep(SILENCE)
            if not self._is_silent():
                continue
            answered = await self._wire.ping()
            try:
                async with asyncio.timeout(SILENCE):
                    await answered.wait()
            except TimeoutError:
                if self._is_silent():
                    raise ConnectionError(f"the API server has not answered for {SILENCE:g} s") from None

    def _is_silent(self) -> bool:
        return not self._busy and time.monotonic() - self._heard > SILENCE


def is_forbidden(error: Exception) -> bool:
    """Whether Kubernetes does not let this user do that, so that trying it again is in vain."""
    return getattr(getattr(error, "response", None), "status_code", None) == 403


def _number(pod: Mapping[str, Any], target: Target) -> int:
    if isinstance(target, int):
        return target
    for container in pod["spec"]["containers"]:
        for port in container.get("ports") or ():
            if port.get("name") == target:
                return int(port["containerPort"])
    raise ConnectionError(f"the pod {pod['metadata']['name']} has no port that is called {target!r}")
