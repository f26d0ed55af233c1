"""Each cause of a cluster that does not come up is told from what Kubernetes shows, in the words that it uses."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest

from headrace.environments.kubernetes.diagnosis import CAUSES, diagnose, is_hopeful
from headrace.environments.kubernetes.progress import end_of, how_is, progress
from headrace.environments.kubernetes.snapshot import Snapshot, is_well
from headrace.environments.kubernetes.telling import Telling
from headrace.environments.kubernetes.watching import READ, Watch

IMAGE = "registry.example/team/etl:1.4"
NAME = "headrace-1a2b3c4d"
CLUSTER = {"metadata": {"name": NAME}, "status": {"phase": "Pending"}}
RUNNING = {"running": {"startedAt": "2026-11-25T09:00:00Z"}}


def waiting(reason, message=""):
    return {"waiting": {"reason": reason, "message": message}}


def terminated(code, reason="Error"):
    return {"terminated": {"exitCode": code, "reason": reason}}


def pod(state=RUNNING, role="scheduler", *, last=None, restarts=0, ready=False, number=1, **status):
    """A pod as the API server shows it, without what nobody reads here."""
    name = f"{NAME}-{role}-{number}"
    container = {
        "name": role, "image": IMAGE, "state": state, "lastState": last or {}, "restartCount": restarts, "ready": ready,
    }  # fmt: skip
    return {
        "metadata": {"name": name, "labels": {"dask.org/component": role, "dask.org/cluster-name": NAME}},
        "status": {
            "phase": "Running" if state is RUNNING else "Pending",
            "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}],
            "containerStatuses": [container],
            **status,
        },
    }


def unscheduled(message, role="worker"):
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return pod({}, role, conditions=[condition], containerStatuses=[])


def event(about, reason, message):
    return {"involvedObject": {"name": about}, "reason": reason, "message": message}


def seen(*pods, cluster=CLUSTER, **more):
    return Snapshot(NAME, "team", cluster=cluster, pods=list(pods), **more)


REPLICAS = f"{NAME}-default-worker-0a1b2c-5d6f7"
QUOTA = (
    'pods "headrace-1a2b3c4d-default-worker-x" is forbidden: exceeded quota: compute, requested: requests.memory=8Gi, '
    "used: requests.memory=60Gi, limited: requests.memory=64Gi"
)
PULL = (
    f'Failed to pull image "{IMAGE}": failed to resolve reference: pull access denied, repository does not exist or '
    "may require authorization"
)
SCHEDULER = pod(ready=True)
KUBELET = "Back-off restarting failed container"

#: cause → what Kubernetes shows, and what the user must read.
ROWS = {
    "deleted": (seen(cluster=None), "has deleted it"),
    "refused by the operator": (
        seen(
            cluster={**CLUSTER, "status": {"phase": "Error"}},
            events=[event(NAME, "Logging", "The DaskCluster Foo is invalid: a lowercase RFC 1123 subdomain is needed")],
        ),
        "the DaskCluster Foo is invalid",
    ),
    "operator not running": (seen(cluster={"metadata": {"name": NAME}}), "operator does not run"),
    "image": (
        seen(
            pod(waiting("ImagePullBackOff", f'Back-off pulling image "{IMAGE}"')),
            events=[event(f"{NAME}-scheduler-1", "Failed", PULL)],
        ),
        r"may require authorization\); .*image_pull_secrets=",
    ),
    "configuration": (
        seen(SCHEDULER, pod(waiting("CreateContainerConfigError", 'secret "token" not found'), "worker")),
        "secret \"token\" not found; make .* namespace 'team'",
    ),
    "command": (
        seen(pod(waiting("RunContainerError", 'exec: "dask": executable file not found in $PATH: unknown'))),
        "executable file not found .* headrace are installed",
    ),
    "out of memory": (
        seen(SCHEDULER, pod(waiting("CrashLoopBackOff"), "worker", last=terminated(137, "OOMKilled"), restarts=3)),
        r"OOMKilled\) 3 times; give memory=",
    ),
    "crash": (
        seen(
            pod(waiting("CrashLoopBackOff", KUBELET), last=terminated(1), restarts=1),
            logs={(f"{NAME}-scheduler-1", "scheduler"): "Traceback\nImportError: no tornado\n"},
        ),
        r"exit code 1, once\)(?s:.*)\n    ImportError: no tornado$",
    ),
    "quota": (
        seen(SCHEDULER, events=[event(REPLICAS, "FailedCreate", f"Error creating: {QUOTA}")]),
        "limited: .*=64Gi",
    ),
    "pods refused": (
        seen(SCHEDULER, events=[event(REPLICAS, "FailedCreate", 'Error creating: violates PodSecurity "restricted"')]),
        "violates PodSecurity",
    ),
    "volume": (
        seen(
            pod(waiting("ContainerCreating")),
            events=[event(f"{NAME}-scheduler-1", "FailedMount", 'MountVolume.SetUp failed: configmap "c" not found')],
        ),
        'configmap "c" not found',
    ),
    "no node to come": (
        seen(
            SCHEDULER,
            unscheduled("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."),
            events=[event(f"{NAME}-worker-1", "NotTriggerScaleUp", "pod didn't trigger scale-up")],
        ),
        "3 Insufficient nvidia.com/gpu.* autoscaler",
    ),
    "no node": (seen(SCHEDULER, unscheduled("0/3 nodes are available: 3 Insufficient cpu.")), "3 Insufficient cpu"),
    "evicted": (
        seen(pod({}, reason="Evicted", message="The node was low on resource: memory.", phase="Failed")),
        "low on resource: memory",
    ),
    "load balancer": (
        seen(
            SCHEDULER,
            services=[{"metadata": {"name": f"{NAME}-scheduler"}, "spec": {"type": "LoadBalancer"}, "status": {}}],
        ),
        "has no address yet",
    ),
    "slow": (seen(pod(waiting("ContainerCreating"))), "still starting"),
}


@pytest.mark.parametrize("cause", CAUSES)
def test_each_cause_is_found_and_told(cause):
    snapshot, told = ROWS[cause]
    found = diagnose(snapshot)
    assert found.cause == cause
    assert re.search(told, found.message, re.IGNORECASE), found.message
    assert found.patience == CAUSES[cause][0]


def test_what_may_pass_by_itself_ends_no_waiting():
    forever = {cause for cause, (patience, _) in CAUSES.items() if math.isinf(patience)}
    assert forever == {"operator not running", "no node", "evicted", "load balancer", "slow"}


@pytest.mark.parametrize(
    "snapshot",
    [
        seen(),
        seen(SCHEDULER, pod(role="worker", ready=True)),
        seen(SCHEDULER, pod(role="worker", ready=True, restarts=1, last=terminated(0, "Completed"))),
    ],
    ids=["taken up", "all run", "one was started again"],
)
def test_nothing_is_wrong(snapshot):
    assert diagnose(snapshot) is None


def test_quota_is_told_by_replica_sets_too_where_events_may_not_be_read():
    condition = {"type": "ReplicaFailure", "status": "True", "message": QUOTA}
    sets = [{"metadata": {"name": REPLICAS}, "status": {"conditions": [condition]}}]
    assert diagnose(seen(SCHEDULER, replica_sets=sets)).cause == "quota"


def test_a_refusal_is_over_once_the_pod_is_there():
    refused = event(f"{NAME}-worker", "FailedCreate", f"Error creating: {QUOTA}")  # as told; events stay for an hour
    worker = pod(waiting("ContainerCreating"), "worker")
    assert diagnose(seen(SCHEDULER, worker, events=[refused])).cause == "slow"
    worker["metadata"]["deletionTimestamp"] = "2026-11-25T09:00:00Z"
    assert diagnose(seen(SCHEDULER, worker, events=[refused])).cause == "quota"


@pytest.mark.parametrize(
    ("leaving", "told"),
    [
        (0, "=64Gi); ask for less"),
        (1, "=64Gi); 1 pod there is being deleted, so there may be room soon; else ask for less"),
        (3, "; 3 pods there are being deleted, so"),
    ],
)
def test_a_quota_that_may_have_room_soon(leaving, told):
    refused = event(REPLICAS, "FailedCreate", f"Error creating: {QUOTA}")
    assert told in diagnose(seen(SCHEDULER, events=[refused], leaving=leaving)).message


class Shown:
    """An API server that shows what a snapshot holds, and another pod that is being deleted."""

    namespace = "team"

    def __init__(self, snapshot):
        self.snapshot = snapshot

    def get(self, kind, name):
        return self.snapshot.cluster if kind == "DaskCluster" else None

    def list(self, kind, selector="", *, fields=""):
        leaving = {"metadata": {"name": "former", "deletionTimestamp": "2026-11-25T09:00:00Z"}}
        pods = self.snapshot.pods if selector else [*self.snapshot.pods, leaving]
        return list({"Pod": pods, "Event": self.snapshot.events}.get(kind, ()))

    def events(self, name):
        return []

    def logs(self, pod, container, *, previous):
        return ""


@pytest.mark.parametrize(("cause", "least"), [("quota", 41), ("image", 3)])
def test_what_may_pass_by_itself_is_waited_for(monkeypatch, cause, least):
    now = 1000.0
    monkeypatch.setattr("headrace.environments.kubernetes.watching.time", SimpleNamespace(monotonic=lambda: now))
    wrong, _ = ROWS[cause]
    wrong = replace(wrong, events=[{**each, "metadata": {}} for each in wrong.events])
    api = Shown(wrong)
    watch = Watch(api, NAME, pods=3)

    def judge():
        return watch.judge(watch.look())

    assert judge() is None
    now += least - 1
    assert judge() is None
    worker = pod(role="worker", ready=True)
    worker["metadata"]["name"] = f"{REPLICAS}-x7k2p"
    api.snapshot = seen(SCHEDULER, worker, pod(role="worker", ready=True))
    now += 1.5 * READ
    assert judge() is None  # and what comes later is another trouble
    api.snapshot = wrong
    now += 1.5 * READ
    assert judge() is None
    now += least - 1
    assert judge() is None
    now += CAUSES[cause][0] - least + 1.5
    assert judge().cause == cause
    if cause == "quota":
        assert "1 pod there is being deleted" in judge().message


def test_a_worker_that_ends_again_and_again_is_not_well_though_it_runs_for_a_moment():
    once = pod(role="worker", ready=True, restarts=1, last=terminated(1))
    again = pod(role="worker", ready=True, restarts=2, last=terminated(1))
    assert is_well(once)
    assert not is_well(again)
    assert diagnose(seen(SCHEDULER, again)).cause == "crash"


def test_workers_that_found_no_scheduler_yet_have_not_failed():
    loop = waiting("CrashLoopBackOff", KUBELET)

    def found(scheduler, started):
        last = {"terminated": {"exitCode": 1, "reason": "Error", "startedAt": f"2026-11-25T09:0{started}:00Z"}}
        return diagnose(seen(scheduler, pod(loop, "worker", last=last, restarts=3))).cause

    pulling = pod(waiting("ContainerCreating"))
    up = pod(conditions=[{"type": "Ready", "status": "True", "lastTransitionTime": "2026-11-25T09:03:00Z"}])
    assert [found(pulling, 2), found(up, 2), found(up, 4)] == ["slow", "slow", "crash"]
    for role in ("scheduler", "driver"):
        assert diagnose(seen(pod(loop, role, last=terminated(1), restarts=3))).cause == "crash"


def test_a_worker_that_is_on_its_way_is_waited_for_unless_the_scheduler_is_in_trouble():
    worker, refused = pod(role="worker", ready=True), event(REPLICAS, "FailedCreate", f"Error creating: {QUOTA}")
    assert is_hopeful(seen(pod(), worker, events=[refused]))
    assert not is_hopeful(seen(pod(), events=[refused]))
    assert not is_hopeful(seen(pod(waiting("ErrImagePull")), worker))
    assert not is_hopeful(seen(worker, events=[event(f"{NAME}-scheduler-5d6f", "FailedCreate", QUOTA)]))


class Started:
    """An API server whose container has been started again since its pod was looked at."""

    namespace = "team"

    def list(self, kind, selector="", *, fields=""):
        return [pod(terminated(1))] if kind == "Pod" else []

    def get(self, kind, name):
        return CLUSTER

    def events(self, name):
        return []

    def logs(self, pod, container, *, previous):
        return "no such model" if previous else ""


def test_the_last_words_of_a_container_are_found_though_it_was_started_again_meanwhile():
    snapshot = Watch(Started(), NAME, pods=2).look()
    assert snapshot.logs == {(f"{NAME}-scheduler-1", "scheduler"): "no such model"}


def test_the_line_while_waiting_counts_pods_by_how_they_are():
    pulling = event(f"{NAME}-worker-3", "Pulling", f'Pulling image "{IMAGE}"')
    snapshot = seen(
        SCHEDULER,
        *(pod(role="worker", ready=True, number=number) for number in (1, 2)),
        pod(waiting("ContainerCreating"), "worker", number=3),
        events=[pulling],
    )
    line = progress(snapshot, 3)
    assert line == f"cluster {NAME}: waiting for 3 workers: 2 connecting, 1 pending (pulling image {IMAGE})"
    assert progress(seen(cluster={"metadata": {}}), 3).endswith("waiting for Dask's operator to take it up")
    assert "to take it up; look whether it runs: kubectl" in progress(seen(cluster={"metadata": {}}, age=60.0), 3)
    assert progress(seen(pod(waiting("ContainerCreating"))), 3).endswith(
        "the scheduler: pending (starting its container)"
    )
    assert progress(seen(SCHEDULER), 1).endswith("waiting for 1 worker: no pods yet")


def test_no_line_is_told_twice(capsys):
    telling = Telling()
    for _ in range(2):  # until the scheduler is there, and until a worker is
        with telling:
            telling.say("waiting")
    assert capsys.readouterr().err == "waiting\n"


@pytest.mark.parametrize(
    ("shown", "told"),
    [
        (pod(ready=True), "running"),
        (pod(), "starting"),
        (pod(waiting("ErrImagePull")), f"pending (image {IMAGE} cannot be pulled)"),
        (pod(waiting("CreateContainerConfigError", "no secret")), "pending (no secret)"),
        (pod(waiting("CrashLoopBackOff"), last=terminated(1), restarts=1), "crashed"),
        (pod({}, reason="Evicted", phase="Failed"), "evicted"),
        (unscheduled("0/1 nodes are available."), "pending (no node: 0/1 nodes are available)"),
    ],
)
def test_how_a_pod_is(shown, told):
    assert how_is(shown) == told


@pytest.mark.parametrize(
    ("shown", "events", "told"),
    [
        (pod(role="worker", last=terminated(137, "OOMKilled")), [], "worker-1: OOMKilled, exit code 137; its last"),
        (
            pod({}, "worker", reason="Evicted", message="low on memory.", phase="Failed"), [],
            "worker-1: Evicted: low on memory; its last",
        ),
        (pod(role="worker"), [event("x", "TaintManagerEviction", "Marking for deletion")], "Marking for deletion; its"),
        (None, [], "worker-1: it was deleted; its last"),
    ],
)  # fmt: skip
def test_how_a_worker_ended(shown, events, told):
    text = end_of(shown, f"{NAME}-worker-1", events, "line\nlast words\n")
    assert told in text
    assert text.endswith("\n    line\n    last words")
