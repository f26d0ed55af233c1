"""Looking at a cluster that comes up: what there is, for how long something has been wrong, and when to give up."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.environments.kubernetes.api import KINDS, Api
from headrace.environments.kubernetes.diagnosis import Diagnosis, diagnose
from headrace.environments.kubernetes.snapshot import Snapshot, about, containers_of, is_leaving, is_well, moment_of
from headrace.errors import KubernetesError

#: On all that Dask's operator makes for a cluster, and for a group of its workers.
CLUSTER_LABEL, GROUP_LABEL = "dask.org/cluster-name", "dask.org/workergroup-name"
#: Seconds between two readings of events and logs.
READ = 1.5
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
        self._read = -READ
        self._details: dict[str, Any] = {}

    def look(self, *, thorough: bool = False) -> Snapshot:
        """Return what there is now; of events and logs, what there was some moments ago.

        Parameters
        ----------
        thorough : bool, default False
            Whether to read all anew, and the logs of containers that run, too.
        """
        pods = self._api.list("Pod", f"{CLUSTER_LABEL}={self._name}")
        cluster = self._api.get("DaskCluster", self._name)
        snapshot = Snapshot(
            self._name, self._api.namespace, time.monotonic() - self._began, cluster, pods, **self._details
        )
        if thorough or (time.monotonic() - self._read > READ and not self._is_complete(cluster, pods)):
            details = self._read_details(pods, thorough)
            if any(replace(snapshot, **details).refusals):
                details["leaving"] = sum(map(is_leaving, self._allowed(self._api.list, "Pod")))
            self._details, self._read = details, time.monotonic()
            return replace(snapshot, **details)
        return snapshot

    def _is_complete(self, cluster: Mapping[str, Any] | None, pods: Sequence[Mapping[str, Any]]) -> bool:
        return len(pods) >= self._pods and all(map(is_well, pods)) and not _is_balanced(cluster)

    def _read_details(self, pods: Sequence[Mapping[str, Any]], thorough: bool) -> dict[str, Any]:
        """What else there is to know of a cluster that is not complete."""
        api, selector = self._api, f"{CLUSTER_LABEL}={self._name}"
        events = [event for event in self._allowed(api.list, "Event", fields="type=Warning") if _of(event, self._name)]
        service = self._allowed(api.get, "Service", f"{self._name}-scheduler")
        waiting = [pod for pod in pods if not is_well(pod)][:MOST]
        for pod in waiting:
            events += self._allowed(api.events, pod["metadata"]["name"])
        return {
            "replica_sets": self._allowed(api.list, "ReplicaSet", selector),
            "services": [service] if service else [],
            "events": sorted(events, key=moment_of),
            "logs": {key: log for pod in waiting for key, log in self._logs(pod, thorough).items()},
        }

    def judge(self, snapshot: Snapshot) -> Diagnosis | None:
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
        asked = ask.__name__, kind if kind in KINDS else ""  # else it is a name
        if asked in self._denied:
            return []
        try:
            return ask(kind, *args, **options) or []
        except KubernetesError as error:
            if error.facts.get("status") != 403:
                raise
            self._denied.add(asked)
            return []

    def _logs(self, pod: Mapping[str, Any], thorough: bool) -> dict[tuple[str, str], str]:
        """The last lines of containers that have ended, or of all that have begun."""
        found = {}
        for container in containers_of(pod):
            if container.ended or (thorough and "running" in container.state):
                place = container.pod, container.name
                before = bool(container.last) and "terminated" not in container.state
                # One that was started again since the pod was looked at has written nothing yet.
                logs = (self._allowed(self._api.logs, *place, previous=each) for each in (before, not before))
                found[place] = next(filter(None, logs), "")
        return found


def _is_balanced(cluster: Mapping[str, Any] | None) -> bool:
    """Whether its scheduler waits for a load balancer, too; one that it has does no harm."""
    service = ((cluster or {}).get("spec", {}).get("scheduler") or {}).get("service") or {}
    return bool(service.get("type") == "LoadBalancer")


def _of(event: Mapping[str, Any], name: str) -> bool:
    return about(event) == name or about(event).startswith(f"{name}-")
