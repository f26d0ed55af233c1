"""What keeps a cluster from coming up: from the objects that Kubernetes shows to one paragraph. Pure.

``CAUSES`` is a table: what is looked for, and how many seconds it must last until nobody need wait any longer. What
may pass by itself (a node that an autoscaler brings, a load balancer, an operator that is started anew or held up by
another cluster) is told, but ends nothing before the deadline.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from headrace.environments.kubernetes.snapshot import (
    Container,
    Snapshot,
    about,
    ended_by,
    is_leaving,
    is_well,
    sentence,
    tail,
    told_by,
    unscheduled,
)

NEVER = math.inf
PULL = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable"}
CONFIG = {"CreateContainerConfigError", "CreateContainerError"}
_COMMAND = {"RunContainerError", "StartError", "ContainerCannotRun"}
#: What shows the operator's pod.
OPERATOR = "kubectl get pods -A -l app.kubernetes.io/name=dask-kubernetes-operator"


class Diagnosis(NamedTuple):
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


def diagnose(snapshot: Snapshot) -> Diagnosis | None:
    """Return what is wrong with a cluster that is not up yet; None if nothing is known to be.

    Parameters
    ----------
    snapshot : Snapshot
        What there is.
    """
    for cause, (patience, look) in CAUSES.items():
        if message := look(snapshot):
            return Diagnosis(cause, message, patience)
    return None


def is_hopeful(snapshot: Snapshot) -> bool:
    """Whether a worker is on its way that could do the work alone, and nothing is wrong with the scheduler.

    Parameters
    ----------
    snapshot : Snapshot
        What there is.
    """
    prefix = f"{snapshot.name}-scheduler"
    scheduler = replace(
        snapshot,
        pods=snapshot.component("scheduler"),
        replica_sets=[each for each in snapshot.replica_sets if each["metadata"]["name"].startswith(prefix)],
        events=[event for event in snapshot.events if about(event).startswith(prefix)],
    )
    wrong = diagnose(scheduler)
    return any(map(is_well, snapshot.component("worker"))) and (wrong is None or wrong.patience == NEVER)


# -- the causes --------------------------------------------------------------------------------------------------


def _gone(snapshot: Snapshot) -> str:
    if snapshot.cluster is not None and not is_leaving(snapshot.cluster):
        return ""
    return "somebody, or the operator because it was idle for too long, has deleted it; set it up again"


def _no_operator(snapshot: Snapshot) -> str:
    cluster = snapshot.cluster or {}
    if (cluster.get("status") or {}).get("phase") or snapshot.pods or snapshot.replica_sets:
        return ""
    return (
        "nobody has taken it up: Dask's operator does not run, or is held up, or does not look at this namespace. See "
        f"whether its pod runs ({OPERATOR}), and what its log says"
    )


def _refused(snapshot: Snapshot) -> str:
    if ((snapshot.cluster or {}).get("status") or {}).get("phase") != "Error":
        return ""
    said = [told_by(event) for event in snapshot.events if about(event) == snapshot.name]
    return f"Dask's operator refuses it{f': {said[-1]}' if said else '; its log says why'}"


def _image(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        reason, message = container.waiting
        if reason in PULL:
            said = [
                told_by(event)
                for event in snapshot.events
                if about(event) == container.pod and event.get("reason") == "Failed" and "ull" in told_by(event)
            ]
            words = said[-1] if said else sentence(message)
            return (
                f"image {container.image!r} cannot be pulled{f' ({words})' if words else ''}; check its name and "
                "tag, and that the nodes may pull it: a private registry needs image_pull_secrets="
            )
    return ""


def _configuration(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        reason, message = container.waiting
        if reason in CONFIG:
            said = sentence(message) or reason
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
                f"image {container.image!r} does not hold what its pod {container.pod} is to run ({sentence(said)}); "
                "use an image in which `dask` and headrace are installed" + tail(_log(snapshot, container))
            )
    return ""


def _memory(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        if container.ended.get("reason") == "OOMKilled":
            return (
                f"pod {container.pod} needs more memory than its limit, and was killed for it (OOMKilled) "
                f"{_times(container.restarts)}; give memory= a larger value" + tail(_log(snapshot, container))
            )
    return ""


def _crash(snapshot: Snapshot) -> str:
    for container in snapshot.containers:
        if container.failing and not snapshot.is_early(container):
            return (
                f"container {container.name} of pod {container.pod} ends as soon as it is started "
                f"({ended_by(container.ended)}, {_times(container.restarts)}); mend what its log complains of"
                + tail(_log(snapshot, container))
            )
    return ""


def _evicted(snapshot: Snapshot) -> str:
    for pod in snapshot.pods:
        if pod.get("status", {}).get("reason") == "Evicted":
            said = sentence(pod["status"].get("message", ""))
            return (
                f"pod {pod['metadata']['name']} was evicted from its node ({said}); request what it needs (memory=, "
                "cpu=), so that it is put where there is room"
            )
    return ""


def _quota(snapshot: Snapshot) -> str:
    n = snapshot.leaving
    pods = "1 pod there is" if n == 1 else f"{n} pods there are"
    hope = f"{pods} being deleted, so there may be room soon; else " if n else ""
    for said in snapshot.refusals:
        if "exceeded quota" in said:
            return (
                f"the quota of namespace {snapshot.namespace!r} leaves no room for its pods "
                f"({sentence(said[said.index('exceeded quota') :])}); {hope}ask for less (n_workers=, cpu=, memory=), "
                "remove what is not needed there (`headrace clusters` lists clusters that were left over), or have it "
                "raised"
            )
    return ""


def _forbidden(snapshot: Snapshot) -> str:
    for said in snapshot.refusals:
        if said:
            return f"Kubernetes refuses its pods ({sentence(said)}); change the options that they are made of"
    return ""


def _volume(snapshot: Snapshot) -> str:
    pending = {container.pod for container in snapshot.containers}
    for event in reversed(snapshot.events):
        if event.get("reason") in ("FailedMount", "FailedAttachVolume") and about(event) in pending:
            return f"a volume of pod {about(event)} cannot be mounted ({told_by(event)}); check volumes="
    return ""


def _unschedulable(snapshot: Snapshot) -> str:
    for pod in snapshot.pods:
        if message := unscheduled(pod):
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
            return f"pod {container.pod} is still starting" + tail(_log(snapshot, container))
    return ""


#: Seconds for room to be made, or for a webhook that is started anew: pods that are being deleted have 30, and
#: Kubernetes tries to make others after pauses that double: 20 seconds after it began to, 41, and so on.
_ROOM = 45.0
#: cause → seconds that it must last, and what finds it. What stands first is more to the point.
CAUSES: dict[str, tuple[float, Callable[[Snapshot], str]]] = {
    "deleted": (0.0, _gone),
    "refused by the operator": (0.0, _refused),
    "operator not running": (NEVER, _no_operator),
    "image": (3.0, _image),
    "configuration": (5.0, _configuration),
    "command": (2.0, _command),
    "out of memory": (2.0, _memory),
    "crash": (2.0, _crash),
    "quota": (_ROOM, _quota),
    "pods refused": (_ROOM, _forbidden),
    "volume": (15.0, _volume),
    "no node to come": (10.0, _stuck),
    "no node": (NEVER, _unschedulable),
    "evicted": (NEVER, _evicted),
    "load balancer": (NEVER, _load_balancer),
    "slow": (NEVER, _slow),
}


def _log(snapshot: Snapshot, container: Container) -> str:
    return snapshot.logs.get((container.pod, container.name), "")


def _times(restarts: int) -> str:
    return "once" if restarts <= 1 else f"{restarts} times"
