"""One node whose pods are processes of this machine: what kube-scheduler, kubelet, kube-proxy and DNS do.

It works with any API server. Addresses of pods and of services are loopback addresses, which Linux accepts without any
set-up or privilege; `podshim` turns what a pod binds to all addresses into what is bound to its own.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import os
import signal
import ssl
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp import web

from tests.kube.control.objects import Object, is_over, now
from tests.kube.node.client import Client
from tests.kube.node.placement import why_not
from tests.kube.node.pods import Pod
from tests.kube.node.services import Services

log = logging.getLogger("kubelet")
PORT = 10250


class Kubelet:
    name = "process-node"

    def __init__(self, arguments: argparse.Namespace, client: Client, probes: aiohttp.ClientSession) -> None:
        self.client, self.probes = client, probes
        self.folder: Path = arguments.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.address: str = arguments.address
        self.ca: Path = arguments.pki / "ca.crt"
        self._pki: Path = arguments.pki
        server = urlsplit(arguments.server)
        self.api_host, self.api_port = str(server.hostname), str(server.port)
        self.hosts = self.folder / "hosts"
        self.hosts.touch()
        self.path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.pythonpath: str = arguments.pythonpath
        self.backoff: float = arguments.backoff
        self.longest_grace: float = arguments.longest_grace
        self.balancer_delay: float = arguments.balancer_delay
        self._addresses = ipaddress.ip_network(arguments.pods)
        self._next_address = 10
        self._capacity = {"cpu": arguments.cpus, "memory": "64Gi", "pods": "200"}
        self._obj: Object | None = None
        self.pods: dict[str, Pod] = {}
        self._unbound: dict[str, Object] = {}
        #: bound to this node, while the watch has not told of it yet: they count at once
        self._bound: dict[str, Object] = {}
        self._unbound_changed = asyncio.Event()
        self.endpoints_changed = asyncio.Event()
        self.services = Services(self)
        self._forwards: set[web.WebSocketResponse] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def new_address(self) -> str:
        used = {pod.address for pod in self.pods.values()}
        while True:
            self._next_address = 10 + (self._next_address - 9) % (self._addresses.num_addresses - 20)
            address = str(self._addresses[self._next_address])
            if address not in used:
                return address

    # -- the node --------------------------------------------------------------------------------------------

    async def _beat(self) -> None:
        labels = {"kubernetes.io/hostname": self.name, "kubernetes.io/os": "linux"}
        await self.client.request(
            "POST", "/api/v1/nodes", {"metadata": {"name": self.name, "labels": labels}, "spec": {}}
        )
        started = now()
        while True:
            ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastTransitionTime": started}
            status = {
                "addresses": [{"type": "InternalIP", "address": self.address}],
                "daemonEndpoints": {"kubeletEndpoint": {"Port": PORT}},
                "capacity": self._capacity,
                "allocatable": self._capacity,
                "conditions": [ready | {"lastHeartbeatTime": now()}],
            }
            await self.client.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})
            await asyncio.sleep(10)

    async def _on_node(self, kind: str, obj: Any) -> None:
        for each in obj if kind == "SYNC" else [obj]:
            if each["metadata"]["name"] == self.name and "allocatable" in each.get("status", {}):
                self._obj = each
                self._unbound_changed.set()

    async def _set_capacity(self, capacity: dict[str, str | None]) -> None:
        """Change what the node has; None takes a resource away."""
        self._capacity = {name: amount for name, amount in (self._capacity | capacity).items() if amount is not None}
        status = {"capacity": self._capacity | capacity, "allocatable": self._capacity | capacity}
        await self.client.patch(f"/api/v1/nodes/{self.name}/status", {"status": status})

    # -- pods ------------------------------------------------------------------------------------------------

    def _start(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, pod: Pod) -> None:
        self.pods.pop(pod.uid, None)
        self._unbound_changed.set()
        self.endpoints_changed.set()

    async def _on_pod(self, kind: str, obj: Any) -> None:
        if kind == "SYNC":
            there = {each["metadata"]["uid"] for each in obj}
            self._unbound = {uid: each for uid, each in self._unbound.items() if uid in there}
            for uid, pod in list(self.pods.items()):
                if uid not in there:
                    self._start(pod.stop(0, delete=False))
            for each in obj:
                self._see(each, deleted=False)
        else:
            self._see(obj, deleted=kind == "DELETED")

    def _see(self, obj: Object, *, deleted: bool) -> None:
        """What a pod's newest version means for this node."""
        metadata, uid, node = obj["metadata"], obj["metadata"]["uid"], obj["spec"].get("nodeName")
        known = self.pods.get(uid)
        self._unbound.pop(uid, None)
        if node or deleted:
            self._bound.pop(uid, None)
        if known and deleted:
            self._start(known.stop(0, delete=False))
        elif known and "deletionTimestamp" in metadata:
            self._start(known.stop(metadata.get("deletionGracePeriodSeconds", 30)))
        elif known:
            known.obj = obj
        elif deleted:
            pass
        elif not node:
            self._unbound[uid] = obj
            self._unbound_changed.set()
        elif node == self.name and "deletionTimestamp" in metadata:
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}}
            self._start(self.client.request("DELETE", path, options))
        elif node == self.name and not is_over(obj):
            self.pods[uid] = Pod(self, obj)

    async def _schedule(self) -> None:
        """Bind pods to this node, the oldest first, while there is room."""
        told: dict[str, str] = {}
        while True:
            await self._unbound_changed.wait()
            self._unbound_changed.clear()
            if self._obj is None:
                continue
            for uid, obj in list(self._unbound.items()):
                if uid not in self._unbound:  # it has gone in the meantime
                    continue
                placed = [pod.obj for pod in self.pods.values() if pod.phase not in ("Succeeded", "Failed")]
                reason = why_not(obj, self._obj, [*placed, *self._bound.values()])
                if reason is None:
                    self._bound[uid] = self._unbound.pop(uid)
                    await self._bind(obj)
                elif told.get(uid) != reason:
                    told[uid] = reason
                    await self._tell_unschedulable(obj, reason)

    async def _bind(self, obj: Object) -> None:
        metadata = obj["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/binding"
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": metadata["name"]}}
        status, _ = await self.client.request("POST", path, binding | {"target": {"kind": "Node", "name": self.name}})
        if status >= 400:  # it has gone
            self._bound.pop(metadata["uid"], None)

    async def _tell_unschedulable(self, obj: Object, reason: str) -> None:
        metadata = obj["metadata"]
        condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": reason}
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        status = {"conditions": [condition | {"lastTransitionTime": now()}]}
        await self.client.patch(path, {"metadata": {"uid": metadata["uid"]}, "status": status})
        await self.client.record(obj, "Warning", "FailedScheduling", reason)

    # -- what the API server asks for ------------------------------------------------------------------------

    def _find(self, request: web.Request) -> Pod:
        for pod in self.pods.values():
            if (pod.namespace, pod.name) == (request.match_info["namespace"], request.match_info["pod"]):
                return pod
        raise web.HTTPNotFound(text=f"pod {request.match_info['pod']} is not on this node")

    async def _logs(self, request: web.Request) -> web.StreamResponse:
        pod, query = self._find(request), request.query
        container = next(each for each in pod.containers + pod.inits if each.name == request.match_info["container"])
        previous = query.get("previous") in ("true", "1")
        path = container.log_file(previous=previous)
        if path is None and previous:
            raise web.HTTPBadRequest(
                text=f'previous terminated container "{container.name}" in pod "{pod.name}" not found'
            )
        if path is None:
            reason = container.state.get("waiting", {}).get("reason", "ContainerCreating")
            reason = "trying and failing to pull image" if "ImagePull" in reason else reason
            text = f'container "{container.name}" in pod "{pod.name}" is waiting to start: {reason}'
            raise web.HTTPBadRequest(text=text)
        data = path.read_bytes()
        position = len(data)
        if "tailLines" in query:
            count = int(query["tailLines"])
            data = b"".join(data.splitlines(True)[-count:]) if count else b""
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        await response.write(data)
        follow = query.get("follow") in ("true", "1")
        while follow:
            follow = not pod.gone and container.log_file() == path and "running" in container.state
            with path.open("rb") as file:
                file.seek(position)
                more = file.read()
            position += len(more)
            await response.write(more)
            await asyncio.sleep(0.1 if follow else 0)
        return response

    async def _port_forward(self, request: web.Request) -> web.WebSocketResponse:
        """Protocol v4.channel.k8s.io: data of port number i on channel 2i, errors on 2i + 1."""
        pod = self._find(request)
        asked = request.query.getall("ports", request.query.getall("port", []))
        ports = [int(port) for group in asked for port in group.split(",")]
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await socket.prepare(request)
        writers: dict[int, asyncio.StreamWriter] = {}
        tasks = []
        self._forwards.add(socket)

        async def pump(reader: asyncio.StreamReader, channel: int) -> None:
            with suppress(OSError):
                while data := await reader.read(2**18):
                    await socket.send_bytes(bytes([channel]) + data)
            await socket.close()  # else a client of a dead pod waits for ever

        try:
            for channel, port in ((2 * index, port) for index, port in enumerate(ports)):
                for each in (channel, channel + 1):
                    await socket.send_bytes(bytes([each]) + struct.pack("<H", port))
                try:
                    reader, writers[channel] = await asyncio.open_connection(pod.address, port)
                except OSError as error:
                    await socket.send_bytes(bytes([channel + 1]) + str(error).encode())
                else:
                    tasks.append(asyncio.create_task(pump(reader, channel)))
            async for message in socket:
                if message.type == aiohttp.WSMsgType.BINARY and message.data[0] in writers:
                    writers[message.data[0]].write(message.data[1:])
                    await writers[message.data[0]].drain()
        except OSError:
            pass
        finally:
            self._forwards.discard(socket)
            for task in tasks:
                task.cancel()
            for writer in writers.values():
                writer.close()
        return socket

    async def _fault(self, request: web.Request) -> web.Response:
        """What tests break on the node."""
        if request.headers.get("Authorization") != f"Bearer {self.client.token}":
            raise web.HTTPUnauthorized
        match request.match_info["what"]:
            case "cut-forwards":
                for socket in list(self._forwards):
                    transport = socket._req.transport if socket._req else None
                    if transport is not None:
                        transport.abort()
            case "balancers":
                self.services.offer_balancers(await request.json())
            case "capacity":
                await self._set_capacity(await request.json())
            case what:
                await self._find(request).suffer(what)
        return web.json_response({})

    # -- running ---------------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        app = web.Application()
        app.router.add_get("/containerLogs/{namespace}/{pod}/{container}", self._logs)
        app.router.add_route("*", "/portForward/{namespace}/{pod}", self._port_forward)
        app.router.add_post("/_bench/{what}", self._fault)
        app.router.add_post("/_bench/{what}/{namespace}/{pod}", self._fault)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self._pki / "tls.crt", self._pki / "tls.key")
        await web.TCPSite(runner, self.address, PORT, ssl_context=tls).start()

    async def run(self) -> None:
        await self._serve()
        stop = asyncio.Event()
        for sig in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(sig, stop.set)
        parts = [
            stop.wait(),
            self._beat(),
            self._schedule(),
            self.services.run(),
            self.client.follow("/api/v1/nodes", self._on_node),
            self.client.follow("/api/v1/pods", self._on_pod),
            self.client.follow("/api/v1/services", self.services.on_change),
        ]
        tasks = [asyncio.create_task(part) for part in parts]
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*(pod.stop(0.5, delete=False) for pod in list(self.pods.values())))
        for task in done:
            task.result()


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True, help="URL of the API server")
    parser.add_argument("--token", type=Path, required=True, help="a file with the administrator's token")
    parser.add_argument("--pki", type=Path, required=True, help="a folder with ca.crt, tls.crt and tls.key")
    parser.add_argument("--folder", type=Path, required=True, help="for the pods' files and logs")
    parser.add_argument("--address", required=True, help="address of the node")
    parser.add_argument("--pods", required=True, help="where the addresses of pods are")
    parser.add_argument("--pythonpath", default="", help="what pods import from, after their own PYTHONPATH")
    parser.add_argument("--cpus", default="16")
    parser.add_argument("--backoff", type=float, default=1.0, help="seconds before the first restart")
    parser.add_argument("--longest-grace", type=float, default=60.0)
    parser.add_argument("--balancer-delay", type=float, default=0.2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    token = arguments.token.read_text()
    async with (
        Client(arguments.server, token, str(arguments.pki / "ca.crt")) as client,
        aiohttp.ClientSession() as probes,
    ):
        await Kubelet(arguments, client, probes).run()


if __name__ == "__main__":
    asyncio.run(main())
