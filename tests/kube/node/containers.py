"""One container of a pod: a process, or why there is none, and what is told about it."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.kube.control.objects import Object, now
from tests.kube.node.environment import Unconfigured, Unmounted, expanded, mounts_of, read, variables_of
from tests.kube.node.processes import processes_with, signal_all

if TYPE_CHECKING:
    from pathlib import Path

    from tests.kube.node.pods import Pod

log = logging.getLogger("containers")
_NO_IMAGE = re.compile(r"does-not-exist|bad-image")


class Container:
    def __init__(self, pod: Pod, spec: Object, waiting_for: str) -> None:
        self.pod, self.spec, self.name = pod, spec, spec["name"]
        self.restarts = 0
        self.ready = False
        self.started = False
        self.state: Object = {"waiting": {"reason": waiting_for}}
        self.last: Object = {}
        #: why it ended, if that is told in place of Error, and what is said about it
        self._ended_by: tuple[str, str] | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._variables: dict[str, str] = {}

    @property
    def status(self) -> Object:
        image = self.spec["image"]
        return {
            "name": self.name,
            "image": image,
            "imageID": f"process://{image}",
            "containerID": f"process://{self._process.pid}" if self._process else "",
            "ready": self.ready,
            "started": "running" in self.state,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }

    def log_file(self, *, previous: bool = False) -> Path | None:
        """The output of the run that is told about: the current one or, of a container that waits, the last."""
        waits = "waiting" in self.state
        if not self.started or (waits and not self.restarts) or (previous and not self.restarts):
            return None
        # a container that waits to be restarted has counted the restart already
        number = self.restarts - 1 if waits or previous else self.restarts
        return self.pod.folder / f"{self.name}.{number}.log"

    # -- from the image to the process -----------------------------------------------------------------------

    async def _wait(self, reason: str, message: str) -> None:
        self.state = {"waiting": {"reason": reason, "message": message}}
        await self.pod.tell()

    async def _pull(self) -> None:
        """Images are there or not; those that are not never come."""
        image = self.spec["image"]
        names = [secret["name"] for secret in self.pod.spec.get("imagePullSecrets") or []]
        denied = image.startswith("private-") and not any([await read(self.pod, "Secret", name) for name in names])
        if not denied and not _NO_IMAGE.search(image):
            return
        why = "pull access denied, repository does not exist or may require authorization" if denied else "not found"
        name = image if ":" in image else f"{image}:latest"
        error = f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": {name}: {why}'
        message = f"rpc error: code = NotFound desc = {error}"
        while True:
            await self.pod.record("Normal", "Pulling", f'Pulling image "{image}"')
            await self.pod.record("Warning", "Failed", f'Failed to pull image "{image}": {message}')
            await self.pod.record("Warning", "Failed", "Error: ErrImagePull")
            await self._wait("ErrImagePull", message)
            await asyncio.sleep(self.pod.node.backoff)
            await self.pod.record("Normal", "BackOff", f'Back-off pulling image "{image}"')
            await self.pod.record("Warning", "Failed", "Error: ImagePullBackOff")
            await self._wait("ImagePullBackOff", f'Back-off pulling image "{image}": ErrImagePull: {message}')
            await asyncio.sleep(10 * self.pod.node.backoff)

    async def _configure(self) -> dict[str, str]:
        """Variables and mounts, as soon as all is there that they refer to."""
        while True:
            try:
                variables = await variables_of(self.pod, self.spec)
                mounts = await mounts_of(self.pod, self.spec)
                pairs = [f"{path}={source}" for path, source in mounts.items()]
                return variables | {"BENCH_MOUNTS": "\n".join(pairs)}
            except Unconfigured as error:
                await self.pod.record("Warning", "Failed", f"Error: {error}")
                await self._wait("CreateContainerConfigError", str(error))
            except Unmounted as error:
                await self.pod.record("Warning", "FailedMount", str(error))
            await asyncio.sleep(self.pod.node.backoff)

    async def run_once(self) -> int:
        """Run the process to its end; returns its exit code."""
        await self._pull()
        self._variables = await self._configure()
        began = now()
        self._ended_by = None
        code = await self._start()
        if code is None:
            assert self._process is not None
            await self.pod.record("Normal", "Started", f"Started container {self.name}")
            await self.pod.tell()
            probes = asyncio.create_task(self._probe())
            code = await self._process.wait()
            probes.cancel()
            self.kill()
        self.ready = False
        code = 128 - code if code < 0 else code
        reason, message = self._ended_by or ("Completed" if code == 0 else "Error", "")
        ended = {"exitCode": code, "reason": reason, "startedAt": began, "finishedAt": now()}
        self.state = {"terminated": ended | ({"message": message} if message else {})}
        log.info("%s, container %s: exit code %s", self.pod.path, self.name, code)
        return code

    async def _start(self) -> int | None:
        """Start the process; or the exit code, if there is none."""
        path = self.pod.folder / f"{self.name}.{self.restarts}.log"
        self.state, self.started = {"running": {"startedAt": now()}}, True
        self.pod.on_start()
        command = [*(self.spec.get("command") or []), *(self.spec.get("args") or [])]
        command = [expanded(word, self._variables) for word in command]
        image = self.spec["image"]
        with path.open("ab") as output:
            if image.startswith("crash:"):
                output.write(f"starting\nError: {image.removeprefix('crash:')}\n".encode())
                return 1
            try:
                self._process = await asyncio.create_subprocess_exec(
                    *command,
                    env=self._variables,
                    cwd=self.spec.get("workingDir") or self.pod.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except (OSError, TypeError):  # no such program; no command at all
                name = command[0] if command else ""
                why = f'exec: "{name}": executable file not found in $PATH: unknown'
                self._ended_by = (
                    "StartError",
                    f"failed to create containerd task: unable to start container process: {why}",
                )
                return 128
        self.ready = "readinessProbe" not in self.spec
        log.info("%s, address %s, process %s: %s", self.pod.path, self.pod.address, self._process.pid, command)
        return None

    def terminate(self) -> None:
        """Ask the process to end."""
        self.ready = False
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGTERM)

    def kill(self, reason: str | None = None) -> None:
        """Kill the process and all that it has started, also what has left its session."""
        if self._process is None:
            return
        if reason:
            self._ended_by = reason, ""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        if len(self.pod.containers) == 1:  # else the others would be found, too
            signal_all(processes_with(BENCH_POD=self.pod.uid))

    @property
    def lives(self) -> bool:
        return self._process is not None and self._process.returncode is None

    # -- probes ----------------------------------------------------------------------------------------------

    async def _probe(self) -> None:
        async def on_ready(fine: bool, failed: bool) -> None:
            if fine != self.ready and (fine or failed):
                self.ready = fine
                await self.pod.tell()

        async def on_live(_: bool, failed: bool) -> None:
            if failed:
                message = f"Container {self.name} failed liveness probe, will be restarted"
                await self.pod.record("Normal", "Killing", message)
                self.kill()

        if "startupProbe" in self.spec:
            await self._repeat("Startup", self.spec["startupProbe"], on_live, until_fine=True)
        wanted = (("Readiness", "readinessProbe", on_ready), ("Liveness", "livenessProbe", on_live))
        await asyncio.gather(*(self._repeat(name, self.spec[key], do) for name, key, do in wanted if key in self.spec))

    async def _repeat(self, name: str, probe: Object, tell: Callable[..., Any], *, until_fine: bool = False) -> None:
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        failures = 0
        while True:
            error = await self._failure(probe)
            failures = failures + 1 if error else 0
            if error:
                await self.pod.record("Warning", "Unhealthy", f"{name} probe failed: {error}")
            await tell(not error, failures >= probe.get("failureThreshold", 3))
            if until_fine and not error:
                return
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _failure(self, probe: Object) -> str | None:
        """Probe once: what is wrong, if something is."""
        seconds = probe.get("timeoutSeconds", 1)
        try:
            if "httpGet" in probe:
                get = probe["httpGet"]
                address = f"{get.get('host') or self.pod.address}:{self._port(get['port'])}"
                url = f"{get.get('scheme', 'HTTP').lower()}://{address}{get.get('path', '/')}"
                timeout = aiohttp.ClientTimeout(total=seconds)
                async with self.pod.node.probes.get(url, timeout=timeout, ssl=False) as answer:
                    return None if answer.status < 400 else f"HTTP probe failed with statuscode: {answer.status}"
            if "tcpSocket" in probe:
                where = self.pod.address, self._port(probe["tcpSocket"]["port"])
                _, writer = await asyncio.wait_for(asyncio.open_connection(*where), seconds)
                writer.close()
            if "exec" in probe:
                process = await asyncio.create_subprocess_exec(*probe["exec"]["command"], env=self._variables)
                code = await asyncio.wait_for(process.wait(), seconds)
                return f"command exited with {code}" if code else None
        except (OSError, aiohttp.ClientError, TimeoutError) as error:
            return str(error) or type(error).__name__
        return None

    def _port(self, port: int | str) -> int:
        if str(port).isdigit():
            return int(port)
        return next(int(each["containerPort"]) for each in self.spec.get("ports") or [] if each.get("name") == port)
