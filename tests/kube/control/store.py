"""All objects of a cluster, in memory, with versions, watchers and finalizers."""

from __future__ import annotations

import asyncio
import copy
import random
import string
import uuid
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.kube.control.admission import Admission
from tests.kube.control.objects import Object, Refused, event, merged, now, owner_reference
from tests.kube.control.schema import conform
from tests.kube.control.validation import check_metadata

_RBAC = "rbac.authorization.k8s.io"
_CRD = "apiextensions.k8s.io"
#: group, version, plural, kind, is it in a namespace, subresources, short names
_BUILT_IN: list[tuple[str, str, str, str, bool, list[str], list[str]]] = [
    ("", "v1", "namespaces", "Namespace", False, ["status", "finalize"], ["ns"]),
    ("", "v1", "nodes", "Node", False, ["status"], ["no"]),
    ("", "v1", "pods", "Pod", True, ["status", "log", "binding", "portforward"], ["po"]),
    ("", "v1", "services", "Service", True, ["status"], ["svc"]),
    ("", "v1", "configmaps", "ConfigMap", True, [], ["cm"]),
    ("", "v1", "secrets", "Secret", True, [], []),
    ("", "v1", "events", "Event", True, [], ["ev"]),
    ("", "v1", "serviceaccounts", "ServiceAccount", True, ["token"], ["sa"]),
    ("", "v1", "resourcequotas", "ResourceQuota", True, ["status"], ["quota"]),
    ("apps", "v1", "deployments", "Deployment", True, ["status"], ["deploy"]),
    ("apps", "v1", "replicasets", "ReplicaSet", True, ["status"], ["rs"]),
    ("batch", "v1", "jobs", "Job", True, ["status"], []),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, ["status"], ["pdb"]),
    (_RBAC, "v1", "roles", "Role", True, [], []),
    (_RBAC, "v1", "rolebindings", "RoleBinding", True, [], []),
    (_RBAC, "v1", "clusterroles", "ClusterRole", False, [], []),
    (_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", False, [], []),
    ("authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", False, [], []),
    (_CRD, "v1", "customresourcedefinitions", "CustomResourceDefinition", False, ["status"], ["crd"]),
]
_SETTABLE = ("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences")
_FIXED = (
    "uid",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "name",
    "namespace",
    "generation",
    "resourceVersion",
)


class Change(NamedTuple):
    """What watchers are told."""

    version: int
    kind: str
    obj: Object
    before: Object | None


