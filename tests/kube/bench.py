"""A Kubernetes that runs on this machine: what the fixture `kube` gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent.parent


class Bench:
    """An API server with Dask's operator and one node, whose pods are processes."""

    context = "fake"
    #: what pods run: the environment of the tests
    image = f"venv:{sys.prefix}"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        number = 100 + os.getpid() % 70 * 2
        up = [sys.executable, str(HERE / "kubeup.py"), "up", str(folder), "--fake"]
        up += ["--pythonpath", str(CHECKOUT / "src"), "--kubelet-arg=--pod-cidr", f"--kubelet-arg=127.{number}.0.0/16"]
        up += ["--service-cidr", f"127.{number + 1}.0.0/16"]
        done = subprocess.run(up, check=True, capture_output=True, text=True, timeout=120)
        self.kubeconfig = Path(done.stdout.strip())
        self._server = json.loads(self.kubeconfig.read_text())["clusters"][0]["cluster"]["server"]

    def close(self) -> None:
        subprocess.run([sys.executable, str(HERE / "kubeup.py"), "down", str(self.folder)], check=True, timeout=60)

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Ask the API server, as an administrator."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._server + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.loads(answer.read())

    @contextmanager
    def namespace(self) -> Iterator[str]:
        """A fresh namespace."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        self.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        try:
            yield name
        finally:
            self.request("DELETE", f"/api/v1/namespaces/{name}")
