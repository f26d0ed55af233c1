"""The merge of pod specs: ours below, the user's above, and the user always wins.

Dicts merge key by key, and None takes a key away. Lists that Kubernetes keys (containers by name, mounts by their path)
merge by that key; an item with ``"$patch": "delete"`` takes the one of its key away. Lists that are sets (tolerations)
are united. All other lists, such as ``args``, are replaced. A container without a name is the first one.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

#: list → what its items are known by; the first that an item has. What is neither here nor below is replaced.
_KEYS = {
    "containers": ("name",),
    "initContainers": ("name",),
    "volumes": ("name",),
    "env": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "hostAliases": ("ip",),
    "ports": ("containerPort", "port"),
    "topologySpreadConstraints": ("topologyKey",),
}
#: lists whose items hold one of several alternatives (``value``, ``valueFrom``), so that a mix of two is none.
_WHOLE = {"env", "volumes", "volumeMounts", "volumeDevices"}
_SETS = {"tolerations", "envFrom"}
_DELETE = "$patch"


def merge(ours: Mapping[str, Any], users: Mapping[str, Any]) -> dict[str, Any]:
    """Return one spec with another over it; neither is changed.

    Parameters
    ----------
    ours : mapping
        Below.
    users : mapping
        Above: what is said here holds.
    """
    merged: dict[str, Any] = copy.deepcopy(dict(ours))
    for name, value in users.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = merge(below if isinstance(below, Mapping) else {}, value)
        elif isinstance(value, list | tuple):
            below = merged.get(name)
            merged[name] = merge_lists(name, below if isinstance(below, list) else [], list(value))
        else:
            merged[name] = copy.deepcopy(value)
    return merged


def merge_lists(name: str, ours: list[Any], users: list[Any]) -> list[Any]:
    """Return one list with another over it, as the field that it stands in wants it.

    Parameters
    ----------
    name : str
        The field in a pod's spec, as ``"volumeMounts"``.
    ours, users : list
        Below and above.
    """
    if name in _SETS:
        return copy.deepcopy(ours + [item for item in users if item not in ours])
    if name not in _KEYS or not all(isinstance(item, Mapping) for item in [*ours, *users]):
        return copy.deepcopy(users)
    merged: list[Any] = copy.deepcopy(ours)
    for item in users:
        place = _place(name, merged, item)
        if item.get(_DELETE) == "delete":
            if place is not None:
                del merged[place]
        elif place is None:
            merged.append(merge({}, item))
        elif name in _WHOLE:
            merged[place] = merge({}, item)
        else:
            merged[place] = merge(merged[place], item)
    return merged


def _place(name: str, items: list[Any], wanted: Mapping[str, Any]) -> int | None:
    """Where the item is that another one is about; None if it is new."""
    key = _key(name, wanted)
    if key is None:
        return 0 if name == "containers" and items else None
    return next((place for place, item in enumerate(items) if _key(name, item) == key), None)


def _key(name: str, item: Mapping[str, Any]) -> Any:
    return next((item[key] for key in _KEYS[name] if key in item), None)
