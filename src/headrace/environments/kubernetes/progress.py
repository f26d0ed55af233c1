"""How a cluster comes up, on one line, and how a worker ended. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from headrace.environments.kubernetes.diagnosis import CONFIG, OPERATOR, PULL
from headrace.environments.kubernetes.snapshot import (
    Object,
    Snapshot,
    about,
    containers_of,
    ended_by,
    is_leaving,
    is_ready,
    sentence,
    tail,
    unscheduled,
)

#: Seconds after which who waits for the operator is told how to look for it; one that runs needs a second.
LATE = 15.0


def progress(snapshot: Snapshot, wanted: int) -> str:
    """Return what is being waited for, on one line.

    Parameters
    ----------
    snapshot : Snapshot
        What there is.
    wanted : int
        How many workers.
    """
    name = snapshot.name
    if snapshot.cluster is None or not (snapshot.pods or (snapshot.cluster.get("status") or {}).get("phase")):
        hint = f"; look whether it runs: {OPERATOR}" if snapshot.age > LATE else ""
        return f"cluster {name}: waiting for Dask's operator to take it up{hint}"
    if snapshot.scheduler is None or not is_ready(snapshot.scheduler):
        what = how_is(snapshot.scheduler, snapshot.events) if snapshot.scheduler else "no pod yet"
        return f"cluster {name}: waiting for the scheduler: {what}"
    # The first that has connected ends the wait.
    pods = snapshot.component("worker")
    states = ["connecting" if is_ready(pod) else how_is(pod, snapshot.events) for pod in pods]
    told = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    workers = "1 worker" if wanted == 1 else f"{wanted} workers"
    return f"cluster {name}: waiting for {workers}: {told or 'no pods yet'}"


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
        return "running"
    if message := unscheduled(pod):
        return f"pending (no node: {message})"
    for container in containers_of(pod):
        reason, message = container.waiting
        if reason in PULL:
            return f"pending (image {container.image} cannot be pulled)"
        if reason in CONFIG:
            return f"pending ({message or reason})"
        if container.failing:
            return "crashed"
        if reason in ("ContainerCreating", "PodInitializing"):
            said = [event for event in events if about(event) == pod["metadata"]["name"]]
            if said and said[-1].get("reason") == "Pulling":
                return f"pending (pulling image {container.image})"
            return "pending (starting its container)"
    if status.get("phase") == "Failed":
        return (status.get("reason") or "failed").lower()
    return "starting" if status.get("phase") == "Running" else "pending"


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
    said = [
        sentence(event.get("message") or event["reason"])
        for event in events
        if event.get("reason") in ("Evicted", "Preempted", "Preempting", "TaintManagerEviction", "OOMKilling")
    ]
    told = said[-1:]
    if pod is not None and pod.get("status", {}).get("reason"):
        status = pod["status"]
        told = [f"{status['reason']}: {sentence(status.get('message', ''))}".rstrip(": ")]
    for container in containers_of(pod) if pod is not None and not told else ():
        if ended := container.ended:
            told = [ended_by(ended)]
    if not told:
        told = ["it was deleted"] if pod is None or is_leaving(pod) else []
    return f"its pod was {name}{f': {told[0]}' if told else ''}" + tail(log)
