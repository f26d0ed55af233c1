"""Looking at a cluster that comes up: what there is, for how long something has been wrong, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from headrace.environments.kubernetes.diagnosis import Finding, Snapshot, containers_of, diagnose, is_well
from headrace.errors import KubernetesError

if TYPE_CHECKING:
    from headrace.environments.kubernetes.api import Api

#: On all that Dask's operator makes for a cluster, and for a group of its workers.
CLUSTER_LABEL, GROUP_LABEL = "dask.org/cluster-name", "dask.org/workergroup-name"
#: Most pods whose logs and events are read at one look.
MOST = 3


class Watch:
    """Looks at one cluster again and again.

    Parameters
    ----------
    api : Api
        Asked.
    name : str
        Of the cluster.
    """

    def __init__(self, api: Api, name: str) -> None:
        self._api = api
        self._name = name
        self._began = time.monotonic()
        self._since: dict[str, float] = {}

    def look(self) -> Snapshot:
        """Return what there is now."""
        api, name, selector = self._api, self._name, f"{CLUSTER_LABEL}={self._name}"
        pods = api.list("Pod", selector)
        cluster = api.get("DaskCluster", name)
        quick = Snapshot(name, api.namespace, time.monotonic() - self._began, cluster, pods)
        if pods and all(map(is_well, pods)):
            return quick
        events = [event for event in allowed(api.list, "Event", fields="type=Warning") if _of(event, name)]
        waiting = [pod for pod in pods if not is_well(pod)][:MOST]
        for pod in waiting:
            events += allowed(api.events, pod["metadata"]["name"])
        return Snapshot(
            name,
            api.namespace,
            quick.age,
            cluster,
            pods,
            allowed(api.list, "ReplicaSet", selector),
            allowed(api.list, "Service", selector),
            sorted(events, key=_moment),
            {key: log for pod in waiting for key, log in self._logs(pod).items()},
        )

    def judge(self, snapshot: Snapshot) -> Finding | None:
        """Return what is wrong, once it has lasted so long that waiting is in vain.

        Parameters
        ----------
        snapshot : Snapshot
            The newest one.
        """
        finding = diagnose(snapshot)
        if finding is None:
            self._since.clear()
            return None
        self._since = {finding.cause: self._since.get(finding.cause, time.monotonic())}
        lasted = time.monotonic() - self._since[finding.cause]
        return finding if lasted >= finding.patience else None

    def _logs(self, pod: Mapping[str, Any]) -> dict[tuple[str, str], str]:
        """The last lines of containers that have ended, or do not get ready."""
        found = {}
        for container in containers_of(pod):
            if "terminated" in container.state or "running" in container.state or container.last:
                ended = bool(container.last) and "terminated" not in container.state
                log = allowed(self._api.logs, container.pod, container.name, previous=ended) or ""
                found[container.pod, container.name] = log
        return found


def allowed(ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Ask for what only makes a diagnosis better; an empty answer, if this user may not know it.

    Parameters
    ----------
    ask : callable
        Of an ``Api``.
    *args, **options
        For it.
    """
    try:
        return ask(*args, **options)
    except KubernetesError as error:
        if error.facts.get("status") == 403:
            return []
        raise


def _of(event: Mapping[str, Any], name: str) -> bool:
    about = str((event.get("involvedObject") or {}).get("name", ""))
    return about == name or about.startswith(f"{name}-")


def _moment(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")
