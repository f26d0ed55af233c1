"""A Kubernetes for tests: what the fixture `kube` gives."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
import uuid
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.kube.control.objects import Object
from tests.kube.node.processes import processes_with, signal_all
from tests.waiting import until

CHECKOUT = Path(__file__).resolve().parent.parent.parent
#: kinds by plural: where they are
PATHS = {
    "pods": "api/v1",
    "services": "api/v1",
    "secrets": "api/v1",
    "configmaps": "api/v1",
    "events": "api/v1",
    "serviceaccounts": "api/v1",
    "resourcequotas": "api/v1",
    "deployments": "apis/apps/v1",
    "replicasets": "apis/apps/v1",
    "jobs": "apis/batch/v1",
    "poddisruptionbudgets": "apis/policy/v1",
    "roles": "apis/rbac.authorization.k8s.io/v1",
    "rolebindings": "apis/rbac.authorization.k8s.io/v1",
    "daskclusters": "apis/kubernetes.dask.org/v1",
    "daskworkergroups": "apis/kubernetes.dask.org/v1",
    "daskautoscalers": "apis/kubernetes.dask.org/v1",
    "daskjobs": "apis/kubernetes.dask.org/v1",
}
#: no work of anybody's, or made by the cluster itself
_NO_LEAVINGS = {"events", "serviceaccounts", "resourcequotas", "roles", "rolebindings"}
_OWN, _TOKEN = ("kube-root-ca.crt",), "kubernetes.io/service-account-token"


class Bench:
    """A cluster, and what can go wrong with it.

    Attributes
    ----------
    kubeconfig, context
        How to get in, as an administrator.
    image
        What pods run: the environment of the tests, with the source of this checkout.
    """

    def __init__(self, kubeconfig: Path, image: str) -> None:
        self.kubeconfig, self.image = kubeconfig, image
        config = yaml.safe_load(kubeconfig.read_text())
        self.context: str = config["current-context"]
        names = next(each["context"] for each in config["contexts"] if each["name"] == self.context)
        self._cluster = next(each["cluster"] for each in config["clusters"] if each["name"] == names["cluster"])
        self._user = next(each["user"] for each in config["users"] if each["name"] == names["user"])
        self._tls = _tls_of(self._cluster, self._user)

    # -- looking ---------------------------------------------------------------------------------------------

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API server, as an administrator; a refusal is an ``urllib.error.HTTPError``."""
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Content-Type": kind}
        if "token" in self._user:
            headers["Authorization"] = f"Bearer {self._user['token']}"
        data = None if body is None else json.dumps(body).encode()
        url = f"{self._cluster['server']}/{path.lstrip('/')}"
        request = urllib.request.Request(url, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, context=self._tls, timeout=60) as answer:
            found = answer.read()
        try:
            return json.loads(found)
        except ValueError:
            return found.decode()  # a log

    @staticmethod
    def path(kind: str, namespace: str, name: str = "", query: str = "") -> str:
        return f"{PATHS[kind]}/namespaces/{namespace}/{kind}{f'/{name}' if name else ''}{f'?{query}' if query else ''}"

    def objects(self, kind: str, namespace: str, labels: str = "") -> list[Object]:
        """All objects of a kind, by its plural ("pods", "daskclusters")."""
        query = f"labelSelector={labels}" if labels else ""
        items: list[Object] = self.request("GET", self.path(kind, namespace, query=query))["items"]
        return items

    def find(self, kind: str, namespace: str, name: str) -> Object | None:
        try:
            found: Object = self.request("GET", self.path(kind, namespace, name))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise
        return found

    def create(self, kind: str, namespace: str, obj: Object) -> Object:
        made: Object = self.request("POST", self.path(kind, namespace), obj)
        return made

    def delete(self, kind: str, namespace: str, name: str) -> None:
        self.request("DELETE", self.path(kind, namespace, name))

    def events(self, namespace: str, name: str = "") -> list[tuple[str, str]]:
        """Reasons and messages, of all objects or of those with this name."""
        return [
            (event["reason"], event["message"])
            for event in self.objects("events", namespace)
            if name in ("", event["involvedObject"]["name"])
        ]

    def logs(self, namespace: str, pod: str, query: str = "") -> str:
        text: str = self.request("GET", self.path("pods", namespace, f"{pod}/log", query))
        return text

    def left_over(self, namespace: str) -> list[str]:
        """What is left behind: objects, and processes of pods; empty when all is clean."""
        kinds = [kind for kind in PATHS if kind not in _NO_LEAVINGS]
        found = [f"{kind}/{each['metadata']['name']}" for kind in kinds for each in self._present(kind, namespace)]
        return found + [f"process {number}: {command}" for number, command in self.processes(namespace).items()]

    def _present(self, kind: str, namespace: str) -> list[Object]:
        try:
            objects = self.objects(kind, namespace)
        except urllib.error.HTTPError:  # no such kind here
            return []
        return [each for each in objects if each["metadata"]["name"] not in _OWN and each.get("type") != _TOKEN]

    def processes(self, namespace: str) -> dict[int, str]:
        """Processes of the pods in a namespace: id → command."""
        return processes_with(BENCH_NAMESPACE=namespace)

    # -- places ----------------------------------------------------------------------------------------------

    @contextmanager
    def namespace(self, name: str | None = None) -> Iterator[str]:
        """A fresh namespace, which goes with all that is in it."""
        name = name or f"test-{uuid.uuid4().hex[:8]}"
        self.request("POST", "api/v1/namespaces", {"metadata": {"name": name}})
        try:
            until(lambda: self.find("serviceaccounts", name, "default"))
            yield name
        finally:
            self._remove(name)

    def _remove(self, namespace: str) -> None:
        for pod in self.objects("pods", namespace):
            with suppress(urllib.error.HTTPError):  # gone by itself
                self.request("DELETE", self.path("pods", namespace, pod["metadata"]["name"]), {"gracePeriodSeconds": 0})
        for kind in ("daskclusters", "daskworkergroups", "daskautoscalers", "daskjobs"):
            for obj in self._present(kind, namespace):  # an operator that was stopped would hold it for ever
                with suppress(urllib.error.HTTPError):
                    path = self.path(kind, namespace, obj["metadata"]["name"])
                    self.request("DELETE", path)
                    self.request("PATCH", path, {"metadata": {"finalizers": None}})
        self.request("DELETE", f"api/v1/namespaces/{namespace}")
        signal_all(self.processes(namespace))

    def user(self, namespace: str, *roles: Object, account: str = "restricted") -> Path:
        """A kubeconfig of a service account that has the rights of these Roles and ClusterRoles, in this namespace."""
        with suppress(urllib.error.HTTPError):  # the account may be there
            self.create("serviceaccounts", namespace, {"metadata": {"name": account}})
        self.bind(namespace, *roles, account=account)
        path = self.path("serviceaccounts", namespace, f"{account}/token")
        token = self.request("POST", path, {"spec": {"expirationSeconds": 3600}})["status"]["token"]
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": account,
            "clusters": [{"name": "bench", "cluster": self._cluster}],
            "users": [{"name": account, "user": {"token": token}}],
            "contexts": [{"name": account, "context": {"cluster": "bench", "user": account, "namespace": namespace}}],
        }
        file = Path(tempfile.mkdtemp(prefix="kubeconfig-", dir=self.kubeconfig.parent)) / "config"
        file.write_text(json.dumps(config))
        return file

    def bind(self, namespace: str, *roles: Object, account: str = "default") -> None:
        """Give a service account (pods have that named default) the rights of these roles, in this namespace."""
        group = "rbac.authorization.k8s.io"
        for role in roles:
            kind, name = role["kind"], role["metadata"]["name"]
            where = f"namespaces/{namespace}/roles" if kind == "Role" else "clusterroles"
            with suppress(urllib.error.HTTPError):  # it may be there
                self.request("POST", f"apis/{group}/v1/{where}", role)
            subject = {"kind": "ServiceAccount", "name": account, "namespace": namespace}
            binding = {"subjects": [subject], "roleRef": {"apiGroup": group, "kind": kind, "name": name}}
            self.create("rolebindings", namespace, binding | {"metadata": {"name": f"{account}-{name}"}})

    @contextmanager
    def quota(self, namespace: str, **hard: object) -> Iterator[None]:
        """A quota: ``pods=2``, ``cpu="1"``, ``memory="1Gi"``, or a full name: ``**{"requests.cpu": 1}``."""
        name = "quota"
        body = {"metadata": {"name": name}, "spec": {"hard": {key: str(value) for key, value in hard.items()}}}
        self.create("resourcequotas", namespace, body)
        until(lambda: (self.find("resourcequotas", namespace, name) or {}).get("status", {}).get("hard"))
        try:
            yield
        finally:
            self.delete("resourcequotas", namespace, name)

    # -- faults ----------------------------------------------------------------------------------------------

    def kill_pod(self, namespace: str, name: str) -> None:
        """SIGKILL to all processes of a pod."""
        self._fault_of_pod("kill", namespace, name)

    def delete_pod(self, namespace: str, name: str) -> None:
        self.delete("pods", namespace, name)

    def oom_kill(self, namespace: str, name: str) -> None:
        """Kill a pod's containers as the kernel does when they take too much memory."""
        self._fault_of_pod("oom", namespace, name)

    def evict(self, namespace: str, name: str) -> None:
        """End a pod as a node does that runs out of memory."""
        self._fault_of_pod("evict", namespace, name)

    def _fault_of_pod(self, fault: str, namespace: str, name: str) -> None:
        self._break_node(f"{fault}/{namespace}/{name}")

    def _break_node(self, fault: str, body: object = None) -> None:
        pytest.skip("this fault needs a bench of processes")

    def _break_api(self, fault: str, body: object) -> None:
        pytest.skip("this fault needs an API server in memory")

    def cut_forwards(self) -> None:
        """Drop all port-forwards, as a network does that fails."""
        self._break_node("cut-forwards")

    @contextmanager
    def no_load_balancer(self) -> Iterator[None]:
        """Services of the type LoadBalancer wait for one, as in a cluster that has none."""
        self._break_node("balancers", False)
        try:
            yield
        finally:
            self._break_node("balancers", True)

    @contextmanager
    def node_with(self, taints: Sequence[Object] = (), **resources: object) -> Iterator[None]:
        """The node has taints, and so much: ``cpu=1``, ``memory="1Gi"``, ``**{"nvidia.com/gpu": 2}``."""
        path = "api/v1/nodes/process-node"
        node = self.request("GET", path)
        before = {name: node["status"]["capacity"].get(name) for name in resources}
        self._break_node("capacity", {name: str(amount) for name, amount in resources.items()})
        self.request("PATCH", path, {"spec": {"taints": list(taints)}})
        try:
            yield
        finally:
            self.request("PATCH", path, {"spec": {"taints": node["spec"].get("taints")}})
            self._break_node("capacity", before)

    @contextmanager
    def forbid(self, verb: str, resource: str, namespace: str | None = None) -> Iterator[None]:
        """Nobody may do this: ``forbid("create", "daskclusters", namespace)``; the verb may be ``*``."""
        self._break_api("forbid", [verb, resource, namespace])
        try:
            yield
        finally:
            self._break_api("allow", [verb, resource, namespace])

    def break_requests(self, *rules: Object) -> None:
        """Requests fail: each rule has a path (a pattern) and what happens (status, reason, message, delay, drop)."""
        self._break_api("requests", list(rules))

    def stop_operator(self) -> None:
        pytest.skip("this fault needs a bench of processes")

    def start_operator(self) -> None:
        pytest.skip("this fault needs a bench of processes")

    @contextmanager
    def api_away(self) -> Iterator[None]:
        """All connections to the API server are cut, and new ones refused; it keeps its state."""
        pytest.skip("this fault needs a bench of processes")
        yield

    @contextmanager
    def missing_crds(self) -> Iterator[Bench]:
        """A cluster without Dask's custom resources, and without an operator."""
        with ProcessBench.started("--no-crds", "--no-operator") as bench:
            yield bench


