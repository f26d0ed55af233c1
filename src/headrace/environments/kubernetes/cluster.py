"""The life of a Dask cluster on Kubernetes: made or joined, waited for, scaled, and taken down if it was made here.

Dask's operator says in ``status.phase`` how a cluster is, and is wrong about it now and then: "Pending" may come after
"Running". So only the pods are looked at.
"""

from __future__ import annotations

import getpass
import logging
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from headrace.environments.encryption import as_security
from headrace.environments.kubernetes import secret
from headrace.environments.kubernetes.api import ANSWER, IN_POD, Api, allowed
from headrace.environments.kubernetes.diagnosis import diagnose, is_hopeful
from headrace.environments.kubernetes.ending import at_exit, not_at_exit, remove
from headrace.environments.kubernetes.manifests import cluster_manifest, group_manifests
from headrace.environments.kubernetes.progress import end_of, progress
from headrace.environments.kubernetes.reach import Way, reach
from headrace.environments.kubernetes.snapshot import Snapshot, is_leaving, is_near, is_ready, is_well
from headrace.environments.kubernetes.spec import DEFAULT_GROUP, KubernetesSpec
from headrace.environments.kubernetes.telling import Telling
from headrace.environments.kubernetes.watching import CLUSTER_LABEL, GROUP_LABEL, Watch
from headrace.errors import KubernetesError, SetupError
from headrace.storage.findings import Finding

if TYPE_CHECKING:
    from distributed.core import Status

#: On the DaskCluster: who made it and when; and when somebody who uses it last said so.
CREATOR, CREATED, SEEN = "headrace.io/created-by", "headrace.io/created", "headrace.io/seen"
#: Seconds between two looks at what there is, between two when the scheduler starts, and between two questions to it.
LOOK, NEAR, ASK = 0.25, 0.1, 0.02
#: Seconds between two signs of life, and between two looks after workers that have not come yet.
BEAT, REST = 30.0, 2.0

_LOGGER = logging.getLogger("headrace.kubernetes")


class Group(NamedTuple):
    """One group of workers of a cluster.

    Attributes
    ----------
    resources : mapping of str to float
        What tasks may ask of each of its workers.
    nthreads : int
        Of each worker.
    least, most : int
        Between how many workers it may be scaled.
    """

    resources: Mapping[str, float]
    nthreads: int
    least: int
    most: int


