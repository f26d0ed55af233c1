"""Looking at a cluster that comes up: what there is, for how long something has been wrong, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from headrace.environments.kubernetes.api import Api, allowed
from headrace.environments.kubernetes.diagnosis import Finding, diagnose
from headrace.environments.kubernetes.snapshot import Snapshot, about, containers_of, is_well

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
    pods : int
        How many it has when it is complete.
    """

    def __init__(self, api: Api, name: str, pods: int) -> None:
        self._api = api
        self._name = name
        self._pods = pods
        self._began = time.monotonic()
        self._since: dict[str, float] = {}
        self._denied: set[object] = set()

    def look(self) -> Snapshot:
        """Return what there is now."""
        api, name, selector = self._api, self._name, f"{CLUSTER_LABEL}={self._name}"
        pods = api.list("Pod", selector)
        cluster = api.get("DaskCluster", name)
        quick = Snapshot(name, api.namespace, time.monotonic() - self._began, cluster, pods)
        if len(pods) >= self._pods and all(map(is_well, pods)):
            return quick
        events = [event for event in self._allowed(api.list, "Event", fields="type=Warning") if _of(event, name)]
        waiting = [pod for pod in pods if not is_well(pod)][:MOST]
        for pod in waiting:
            events += self._allowed(api.events, pod["metadata"]["name"])
        return Snapshot(
            name,
            api.namespace,
            quick.age,
            cluster,
            pods,
            self._allowed(api.list, "ReplicaSet", selector),
            self._allowed(api.list, "Service", selector),
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

    def _allowed(self, ask: Callable[..., Any], kind: str, *args: Any, **options: Any) -> Any:
        """Ask for what makes a diagnosis better; not again, if this user may not know it."""
        asked = kind if ask == self._api.list else ask.__name__
        if asked in self._denied:
            return []
        found = allowed(ask, kind, *args, **options)
        if found is None:
            self._denied.add(asked)
        return found or []

    def _logs(self, pod: Mapping[str, Any]) -> dict[tuple[str, str], str]:
        """The last lines of containers that have ended, or do not get ready."""
        found = {}
        for container in containers_of(pod):
            if "terminated" in container.state or "running" in container.state or container.last:
                ended = bool(container.last) and "terminated" not in container.state
                log = self._allowed(self._api.logs, container.pod, container.name, previous=ended) or ""
                found[container.pod, container.name] = log
        return found


def _of(event: Mapping[str, Any], name: str) -> bool:
    return about(event) == name or about(event).startswith(f"{name}-")


def _moment(event: Mapping[str, Any]) -> str:
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")
