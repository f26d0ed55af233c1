"""Deployments, replica sets, quotas, owners and namespaces: what a controller manager does, on each change."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import logging
import time

from tests.kube.control.jobs import Jobs
from tests.kube.control.objects import Object, Refused, condition, is_over, is_ready, owner_reference
from tests.kube.control.quantities import written
from tests.kube.control.store import Store

log = logging.getLogger("controllers")
#: how long a replica set waits after it could not make a pod
_RETRY = 1.0


class Controllers:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._jobs = Jobs(store)
        self._retry: dict[str, float] = {}

    async def run(self) -> None:
        steps = (self._collect, self._deployments, self._replica_sets, self._jobs.step, self._quotas)
        while True:
            await self._store.changed.wait()
            self._store.changed.clear()
            for step in (*steps, self._store.empty_namespaces):
                try:
                    step()
                except Refused as error:  # an object is held by somebody else; its next change brings us here again
                    log.warning("%s: %s", step.__name__, error)
            await asyncio.sleep(0.01)

    def _again(self, seconds: float) -> None:
        asyncio.get_running_loop().call_later(seconds, self._store.changed.set)

    def _collect(self) -> None:
        """Delete what has lost all its owners."""
        uids = {obj["metadata"]["uid"] for _, obj in self._store.all()}
        for resource, obj in self._store.all():
            owners = obj["metadata"].get("ownerReferences")
            lost = owners and not any(owner["uid"] in uids for owner in owners)
            if lost and "deletionTimestamp" not in obj["metadata"]:
                self._store.delete(resource, obj)

    # -- deployments -----------------------------------------------------------------------------------------

    def _deployments(self) -> None:
        deployments = self._store.of("deployments")
        for deployment in list(deployments.objects.values()):
            if "deletionTimestamp" not in deployment["metadata"]:
                self._deployment(deployment)

    def _deployment(self, deployment: Object) -> None:
        sets, spec = self._store.of("replicasets"), deployment["spec"]
        template = copy.deepcopy(spec["template"])
        digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        labels = template.setdefault("metadata", {}).setdefault("labels", {})
        labels["pod-template-hash"] = digest
        current = None
        ready = total = 0
        for replicas in sets.owned_by(deployment):
            is_current = replicas["metadata"]["labels"].get("pod-template-hash") == digest
            wanted = spec["replicas"] if is_current else 0
            if replicas["spec"]["replicas"] != wanted:
                self._store.patch(sets, replicas, {"spec": {"replicas": wanted}})
            current = replicas if is_current else current
            ready += replicas["status"].get("readyReplicas", 0)
            total += replicas["status"].get("replicas", 0)
        if current is None:
            selector = {"matchLabels": {**spec["selector"]["matchLabels"], "pod-template-hash": digest}}
            metadata = {"name": f"{deployment['metadata']['name']}-{digest}", "labels": labels}
            metadata["ownerReferences"] = owner_reference(deployment)
            body = {"replicas": spec["replicas"], "template": template, "selector": selector}
            self._store.create(sets, deployment["metadata"]["namespace"], {"metadata": metadata, "spec": body})
        enough = ready >= spec["replicas"]
        conditions = [
            condition("Available", enough, "MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable"),
            *((current or {}).get("status", {}).get("conditions") or []),
        ]
        status = {"replicas": total, "updatedReplicas": total, "readyReplicas": ready, "availableReplicas": ready}
        status["unavailableReplicas"] = max(0, spec["replicas"] - ready)
        self._set_status("deployments", deployment, {key: n for key, n in status.items() if n}, conditions)

    def _set_status(self, plural: str, obj: Object, counts: Object, conditions: list[Object]) -> None:
        old = {each["type"]: each for each in obj["status"].get("conditions") or []}
        for each in conditions:  # a condition that holds on keeps the time of when it came
            known = old.get(each["type"], {})
            if known.get("status") == each["status"] and known.get("message") == each.get("message"):
                each["lastTransitionTime"] = known["lastTransitionTime"]
        status = {"observedGeneration": obj["metadata"]["generation"], **counts}
        self._store.set_status(self._store.of(plural), obj, status | ({"conditions": conditions} if conditions else {}))

    # -- replica sets ----------------------------------------------------------------------------------------

    def _replica_sets(self) -> None:
        for replicas in list(self._store.of("replicasets").objects.values()):
            if "deletionTimestamp" not in replicas["metadata"]:
                self._replica_set(replicas)

    def _replica_set(self, replicas: Object) -> None:
        pods = [
            pod
            for pod in self._store.of("pods").owned_by(replicas)
            if "deletionTimestamp" not in pod["metadata"] and not is_over(pod)
        ]
        wanted, uid = replicas["spec"]["replicas"], replicas["metadata"]["uid"]
        conditions = replicas["status"].get("conditions") or []
        if self._retry.get(uid, 0) <= time.monotonic():
            failure = None
            try:
                for _ in range(wanted - len(pods)):
                    pods.append(self._store.make_pod(replicas))
            except Refused as error:
                failure = error.message
                self._failed(replicas, failure)
            conditions = [condition("ReplicaFailure", True, "FailedCreate", failure)] if failure else []
        # those that are not ready go first, then the youngest
        spare = sorted(pods, key=lambda pod: (not is_ready(pod), pod["metadata"]["creationTimestamp"]), reverse=True)
        for pod in spare[: max(0, len(pods) - wanted)]:
            self._store.delete(self._store.of("pods"), pod)
            pods.remove(pod)
        ready = sum(map(is_ready, pods))
        counts = {"replicas": len(pods)} | ({"readyReplicas": ready, "availableReplicas": ready} if ready else {})
        self._set_status("replicasets", replicas, counts, conditions)

    def _failed(self, replicas: Object, failure: str) -> None:
        self._retry[replicas["metadata"]["uid"]] = time.monotonic() + _RETRY
        self._again(_RETRY)
        self._store.record(replicas, "Warning", "FailedCreate", f"Error creating: {failure}", "replicaset-controller")

    # -- quotas ----------------------------------------------------------------------------------------------

    def _quotas(self) -> None:
        quotas = self._store.of("resourcequotas")
        for quota in list(quotas.objects.values()):
            hard = quota["spec"].get("hard") or {}
            usage = self._store.admission.usage(quota["metadata"]["namespace"])
            used = {name: written(usage[name], name) for name in hard}
            self._store.set_status(quotas, quota, {"hard": hard, "used": used})
