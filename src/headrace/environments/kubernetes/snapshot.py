"""What Kubernetes shows of a cluster at one moment, and how to read its objects. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Restarts from which on a container will not come up by itself.
RESTARTS = 2
#: Lines of a log that are told.
LINES = 12

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Snapshot:
    """What Kubernetes shows of one cluster at one moment.

    Attributes
    ----------
    name, namespace : str
        Of the cluster.
    age : float
        Seconds since it was asked for.
    cluster : mapping or None
        The DaskCluster, if it is there.
    pods, replica_sets, services, events : list of mapping
        What belongs to it; events oldest first.
    logs : mapping of (str, str) to str
        By pod and container: its last lines, of those that have crashed.
    leaving : int
        How many pods of the namespace, whoever's, are being deleted; counted while others are refused.
    """

    name: str
    namespace: str
    age: float = 0.0
    cluster: Object | None = None
    pods: list[Object] = field(default_factory=list)
    replica_sets: list[Object] = field(default_factory=list)
    services: list[Object] = field(default_factory=list)
    events: list[Object] = field(default_factory=list)
    logs: Mapping[tuple[str, str], str] = field(default_factory=dict)
    leaving: int = 0

    def component(self, name: str) -> list[Object]:
        """The pods that are the scheduler, or workers, and not on their way out."""
        return [
            pod
            for pod in self.pods
            if pod["metadata"].get("labels", {}).get("dask.org/component") == name and not is_leaving(pod)
        ]

    @property
    def scheduler(self) -> Object | None:
        """The scheduler's pod; one that is ready, if there is one."""
        pods = sorted(self.component("scheduler"), key=is_ready, reverse=True)
        return pods[0] if pods else None

    def is_early(self, container: Container) -> bool:
        """Whether a worker was started before there was a scheduler: it gives up after half a minute, again and again.

        Dask's operator starts both at once, and the scheduler may have to wait for its image, or for a node.
        """
        if container.pod not in [pod["metadata"]["name"] for pod in self.component("worker")]:
            return False
        since = ready_since(self.scheduler or {})
        return since is None or container.ended.get("startedAt", "") < since

    @property
    def refusals(self) -> Iterator[str]:
        """What the API server said when pods were to be made that are not there yet, newest first."""
        there = [pod["metadata"]["name"] for pod in self.pods if not is_leaving(pod)]
        for event in reversed(self.events):  # which outlive what they tell of
            made = any(name.startswith(f"{about(event)}-") for name in there)
            if event.get("reason") == "FailedCreate" and not made:
                yield told_by(event)
        for each in self.replica_sets:
            for condition in each.get("status", {}).get("conditions") or ():
                if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                    yield condition.get("message", "")

    @property
    def containers(self) -> Iterator[Container]:
        """All containers of pods that are not well, the scheduler's first."""
        for pod in sorted(self.pods, key=lambda pod: pod not in self.component("scheduler")):
            if not is_well(pod) and not is_leaving(pod):
                yield from containers_of(pod)


class Container(NamedTuple):
    """One container of a pod, and how it is."""

    pod: str
    name: str
    image: str
    restarts: int
    state: Object
    last: Object

    @property
    def waiting(self) -> tuple[str, str]:
        """Why it waits, and the words for it."""
        waiting = self.state.get("waiting") or {}
        return waiting.get("reason", ""), waiting.get("message", "")

    @property
    def ended(self) -> Object:
        """How it ended, now or the last time."""
        ended: Object = self.state.get("terminated") or self.last.get("terminated") or {}
        return ended

    @property
    def failing(self) -> bool:
        """Whether it ends again and again."""
        failed = self.ended.get("exitCode", 0) != 0 or self.restarts >= RESTARTS
        return bool(self.ended) and failed and (self.waiting[0] == "CrashLoopBackOff" or self.restarts >= RESTARTS)


def is_ready(pod: Object) -> bool:
    """Whether a pod says that it is up."""
    return ready_since(pod) is not None


def ready_since(pod: Object) -> str | None:
    """Since when a pod has been up; None if it is not."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "Ready" and condition["status"] == "True":
            return str(condition.get("lastTransitionTime", ""))
    return None


def is_near(snapshot: Snapshot | None) -> bool:
    """Whether the scheduler's pod runs and will be ready within moments, if nothing is wrong with it."""
    pod = snapshot.scheduler if snapshot is not None else None
    return pod is not None and pod.get("status", {}).get("phase") == "Running" and not is_ready(pod)


def is_leaving(there: Object) -> bool:
    """Whether an object is being deleted: a pod has some time to end, and takes up room until then."""
    return "deletionTimestamp" in there["metadata"]


def is_well(pod: Object) -> bool:
    """Whether a pod is ready, and has not only just been started once more: workers are ready at once."""
    return is_ready(pod) and not any(container.failing for container in containers_of(pod))


def containers_of(pod: Object) -> Iterator[Container]:
    """The containers of a pod, as far as they are known; those that prepare it first."""
    status = pod.get("status", {})
    for each in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        yield Container(
            pod["metadata"]["name"],
            each["name"],
            each.get("image", ""),
            each.get("restartCount", 0),
            each.get("state") or {},
            each.get("lastState") or {},
        )


def unscheduled(pod: Object) -> str:
    """Why there is no node for a pod, in the scheduler's words; empty if there is one, or it was not looked for."""
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return sentence(condition.get("message", "")) or "unschedulable"
    return ""


def about(event: Object) -> str:
    """The name of what an event tells of."""
    return str((event.get("involvedObject") or {}).get("name", ""))


def moment_of(event: Object) -> str:
    """When an event was told the last time, as far as it says; to sort by."""
    return str(event.get("lastTimestamp") or event["metadata"].get("creationTimestamp") or "")


def told_by(event: Object) -> str:
    """What an event tells."""
    return sentence(event.get("message") or "")


def sentence(text: str) -> str:
    """Somebody else's words, to go on after them."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".;")


def ended_by(ended: Object) -> str:
    """How a container ended, in a few words."""
    reason = ended.get("reason", "")
    code = f"exit code {ended.get('exitCode', '?')}"
    return f"{reason}, {code}" if reason not in ("", "Error", "Completed") else code


def tail(log: str) -> str:
    """The last lines of a log, to go at the end of a message."""
    lines = log.rstrip().splitlines()[-LINES:]
    return "".join(["; its last lines were:", *(f"\n    {line}" for line in lines)]) if lines else ""
