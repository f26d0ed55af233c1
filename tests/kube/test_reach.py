"""Ways to a scheduler, and a run whose way breaks."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import headrace as hr
from headrace.environments.kubernetes import reach as reaching
from headrace.environments.kubernetes.reach import reach
from headrace.errors import SetupError
from tests.kube.bench import Bench
from tests.waiting import until


@hr.task
def square(folder: str, number: int) -> int:
    time.sleep(0.2)
    with open(os.path.join(folder, str(number)), "a") as file:
        file.write("x")
    return number * number


@hr.task
def total(squares: list[int]) -> int:
    return sum(squares)


@hr.flow
def squares(folder: str, n: int):
    return total(square.map([folder] * n, range(n)))


def test_a_run_goes_on_when_its_way_breaks(kube: Bench, namespace: str, tmp_path: Path) -> None:
    done, n = tmp_path / "done", 40
    done.mkdir()
    storage = hr.Storage(tmp_path / "flows")
    location = storage.add_flow(squares)
    with hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace, n_workers=2) as env:
        env.setup(storage)
        address, before = env.client.scheduler.address, threading.active_count()
        run = env.start(storage, location, {"folder": str(done), "n": n})
        until(lambda: len(list(done.iterdir())) >= 8)
        kube.cut_forwards()
        until(lambda: len(list(done.iterdir())) >= 20)
        with kube.api_away():
            time.sleep(1.0)
        run.wait()
        assert run.result() == sum(number * number for number in range(n))
        assert {file.read_text() for file in done.iterdir()} == {"x"}  # what ran is not run again
        assert len(list(done.iterdir())) == n
        assert env.client.scheduler.address == address
        until(lambda: threading.active_count() <= before + 1)
    assert not [thread for thread in threading.enumerate() if thread.name == "headrace-forward"]


# -- other ways, by what Kubernetes shows ------------------------------------------------------------------------------


class Shown:
    """An API server that shows a service and a node; the load balancer comes when it was looked for twice."""

    namespace = "data"

    def __init__(self, kind: str = "ClusterIP", ingress: dict[str, str] | None = None, names: str = "") -> None:
        comm, shown = names.split() if names else ("tcp-comm", "http-dashboard")
        ports = [
            {"name": comm, "port": 8786, "targetPort": comm, "nodePort": 31786},
            {"name": shown, "port": 8787, "targetPort": shown, "nodePort": 31787},
        ]
        self.looked, self.ingress = 0, ingress
        self.service = {
            "metadata": {"name": "ours-scheduler", "namespace": "data"},
            "spec": {"type": kind, "ports": ports},
            "status": {"loadBalancer": {}},
        }

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        self.looked += 1
        if name != "ours-scheduler":
            return None
        if self.looked > 2 and self.ingress:
            self.service["status"] = {"loadBalancer": {"ingress": [self.ingress]}}
        return self.service

    def list(self, kind: str) -> list[dict[str, Any]]:
        inner, outer = (
            {"type": f"{kind}IP", "address": ip} for kind, ip in (("Internal", "10.1"), ("External", "8.1"))
        )
        return [{"status": {"addresses": [inner]}}, {"status": {"addresses": [inner, outer]}}]


def by(way: str, api: Any, *, security: bool = True, name: str = "ours", timeout: float = 5.0) -> tuple[str, str]:
    spec: Any = SimpleNamespace(reach=way, security=security, kubeconfig=None, context=None)
    found = reach(api, spec, name, timeout=timeout)
    found.close()
    return found.address, found.dashboard_link


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reaching, "LOOK", 0.01)


def test_by_dns() -> None:
    expected = "tls://ours-scheduler.data.svc:8786", "http://ours-scheduler.data.svc:8787/status"
    assert by("dns", Shown()) == expected
    assert by("dns", Shown(), security=False)[0] == "tcp://ours-scheduler.data.svc:8786"


def test_by_a_load_balancer_which_comes_later() -> None:
    assert by("load-balancer", Shown("LoadBalancer", {"ip": "8.2"}))[0] == "tls://8.2:8786"
    named = Shown("LoadBalancer", {"hostname": "lb.example"})
    assert by("load-balancer", named) == ("tls://lb.example:8786", "http://lb.example:8787/status")
    assert by("load-balancer", Shown("LoadBalancer", {"ip": "fd00::2"}))[0] == "tls://[fd00::2]:8786"
    with pytest.raises(SetupError, match=r"ours-scheduler in the namespace 'data' is still pending after 0.1 s"):
        by("load-balancer", Shown("LoadBalancer"), timeout=0.1)


def test_by_a_node() -> None:
    assert by("node-port", Shown("NodePort")) == ("tls://8.1:31786", "http://8.1:31787/status")


def test_a_cluster_that_was_made_for_another_way() -> None:
    with pytest.raises(SetupError, match=r"reach='node-port' needs a service of the type NodePort, but .* a ClusterIP"):
        by("node-port", Shown())
    with pytest.raises(SetupError, match=r"no port that is called 'tcp-comm', but comm, web; .*in the manifest"):
        by("dns", Shown(names="comm web"))
    with pytest.raises(SetupError, match=r"no service other-scheduler in the namespace 'data' after 0.1 s"):
        by("dns", Shown(), name="other", timeout=0.1)


def test_inside_is_where_the_cluster_answers_to_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(reaching.socket, "getaddrinfo", lambda host, port: asked.append(host) or ["there"])
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    assert not reaching._is_inside("ours-scheduler.data.svc")
    assert not asked  # outside, that takes seconds
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert by("auto", Shown())[0] == "tls://ours-scheduler.data.svc:8786"
    monkeypatch.setattr(reaching.socket, "getaddrinfo", lambda host, port: threading.Event().wait())
    monkeypatch.setattr(reaching, "RESOLVE", 0.1)
    assert not reaching._is_inside("ours-scheduler.data.svc")