@dataclass(eq=False)
class Resource:
    """A kind of objects, and the objects."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool
    subresources: list[str]
    short: list[str] = field(default_factory=list)
    singular: str = ""
    schema: Object | None = None
    objects: dict[tuple[str | None, str], Object] = field(default_factory=dict)
    watchers: set[asyncio.Queue[Change]] = field(default_factory=set)
    history: deque[Change] = field(default_factory=lambda: deque(maxlen=5000))

    @property
    def group_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full_name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def full_kind(self) -> str:
        return f"{self.kind}.{self.group}" if self.group else self.kind

    def get(self, namespace: str | None, name: str) -> Object:
        try:
            return self.objects[namespace, name]
        except KeyError:
            details = {"name": name, "group": self.group, "kind": self.plural}
            raise Refused(404, "NotFound", f'{self.full_name} "{name}" not found', details) from None

    def inside(self, namespace: str) -> list[Object]:
        return [obj for (where, _), obj in self.objects.items() if where == namespace]

    def owned_by(self, owner: Object) -> list[Object]:
        uid = owner["metadata"]["uid"]
        return [
            obj
            for obj in self.objects.values()
            if any(reference["uid"] == uid for reference in obj["metadata"].get("ownerReferences") or [])
        ]


class Store:
    """Objects come, change and go only by the methods of this class."""

    def __init__(self, services: str) -> None:
        self.version = 100
        self.resources: dict[tuple[str, str, str], Resource] = {}
        #: something that controllers may have to react to has changed
        self.changed = asyncio.Event()
        self.admission = Admission(self, services)
        for row in _BUILT_IN:
            self._add(Resource(*row))
        for namespace in ("default", "kube-system"):
            self.create(self.of("namespaces"), None, {"metadata": {"name": namespace}})

    def _add(self, resource: Resource) -> None:
        self.resources[resource.group, resource.version, resource.plural] = resource

    def of(self, plural: str) -> Resource:
        return next(each for each in self.resources.values() if each.plural == plural)

    def all(self) -> Iterable[tuple[Resource, Object]]:
        return [(resource, obj) for resource in self.resources.values() for obj in resource.objects.values()]

    def _tell(self, resource: Resource, kind: str, obj: Object, before: Object | None = None) -> Object:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        change = Change(self.version, kind, copy.deepcopy(obj), before)
        resource.history.append(change)
        for queue in resource.watchers:
            queue.put_nowait(change)
        if resource.plural != "events":
            self.changed.set()
        return change.obj

    # -- coming ----------------------------------------------------------------------------------------------

    def create(self, resource: Resource, namespace: str | None, obj: Object, *, dry_run: bool = False) -> Object:
        obj = copy.deepcopy(obj)
        metadata = obj["metadata"] = self._new_metadata(resource, namespace, obj.get("metadata") or {})
        obj |= {"apiVersion": resource.group_version, "kind": resource.kind}
        if "status" in resource.subresources:
            obj.pop("status", None)
        if resource.schema:
            conform(obj, resource.schema)
        self.admission.admit(resource.plural, obj)
        if dry_run:
            return obj
        resource.objects[metadata.get("namespace"), metadata["name"]] = obj
        told = self._tell(resource, "ADDED", obj)
        if resource.plural == "namespaces":
            self.create(self.of("serviceaccounts"), metadata["name"], {"metadata": {"name": "default"}})
        if resource.plural == "customresourcedefinitions":
            self._define(obj["spec"])
        return told

    def _new_metadata(self, resource: Resource, namespace: str | None, given: Object) -> Object:
        metadata = {key: value for key, value in given.items() if key in _SETTABLE}  # unknown ones are dropped
        if not metadata.get("name"):
            if not metadata.get("generateName"):
                message = (
                    f"{resource.full_kind} is invalid: metadata.name: Required value: name or generateName is required"
                )
                raise Refused(422, "Invalid", message)
            letters = random.choices(string.ascii_lowercase + string.digits, k=5)
            metadata["name"] = metadata["generateName"][:58] + "".join(letters)
        check_metadata(resource.plural, resource.full_kind, metadata)
        metadata.pop("namespace", None)
        name = metadata["name"]
        if resource.namespaced:
            assert namespace is not None
            self._check_namespace(resource, namespace, name)
            metadata["namespace"] = namespace
        if (metadata.get("namespace"), name) in resource.objects:
            details = {"name": name, "kind": resource.plural}
            raise Refused(409, "AlreadyExists", f'{resource.full_name} "{name}" already exists', details)
        return metadata | {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}

    def _check_namespace(self, resource: Resource, namespace: str, name: str) -> None:
        found = self.of("namespaces").get(None, namespace)
        if "deletionTimestamp" in found["metadata"]:
            error = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise Refused(403, "Forbidden", f'{resource.full_name} "{name}" is forbidden: {error}')

    def _define(self, spec: Object) -> None:
        names = spec["names"]
        for version in spec["versions"]:
            self._add(
                Resource(
                    spec["group"],
                    version["name"],
                    names["plural"],
                    names["kind"],
                    spec["scope"] == "Namespaced",
                    list(version.get("subresources") or {}),
                    names.get("shortNames") or [],
                    names.get("singular") or "",
                    (version.get("schema") or {}).get("openAPIV3Schema"),
                )
            )

    def make_pod(self, owner: Object) -> Object:
        """A pod of its owner's template."""
        metadata = copy.deepcopy(owner["spec"]["template"].get("metadata") or {})
        metadata.pop("name", None)
        metadata |= {"generateName": f"{owner['metadata']['name']}-", "ownerReferences": owner_reference(owner)}
        spec = owner["spec"]["template"]["spec"]
        return self.create(self.of("pods"), owner["metadata"]["namespace"], {"metadata": metadata, "spec": spec})

    # -- changing --------------------------------------------------------------------------------------------

    def write(self, resource: Resource, old: Object, new: Object, subresource: str | None = None) -> Object:
        new = copy.deepcopy(new)
        metadata, before = new.setdefault("metadata", {}), old["metadata"]
        if metadata.get("resourceVersion") not in (None, "", before["resourceVersion"]):
            what = f'Operation cannot be fulfilled on {resource.full_name} "{before["name"]}"'
            why = "the object has been modified; please apply your changes to the latest version and try again"
            raise Refused(409, "Conflict", f"{what}: {why}")
        if metadata.get("uid", before["uid"]) != before["uid"]:
            raise Refused(409, "Conflict", "Precondition failed: UID in precondition does not match UID in object meta")
        for key in _FIXED:
            metadata.pop(key, None)
            if key in before:
                metadata[key] = before[key]
        new |= {"apiVersion": resource.group_version, "kind": resource.kind}
        if subresource == "status":
            new = {**copy.deepcopy(old), "status": new.get("status", {})}
        elif "status" in resource.subresources:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        if resource.schema:
            conform(new, resource.schema)
        check_metadata(resource.plural, resource.full_kind, new["metadata"])
        if new == old:
            return copy.deepcopy(old)
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = before.get("generation", 1) + 1
        resource.objects[before.get("namespace"), before["name"]] = new
        if "deletionTimestamp" in new["metadata"] and not self._is_held(resource, new):
            return self._remove(resource, new)
        return self._tell(resource, "MODIFIED", new, copy.deepcopy(old))

    def set_status(self, resource: Resource, obj: Object, status: Object) -> None:
        if obj.get("status") != status:
            self.write(resource, obj, {**obj, "status": status}, "status")

    def patch(self, resource: Resource, obj: Object, patch: Object) -> Object:
        return self.write(resource, obj, merged(obj, patch))

    # -- going -----------------------------------------------------------------------------------------------

    @staticmethod
    def _is_held(resource: Resource, obj: Object) -> bool:
        """Is an object kept though it was deleted: by finalizers, a pod's time to end, a namespace's content?"""
        metadata = obj["metadata"]
        return bool(
            metadata.get("finalizers")
            or (resource.plural == "pods" and metadata.get("deletionGracePeriodSeconds"))
            or (resource.plural == "namespaces" and obj["status"]["phase"] == "Terminating")
        )

    def delete(self, resource: Resource, obj: Object, options: Object | None = None) -> Object:
        options, metadata = options or {}, obj["metadata"]
        if (options.get("preconditions") or {}).get("uid", metadata["uid"]) != metadata["uid"]:
            raise Refused(409, "Conflict", "Precondition failed: UID in precondition does not match UID in object meta")
        grace = self._grace(resource, obj, options)
        later = "deletionTimestamp" in metadata
        if later and not (resource.plural == "pods" and grace < metadata.get("deletionGracePeriodSeconds", 0)):
            return copy.deepcopy(obj)
        before = copy.deepcopy(obj)
        metadata |= {"deletionTimestamp": now(), "deletionGracePeriodSeconds": grace}
        if resource.plural == "namespaces":
            obj["status"] = {"phase": "Terminating"}
        if self._is_held(resource, obj):
            return self._tell(resource, "MODIFIED", obj, before)
        return self._remove(resource, obj)

    @staticmethod
    def _grace(resource: Resource, obj: Object, options: Object) -> int:
        if resource.plural != "pods" or not obj["spec"].get("nodeName"):
            return 0
        grace = options.get("gracePeriodSeconds")
        return int(obj["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace)

    def _remove(self, resource: Resource, obj: Object) -> Object:
        metadata = obj["metadata"]
        resource.objects.pop((metadata.get("namespace"), metadata["name"]), None)
        told = self._tell(resource, "DELETED", obj, copy.deepcopy(obj))
        if resource.plural == "customresourcedefinitions":
            for version in obj["spec"]["versions"]:
                self.resources.pop((obj["spec"]["group"], version["name"], obj["spec"]["names"]["plural"]), None)
        return told

    def empty_namespaces(self) -> None:
        """Delete what is in namespaces that are being deleted, and those that are empty."""
        namespaces = self.of("namespaces")
        for namespace in list(namespaces.objects.values()):
            if "deletionTimestamp" not in namespace["metadata"]:
                continue
            name = namespace["metadata"]["name"]
            inside = [(resource, obj) for resource, obj in self.all() if obj["metadata"].get("namespace") == name]
            for resource, obj in inside:
                self.delete(resource, obj)
            if not inside:
                self._remove(namespaces, namespace)

    # -- events ----------------------------------------------------------------------------------------------

    def record(self, about: Object, kind: str, reason: str, message: str, component: str) -> None:
        """Tell an event; what was told before is counted."""
        new = event(about, kind, reason, message, component)
        events = self.of("events")
        namespace = self.of("namespaces").objects.get((None, new["metadata"]["namespace"]))
        if namespace is None or "deletionTimestamp" in namespace["metadata"]:
            return
        for old in events.inside(new["metadata"]["namespace"]):
            same = all(old.get(key) == new[key] for key in ("involvedObject", "reason", "message"))
            if same:
                self.patch(events, old, {"count": old["count"] + 1, "lastTimestamp": new["lastTimestamp"]})
                return
        self.create(events, new["metadata"]["namespace"], new)
