"""A forward lasts: through cut connections, an API server that is away, silence, and pods that are replaced."""

from __future__ import annotations

import json
import logging
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from headrace.environments.kubernetes import forward
from headrace.environments.kubernetes.api import Api
from headrace.environments.kubernetes.forward import Forward
from headrace.environments.kubernetes.reach import reach
from headrace.environments.kubernetes.spec import KubernetesSpec
from headrace.errors import SetupError
from tests.kube.bench import Bench
from tests.proxies import Proxy, proxy_before

ECHO = """
import os, socketserver

class Echo(socketserver.BaseRequestHandler):
    def handle(self):
        while heard := self.request.recv(2**16):
            if heard == b"bye":
                self.request.sendall(bytes(2**20))
                return
            self.request.sendall(os.environ["HOSTNAME"].encode() if heard == b"who" else heard)

socketserver.ThreadingTCPServer(("0.0.0.0", 7000), Echo).serve_forever()
"""


class Pods:
    """Pods that say who they are, and repeat all else that they hear."""

    def __init__(self, kube: Bench, namespace: str) -> None:
        self.kube, self.namespace = kube, namespace

    def start(self, name: str) -> None:
        container = {
            "name": "echo",
            "image": self.kube.image,
            "command": [sys.executable, "-c", ECHO],
            "ports": [{"name": "echo", "containerPort": 7000}],
            "readinessProbe": {"tcpSocket": {"port": 7000}, "periodSeconds": 1},
        }
        metadata = {"name": name, "labels": {"app": "echo"}}
        self.kube.create("pods", self.namespace, {"metadata": metadata, "spec": {"containers": [container]}})

    def stop(self, name: str) -> None:
        self.kube.request("DELETE", self.kube.path("pods", self.namespace, name), {"gracePeriodSeconds": 0})


@pytest.fixture
def proxy(kube: Bench, tmp_path: Path) -> Iterator[Proxy]:
    """The network between here and the API server; a kubeconfig that leads through it is in the test's folder."""
    config = json.loads(kube.kubeconfig.read_text())
    (cluster,) = config["clusters"]
    server = urlsplit(cluster["cluster"]["server"]).netloc
    with proxy_before(server) as proxy:
        cluster["cluster"] |= {"server": f"https://{proxy.address}", "tls-server-name": "localhost"}
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        yield proxy


@pytest.fixture
def pods(kube: Bench, namespace: str) -> Pods:
    pods = Pods(kube, namespace)
    pods.start("one")
    return pods


@pytest.fixture
def way(pods: Pods, proxy: Proxy, namespace: str, tmp_path: Path) -> Iterator[int]:
    """A local port that leads to such a pod."""
    assert proxy.address
    access = {"kubeconfig": str(tmp_path / "kubeconfig"), "context": None}
    forward = Forward(access, namespace, "app=echo", ["echo"])
    try:
        forward.check(30)
        yield forward.ports["echo"]
    finally:
        forward.close()
        forward.close()
        assert threads() == 0


def threads() -> int:
    return sum(thread.name == "headrace-forward" for thread in threading.enumerate())


class Line:
    """A connection."""

    def __init__(self, port: int) -> None:
        self.plug = socket.create_connection(("127.0.0.1", port), timeout=60)

    def __enter__(self) -> Line:
        return self

    def __exit__(self, *exc: object) -> None:
        self.plug.close()

    def ask(self, said: bytes) -> bytes:
        """What comes back; nothing if the connection ends."""
        heard = b""
        try:
            sending = threading.Thread(target=self.plug.sendall, args=(said,))
            sending.start()
            while len(heard) < (3 if said == b"who" else len(said)) and (more := self.plug.recv(2**20)):
                heard += more
            sending.join()
        except ConnectionError:
            return b""
        return heard