class KubernetesCluster:
    """A Dask cluster on Kubernetes, as ``distributed.Client`` takes it.

    Parameters
    ----------
    spec : KubernetesSpec
        What it is; with a ``name``, it is there already and is joined.
    n_workers : int or None
        How many workers its default group has, if not as the spec says. A cluster that is joined gets no less than
        that, if it is given.
    deadline : float
        Seconds within which its scheduler must be reached, and its first worker be there.

    Attributes
    ----------
    name : str
        In Kubernetes.
    owned : bool
        Whether it was made here, so that ``close`` removes it.
    status : distributed.core.Status
        As Dask wants it.
    security : distributed.Security or None
        As Dask wants it.

    Raises
    ------
    SetupError
        If it does not come up; says why. Nothing is left behind then.
    """

    def __init__(self, spec: KubernetesSpec, n_workers: int | None, deadline: float) -> None:
        from distributed.core import Status

        self.api = Api(spec)
        self.spec = spec = replace(spec, namespace=self.api.namespace)
        self.owned = spec.name is None
        self.name = spec.name or _own_name(spec) or f"headrace-{secrets.token_hex(4)}"
        self.status: Status = Status.created
        self.security: Any = None
        self._has_secret = False
        self._n_workers = n_workers
        self._end = time.monotonic() + deadline
        self._deadline = deadline
        self._way: Way | None = None
        self._uid: str | None = None
        self._asked = False  # for a cluster of this name, and nobody has said no
        self._marks: dict[str, str] = {}  # by which it is known, if it came to be and nobody could say so
        self._is_gone = False
        self._closing = threading.Lock()
        self._said = time.monotonic() if self.owned else -math.inf  # that it is in use; that it is made says so, too
        self._watch = Watch(self.api, self.name, pods=1 + self._wanted)
        self._telling = Telling()
        self._over = threading.Event()
        at_exit(self.close)
        try:
            with self._telling:
                self._make() if self.owned else self._join()
                self._await(self._has_scheduler)
                self._way = reach(self.api, spec, self.name, timeout=self._left)
        except BaseException:
            try:
                self.close()
            except (KubernetesError, OSError) as error:  # what went wrong first is what counts
                _LOGGER.warning("the cluster %s could not be removed: %s", self._called, error)
            raise
        self.status = Status.running
        threading.Thread(target=self._attend, name="headrace-kubernetes-attend", daemon=True).start()

    def __repr__(self) -> str:
        return f"KubernetesCluster({self.name!r}, namespace={self.api.namespace!r})"

    def __await__(self) -> Generator[Any, None, KubernetesCluster]:
        """It is there; for Dask, which awaits clusters."""

        async def itself() -> KubernetesCluster:
            return self

        return itself().__await__()

    @property
    def scheduler_address(self) -> str:
        """Where this process reaches the scheduler."""
        return self._way.address if self._way is not None else ""

    @property
    def dashboard_link(self) -> str:
        """Where this process reaches Dask's dashboard."""
        return self._way.dashboard_link if self._way is not None else ""

    def was_deleted(self) -> bool:
        """Whether it is known to be gone: the operator removes what was idle for too long, and others may, too."""
        with suppress(KubernetesError):
            found = self.api.get("DaskCluster", self.name)
            return found is None or found["metadata"]["uid"] != self._uid or is_leaving(found)
        return False

    @property
    def facts(self) -> dict[str, str]:
        """What a record says of it: where it is, and how it is called there."""
        found = {"name": self.name, "namespace": self.api.namespace, "context": self.api.context}
        return {key: value for key, value in found.items() if value}

    @property
    def findings(self) -> list[Finding]:
        """What is unwise about how it was made, if it was made here."""
        return self.spec.findings if self.owned else []

    @property
    def groups(self) -> dict[str, Group]:
        """Its groups of workers, by name."""
        groups = {}
        for name in self.spec.groups:
            options = self.spec.worker_groups.get(name, {})
            size = self._size(name)
            least, most = options.get("adapt") or (size, size)
            groups[name] = Group(self.spec.offers(name), self.spec.threads(name), least, most)
        return groups

    def _size(self, group: str) -> int:
        size = self._n_workers if group == DEFAULT_GROUP and self._n_workers is not None else self.spec.size(group)
        return 1 if size is None else size

    @property
    def _left(self) -> float:
        return max(0.0, self._end - time.monotonic())

    # -- up ------------------------------------------------------------------------------------------------------

    def _make(self) -> None:
        pod = _this_pod(self.api)
        if not self.spec.manifest:
            self._has_secret = self.spec.security is not False  # before it is: Ctrl-C may come in between
            try:
                self.security = secret.create(self.api, self.spec, self.name, pod)
            except KubernetesError as error:
                self._has_secret = "status" not in error.facts  # else there was an answer: no
                raise
        else:  # its pods are the user's, and so is what they talk
            self.security = as_security(self.spec.security)
        tls = self.name if self._has_secret else None
        manifest = cluster_manifest(self.spec, self.name, n_workers=self._n_workers, tls_secret=tls, owner=pod)
        self._marks = {CREATOR: _creator(), CREATED: self._now()}
        manifest["metadata"].setdefault("annotations", {}).update(self._marks)
        self._asked = True
        try:
            self._uid = self.api.create(manifest)["metadata"]["uid"]
        except KubernetesError as error:
            self._asked = "status" not in error.facts
            if error.facts.get("status") == 409:
                raise SetupError(
                    f"there is a DaskCluster {self.name!r} in namespace {self.api.namespace!r} already; to use it, "
                    f"give name={self.name!r} in place of the manifest"
                ) from error
            raise
        if self._has_secret:
            secret.hand_over(self.api, self.name, self._owner())
        for group in group_manifests(self.spec, self.name, tls_secret=tls, owner=self._owner()):
            self.api.create(group)

    def _owner(self) -> dict[str, Any]:
        """What lets an object go when the cluster goes."""
        kind = {"apiVersion": "kubernetes.dask.org/v1", "kind": "DaskCluster"}
        return {**kind, "name": self.name, "uid": self._uid, "blockOwnerDeletion": False}

    def _join(self) -> None:
        found = self.api.get("DaskCluster", self.name)
        if found is None:
            there = [each["metadata"]["name"] for each in self.api.list("DaskCluster")]
            raise SetupError(
                f"there is no DaskCluster {self.name!r} to be joined in namespace {self.api.namespace!r}; there are "
                f"{', '.join(there) or 'none'}. Leave name= out, and one is made, which ends with this environment"
            )
        self._uid = found["metadata"]["uid"]
        self.security = secret.find(self.api, self.spec, self.name)
        if self._n_workers is not None and self._replicas(DEFAULT_GROUP) < self._n_workers:
            self.scale(self._n_workers)
        groups = self.api.list("DaskWorkerGroup", f"{CLUSTER_LABEL}={self.name}") if self._n_workers is None else []
        if groups and not any(each["spec"]["worker"]["replicas"] for each in groups):
            raise SetupError(f"the cluster {self._called} has no workers; give n_workers=, and it gets some")

    def await_workers(self, client: Any) -> None:
        """Wait until the first worker is there. If others do not come, a warning will say why.

        Parameters
        ----------
        client : distributed.Client
            Connected to this cluster.

        Raises
        ------
        SetupError
            If none comes; says why.
        """

        def is_there(snapshot: Snapshot | None) -> bool:
            with suppress(OSError, TimeoutError):  # the connection comes back by itself, or the deadline ends it
                return bool(client.nthreads(callback_timeout=max(NEAR, min(ANSWER, self._left))))
            return False

        if self._wanted:
            with self._telling:
                self._await(is_there)

    @property
    def _wanted(self) -> int:
        return sum(map(self._size, self.spec.groups))

    def _has_scheduler(self, snapshot: Snapshot | None) -> bool:
        if snapshot is None or snapshot.scheduler is None or not is_ready(snapshot.scheduler):
            return False
        waits = self.spec.reach == "load-balancer"
        return not waits or any((each.get("status") or {}).get("loadBalancer") for each in snapshot.services)

    def _await(self, is_there: Callable[[Snapshot | None], bool]) -> None:
        """Look again and again, until it is there or will not come."""
        looked = -math.inf
        snapshot: Snapshot | None = None
        while not is_there(snapshot):
            if time.monotonic() - looked > (NEAR if is_near(snapshot) else LOOK):
                snapshot = self._watch.look()
                looked = time.monotonic()
                self._telling.say(progress(snapshot, self._wanted))
                self._say()
                finding = self._watch.judge(snapshot)
                if finding is not None and not is_hopeful(snapshot):
                    raise SetupError(
                        f"the cluster {self._called} does not come up: {finding.message}", cause=finding.cause
                    )
                if not self._left:
                    finding = diagnose(self._watch.look(thorough=True))
                    why = finding.message if finding is not None else "its pods run, and nothing seems to be wrong"
                    raise SetupError(
                        f"the cluster {self._called} was not up within {self._deadline:g} s (deadline=): {why}",
                        cause=finding.cause if finding is not None else "slow",
                    )
            time.sleep(ASK)

    @property
    def _called(self) -> str:
        return f"{self.name!r} in namespace {self.api.namespace!r}"

    # -- in use --------------------------------------------------------------------------------------------------

    def scale(self, n: int, group: str = DEFAULT_GROUP) -> None:
        """Have so many workers in a group. Of too many, the newest go, with what they do; see ``let_go``.

        Parameters
        ----------
        n : int
            How many.
        group : str
            Which group.
        """
        # Left to the operator, workers of any group of the cluster would go. It looks at numbers only when they are
        # changed, so whoever is gone by then is not replaced.
        there = self.api.list("Deployment", f"{GROUP_LABEL}={self._group_name(group)}")
        for each in sorted(there, key=_use, reverse=True)[n:]:
            self.api.delete("Deployment", each["metadata"]["name"])
        self._want(n, group)

    def let_go(self, names: Collection[str], group: str = DEFAULT_GROUP) -> None:
        """End workers, and have that many fewer in their group from now on.

        Parameters
        ----------
        names : collection of str
            As Dask knows them.
        group : str
            Their group.
        """
        gone = [name for name in names if self.api.delete("Deployment", name)]
        self._want(max(0, self._replicas(group) - len(gone)), group)

    def group_of(self, name: str) -> str | None:
        """Return the group of a worker; None if it is of another cluster.

        Parameters
        ----------
        name : str
            As Dask knows it.
        """
        for group in self.spec.groups:
            if name.startswith(f"{self._group_name(group)}-worker-"):
                return group
        return None

    def _want(self, n: int, group: str) -> None:
        patch = {"spec": {"worker": {"replicas": n}}}
        if self.api.patch("DaskWorkerGroup", self._group_name(group), patch) is None:
            raise KubernetesError(f"the cluster {self._called} has no group of workers {group!r}, or none any more")

    def _replicas(self, group: str) -> int:
        found = self.api.get("DaskWorkerGroup", self._group_name(group))
        return int(found["spec"]["worker"]["replicas"]) if found is not None else 0

    def _group_name(self, group: str) -> str:
        """What the operator calls a group; those of the user's own manifest are called so already."""
        return group if self.spec.manifest and group != DEFAULT_GROUP else f"{self.name}-{group}"

    def explain(self, address: str) -> str:
        """Return what became of a worker that is gone, in Kubernetes' words; empty, if it is not known.

        Parameters
        ----------
        address : str
            As Dask knows it.
        """
        host = urlsplit(address).hostname
        try:
            pods = self.api.list("Pod", f"{CLUSTER_LABEL}={self.name},dask.org/component=worker")
            for pod in pods:
                if pod.get("status", {}).get("podIP") == host:
                    return self._end_of(pod)
        except (KubernetesError, OSError) as error:
            _LOGGER.debug("what became of %s is not known: %s", address, error)
        return ""

    def _end_of(self, pod: Mapping[str, Any]) -> str:
        name = pod["metadata"]["name"]
        restarted = any(each.get("restartCount") for each in pod["status"].get("containerStatuses") or ())
        log = allowed(self.api.logs, name, previous=restarted) or ""
        return end_of(pod, name, allowed(self.api.events, name) or (), log)

    def _attend(self) -> None:
        """Say again and again that the cluster is in use; until all its workers are there, look what keeps them."""
        complete = not self.owned
        while not self._over.wait(BEAT if complete else REST):
            with suppress(KubernetesError):  # the next time is soon enough
                complete = complete or self._is_complete()
            self._say()

    def _say(self) -> None:
        """Say that the cluster is in use, if it is time to, so that nobody takes it for one that was left over."""
        if time.monotonic() - self._said >= BEAT:
            self._said = time.monotonic()
            with suppress(KubernetesError):  # the next time is soon enough
                self.api.patch("DaskCluster", self.name, {"metadata": {"annotations": {SEEN: self._now()}}})

    def _now(self) -> str:
        """By the clock of the API server, with which ``orphans`` compares it."""
        return self.api.now.isoformat(timespec="milliseconds")

    def _is_complete(self) -> bool:
        """Whether there is no need to look again after workers that have not come."""
        snapshot = self._watch.look()
        there, wanted = sum(map(is_well, snapshot.component("worker"))), self._wanted
        finding = self._watch.judge(snapshot)
        if there < wanted and finding is None and not self._left:
            finding = diagnose(snapshot)
        if there < wanted and finding is not None and not self._over.is_set():
            _LOGGER.warning("%d of %d workers of %s are there: %s", there, wanted, self._called, finding.message)
        return there >= wanted or finding is not None or not self._left

    # -- down ----------------------------------------------------------------------------------------------------

    def close(self, timeout: float | None = None) -> None:
        """Take down what was made here, and wait until it is gone; leave alone what was joined. May be repeated.

        Parameters
        ----------
        timeout : float, optional
            Is there for Dask.
        """
        from distributed.core import Status

        with self._closing:
            if self._is_gone:
                return
            self.status = Status.closed
            self._over.set()
            try:
                if self._way is not None:
                    self._way.close()
            finally:
                self._remove()
            self._is_gone = True  # only now: what failed, or Ctrl-C broke off, is tried again, at exit if not before
            not_at_exit(self.close)

    def _remove(self) -> None:
        if self._asked and (uid := self._uid or self._found()) is not None:
            remove(self.api, self.name, uid)
        if self._has_secret and self._uid is None:  # there was no cluster with which it would go
            self.api.delete("Secret", self.name)

    def _found(self) -> str | None:
        """The uid of the cluster that was asked for, if it came to be; one of this name may be somebody else's."""
        found = (self.api.get("DaskCluster", self.name) or {}).get("metadata", {})
        return found["uid"] if self._marks.items() <= (found.get("annotations") or {}).items() else None


def _own_name(spec: KubernetesSpec) -> str | None:
    """The name that the user's own manifest has."""
    return spec.manifest[0].get("metadata", {}).get("name") if spec.manifest else None


def _use(deployment: Mapping[str, Any]) -> tuple[bool, float]:
    """What speaks for a worker's staying: that it works already, and for how long."""
    created = datetime.fromisoformat(deployment["metadata"]["creationTimestamp"])
    return bool(deployment.get("status", {}).get("readyReplicas")), -created.timestamp()


def _creator() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a user without a name: in many containers
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _this_pod(api: Api) -> dict[str, Any] | None:
    """Refers to the pod that this process runs in, so that the cluster goes with it; None outside of one."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:
        return None
    with suppress(OSError):  # one of this name in another namespace would be another one
        if (IN_POD / "namespace").read_text().strip() != api.namespace:
            return None
    pod = allowed(api.get, "Pod", os.environ.get("HOSTNAME") or socket.gethostname())
    if not pod:
        return None
    return {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"]}
