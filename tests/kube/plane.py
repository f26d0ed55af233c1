"""The process that starts a bench's other processes and ends them, whatever becomes of who has started it.

It takes a loopback range of its own, starts the API server, the node and Dask's operator, and prints a line of JSON
when they are ready. It reads commands, one a line, from its standard input: ``stop NAME`` and ``start NAME``; each is
answered by a line. When its input ends (its parent has closed it, or is no more) it ends everything that it has started
and all that has come of it: it is the reaper of its orphans, so that none can leave it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from ssl import create_default_context

CHECKOUT = Path(__file__).resolve().parent.parent.parent
_SHIM = Path(__file__).resolve().parent / "node" / "podshim"
_PR_SET_CHILD_SUBREAPER = 36
#: 127.N.0.0/16 with N of these
_RANGES = range(130, 250)
_API, _CLAIM, _HEALTH = 6443, 6440, 8080


def claim_range() -> tuple[str, socket.socket]:
    """The first two parts of a loopback range that no other bench has, and the socket that keeps it ours."""
    for index in range(len(_RANGES)):
        net = f"127.{_RANGES[(os.getpid() + index) % len(_RANGES)]}"
        claim = socket.socket()
        try:
            claim.bind((f"{net}.0.1", _CLAIM))
        except OSError:
            claim.close()
        else:
            return net, claim
    raise SystemExit("no loopback range is free")


class Plane:
    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self.folder: Path = arguments.folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pki = self.folder / "pki"
        self.net, self._claim = claim_range()
        self.address = f"{self.net}.0.1"
        self.url = f"https://{self.address}:{_API}"
        self.token = secrets.token_urlsafe(32)
        #: what is to run: it is started again when it ends by itself, as a Deployment would
        self._wanted: dict[str, Callable[[], subprocess.Popen[bytes]]] = {}
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    # -- processes -------------------------------------------------------------------------------------------

    def spawn(self, name: str, *command: object, **variables: str) -> subprocess.Popen[bytes]:
        paths = [str(CHECKOUT), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **variables}
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                cwd=self.folder,
                start_new_session=True,
            )

    def start(self, name: str) -> None:
        self._running[name] = self._wanted[name]()

    def stop(self, name: str) -> None:
        process = self._running.pop(name, None)
        if process is not None:
            process.kill()
            process.wait()

    def revive(self) -> None:
        for name, process in list(self._running.items()):
            if process.poll() is not None:
                with (self.folder / f"{name}.log").open("a") as log:
                    log.write(f"=== {name} ended with {process.returncode}; started again\n")
                self.start(name)

    # -- up --------------------------------------------------------------------------------------------------

    def up(self) -> None:
        from tests.kube.control.certificates import make_certificates

        make_certificates(self.pki, self.address)
        token = self.folder / "token"
        token.touch(mode=0o600)
        token.write_text(self.token)
        self._write_kubeconfig()
        if self._arguments.operator:
            self._wanted["operator"] = self._operator
        self._wanted["kubelet"] = self._kubelet
        if self._arguments.binaries:
            from tests.kube.control.binaries import start_binaries

            self._wanted |= start_binaries(self, self._arguments.binaries.resolve())
        else:
            self._start_memory()
        for name in self._wanted:
            if name not in self._running:
                self.start(name)
        if self._arguments.operator:
            self.wait("the operator", self._is_operator_well)
        self.wait("the node", lambda: self.call("/api/v1/nodes/process-node"))

    def _write_kubeconfig(self) -> None:
        ca = str(self.pki / "ca.crt")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": self.url, "certificate-authority": ca}}],
            "users": [{"name": "admin", "user": {"token": self.token}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "admin", "namespace": "default"}}],
        }
        path = self.folder / "kubeconfig"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=1))

    def _start_memory(self) -> None:
        """The API server in memory: its socket listens from now on, so nobody has to wait for it to ask."""
        listener = socket.create_server((self.address, _API), backlog=256)
        os.set_inheritable(listener.fileno(), True)
        command = [sys.executable, "-m", "tests.kube.control.api_server", "--listen", listener.fileno()]
        command += ["--services", f"{self.net}.128.0/17", "--pki", self.pki, "--token", self.folder / "token"]
        if self._arguments.crds:
            command += ["--crds", custom_resources()]
        with (self.folder / "api-server.log").open("ab") as log:
            process = subprocess.Popen(
                [str(word) for word in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        listener.close()
        self._memory = process

    def _kubelet(self) -> subprocess.Popen[bytes]:
        command = [
            sys.executable,
            "-m",
            "tests.kube.node.kubelet",
            "--server",
            self.url,
            "--token",
            self.folder / "token",
        ]
        command += ["--pki", self.pki, "--folder", self.folder / "pods", "--address", self.address]
        command += ["--pods", f"{self.net}.0.0/17", "--pythonpath", self._arguments.pythonpath]
        return self.spawn("kubelet", *command)

    def _operator(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "tests.kube.operator", "run", "--standalone", "--all-namespaces"]
        command += ["--liveness", f"http://{self.address}:{_HEALTH}/healthz"]
        command += ["-m", "dask_kubernetes.operator.controller.controller"]
        paths = os.pathsep.join(filter(None, [str(_SHIM), str(CHECKOUT), os.environ.get("PYTHONPATH", "")]))
        hosts, config = str(self.folder / "pods" / "hosts"), str(self.folder / "kubeconfig")
        return self.spawn("operator", *command, KUBECONFIG=config, BENCH_HOSTS=hosts, PYTHONPATH=paths)

    def _is_operator_well(self) -> bool:
        with urllib.request.urlopen(f"http://{self.address}:{_HEALTH}/healthz", timeout=5) as answer:
            return bool(answer.status == 200)

    def call(self, path: str, body: object = None, method: str | None = None) -> bytes:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        context = create_default_context(cafile=self.pki / "ca.crt")
        with urllib.request.urlopen(request, context=context, timeout=20) as answer:
            found: bytes = answer.read()
            return found

    def wait(self, what: str, is_there: Callable[[], object], seconds: float = 180) -> None:
        end = time.monotonic() + seconds
        while True:
            with suppress(OSError):
                if is_there() is not False:
                    return
            if time.monotonic() > end:
                raise SystemExit(f"{what} is not ready after {seconds} s; see the logs in {self.folder}")
            time.sleep(0.02)

    # -- down ------------------------------------------------------------------------------------------------

    def down(self) -> None:
        end = time.monotonic() + 30
        while children := descendants(os.getpid()):
            for process in children:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            with suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            if time.monotonic() > end:
                raise SystemExit(f"processes do not end: {children}")
            time.sleep(0.01)

    # -- commands --------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Obey until the input ends."""
        parent = os.getppid()
        while os.getppid() == parent:
            if select.select([sys.stdin], [], [], 0.5)[0]:
                words = sys.stdin.readline().split()
                if not words:
                    return
                self._obey(*words)
            self.revive()

    def _obey(self, command: str, name: str) -> None:
        if command == "stop":
            self.stop(name)
        elif name not in self._running:
            self.start(name)
        if (command, name) == ("start", "operator"):
            self.wait("the operator", self._is_operator_well)
        print("done", flush=True)


def descendants(of: int) -> list[int]:
    """Processes that have come of a process and are not zombies."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, IndexError):
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(folder.name)] = int(parent)
    found = [of]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found[1:]


def custom_resources() -> Path:
    """The folder of the definitions of Dask's custom resources."""
    from importlib.util import find_spec

    spec = find_spec("dask_kubernetes")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="for logs and the files of pods")
    parser.add_argument("--pythonpath", default=str(CHECKOUT / "src"), help="what pods import from")
    parser.add_argument("--binaries", type=Path, help="a folder of kube-apiserver and kube-controller-manager")
    parser.add_argument("--no-operator", dest="operator", action="store_false")
    parser.add_argument("--no-crds", dest="crds", action="store_false")
    arguments = parser.parse_args()
    for sig in (signal.SIGINT, signal.SIGHUP):
        signal.signal(sig, signal.SIG_IGN)  # a Ctrl-C is for the tests, which then close our input
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
    plane = Plane(arguments)
    try:
        plane.up()
        print(json.dumps({"address": plane.address, "url": plane.url, "token": plane.token}), flush=True)
        plane.serve()
    finally:
        plane.down()
        shutil.rmtree(plane.folder / "etcd", ignore_errors=True)


if __name__ == "__main__":
    main()
