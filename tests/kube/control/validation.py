"""What a real API server would refuse in an object, in its words. A choice: what clients of ours may get wrong."""

from __future__ import annotations

import re
from typing import Any

from tests.kube.control.objects import Object, Refused
from tests.kube.control.quantities import container_needs

_SUBDOMAIN = (
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*",
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start "
    "and end with an alphanumeric character",
    253,
)
_LABEL = (
    r"[a-z0-9]([-a-z0-9]*[a-z0-9])?",
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
    "with an alphanumeric character",
    63,
)
_SERVICE = (
    r"[a-z]([-a-z0-9]*[a-z0-9])?",
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, "
    "and end with an alphanumeric character",
    63,
)
_NAMES = {"services": _SERVICE, "namespaces": _LABEL}
_LABEL_VALUE = r"(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?"
_LABEL_KEY = r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?"
_VARIABLE = r"[-._a-zA-Z][-._a-zA-Z0-9]*"


def invalid(kind: str, name: str, where: str, what: str) -> Refused:
    return Refused(422, "Invalid", f'{kind} "{name}" is invalid: {where}: {what}', {"name": name, "kind": kind})


def check_metadata(plural: str, kind: str, metadata: Object) -> None:
    """Names, labels and annotations."""
    name = metadata["name"]
    # all objects of the group "rbac" may have names like system:discovery
    pattern, rule, longest = _NAMES.get(plural, _SUBDOMAIN)
    pattern = r"[^/%]+" if "role" in plural else pattern
    if not re.fullmatch(pattern, name):
        raise invalid(kind, name, "metadata.name", f'Invalid value: "{name}": {rule}')
    if len(name) > longest:
        raise invalid(kind, name, "metadata.name", f'Invalid value: "{name}": must be no more than {longest} bytes')
    check_labels(kind, name, metadata.get("labels"), "metadata.labels")
    _check_strings(kind, metadata.get("annotations"), "ObjectMeta.metadata.annotations")


def check_labels(kind: str, name: str, labels: Object | None, where: str) -> None:
    _check_strings(kind, labels, f"ObjectMeta.{where}")
    for key, value in (labels or {}).items():
        if not re.fullmatch(_LABEL_KEY, key) or len(key.rpartition("/")[2]) > 63:
            rule = "name part must consist of alphanumeric characters, '-', '_' or '.'"
            raise invalid(kind, name, where, f'Invalid value: "{key}": {rule}')
        if len(value) > 63:
            raise invalid(kind, name, where, f'Invalid value: "{value}": must be no more than 63 bytes')
        if not re.fullmatch(_LABEL_VALUE, value):
            rule = (
                "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and "
                f"must start and end with an alphanumeric character (regex used for validation is '{_LABEL_VALUE}')"
            )
            raise invalid(kind, name, where, f'Invalid value: "{value}": {rule}')


def _check_strings(kind: str, values: Object | None, field: str) -> None:
    for value in (values or {}).values():
        if not isinstance(value, str):
            found = {bool: "bool", int: "number", float: "number", dict: "object", list: "array"}.get(
                type(value), "null"
            )
            message = f"json: cannot unmarshal {found} into Go struct field {field} of type string"
            raise Refused(400, "BadRequest", f"{kind} cannot be handled as a {kind}: {message}")


def check_pod(kind: str, name: str, spec: Object, where: str = "spec") -> None:
    """The spec of a pod, or of a template of pods."""
    if not spec.get("containers"):
        raise invalid(kind, name, f"{where}.containers", "Required value")
    volumes = {volume["name"] for volume in spec.get("volumes") or []}
    seen: set[str] = set()
    for group in ("initContainers", "containers"):
        for index, container in enumerate(spec.get(group) or []):
            place = f"{where}.{group}[{index}]"
            if not container.get("name"):
                raise invalid(kind, name, f"{place}.name", "Required value")
            if container["name"] in seen:
                raise invalid(kind, name, f"{place}.name", f'Duplicate value: "{container["name"]}"')
            seen.add(container["name"])
            _check_container(kind, name, container, place, volumes)


def _check_container(kind: str, name: str, container: Object, place: str, volumes: set[str]) -> None:
    if not re.fullmatch(_LABEL[0], container["name"]) or len(container["name"]) > 63:
        raise invalid(kind, name, f"{place}.name", f'Invalid value: "{container["name"]}": {_LABEL[1]}')
    if not container.get("image"):
        raise invalid(kind, name, f"{place}.image", "Required value")
    for index, variable in enumerate(container.get("env") or []):
        _check_strings(kind, {"value": variable.get("value") or ""}, "EnvVar.spec.containers.env.value")
        if not re.fullmatch(_VARIABLE, variable.get("name") or ""):
            rule = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.'"
            raise invalid(kind, name, f"{place}.env[{index}].name", f'Invalid value: "{variable.get("name")}": {rule}')
        if variable.get("value") and variable.get("valueFrom"):
            raise invalid(
                kind,
                name,
                f"{place}.env[{index}].valueFrom",
                'Invalid value: "": may not be specified when `value` is not empty',
            )
    for index, mount in enumerate(container.get("volumeMounts") or []):
        if mount["name"] not in volumes:
            raise invalid(kind, name, f"{place}.volumeMounts[{index}].name", f'Not found: "{mount["name"]}"')
    _check_resources(kind, name, container, f"{place}.resources")


def _check_resources(kind: str, name: str, container: Object, place: str) -> None:
    requests, limits = container_needs(container), container_needs(container, "limits")
    written: Any = (container.get("resources") or {}).get("requests") or {}
    for resource, amount in requests.items():
        extended = "/" in resource
        if extended and limits.get(resource) != amount:
            raise invalid(
                kind, name, f"{place}.limits", "Required value: Limit must be set for non overcommitable resources"
            )
        if amount > limits.get(resource, amount):
            limit = container["resources"]["limits"][resource]
            what = f'Invalid value: "{written[resource]}": must be less than or equal to {resource} limit of {limit}'
            raise invalid(kind, name, f"{place}.requests", what)
