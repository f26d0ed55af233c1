"""What an API server says about itself: versions, groups, resources."""

from __future__ import annotations

import re

from tests.kube.control.objects import Object, Refused
from tests.kube.control.store import Resource, Store

_VERBS = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_VERSION = {"major": "1", "minor": "32", "gitVersion": "v1.32.0", "platform": "linux/amd64"}


def is_discovery(path: str) -> bool:
    return bool(re.fullmatch(r"/(version|readyz|healthz|livez|api|apis|api/[^/]+|apis/[^/]+|apis/[^/]+/[^/]+)", path))


def describe(store: Store, path: str) -> Object:
    if path in ("/readyz", "/healthz", "/livez"):
        return {"status": "ok"}
    if path == "/version":
        return _VERSION
    if path == "/api":
        return {"kind": "APIVersions", "versions": ["v1"]}
    groups = _groups(store)
    if path == "/apis":
        return {"kind": "APIGroupList", "apiVersion": "v1", "groups": list(groups.values())}
    name = path.split("/", 2)[2]
    if path.startswith("/apis") and name in groups:
        return {"kind": "APIGroup", "apiVersion": "v1", **groups[name]}
    resources = [each for each in store.resources.values() if each.group_version == name]
    if not resources:
        raise Refused(404, "NotFound", "the server could not find the requested resource")
    listed = [row for resource in resources for row in _rows(resource)]
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": name, "resources": listed}


def _groups(store: Store) -> dict[str, Object]:
    versions: dict[str, dict[str, Object]] = {}
    for resource in store.resources.values():
        if resource.group:
            row = {"groupVersion": resource.group_version, "version": resource.version}
            versions.setdefault(resource.group, {})[resource.version] = row
    return {
        name: {"name": name, "versions": list(rows.values()), "preferredVersion": next(iter(rows.values()))}
        for name, rows in sorted(versions.items())
    }


def _rows(resource: Resource) -> list[Object]:
    base = {"singularName": resource.singular or resource.kind.lower(), "namespaced": resource.namespaced}
    base |= {"kind": resource.kind, "shortNames": resource.short}
    rows: list[Object] = [{"name": resource.plural, "verbs": _VERBS, **base}]
    for subresource in resource.subresources:
        name = f"{resource.plural}/{subresource}"
        rows.append({"name": name, "verbs": ["get", "patch", "update"], **base, "singularName": ""})
    return rows
