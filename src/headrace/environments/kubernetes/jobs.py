"""Runs whose driver is a pod of its own: a Kubernetes Job, which makes the cluster that it needs, and takes it down.

The manifest holds no credentials: the pod has them from Secrets (``env=``, ``env_from=``) or from its service account.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from time import sleep
from typing import Any

from headrace.drivers import Look
from headrace.environments.kubernetes.api import Api, allowed
from headrace.environments.kubernetes.manifests import LABEL, driver_job
from headrace.environments.kubernetes.progress import end_of, how_is
from headrace.environments.kubernetes.snapshot import Snapshot
from headrace.environments.kubernetes.spec import KubernetesSpec
from headrace.environments.kubernetes.watching import Watch
from headrace.errors import KubernetesError, RunError, SetupError
from headrace.store import EnvRunner

#: On the Job and its pod: which run it drives.
RUN_LABEL = "headrace.io/run"
#: Seconds that a driver has, when it is told to end, for the clean-ups of its run and to remove its cluster.
GRACE = 60
#: Most lines of a log that are fetched.
MOST_LINES = 100_000
#: By the Job's uid: the kubeconfig with which this process launched it, if not by the usual one.
_KUBECONFIGS: dict[str, str] = {}
#: A cluster that is well, for what is known to be wrong with pods: a Job's have no cluster.
_WELL = {"metadata": {}, "status": {"phase": "Running"}}


def launch(
    environment: Mapping[str, Any], runner: EnvRunner, parameters: Mapping[str, Any], run_id: str
) -> dict[str, Any]:
    """Start a Job that drives a run, and return where it is.

    Parameters
    ----------
    environment : mapping
        A ``DaskEnvironment("kubernetes", ...)`` as JSON data.
    runner : EnvRunner
        Of the flow.
    parameters : mapping
        JSON data.
    run_id : str
        Of the run.

    Raises
    ------
    SetupError
        If pods cannot reach the storage, or Kubernetes refuses the Job.
    """
    options = dict(environment.get("options") or {})
    spec = KubernetesSpec.of(**options)
    # What the pod uses is the cluster that it runs in.
    inside = {name: value for name, value in options.items() if name not in ("kubeconfig", "context")}
    inside["reach"] = "dns"
    api = Api(spec)
    inside["namespace"] = api.namespace
    variables = runner.variables(parameters, {**environment, "options": inside}, run_id)
    manifest = _manifest(spec, run_id, {**variables, "PYTHONUNBUFFERED": "1"})
    _check_reached(runner.storage.url, manifest["spec"]["template"]["spec"])
    made = api.create(manifest)
    if spec.kubeconfig is not None:
        _KUBECONFIGS[made["metadata"]["uid"]] = spec.kubeconfig
    where = {"kind": "kubernetes", "namespace": api.namespace, "job": made["metadata"]["name"]}
    return {**where, "uid": made["metadata"]["uid"], **({"context": api.context} if api.context else {})}


def _manifest(spec: KubernetesSpec, run_id: str, variables: Mapping[str, str]) -> dict[str, Any]:
    name = re.sub(r"[^a-z0-9]+", "-", f"headrace-{run_id}".lower())[:60].strip("-")
    manifest = driver_job(spec, name, variables)
    template = manifest["spec"]["template"]
    for metadata in (manifest["metadata"], template["metadata"]):
        metadata["labels"] = {RUN_LABEL: _label(run_id), **metadata["labels"]}
        metadata["labels"].pop(LABEL, None)  # it is no part of a cluster, but makes one
    template["spec"].setdefault("terminationGracePeriodSeconds", GRACE)
    return manifest


def _label(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "-", text)[:63].strip("-_.")


def _check_reached(url: str, pod: Mapping[str, Any]) -> None:
    """Refuse a folder of this machine, unless the user has mounted one at the same place."""
    if not url.startswith("file://"):
        return
    folder = PurePosixPath(url.removeprefix("file://"))
    mounts = [each["mountPath"] for container in pod["containers"] for each in container.get("volumeMounts") or ()]
    if not any(folder.is_relative_to(mount) for mount in mounts):
        raise SetupError(
            f"the pod that drives a detached run does not see the folder {folder} of this machine; store the flow "
            "where both can reach it, as in Storage('s3://bucket/flows'), or mount a shared volume at this very path "
            "(volumes=, volume_mounts=)"
        )


class JobDriver:
    """A Job.

    Parameters
    ----------
    launch : mapping
        As `launch` returned it.
    run_id : str
        Of its run.
    """

    def __init__(self, launch: Mapping[str, Any], run_id: str) -> None:
        self.run_id = run_id
        self.launch = launch
        self.job, self.uid = str(launch["job"]), str(launch["uid"])
        self._deleted = False

    def __repr__(self) -> str:
        return f"<JobDriver {self._called}>"

    @property
    def _called(self) -> str:
        return f"Job {self.job} in namespace {self.launch['namespace']!r}"

    @functools.cached_property
    def _api(self) -> Api:
        # The launch names no kubeconfig: whoever can write to the storage could name one, and they can name programs.
        return Api(
            KubernetesSpec(
                namespace=self.launch["namespace"],
                context=self.launch.get("context"),
                kubeconfig=_KUBECONFIGS.get(self.uid),
            )
        )

    @functools.cached_property
    def _watch(self) -> Watch:
        return Watch(self._api, self.job, pods=1)

    def look(self) -> Look:
        """Return what is seen of it: the Job's own words, and its pod's."""
        try:
            return self._look()
        except KubernetesError as error:
            return Look("unknown", f"its driver is {self._called}, of which nothing can be learnt here: {error}")

    def _look(self) -> Look:
        job, pods = self._api.get("Job", self.job), self._pods()
        if job is None or job["metadata"]["uid"] != self.uid:
            return self._look_for_deleted(pods)
        events = [
            event
            for name in (self.job, *(pod["metadata"]["name"] for pod in pods))
            for event in allowed(self._api.events, name) or ()
        ]
        for condition in job.get("status", {}).get("conditions") or ():
            if condition["type"] in ("Complete", "Failed") and condition["status"] == "True":
                reason = condition.get("message") or condition.get("reason") or condition["type"]
                ends = [end_of(pod, pod["metadata"]["name"], events) for pod in pods[-1:]]
                return Look("gone", "; ".join([f"its driver, {self._called}, has ended ({reason})", *ends]))
        snapshot = Snapshot(self.job, self._api.namespace, cluster=_WELL, pods=pods, events=events)
        finding = self._watch.judge(snapshot)
        if finding is not None:
            return Look("lost", f"its driver, {self._called}, does not start: {finding.message}; cancel() removes it")
        how = how_is(pods[-1], events) if pods else "has no pod yet"
        return Look("alive", f"its driver, {self._called}: {how}")

    def _look_for_deleted(self, pods: Sequence[Mapping[str, Any]]) -> Look:
        if pods:
            return Look("alive", f"its driver, {self._called}, is being removed")
        told = f"its driver, {self._called}, is not there any more"
        if self._deleted:
            return Look("gone", told)
        namespace = self.launch["namespace"]
        if allowed(lambda: self._api.get("Namespace", namespace) is None):
            return Look(
                "unknown",
                f"its driver is {self._called}, and {self._api.server} has no such namespace: look whether that is the "
                "Kubernetes where the run was launched (KUBECONFIG)",
            )
        return Look("lost", f"{told}: somebody has deleted it, or it is old")

    def _pods(self) -> list[Mapping[str, Any]]:
        """Those of this very Job, oldest first."""
        pods = [
            pod
            for pod in self._api.list("Pod", f"job-name={self.job}")
            if any(owner["uid"] == self.uid for owner in pod["metadata"].get("ownerReferences") or ())
        ]
        return sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp")))

    def wait(self, seconds: float) -> None:
        """Wait so long."""
        sleep(seconds)

    def end(self) -> None:
        """Delete the Job: its pod is told to end, and has time for that."""
        try:
            self._deleted = self._api.delete("Job", self.job, uid=self.uid) or self._deleted
        except KubernetesError as error:
            raise RunError(f"run {self.run_id} cannot be cancelled from here: {error}") from error

    def log(self, lines: int | None = None) -> str:
        """Return what the pod has written."""
        try:
            pods = self._pods()
            if pods:
                return self._api.logs(pods[-1]["metadata"]["name"], tail=MOST_LINES if lines is None else lines)
        except KubernetesError as error:
            raise RunError(f"the log of run {self.run_id} cannot be read from here: {error}") from error
        raise RunError(
            f"the log of run {self.run_id} is not there any more, as {self._called} has no pod now; how the run ended "
            "is in its record: record.outcome"
        )
