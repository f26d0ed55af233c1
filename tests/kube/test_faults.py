"""Each fault of the bench shows what a real cluster shows."""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from urllib.error import HTTPError, URLError

import kr8s
import pytest

from tests.kube.bench import Bench
from tests.kube.manifests import dask_cluster, pod
from tests.kube.test_bench import phase, refusal
from tests.waiting import until

pytestmark = pytest.mark.skipif("HEADRACE_KUBECONFIG" in os.environ, reason="these are tests of the bench itself")
SLEEP = "import time; time.sleep(600)"
#: a server that sends back what it gets
ECHO = """
import socketserver
class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while data := self.request.recv(100):
            self.request.sendall(data)
socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Echo).serve_forever()
"""


def run(kube: Bench, namespace: str, name: str, code: str = SLEEP, policy: str = "Always") -> None:
    kube.create("pods", namespace, pod(name, code, policy=policy))
    until(lambda: phase(kube, namespace, name) == "Running")


def last(kube: Bench, namespace: str, name: str) -> dict[str, object]:
    """How a pod's container ended last."""
    found: dict[str, object] = kube.find("pods", namespace, name)["status"]["containerStatuses"][0]["lastState"]  # type: ignore[index]
    ended: dict[str, object] = found.get("terminated", {})  # type: ignore[assignment]
    return ended


def test_killed_pods(kube: Bench, namespace: str) -> None:
    run(kube, namespace, "one")
    kube.kill_pod(namespace, "one")
    until(lambda: last(kube, namespace, "one"))
    assert (last(kube, namespace, "one")["reason"], last(kube, namespace, "one")["exitCode"]) == ("Error", 137)
    until(lambda: kube.processes(namespace))  # it was started again
    kube.oom_kill(namespace, "one")
    until(lambda: last(kube, namespace, "one")["reason"] == "OOMKilled")
    kube.evict(namespace, "one")
    until(lambda: phase(kube, namespace, "one") == "Failed")
    status = kube.find("pods", namespace, "one")["status"]  # type: ignore[index]
    assert status["reason"] == "Evicted"
    assert "low on resource: memory" in status["message"]
    until(lambda: not kube.processes(namespace))
    kube.delete_pod(namespace, "one")
    until(lambda: not kube.left_over(namespace))


def test_the_api_server_comes_back_and_knows_all(kube: Bench, namespace: str) -> None:
    run(kube, namespace, "one")
    before = kube.find("pods", namespace, "one")
    with kube.api_away(), pytest.raises(URLError, match="refused"):
        kube.find("pods", namespace, "one")

    def is_back() -> bool:
        try:
            return kube.find("pods", namespace, "one") == before
        except OSError:
            return False

    until(is_back)
    kube.delete("pods", namespace, "one")  # the node has come back, too
    until(lambda: not kube.left_over(namespace))


def test_a_port_forward_is_cut_and_can_be_opened_again(kube: Bench, namespace: str) -> None:
    run(kube, namespace, "echo", ECHO)
    api = kr8s.api(namespace=namespace, kubeconfig=str(kube.kubeconfig))
    [target] = api.get("pods", "echo")
    for cut in (True, False):
        with target.portforward(remote_port=7000, local_port="auto") as port:
            until(lambda port=port: _echo(port))
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(b"x")
                assert connection.recv(1) == b"x"
                if cut:
                    kube.cut_forwards()
                    with suppress(ConnectionResetError):
                        assert connection.recv(1) == b""


def _echo(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"x")
            return connection.recv(1) == b"x"
    except OSError:
        return False


def test_quotas(kube: Bench, namespace: str) -> None:
    small = {"requests": {"cpu": "250m", "memory": "64Mi"}}
    with kube.quota(namespace, pods=2, **{"requests.cpu": "400m"}):
        with pytest.raises(HTTPError) as error:
            kube.create("pods", namespace, pod("none", SLEEP))
        assert "failed quota: quota: must specify requests.cpu for: main" in refusal(error.value)
        kube.create("pods", namespace, pod("first", SLEEP, resources=small))
        labels = {"app": "many"}
        template = {"metadata": {"labels": labels}, "spec": pod("x", SLEEP, resources=small, policy="Always")["spec"]}
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        kube.create("deployments", namespace, {"metadata": {"name": "many"}, "spec": spec})
        until(lambda: kube.objects("replicasets", namespace))
        name = kube.objects("replicasets", namespace)[0]["metadata"]["name"]
        until(lambda: kube.events(namespace, name))
        [(reason, message)] = kube.events(namespace, name)
        assert reason == "FailedCreate"
        numbers = "requested: requests.cpu=250m, used: requests.cpu=250m, limited: requests.cpu=400m"
        assert message.endswith(f"is forbidden: exceeded quota: quota, {numbers}")
    until(lambda: kube.objects("pods", namespace, "app=many"))


def test_nobody_may(kube: Bench, namespace: str) -> None:
    with kube.forbid("create", "daskclusters", namespace), pytest.raises(HTTPError) as error:
        kube.create("daskclusters", namespace, dask_cluster("x", workers=0))
    rest = f'cannot create resource "daskclusters" in API group "kubernetes.dask.org" in the namespace "{namespace}"'
    assert refusal(error.value) == f'daskclusters.kubernetes.dask.org is forbidden: User "admin" {rest}'


def test_no_operator_and_no_load_balancer(kube: Bench, namespace: str) -> None:
    kube.stop_operator()
    try:
        kube.create("daskclusters", namespace, dask_cluster("one", workers=0, kind="LoadBalancer"))
        with kube.no_load_balancer():
            assert kube.left_over(namespace) == ["daskclusters/one"]
            kube.start_operator()
            until(lambda: kube.find("services", namespace, "one-scheduler"))

            def ingress() -> object:
                service = kube.find("services", namespace, "one-scheduler")
                return service["status"]["loadBalancer"].get("ingress")  # type: ignore[index]

            until(lambda: kube.processes(namespace))
            assert not ingress()
        until(ingress)
    finally:
        kube.start_operator()
    kube.delete("daskclusters", namespace, "one")
    until(lambda: not kube.left_over(namespace))


def test_a_cluster_without_dask(kube: Bench) -> None:
    with kube.missing_crds() as bare:
        assert bare.objects("pods", "default") == []
        with pytest.raises(HTTPError) as error:
            bare.create("daskclusters", "default", dask_cluster("x", workers=0))
        assert (error.value.code, error.value.reason) == (404, "Not Found")