def test_much_goes_both_ways_over_several_connections_at_once(way: int) -> None:
    much = bytes(range(256)) * (20 << 12)
    with Line(way) as first, Line(way) as second:
        assert second.ask(b"who") == b"one"
        assert first.ask(much) == much
        assert second.ask(b"after") == b"after"
    with Line(way) as last:  # nothing is lost of what is sent just before the end
        last.plug.sendall(b"bye")
        left = 2**20
        while more := last.plug.recv(2**12):
            left -= len(more)
        assert left == 0


def test_a_cut_ends_connections_and_the_same_port_serves_the_next(
    way: int, proxy: Proxy, caplog: pytest.LogCaptureFixture
) -> None:
    for away in (False, True):  # as when the API server is started again
        with Line(way) as before:
            assert before.ask(b"who") == b"one"
            proxy.down = away
            proxy.cut()
            assert before.plug.recv(1) == b""
        with Line(way) as after:
            if away:
                threading.Timer(1.0, setattr, (proxy, "down", False)).start()
            assert after.ask(b"who") == b"one"  # it waited, rather than being refused
    told = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {record.name for record in told} <= {"distributed.gc"}  # which is told by whatever ran in this process


def test_it_leads_to_the_pod_that_is_there(way: int, pods: Pods) -> None:
    with Line(way) as before:
        assert before.ask(b"who") == b"one"
        pods.stop("one")
        pods.start("two")
        assert before.plug.recv(1) == b""
    with Line(way) as after:
        assert after.ask(b"who") == b"two"


def test_silence_is_noticed_and_patience_is_not_taken_for_it(
    way: int, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "SILENCE", 1.5)
    with Line(way) as idle, Line(way) as busy:
        assert idle.ask(b"who") == busy.ask(b"who") == b"one"
        much = bytes(32 << 20)
        sending = threading.Thread(target=busy.plug.sendall, args=(much,))
        sending.start()  # and nobody reads what comes back, for longer than the silence
        idle.plug.settimeout(3.5)
        with pytest.raises(TimeoutError):
            idle.plug.recv(1)
        left = len(much)
        while left:
            left -= len(busy.plug.recv(2**20))
        sending.join()
        assert idle.ask(b"hello") == b"hello"
        proxy.freeze()
        idle.plug.settimeout(60)
        assert idle.plug.recv(1) == b""
    with Line(way) as after:
        assert after.ask(b"who") == b"one"


def test_without_a_pod_it_says_so_and_gives_up(
    way: int, pods: Pods, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pods.stop("one")
    with monkeypatch.context() as impatient, Line(way) as line:
        impatient.setattr(forward, "WAIT", 0.5)
        assert line.ask(b"who") == b""
    before = threads()
    other = Forward({"kubeconfig": str(tmp_path / "kubeconfig")}, namespace, "app=echo", ["echo"])
    with pytest.raises(ConnectionError, match=r"no pod with app=echo is ready"):
        other.check(0.1)
    other.close()
    assert threads() == before


def test_it_is_found_by_the_service_and_who_may_not_use_it_is_told(kube: Bench, pods: Pods, namespace: str) -> None:
    ports = [{"name": "tcp-comm", "port": 8786, "targetPort": "echo"}]
    service = {"metadata": {"name": "ours-scheduler"}, "spec": {"selector": {"app": "echo"}, "ports": ports}}
    kube.create("services", namespace, service)
    spec = KubernetesSpec.of(image="any", namespace=namespace, reach="forward", security=False)
    way = reach(Api(spec), spec, "ours", timeout=60)
    try:
        assert way.dashboard_link == ""
        with Line(int(way.address.removeprefix("tcp://127.0.0.1:"))) as line:
            assert line.ask(b"who") == b"one"
    finally:
        way.close()
    with (
        kube.forbid("*", "pods/portforward", namespace),
        pytest.raises(SetupError, match=r"does not let this user forward ports.*resources: \[.pods/portforward.\]"),
    ):
        reach(Api(spec), spec, "ours", timeout=60)
    assert threads() == 0
