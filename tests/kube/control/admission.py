"""What happens to an object on its way in: defaults, allocations, quotas, and what is refused."""

from __future__ import annotations

import base64
import ipaddress
import random
from collections.abc import Mapping
from decimal import Decimal
from typing import TYPE_CHECKING

from tests.kube.control.objects import Object, Refused, is_over
from tests.kube.control.quantities import Amounts, pod_needs, quantity, written
from tests.kube.control.validation import check_labels, check_pod, invalid

if TYPE_CHECKING:
    from tests.kube.control.store import Store

_POD_DEFAULTS = {
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
}


class Admission:
    """One method per kind that is treated in a way of its own, named by its plural; called before it is stored."""

    def __init__(self, store: Store, services: str) -> None:
        self._store = store
        self._addresses = ipaddress.ip_network(services)

    def admit(self, plural: str, obj: Object) -> None:
        treat = getattr(self, f"_{plural}", None)
        if treat is not None:
            treat(obj)

    # -- pods and what makes them ----------------------------------------------------------------------------

    def _pods(self, pod: Object) -> None:
        name, namespace = pod["metadata"]["name"], pod["metadata"]["namespace"]
        spec = pod.setdefault("spec", {})
        for key, value in _POD_DEFAULTS.items():
            spec.setdefault(key, value)
        check_pod("Pod", name, spec)
        account = spec["serviceAccountName"]
        if (namespace, account) not in self._store.of("serviceaccounts").objects:
            error = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
            raise Refused(403, "Forbidden", f'pods "{name}" is forbidden: {error}')
        for quota in self._store.of("resourcequotas").inside(namespace):
            self._check_quota(pod, quota)
        pod["status"] = {"phase": "Pending", "qosClass": "Burstable"}

    def _check_quota(self, pod: Object, quota: Object) -> None:
        hard = {name: quantity(amount) for name, amount in (quota["spec"].get("hard") or {}).items()}
        wanted, used = pod_usage(pod), self.usage(pod["metadata"]["namespace"])
        of, name = quota["metadata"]["name"], pod["metadata"]["name"]
        missing = [each for each in hard if each.split(".")[-1] in ("cpu", "memory") and not wanted[each]]
        if missing:
            containers = ",".join(container["name"] for container in pod["spec"]["containers"])
            what = "; ".join(f"{each} for: {containers}" for each in sorted(missing))
            raise Refused(403, "Forbidden", f'pods "{name}" is forbidden: failed quota: {of}: must specify {what}')
        over = sorted(each for each in hard if wanted[each] and used[each] + wanted[each] > hard[each])
        if over:

            def listed(amounts: Mapping[str, Decimal]) -> str:
                return ",".join(f"{each}={written(amounts[each], each)}" for each in over)

            error = f"exceeded quota: {of}, requested: {listed(wanted)}, used: {listed(used)}, limited: {listed(hard)}"
            raise Refused(403, "Forbidden", f'pods "{name}" is forbidden: {error}')

    def usage(self, namespace: str) -> Amounts:
        """What the pods of a namespace count against a quota."""
        used = Amounts()
        for pod in self._store.of("pods").inside(namespace):
            if not is_over(pod):
                used.add(pod_usage(pod))
        return used

    def _resourcequotas(self, quota: Object) -> None:
        quota["status"] = {}

    def _deployments(self, deployment: Object) -> None:
        self._check_template("Deployment.apps", deployment)
        deployment["spec"].setdefault("replicas", 1)
        deployment["status"] = {}

    def _replicasets(self, replicas: Object) -> None:
        self._check_template("ReplicaSet.apps", replicas)
        replicas["spec"].setdefault("replicas", 1)
        replicas["status"] = {"replicas": 0}

    def _check_template(self, kind: str, obj: Object) -> None:
        name, template = obj["metadata"]["name"], obj["spec"]["template"]
        selector = obj["spec"]["selector"].get("matchLabels") or {}
        labels = (template.get("metadata") or {}).get("labels") or {}
        if not selector or not selector.items() <= labels.items():
            what = f"Invalid value: {labels}: `selector` does not match template `labels`"
            raise invalid(kind, name, "spec.template.metadata.labels", what)
        check_labels(kind, name, labels, "spec.template.labels")
        check_pod(kind, name, template.get("spec") or {}, "spec.template.spec")

    def _jobs(self, job: Object) -> None:
        spec, metadata = job["spec"], job["metadata"]
        spec.setdefault("backoffLimit", 6)
        spec.setdefault("completions", 1)
        spec.setdefault("parallelism", 1)
        labels = {
            "batch.kubernetes.io/controller-uid": metadata["uid"],
            "batch.kubernetes.io/job-name": metadata["name"],
        }
        labels |= {key.removeprefix("batch.kubernetes.io/"): value for key, value in labels.items()}
        spec["selector"] = {"matchLabels": {"batch.kubernetes.io/controller-uid": metadata["uid"]}}
        template = spec["template"].setdefault("metadata", {})
        template["labels"] = {**(template.get("labels") or {}), **labels}
        metadata["labels"] = {**(metadata.get("labels") or {}), **labels}
        self._check_template("Job.batch", job)
        if spec["template"]["spec"].get("restartPolicy") not in ("OnFailure", "Never"):
            what = 'Required value: valid values: "OnFailure", "Never"'
            raise invalid("Job.batch", metadata["name"], "spec.template.spec.restartPolicy", what)
        job["status"] = {}

    # -- all the rest ----------------------------------------------------------------------------------------

    def _services(self, service: Object) -> None:
        spec = service["spec"]
        spec.setdefault("type", "ClusterIP")
        others = list(self._store.of("services").objects.values())
        if "clusterIP" not in spec:
            used = {other["spec"].get("clusterIP") for other in others}
            spec["clusterIP"] = next(str(ip) for ip in self._addresses.hosts() if str(ip) not in used)
            spec["clusterIPs"] = [spec["clusterIP"]]
        taken = {port.get("nodePort") for other in others for port in other["spec"].get("ports", [])}
        free = [number for number in range(30000, 32768) if number not in taken]
        for port in spec.get("ports", []):
            port.setdefault("targetPort", port["port"])
            port.setdefault("protocol", "TCP")
            if spec["type"] in ("NodePort", "LoadBalancer") and not port.get("nodePort"):
                port["nodePort"] = free.pop(random.randrange(len(free)))
        service["status"] = {"loadBalancer": {}}

    def _namespaces(self, namespace: Object) -> None:
        namespace["status"] = {"phase": "Active"}
        labels = namespace["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]

    def _nodes(self, node: Object) -> None:
        node.setdefault("spec", {})

    def _secrets(self, secret: Object) -> None:
        for key, value in (secret.pop("stringData", None) or {}).items():
            secret.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
        for key, value in (secret.get("data") or {}).items():
            try:
                base64.b64decode(value, validate=True)
            except (ValueError, TypeError):
                message = f"Secret in version v1 cannot be handled as a Secret: illegal base64 data at {key}"
                raise Refused(400, "BadRequest", message) from None
        secret.setdefault("type", "Opaque")

    def _customresourcedefinitions(self, definition: Object) -> None:
        conditions = [{"type": kind, "status": "True"} for kind in ("NamesAccepted", "Established")]
        definition["status"] = {"conditions": conditions, "acceptedNames": definition["spec"]["names"]}


def pod_usage(pod: Object) -> Amounts:
    """What a pod counts against quotas: ``cpu`` and ``requests.cpu`` are one thing."""
    usage = Amounts({"pods": Decimal(1), "count/pods": Decimal(1)})
    for name, amount in pod_needs(pod).items():
        usage[f"requests.{name}"] = usage[name] = amount
    for name, amount in pod_needs(pod, "limits").items():
        usage[f"limits.{name}"] = amount
    return usage
