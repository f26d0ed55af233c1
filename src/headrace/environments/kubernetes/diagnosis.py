"""What keeps a cluster from coming up: from the objects that Kubernetes shows to one paragraph. Pure.

``CAUSES`` is a table: what is looked for, and how many seconds it must last until nobody need wait any longer. What
may pass by itself (a node that an autoscaler brings, a load balancer) is told, but ends nothing before the deadline.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

NEVER = math.inf
#: Lines of a log that are told.
LINES = 12
#: Restarts from which on a container will not come up by itself.
RESTARTS = 2
_PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
_CONFIG = {"CreateContainerConfigError", "CreateContainerError"}
_COMMAND = {"RunContainerError", "StartError", "ContainerCannotRun"}

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

    def component(self, name: str) -> list[Object]:
        """The pods that are the scheduler, or workers, and not on their way out."""
        return [
            pod
            for pod in self.pods
            if pod["metadata"].get("labels", {}).get("dask.org/component") == name
            and "deletionTimestamp" not in pod["metadata"]
        ]

    @property
    def scheduler(self) -> Object | None:
        """The scheduler's pod; one that is ready, if there is one."""
        pods = sorted(self.component("scheduler"), key=is_ready, reverse=True)
        return pods[0] if pods else None

    @property
    def containers(self) -> Iterator[Container]:
        """All containers of pods that are not well, the scheduler's first."""
        for pod in sorted(self.pods, key=lambda pod: pod not in self.component("scheduler")):
            if not is_well(pod) and "deletionTimestamp" not in pod["metadata"]:
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


class Finding(NamedTuple):
    """Why a cluster is not up.

    Attributes
    ----------
    cause : str
        The row of ``CAUSES``.
    message : str
        What was found, and what to do.
    patience : float
        Seconds that it must last until waiting is in vain.
    """

    cause: str
    message: str
    patience: float


def diagnose(snapshot: Snapshot) -> Finding | None:
    """Return what is wrong with a cluster that is not up yet; None if nothing is known to be.

    Parameters
    ----------
    snapshot : Snapshot
        What there is.
    """
    for cause, (patience, look) in CAUSES.items():
        if message := look(snapshot):
            return Finding(cause, message, patience)
    return None


def progress(snapshot: Snapshot, wanted: int, connected: int | None = None) -> str:
    """Return what is being waited for, on one line.

    Parameters
    ----------
    snapshot : Snapshot
        What there is.
    wanted : int
        How many workers.
    connected : int, optional
        How many of them the scheduler knows; none before it is there.
    """
    name = snapshot.name
    if snapshot.cluster is None or not (snapshot.pods or (snapshot.cluster.get("status") or {}).get("phase")):
        return f"cluster {name}: waiting for Dask's operator to take it up"
    if connected is None and (snapshot.scheduler is None or not is_ready(snapshot.scheduler)):
        what = how_is(snapshot.scheduler, snapshot.events) if snapshot.scheduler else "no pod yet"
        return f"cluster {name}: waiting for the scheduler: {what}"
    states = [how_is(pod, snapshot.events) for pod in snapshot.component("worker")]
    ready = states.count("run")
    known = ["run"] * min(ready, connected or 0)
    states = known + ["starting"] * (ready - len(known)) + [state for state in states if state != "run"]
    workers = "1 worker" if wanted == 1 else f"{wanted} workers"
    return f"cluster {name}: waiting for {workers}: {_counted(states) or 'no pods yet'}"


def how_is(pod: Object, events: Iterable[Object] = ()) -> str:
    """Return how a pod is, in a few words.

    Parameters
    ----------
    pod : mapping
        Which.
    events : iterable of mapping
        What was told of the cluster's objects.
    """
    status = pod.get("status", {})
    if is_ready(pod):
        return "run" if status.get("phase") == "Running" else "ready"
    if message := _unscheduled(pod):
        return f"pending (no node: {message})"
    for container in containers_of(pod):
        reason, message = container.waiting
        if reason in _PULL:
            return f"pending (image {container.image} cannot be pulled)"
        if reason in _CONFIG:
            return f"pending ({message or reason})"
        if container.failing:
            return "crashed"
        if reason in ("ContainerCreating", "PodInitializing"):
            said = [event for event in events if _about(event) == pod["metadata"]["name"]]
            if said and said[-1].get("reason") == "Pulling":
                return f"pending (pulling image {container.image})"
            return "pending (starting its container)"
    if status.get("phase") == "Failed":
        return (status.get("reason") or "failed").lower()
    return "starting" if status.get("phase") == "Running" else "pending"


