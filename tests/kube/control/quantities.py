"""Amounts as Kubernetes writes them ("500m", "2Gi"), and what a pod asks for."""

from __future__ import annotations

import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tests.kube.control.objects import Object, Refused

_UNITS = {"n": Decimal("1e-9"), "u": Decimal("1e-6"), "m": Decimal("1e-3"), "": Decimal(1)}
_UNITS |= {unit: Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)}
_UNITS |= {f"{unit}i": Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)}


def quantity(text: Any) -> Decimal:
    match = re.fullmatch(r"([+-]?[0-9.]+(?:[eE][+-]?[0-9]+)?)([numkMGTPE]?|[KMGTPE]i)", str(text))
    if match is None:
        pattern = r"quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
        raise Refused(400, "BadRequest", pattern)
    return Decimal(match[1]) * _UNITS[match[2]]


def written(amount: Decimal, resource: str = "") -> str:
    """An amount as Kubernetes writes it: memory in the largest binary unit that divides it, else thousandths."""
    if "memory" in resource or "storage" in resource:
        for power, unit in sorted(enumerate("KMGTPE", 1), reverse=True):
            if amount and amount % (Decimal(1024) ** power) == 0:
                return f"{amount / Decimal(1024) ** power:f}{unit}i"
    if amount == amount.to_integral_value():
        return f"{amount.to_integral_value():f}"
    return f"{(amount * 1000).to_integral_value():f}m"


def container_needs(container: Object, which: str = "requests") -> dict[str, Decimal]:
    """Requests of a container (a limit without a request is one), or its limits."""
    resources = container.get("resources") or {}
    found = dict(resources.get("limits") or {})
    if which == "requests":
        found |= resources.get("requests") or {}
    return {name: quantity(amount) for name, amount in found.items()}


class Amounts(dict[str, Decimal]):
    """How much of each resource; none of those that are not named."""

    def __missing__(self, name: str) -> Decimal:
        return Decimal(0)

    def add(self, others: Mapping[str, Decimal]) -> None:
        for name, amount in others.items():
            self[name] += amount


def pod_needs(pod: Object, which: str = "requests") -> Amounts:
    """What all containers of a pod ask for together, or one of its init containers if that is more."""
    total = Amounts()
    for container in pod["spec"]["containers"]:
        total.add(container_needs(container, which))
    for container in pod["spec"].get("initContainers") or []:
        for name, amount in container_needs(container, which).items():
            total[name] = max(total[name], amount)
    return total
