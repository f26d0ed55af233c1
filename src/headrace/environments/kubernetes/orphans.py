"""Clusters that headrace made, and those of them that nobody uses any more.

Whoever uses a cluster says so on it, each half minute (``cluster.SEEN``); a driver in a pod owns its cluster besides.
So a cluster is an orphan if that pod has ended, or if nobody has said anything for much longer than that. All times are
the API server's, as it says in each answer: the clocks of two laptops may differ by more than the silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from headrace.environments.kubernetes.api import Api, allowed
from headrace.environments.kubernetes.cluster import CREATOR, SEEN
from headrace.environments.kubernetes.ending import remove
from headrace.environments.kubernetes.manifests import LABEL
from headrace.environments.kubernetes.snapshot import is_ready
from headrace.environments.kubernetes.watching import CLUSTER_LABEL

if TYPE_CHECKING:
    from headrace.environments.kubernetes.spec import KubernetesSpec

#: Silence from which on a cluster counts as left over: ten signs of life.
SILENCE = timedelta(minutes=5)


@dataclass(frozen=True)
class Made:
    """A cluster that headrace made.

    Attributes
    ----------
    name, namespace, uid : str
        Which.
    created : datetime
        When.
    creator : str
        User and host.
    workers : int
        Pods of workers that are ready.
    seen : datetime
        When somebody who uses it said so last, or made it.
    orphan : str
        Why nobody needs it; empty if it is in use.
    """

    name: str
    namespace: str
    uid: str
    created: datetime
    creator: str
    workers: int
    seen: datetime
    orphan: str


def made(api: Api, *, everywhere: bool = False) -> list[Made]:
    """Return the clusters that headrace made, oldest first.

    Parameters
    ----------
    api : Api
        Where to look.
    everywhere : bool, default False
        Whether in all namespaces.

    Raises
    ------
    KubernetesError
        If this user may not look there.
    """
    clusters = api.list("DaskCluster", LABEL, everywhere=everywhere)
    pods = api.list("Pod", CLUSTER_LABEL, everywhere=everywhere)
    drivers = api.list("Pod", everywhere=everywhere) if any(map(_driver, clusters)) else []
    return sorted((judge(each, pods, drivers, api.now) for each in clusters), key=lambda each: each.created)


def judge(
    cluster: Mapping[str, Any], pods: Iterable[Mapping[str, Any]], drivers: Iterable[Mapping[str, Any]], now: datetime
) -> Made:
    """Tell of a cluster whether somebody uses it. Pure.

    Parameters
    ----------
    cluster : mapping
        The DaskCluster.
    pods, drivers : iterable of mapping
        Pods of clusters, and those that may drive them.
    now : datetime
        The time, by the clock of the API server.
    """
    about = cluster["metadata"]
    name, namespace = about["name"], about["namespace"]
    notes = about.get("annotations") or {}
    labels = {CLUSTER_LABEL: name, "dask.org/component": "worker"}
    ready = [
        pod
        for pod in pods
        if pod["metadata"]["namespace"] == namespace
        and labels.items() <= pod["metadata"].get("labels", {}).items()
        and is_ready(pod)
    ]
    created = datetime.fromisoformat(about["creationTimestamp"])
    seen = datetime.fromisoformat(notes[SEEN]) if SEEN in notes else created
    orphan = ""
    if (driver := _driver(cluster)) is not None:
        alive = {pod["metadata"]["uid"] for pod in drivers if pod["status"].get("phase") in ("Pending", "Running")}
        if driver["uid"] not in alive:
            orphan = f"its driver, pod {driver['name']}, has ended"
    if not orphan and now - seen > SILENCE:
        orphan = "whoever used it does not any more"
    return Made(
        name,
        namespace,
        about["uid"],
        created,
        notes.get(CREATOR, "?"),
        len(ready),
        seen,
        orphan,
    )


@dataclass(frozen=True)
class Stray:
    """A Secret with the certificates of a cluster that never came to be: who made it was killed between the two.

    Attributes
    ----------
    name, namespace, uid : str
        Which.
    """

    name: str
    namespace: str
    uid: str


def strays(api: Api, *, everywhere: bool = False) -> list[Stray]:
    """Return the Secrets that were left over; none, if this user may not list Secrets.

    Parameters
    ----------
    api, everywhere
        As for ``made``.
    """
    secrets = allowed(api.list, "Secret", LABEL, everywhere=everywhere) or []
    clusters = api.list("DaskCluster", LABEL, everywhere=everywhere) if secrets else []
    named = {(each["metadata"]["namespace"], each["metadata"]["name"]) for each in clusters}
    before = api.now - SILENCE  # a younger one's cluster may come yet
    return [
        Stray(about["name"], about["namespace"], about["uid"])
        for about in (each["metadata"] for each in secrets)
        if about["labels"][LABEL] == about["name"]
        and (about["namespace"], about["name"]) not in named
        and not about.get("ownerReferences")
        and datetime.fromisoformat(about["creationTimestamp"]) < before
    ]


def reap(spec: KubernetesSpec, orphan: Made | Stray) -> None:
    """Remove a cluster, and wait until it is gone; or a Secret.

    Parameters
    ----------
    spec : KubernetesSpec
        Says where Kubernetes is.
    orphan : Made or Stray
        Which.

    Raises
    ------
    KubernetesError
        If it cannot be removed.
    """
    api = Api(replace(spec, namespace=orphan.namespace))
    if isinstance(orphan, Stray):
        api.delete("Secret", orphan.name, uid=orphan.uid)
    else:
        remove(api, orphan.name, orphan.uid)


def _driver(cluster: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What refers to the pod that a cluster goes with."""
    owners = cluster["metadata"].get("ownerReferences") or ()
    return next((owner for owner in owners if owner["kind"] == "Pod"), None)