def is_ready(pod: Object) -> bool:
    """Whether a pod says that it is up."""
    conditions = pod.get("status", {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


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


def end_of(pod: Object | None, name: str, events: Iterable[Object], log: str = "") -> str:
    """Return how the process in a worker's pod ended: for the error of what ran there.

    Parameters
    ----------
    pod : mapping or None
        The pod, if it is still known.
    name : str
        Its name.
    events : iterable of mapping
        What was told of it.
    log : str
        Its last lines.
    """
    words = [
        _sentence(event.get("message") or event["reason"])
        for event in events
        if event.get("reason") in ("Evicted", "Preempted", "Preempting", "TaintManagerEviction", "OOMKilling")
    ]
    told = words[-1:]
    if pod is not None and pod.get("status", {}).get("reason"):
        status = pod["status"]
        told = [f"{status['reason']}: {_sentence(status.get('message', ''))}".rstrip(": ")]
    for container in containers_of(pod) if pod is not None and not told else ():
        if ended := container.ended:
            told = [_ended(container.name, ended)]
    if not told:
        told = ["it was deleted"] if pod is None or "deletionTimestamp" in pod["metadata"] else []
    return f"its pod was {name}{f': {told[0]}' if told else ''}" + _tail(log)


# -- the causes --------------------------------------------------------------------------------------------------


def _gone(snapshot: Snapshot) -> str:
    if snapshot.cluster is not None and "deletionTimestamp" not in snapshot.cluster["metadata"]:
        return ""
    return "somebody, or the operator because it was idle for too long, has deleted it; set it up again"


def _no_operator(snapshot: Snapshot) -> str:
    cluster = snapshot.cluster or {}
    if (cluster.get("status") or {}).get("phase") or snapshot.pods or snapshot.replica_sets:
        return ""
    return (
        "nobody has taken it up: Dask's operator does not run, or does not look at this namespace. See whether its pod "
        "runs (kubectl get pods -A -l app.kubernetes.io/name=dask-kubernetes-operator), and what its log says"
    )


def _refused(snapshot: Snapshot) -> str:
    if ((snapshot.cluster or {}).get("status") or {}).get("phase") != "Error":
        return ""
    said = [_words(event) for event in snapshot.events if _about(event) == snapshot.name]
    return f"Dask's operator refuses it{f': {said[-1]}' if said else '; its log says why'}"


def _image(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        reason, message = container.waiting
        if reason in _PULL:
            said = [
                _words(event)
                for event in snapshot.events
                if _about(event) == container.pod and event.get("reason") == "Failed" and "ull" in _words(event)
            ]
            words = said[-1] if said else _sentence(message)
            return (
                f"image {container.image!r} cannot be pulled{f' ({words})' if words else ''}; check its name and "
                "tag, and that the nodes may pull it: a private registry needs image_pull_secrets="
            )
    return ""


def _configuration(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        reason, message = container.waiting
        if reason in _CONFIG:
            said = _sentence(message) or reason
            return (
                f"the container {container.name} of pod {container.pod} cannot be made: {said}; make what is missing "
                f"in namespace {snapshot.namespace!r}, or take it out of env=, env_from= or volumes="
            )
    return ""


def _command(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        reason, message = container.waiting
        if reason in _COMMAND or container.ended.get("reason") in _COMMAND or container.ended.get("exitCode") == 127:
            said = message or container.ended.get("message", "") or "command not found"
            return (
                f"image {container.image!r} does not hold what its pod {container.pod} is to run ({_sentence(said)}); "
                "use an image in which `dask` and headrace are installed" + _tail(_log(snapshot, container))
            )
    return ""


def _memory(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        if container.ended.get("reason") == "OOMKilled":
            return (
                f"pod {container.pod} needs more memory than its limit, and was killed for it (OOMKilled) "
                f"{_times(container.restarts)}; give memory= a larger value" + _tail(_log(snapshot, container))
            )
    return ""


def _crash(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        if container.failing:
            return (
                f"container {container.name} of pod {container.pod} ends as soon as it is started "
                f"({_ended('', container.ended)}, {_times(container.restarts)}); mend what its log complains of"
                + _tail(_log(snapshot, container))
            )
    return ""


def _evicted(snapshot: Snapshot) -> str:
    for pod in snapshot.pods:
        if pod.get("status", {}).get("reason") == "Evicted":
            said = _sentence(pod["status"].get("message", ""))
            return (
                f"pod {pod['metadata']['name']} was evicted from its node ({said}); request what it needs (memory=, "
                "cpu=), so that it is put where there is room"
            )
    return ""


def _failed_creations(snapshot: Snapshot) -> Iterator[str]:
    """What the API server said when pods were to be made, newest first."""
    for event in reversed(snapshot.events):
        if event.get("reason") == "FailedCreate":
            yield _words(event)
    for each in snapshot.replica_sets:
        for condition in each.get("status", {}).get("conditions") or ():
            if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                yield condition.get("message", "")


def _quota(snapshot: Snapshot) -> str:
    for words in _failed_creations(snapshot):
        if "exceeded quota" in words:
            return (
                f"the quota of namespace {snapshot.namespace!r} leaves no room for its pods "
                f"({_sentence(words[words.index('exceeded quota') :])}); ask for less (n_workers=, cpu=, memory=), "
                "remove what is not needed there (`headrace clusters` lists clusters that were left over), or have it "
                "raised"
            )
    return ""


def _forbidden(snapshot: Snapshot) -> str:
    for words in _failed_creations(snapshot):
        if words:
            return f"Kubernetes refuses its pods ({_sentence(words)}); change the options that they are made of"
    return ""


def _volume(snapshot: Snapshot) -> str:
    pending = {container.pod for container in snapshot.containers}
    for event in reversed(snapshot.events):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and _about(event) in pending:
            return f"a volume of pod {_about(event)} cannot be mounted ({_words(event)}); check volumes="
    return ""


def _unschedulable(snapshot: Snapshot) -> str:
    for pod in snapshot.pods:
        if message := _unscheduled(pod):
            return (
                f"there is no node for pod {pod['metadata']['name']} ({message}); ask for less (cpu=, memory=, gpus=), "
                "let it onto other nodes (tolerations=, node_selector=), or add nodes"
            )
    return ""


def _stuck(snapshot: Snapshot) -> str:
    """As before, and the autoscaler has said that it cannot help."""
    message = _unschedulable(snapshot)
    said = any(event.get("reason") == "NotTriggerScaleUp" for event in snapshot.events)
    return f"{message}; the cluster's autoscaler says that it cannot bring one" if message and said else ""


def _load_balancer(snapshot: Snapshot) -> str:
    for service in snapshot.services:
        pending = not (service.get("status", {}).get("loadBalancer") or {}).get("ingress")
        if service["spec"].get("type") == "LoadBalancer" and pending:
            return (
                f"the load balancer of service {service['metadata']['name']} has no address yet; look whether this "
                "cluster can make load balancers at all, or leave reach= out, which goes through the API server"
            )
    return ""


def _slow(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        if "waiting" in container.state or "running" in container.state:
            return f"pod {container.pod} is still starting" + _tail(_log(snapshot, container))
    return ""


#: cause → seconds that it must last, and what finds it. What stands first is more to the point.
CAUSES: dict[str, tuple[float, Callable[[Snapshot], str]]] = {
    "deleted": (0.0, _gone),
    "refused by the operator": (0.0, _refused),
    "operator not running": (8.0, _no_operator),
    "image": (3.0, _image),
    "configuration": (5.0, _configuration),
    "command": (2.0, _command),
    "out of memory": (2.0, _memory),
    "crash": (2.0, _crash),
    "quota": (3.0, _quota),
    "pods refused": (3.0, _forbidden),
    "volume": (15.0, _volume),
    "no node to come": (10.0, _stuck),
    "no node": (NEVER, _unschedulable),
    "evicted": (NEVER, _evicted),
    "load balancer": (NEVER, _load_balancer),
    "slow": (NEVER, _slow),
}


# -- words -------------------------------------------------------------------------------------------------------


def _unscheduled(pod: Object) -> str:
    for condition in pod.get("status", {}).get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return _sentence(condition.get("message", "")) or "unschedulable"
    return ""


def _about(event: Object) -> str:
    return str((event.get("involvedObject") or {}).get("name", ""))


def _words(event: Object) -> str:
    return _sentence(event.get("message") or "")


def _sentence(text: str) -> str:
    """Somebody else's words, to go on after them."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".;")


def _ended(container: str, ended: Object) -> str:
    reason = ended.get("reason", "")
    code = f"exit code {ended.get('exitCode', '?')}"
    return f"{reason}, {code}" if reason not in ("", "Error", "Completed") else code


def _times(restarts: int) -> str:
    return "once" if restarts <= 1 else f"{restarts} times"


def _log(snapshot: Snapshot, container: Container) -> str:
    return snapshot.logs.get((container.pod, container.name), "")


def _tail(log: str) -> str:
    lines = log.rstrip().splitlines()[-LINES:]
    return "".join(["; its last lines were:", *(f"\n    {line}" for line in lines)]) if lines else ""


def _counted(states: list[str]) -> str:
    """Like states together, in the order in which they come."""
    return ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
