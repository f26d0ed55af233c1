"""The life of one pod on the node: init containers, containers, restarts, the end."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import time
from typing import TYPE_CHECKING, Any

from tests.kube.control.objects import Object, now
from tests.kube.node.client import Client
from tests.kube.node.containers import Container
from tests.kube.node.processes import processes_with, signal_all

if TYPE_CHECKING:
    from tests.kube.node.kubelet import Kubelet

log = logging.getLogger("pods")
#: a container that ran for so long starts its back-off anew
_STABLE = 60.0


class Pod:
    def __init__(self, node: Kubelet, obj: Object) -> None:
        self.node, self.obj = node, obj
        metadata = obj["metadata"]
        self.namespace, self.name, self.uid = metadata["namespace"], metadata["name"], metadata["uid"]
        self.path = f"/api/v1/namespaces/{self.namespace}/pods/{self.name}"
        self.address = node.new_address()
        # short, because sockets in a pod's temporary folder have paths of 107 bytes at most
        self.folder = node.folder / f"{self.name[-20:]}-{self.uid[:8]}"
        self.folder.mkdir(parents=True)
        self.phase = "Pending"
        self.gone = False
        first = self.spec.get("initContainers") or []
        waiting = "PodInitializing" if first else "ContainerCreating"
        self.inits = [Container(self, spec, "PodInitializing") for spec in first]
        self.containers = [Container(self, spec, waiting) for spec in self.spec["containers"]]
        self._why: Object = {}
        self._initialized = not first
        self._ending = False
        self._born = now()
        self._since: dict[str, tuple[bool, str]] = {}  # by condition: whether it holds, and since when
        self._told = ""
        self._sidecars: list[asyncio.Task[int]] = []
        self._task = asyncio.create_task(self._run())

    @property
    def spec(self) -> Object:
        spec: Object = self.obj["spec"]
        return spec

    @property
    def client(self) -> Client:
        return self.node.client

    @property
    def ready(self) -> bool:
        return self.phase == "Running" and not self._ending and all(each.ready for each in self.containers)

    def field(self, path: str) -> Any:
        """What ``fieldRef`` gives."""
        fixed = {"status.podIP": self.address, "status.hostIP": self.node.address}
        if path in fixed:
            return fixed[path]
        found: Any = self.obj
        path, _, key = path.partition("['")
        for part in path.split("."):
            found = (found or {}).get(part)
        return (found or {}).get(key.removesuffix("']"), "") if key else found or ""

    # -- what is told ----------------------------------------------------------------------------------------

    async def record(self, kind: str, reason: str, message: str) -> None:
        await self.client.record(self.obj, kind, reason, message)

    def _status(self) -> Object:
        unready = " ".join(each.name for each in self.containers if not each.ready)
        why = {"reason": "ContainersNotReady", "message": f"containers with unready status: [{unready}]"}
        conditions: list[tuple[str, bool, Object]] = [
            ("PodScheduled", True, {}),
            ("Initialized", self._initialized, {}),
        ]
        conditions += [(kind, self.ready, {} if self.ready else why) for kind in ("ContainersReady", "Ready")]
        for kind, holds, _ in conditions:
            if self._since.get(kind, (None,))[0] != holds:
                self._since[kind] = holds, now()
        status: Object = {
            "phase": self.phase,
            "hostIP": self.node.address,
            "podIP": self.address,
            "podIPs": [{"ip": self.address}],
            "startTime": self._born,
            "conditions": [
                {"type": kind, "status": str(holds), "lastTransitionTime": self._since[kind][1], **reason}
                for kind, holds, reason in conditions
            ],
            "containerStatuses": [each.status for each in self.containers],
            **self._why,
        }
        return status | ({"initContainerStatuses": [each.status for each in self.inits]} if self.inits else {})

    async def tell(self) -> None:
        """Tell the API server how it stands, if it is not what was told last."""
        status = self._status()
        text = json.dumps(status, sort_keys=True)
        self.node.endpoints_changed.set()
        if text != self._told and not self.gone:
            body = {"metadata": {"uid": self.uid}, "status": status}
            if await self.client.patch(f"{self.path}/status", body) == 200:
                self._told = text

    # -- life ------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        try:
            await self.tell()
            if await self._initialize():
                started = [asyncio.create_task(self._keep(each)) for each in self.containers]
                codes = await asyncio.gather(*started)
                self._finish(not any(codes))
            else:
                self._finish(False)
            await self.tell()
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("%s", self.path)

    def _finish(self, well: bool) -> None:
        if self.phase != "Failed":  # evicted
            self.phase = "Succeeded" if well else "Failed"
        for sidecar in self._sidecars:
            sidecar.cancel()
        for container in self.inits:
            container.kill()

    async def _initialize(self) -> bool:
        for container in self.inits:
            if container.spec.get("restartPolicy") == "Always":  # a sidecar runs beside what follows
                self._sidecars.append(asyncio.create_task(self._keep(container)))
                while not container.ready:
                    await asyncio.sleep(0.05)
                continue
            policy = "Never" if self.spec.get("restartPolicy") == "Never" else "OnFailure"
            if await self._keep(container, policy) != 0:
                return False
        self._initialized = True
        for container in self.containers:
            container.state = {"waiting": {"reason": "ContainerCreating"}}
        return True

    async def _keep(self, container: Container, policy: str | None = None) -> int:
        """Run a container, and again as the restart policy says; returns the last exit code."""
        policy = policy or container.spec.get("restartPolicy") or self.spec.get("restartPolicy", "Always")
        delay = self.node.backoff
        while True:
            started = time.monotonic()
            code = await container.run_once()
            if self._ending or self.phase == "Failed" or policy == "Never" or (policy == "OnFailure" and code == 0):
                await self.tell()
                return code
            if time.monotonic() - started > _STABLE:
                delay = self.node.backoff
            container.last, container.restarts = container.state, container.restarts + 1
            where = f"container={container.name} pod={self.name}_{self.namespace}({self.uid})"
            message = f"back-off {max(1, round(delay))}s restarting failed {where}"
            container.state = {"waiting": {"reason": "CrashLoopBackOff", "message": message}}
            await self.tell()
            about = f"container {container.name} in pod {self.name}_{self.namespace}({self.uid})"
            await self.record("Warning", "BackOff", f"Back-off restarting failed {about}")
            await asyncio.sleep(delay)
            delay = min(delay * 2, 30)

    def on_start(self) -> None:
        """A container has started: the phase is Running from when all of them have."""
        if self.phase == "Pending" and all(each.started for each in self.containers):
            self.phase = "Running"

    async def stop(self, grace: float, *, delete: bool = True) -> None:
        """End all processes: by SIGTERM, then by SIGKILL; and delete the pod, which the API server waits for."""
        if self._ending:
            return
        self._ending = True
        everything = self.inits + self.containers
        for container in everything:
            container.terminate()
        await self.tell()
        deadline = time.monotonic() + min(grace, self.node.longest_grace)
        while any(each.lives for each in everything) and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for container in everything:
            container.kill()
        signal_all(processes_with(BENCH_POD=self.uid))
        for task in (self._task, *self._sidecars):
            task.cancel()
        self.gone = True
        if delete:
            await self.client.request(
                "DELETE", self.path, {"gracePeriodSeconds": 0, "preconditions": {"uid": self.uid}}
            )
        self.node.forget(self)
        shutil.rmtree(self.folder / "tmp", ignore_errors=True)
        log.info("%s is gone", self.path)

    # -- faults ----------------------------------------------------------------------------------------------

    async def suffer(self, fault: str) -> None:
        match fault:
            case "kill":
                for container in self.containers:
                    container.kill()
            case "oom":
                for container in self.containers:
                    container.kill("OOMKilled")
            case _:
                message = "The node was low on resource: memory. Threshold quantity: 100Mi, available: 52Mi. "
                self.phase, self._why = "Failed", {"reason": "Evicted", "message": message}
                await self.record("Warning", "Evicted", message)
                for container in self.containers:
                    container.kill()
                await self.tell()