class ProcessBench(Bench):
    """A cluster of processes of this machine, which end with the process that has started them."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        command = [sys.executable, "-m", "tests.kube.plane", str(folder), *options]
        environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
        with (folder / "plane.log").open("ab") as log:
            self._plane = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True
            )
        assert self._plane.stdout is not None
        line = self._plane.stdout.readline()
        if not line:
            self._plane.communicate()
            raise RuntimeError("the bench does not start\n" + self.logs_of_parts())
        facts = json.loads(line)
        #: address of the node, and of the API server
        self.address: str = facts["address"]
        self._token: str = facts["token"]
        self._in_memory = "--binaries" not in options
        super().__init__(folder / "kubeconfig", f"venv:{sys.prefix}")

    @classmethod
    @contextmanager
    def started(cls, *options: str) -> Iterator[ProcessBench]:
        """A bench in a temporary folder."""
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            bench = cls(Path(folder), *options)
            try:
                yield bench
            finally:
                bench.close()

    def close(self) -> None:
        """End all processes; returns when there are none."""
        self._plane.communicate(timeout=60)

    def logs_of_parts(self, lines: int = 20) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"=== {log.name}\n" + _tail(log.read_text(errors="replace"), lines) for log in logs)

    def _command(self, *words: object) -> None:
        assert self._plane.stdin is not None
        assert self._plane.stdout is not None
        self._plane.stdin.write(" ".join(map(str, words)) + "\n")
        self._plane.stdin.flush()
        assert self._plane.stdout.readline() == "done\n", self.logs_of_parts()

    def _break_node(self, fault: str, body: object = None) -> None:
        request = urllib.request.Request(
            f"https://{self.address}:10250/_bench/{fault}",
            data=json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self._token}"},
        )
        urllib.request.urlopen(request, context=self._tls, timeout=60).close()

    def _break_api(self, fault: str, body: object) -> None:
        if not self._in_memory:
            super()._break_api(fault, body)
        self.request("POST", f"_bench/{fault}", body)

    def stop_operator(self) -> None:
        self._command("stop", "operator")

    def start_operator(self) -> None:
        self._command("start", "operator")

    @contextmanager
    def api_away(self) -> Iterator[None]:
        back = self.folder / f"back-{uuid.uuid4().hex}"
        if self._in_memory:
            self._break_api("away", str(back))
        else:
            self._command("stop", "kube-apiserver")
        try:
            until(lambda: not self._answers())
            yield
        finally:
            if self._in_memory:
                back.touch()
            else:
                self._command("start", "kube-apiserver")

    def _answers(self) -> bool:
        try:
            self.request("GET", "readyz")
        except OSError:
            return False
        return True


def _tls_of(cluster: Object, user: Object) -> ssl.SSLContext:
    """What a kubeconfig says about TLS."""
    data = b64decode(cluster.get("certificate-authority-data", "")).decode() or None
    context = ssl.create_default_context(cafile=cluster.get("certificate-authority"), cadata=data)
    if "client-certificate" in user:
        context.load_cert_chain(user["client-certificate"], user["client-key"])
    elif "client-certificate-data" in user:
        with tempfile.NamedTemporaryFile() as file:
            file.write(b64decode(user["client-certificate-data"]) + b"\n" + b64decode(user["client-key-data"]))
            file.flush()
            context.load_cert_chain(file.name)
    elif "token" not in user:
        raise ValueError("the user of the kubeconfig needs a token or a client certificate")
    return context


def _tail(text: str, lines: int) -> str:
    return "\n".join(text.splitlines()[-lines:])


def open_bench(folder: Callable[[], Path]) -> Bench:
    """The bench that the environment asks for: see the README."""
    kubeconfig, binaries = os.environ.get("HEADRACE_KUBECONFIG"), os.environ.get("KUBE_BIN")
    if kubeconfig:
        image = os.environ.get("HEADRACE_KUBE_IMAGE")
        assert image, "HEADRACE_KUBE_IMAGE must name an image with headrace in it"
        return Bench(Path(kubeconfig), image)
    if sys.platform != "linux":
        pytest.skip(
            "the bench needs Linux, where all of 127.0.0.0/8 is this machine; HEADRACE_KUBECONFIG names a cluster"
        )
    return ProcessBench(folder(), *(["--binaries", binaries] if binaries else []))
