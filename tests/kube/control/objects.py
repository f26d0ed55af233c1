"""Kubernetes objects are dicts; what one does with them, without a server."""

from __future__ import annotations

import copy
import datetime as dt
import re
from collections.abc import Mapping
from typing import Any

Object = dict[str, Any]


def now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Refused(Exception):
    """A request that the API server answers with an error."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": message,
            "reason": reason,
            "code": code,
            "details": details or {},
        }


# -- patches -------------------------------------------------------------------------------------------------


def merged(target: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7386): dicts merge, None removes, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    target = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            target.pop(key, None)
        else:
            target[key] = merged(target.get(key), value)
    return target


def json_patched(target: Object, operations: list[Object]) -> Object:
    """A JSON patch (RFC 6902): add, remove, replace, test."""
    target = copy.deepcopy(target)
    for operation in operations:
        *parents, last = [key.replace("~1", "/").replace("~0", "~") for key in operation["path"].split("/")[1:]]
        place: Any = target
        try:
            for key in parents:
                place = place[int(key)] if isinstance(place, list) else place[key]
            _apply(operation, place, last)
        except (KeyError, IndexError, TypeError) as error:
            message = f"the server rejected our request due to an error in our request: {operation} {error!r}"
            raise Refused(422, "Invalid", message) from None
    return target


def _apply(operation: Object, place: Any, last: str) -> None:
    key: Any = last
    if isinstance(place, list):
        key = len(place) if last == "-" else int(last)
    match operation["op"]:
        case "test":
            if place[key] != operation["value"]:
                raise KeyError(last)
        case "remove":
            del place[key]
        case "replace":
            place[key]  # it must be there
            place[key] = operation["value"]
        case "add" if isinstance(place, list):
            place.insert(key, operation["value"])
        case _:
            place[key] = operation["value"]


# -- selectors -----------------------------------------------------------------------------------------------


def labels_match(selector: str | None, labels: Mapping[str, str]) -> bool:
    parts = re.findall(r"[^,()]+(?:\([^)]*\))?", selector or "")
    return all(_label_matches(part.strip(), labels) for part in parts if part.strip())


def _label_matches(part: str, labels: Mapping[str, str]) -> bool:
    if match := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", part):
        values = [value.strip() for value in match[3].split(",")]
        return (labels.get(match[1]) in values) == (match[2] == "in")
    if match := re.fullmatch(r"([^!=\s]+)\s*(!=|==?)\s*(\S*)", part):
        return (labels.get(match[1]) == match[3]) == (match[2] != "!=")
    if part.startswith("!"):
        return part[1:].strip() not in labels
    return part in labels


def fields_match(selector: str | None, obj: Object) -> bool:
    for part in filter(None, ((selector or "").split(","))):
        path, sign, value = re.split(r"(!=|==|=)", part.strip(), maxsplit=1)
        found: Any = obj
        for key in path.split("."):
            found = (found or {}).get(key)
        if (("" if found is None else str(found)) == value) == (sign == "!="):
            return False
    return True


# -- owners, readiness, events -------------------------------------------------------------------------------


def owner_reference(owner: Object) -> list[Object]:
    name, uid = owner["metadata"]["name"], owner["metadata"]["uid"]
    reference = {"apiVersion": owner["apiVersion"], "kind": owner["kind"], "name": name, "uid": uid}
    return [reference | {"controller": True, "blockOwnerDeletion": True}]


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def is_over(pod: Object) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def condition(kind: str, holds: bool, reason: str, message: str | None = None) -> Object:
    """One of the conditions of a status."""
    found = {"type": kind, "status": str(holds), "reason": reason, "lastTransitionTime": now()}
    return found | ({"message": message} if message else {})


def event(about: Object, kind: str, reason: str, message: str, component: str) -> Object:
    """A Kubernetes event, told for the first time; ``kind`` is Normal or Warning."""
    metadata = about["metadata"]
    reference = {"kind": about["kind"], "apiVersion": about["apiVersion"]}
    reference |= {key: metadata[key] for key in ("name", "namespace", "uid") if key in metadata}
    time = now()
    return {
        "metadata": {"generateName": f"{metadata['name']}.", "namespace": metadata.get("namespace", "default")},
        "involvedObject": reference,
        "reason": reason,
        "message": message,
        "type": kind,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": component},
        "reportingComponent": component,
    }
