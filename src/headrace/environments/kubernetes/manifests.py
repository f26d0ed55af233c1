"""A cluster as the manifests of Dask's operator. Pure: what goes in decides what comes out."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from headrace.environments.certificates import Pems
from headrace.environments.kubernetes.merging import merge
from headrace.environments.kubernetes.pods import COMM_PORT, HTTP_PORT, driver_pod, scheduler_pod, worker_pod
from headrace.environments.kubernetes.spec import DEFAULT_GROUP, KubernetesSpec, variable
from headrace.errors import SetupError

API_VERSION = "kubernetes.dask.org/v1"
#: On all that we make: which cluster it belongs to.
LABEL = "headrace.io/cluster"
_SERVICES = {"load-balancer": "LoadBalancer", "node-port": "NodePort"}
#: Seconds for which Kubernetes keeps the Job of a driver that is over, with its log.
KEPT = 86400


def cluster_manifest(
    spec: KubernetesSpec,
    name: str,
    *,
    n_workers: int | None = None,
    tls_secret: str | None = None,
    owner: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the DaskCluster: scheduler, its Service, and the default group of workers.

    Parameters
    ----------
    spec : KubernetesSpec
        What the cluster is.
    name : str
        Of the cluster.
    n_workers : int, optional
        Of the default group; by default, as the spec says, else 1.
    tls_secret : str, optional
        Name of the Secret with the certificates; None: no TLS.
    owner : mapping, optional
        Reference to the object with which the cluster is removed.
    """
    head = _head("DaskCluster", spec, name, name, owner)
    if spec.manifest:
        ours = merge(head, {"spec": {"idleTimeout": spec.idle_timeout}})
        theirs = {
            "metadata": {"name": name, **_where(spec)},
            "spec": {"worker": {"replicas": n_workers}} if n_workers is not None else {},
        }
        return merge(merge(ours, spec.manifest[0]), theirs)
    worker = _workers(spec, name, DEFAULT_GROUP, n_workers, tls_secret)
    service = {
        "type": _SERVICES.get(spec.reach, "ClusterIP"),
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [_service_port("tcp-comm", COMM_PORT), _service_port("http-dashboard", HTTP_PORT)],
    }
    scheduler = {
        "metadata": _own_metadata(spec, spec.scheduler),
        "spec": scheduler_pod(spec, tls_secret=tls_secret),
        "service": service,
    }
    return {**head, "spec": {"idleTimeout": spec.idle_timeout, "scheduler": scheduler, "worker": worker}}


def group_manifests(
    spec: KubernetesSpec, name: str, *, tls_secret: str | None = None, owner: Mapping[str, Any] | None = None
) -> list[dict[str, Any]]:
    """Return the DaskWorkerGroups: one for each group of workers besides the default one.

    Parameters
    ----------
    spec, name, tls_secret, owner
        As for ``cluster_manifest``.
    """
    if spec.manifest:
        return [
            merge(
                merge(_head("DaskWorkerGroup", spec, name, name, owner), each),
                {"metadata": _where(spec), "spec": {"cluster": name}},
            )
            for each in spec.manifest[1:]
        ]
    return [
        {
            **_head("DaskWorkerGroup", spec, name, _group_name(name, group), owner),
            "spec": {"cluster": name, "worker": _workers(spec, name, group, None, tls_secret)},
        }
        for group in spec.groups
        if group != DEFAULT_GROUP
    ]


def driver_job(
    spec: KubernetesSpec,
    name: str,
    variables: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the Job whose pod drives one run. It is not tried again, as a run is begun once under one id.

    Parameters
    ----------
    spec : KubernetesSpec
        Of the cluster that the run executes on.
    name : str
        Of the Job.
    variables : mapping
        Environment variables, as ``KubernetesSpec.env`` holds them.
    """
    given = {key: variable(key, value) for key, value in variables.items()}
    head = _head("Job", spec, name, name, None, "batch/v1")
    metadata = merge({"labels": head["metadata"]["labels"]}, _own_metadata(spec, spec.driver))
    template = {"metadata": metadata, "spec": driver_pod(spec, given)}
    return {**head, "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": KEPT, "template": template}}


def tls_secret_manifest(
    name: str, pems: Pems, *, labels: Mapping[str, str] | None = None, owner: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the Secret with the certificates of a cluster.

    Parameters
    ----------
    name : str
        Of the Secret.
    pems : Pems
        The certificates.
    labels : mapping, optional
        Of the Secret.
    owner : mapping, optional
        Reference to the object with which the Secret is removed.
    """
    texts = {"ca.crt": pems.ca, "tls.crt": pems.cert, "tls.key": pems.key}
    metadata: dict[str, Any] = {"name": name}
    if labels:
        metadata["labels"] = dict(labels)
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    data = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "kubernetes.io/tls", "data": data}


def _head(
    kind: str,
    spec: KubernetesSpec,
    cluster: str,
    name: str,
    owner: Mapping[str, Any] | None,
    version: str = API_VERSION,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, "labels": {LABEL: cluster, **spec.labels}, **_where(spec)}
    if spec.annotations:
        metadata["annotations"] = dict(spec.annotations)
    if owner is not None:
        metadata["ownerReferences"] = [dict(owner)]
    return {"apiVersion": version, "kind": kind, "metadata": metadata}


def _where(spec: KubernetesSpec) -> dict[str, str]:
    return {"namespace": spec.namespace} if spec.namespace else {}


def _workers(
    spec: KubernetesSpec, name: str, group: str, n_workers: int | None, tls_secret: str | None
) -> dict[str, Any]:
    size = spec.size(group) if n_workers is None else n_workers
    return {
        "replicas": 1 if size is None else size,
        "metadata": _own_metadata(spec, spec.worker_groups.get(group, {})),
        "spec": worker_pod(spec, name, group, tls_secret=tls_secret),
    }


def _own_metadata(spec: KubernetesSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """What labels and annotations some pods have beside those of the whole cluster, which the operator gives to all."""
    return {key: dict(options[key]) for key in ("labels", "annotations") if options.get(key)}


def _group_name(cluster: str, group: str) -> str:
    name = f"{cluster}-{group}"
    if len(name) > 63:  # it is also the value of a label
        raise SetupError(
            f"{name!r} is too long for Kubernetes, which ends at 63 characters; give the group a shorter name"
        )
    return name


def _service_port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "protocol": "TCP", "port": number, "targetPort": name}
