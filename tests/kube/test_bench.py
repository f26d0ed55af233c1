"""The bench shows what a Kubernetes shows."""

from __future__ import annotations

import sys

from tests.kube.bench import Bench
from tests.waiting import until


def test_a_pod_runs_and_ends(kube: Bench, namespace: str) -> None:
    container = {"name": "main", "image": kube.image, "command": [sys.executable, "-c", "import headrace"]}
    pod = {"metadata": {"name": "one"}, "spec": {"restartPolicy": "Never", "containers": [container]}}
    path = f"/api/v1/namespaces/{namespace}/pods"
    kube.request("POST", path, pod)
    until(lambda: kube.request("GET", f"{path}/one")["status"]["phase"] == "Succeeded")
