"""Services: listeners on their addresses, names for them, load balancers."""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kube.control.objects import Object

if TYPE_CHECKING:
    from tests.kube.node.kubelet import Kubelet

log = logging.getLogger("services")
Place = tuple[str, int]
_LISTENING = "0A"  # the kernel's number of the state, in /proc/net/tcp


def is_open(address: str, port: int) -> bool:
    """Does somebody listen there? Seen from outside, so that nobody gets a connection that says nothing."""
    own = socket.inet_aton(address)[::-1].hex().upper()
    places = {f"{ip}:{port:04X}" for ip in (own, "00000000")}
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[1] in places and row[3] == _LISTENING for row in rows)


class Service:
    """The listeners of one Service."""

    def __init__(self, node: Kubelet, obj: Object) -> None:
        self._node, self.obj = node, obj
        self._servers: dict[Place, asyncio.Server] = {}

    async def listen(self) -> None:
        """Listen while a ready pod is behind a port; else connections are refused, as they are in a cluster."""
        wanted: dict[Place, Object] = {}
        spec = self.obj["spec"]
        address = spec.get("clusterIP")
        for port in spec.get("ports") or []:
            target = self._target(port)
            if target is None:
                continue
            if not is_open(*target):  # a pod may be ready by another port: it is refused until this one is open
                asyncio.get_running_loop().call_later(0.1, self._node.endpoints_changed.set)
                continue
            if address and address != "None":
                wanted[address, port["port"]] = port
            if port.get("nodePort"):
                wanted[self._node.address, port["nodePort"]] = port
        for place in self._servers.keys() - wanted.keys():
            self._servers.pop(place).close()
        for place in wanted.keys() - self._servers.keys():
            self._servers[place] = await asyncio.start_server(self._serving(wanted[place]), *place)

    def close(self) -> None:
        for server in self._servers.values():
            server.close()

    def _target(self, port: Object) -> Place | None:
        """A pod that is ready, and the port there."""
        selector = self.obj["spec"].get("selector")
        namespace = self.obj["metadata"]["namespace"]
        ready = [
            pod
            for pod in self._node.pods.values()
            if pod.ready
            and pod.namespace == namespace
            and selector
            and selector.items() <= (pod.obj["metadata"].get("labels") or {}).items()
        ]
        if not ready:
            return None
        pod, target = random.choice(ready), port.get("targetPort") or port["port"]
        for container in pod.containers:
            for each in container.spec.get("ports") or []:
                if each.get("name") == target:
                    return pod.address, each["containerPort"]
        return pod.address, int(target)

    def _serving(self, port: Object) -> Any:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            target = self._target(port)
            if target is None:
                writer.transport.abort()
            else:
                await _splice(reader, writer, target)

        return serve


async def _splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: Place) -> None:
    try:
        inner, outer = await asyncio.open_connection(*target)
    except OSError:
        writer.transport.abort()
        return

    async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(2**18):
                sink.write(data)
                await sink.drain()
        sink.close()

    await asyncio.gather(copy(reader, outer), copy(inner, writer))


class Services:
    """All Services of the cluster, kept up with the API server and with the pods on the node."""

    def __init__(self, node: Kubelet) -> None:
        self._node = node
        self._all: dict[tuple[str, str], Service] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        #: are there load balancers? If not, services wait for theirs
        self.balancers = True

    async def on_change(self, kind: str, obj: Any) -> None:
        if kind == "SYNC":
            there = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in obj}
            for key in self._all.keys() - there:
                self._all.pop(key).close()
            for each in obj:
                self._set(each)
        elif kind == "DELETED":
            service = self._all.pop((obj["metadata"]["namespace"], obj["metadata"]["name"]), None)
            if service is not None:
                service.close()
        else:
            self._set(obj)
        self._write_names()
        self._node.endpoints_changed.set()

    def _set(self, obj: Object) -> None:
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        self._all.setdefault(key, Service(self._node, obj)).obj = obj
        ingress = obj["status"].get("loadBalancer", {}).get("ingress")
        if obj["spec"].get("type") == "LoadBalancer" and not ingress and self.balancers:
            task = asyncio.create_task(self._balance(key, obj))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _balance(self, key: tuple[str, str], obj: Object) -> None:
        await asyncio.sleep(self._node.balancer_delay)
        status = {"loadBalancer": {"ingress": [{"ip": obj["spec"]["clusterIP"]}]}}
        await self._node.client.patch(f"/api/v1/namespaces/{key[0]}/services/{key[1]}/status", {"status": status})

    def offer_balancers(self, offered: bool) -> None:
        self.balancers = offered
        for service in self._all.values():
            self._set(service.obj)

    def _write_names(self) -> None:
        """The cluster's DNS: a table that `podshim` reads."""
        lines = [
            f"{self._node.api_host} kubernetes.default.svc.cluster.local kubernetes.default.svc kubernetes.default\n"
        ]
        for (namespace, name), service in sorted(self._all.items()):
            address = service.obj["spec"].get("clusterIP")
            if address and address != "None":
                names = " ".join(f"{name}.{namespace}{end}" for end in (".svc.cluster.local", ".svc", ""))
                lines.append(f"{address} {names}\n")
        temporary = self._node.hosts.with_suffix(".new")
        temporary.write_text("".join(lines))
        temporary.replace(self._node.hosts)

    async def run(self) -> None:
        while True:
            await self._node.endpoints_changed.wait()
            self._node.endpoints_changed.clear()
            for key, service in list(self._all.items()):
                try:
                    await service.listen()
                except OSError as error:  # the port is taken: try again, somebody may leave it
                    log.error("service %s: %s", key, error)
                    asyncio.get_running_loop().call_later(1.0, self._node.endpoints_changed.set)
