"""The smallest manifests that do something, for tests of the bench itself."""

from __future__ import annotations

import sys

from tests.kube.control.objects import Object


def pod(name: str, *code: str, image: str | None = None, policy: str = "Never", **container: object) -> Object:
    """A pod that runs Python code; further arguments go to the container."""
    image = image or f"venv:{sys.prefix}"
    main = {"name": "main", "image": image, "command": ["python", "-c", "\n".join(code)], **container}
    spec = {"restartPolicy": policy, "terminationGracePeriodSeconds": 1, "containers": [main]}
    return {"metadata": {"name": name, "labels": {"app": name}}, "spec": spec}


def dask_cluster(
    name: str, *, workers: int, image: str | None = None, kind: str = "ClusterIP", **worker: object
) -> Object:
    """A DaskCluster; further arguments go to the container of the workers."""
    image = image or f"venv:{sys.prefix}"
    ports = [{"name": "tcp-comm", "containerPort": 8786}, {"name": "http-dashboard", "containerPort": 8787}]
    probe = {"httpGet": {"port": "http-dashboard", "path": "/health"}, "periodSeconds": 1, "failureThreshold": 60}
    scheduler = {
        "name": "scheduler",
        "image": image,
        "args": ["dask", "scheduler"],
        "ports": ports,
        "readinessProbe": probe,
    }
    command = ["dask", "worker", "--nthreads", "1", "--no-dashboard", "--name", "$(DASK_WORKER_NAME)"]
    container = {"name": "worker", "image": image, "args": command, **worker}
    service = {
        "type": kind,
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [
            {"name": "tcp-comm", "port": 8786, "targetPort": "tcp-comm"},
            {"name": "http-dashboard", "port": 8787, "targetPort": "http-dashboard"},
        ],
    }
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "scheduler": {"spec": {"containers": [scheduler]}, "service": service},
            "worker": {"replicas": workers, "spec": {"containers": [container]}},
        },
    }
