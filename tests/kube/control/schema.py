"""What a custom resource's schema does to an object: unknown fields go, defaults come, types are checked."""

from __future__ import annotations

import copy
from typing import Any

from tests.kube.control.objects import Refused

_TYPES: dict[str, Any] = {
    "integer": int,
    "string": str,
    "object": dict,
    "array": list,
    "boolean": bool,
    "number": (int, float),
}
_BASE = ("apiVersion", "kind", "metadata")


def conform(value: Any, schema: Any, path: str = "") -> None:
    """Make a value conform to a structural schema, in place, or refuse it."""
    if not isinstance(schema, dict):
        return
    if isinstance(value, dict):
        _conform_object(value, schema, path)
    elif isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            conform(item, schema["items"], f"{path}[{index}]")


def _conform_object(value: dict[str, Any], schema: dict[str, Any], path: str) -> None:
    fields: dict[str, Any] = schema.get("properties") or {}
    others = schema.get("additionalProperties")
    for key, of_field in fields.items():
        if key in value and value[key] is None and not of_field.get("nullable"):
            del value[key]
        if key not in value and "default" in of_field:
            value[key] = copy.deepcopy(of_field["default"])
    for key in schema.get("required") or []:
        if key not in value:
            raise Refused(422, "Invalid", f"{path}.{key}: Required value".lstrip("."))
    closed = bool(fields) and not schema.get("x-kubernetes-preserve-unknown-fields") and not others
    for key in list(value):
        if path == "" and key in _BASE:
            continue
        if closed and key not in fields:
            del value[key]
        elif isinstance(of_field := fields.get(key) or others, dict):
            _check_type(value[key], of_field, f"{path}.{key}".lstrip("."))
            conform(value[key], of_field, f"{path}.{key}")


def _check_type(value: Any, schema: dict[str, Any], path: str) -> None:
    expected = _TYPES.get(schema.get("type", ""))
    if expected is None or schema.get("x-kubernetes-int-or-string") or (value is None and schema.get("nullable")):
        return
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        found = {dict: "object", list: "array", bool: "boolean", int: "integer", str: "string"}.get(type(value), "null")
        raise Refused(422, "Invalid", f'{path}: Invalid value: "{found}": must be of type {schema["type"]}')
