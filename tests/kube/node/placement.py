"""Does a pod fit on a node? If not, why, in the words of kube-scheduler."""

from __future__ import annotations

from typing import Any

from tests.kube.control.objects import Object
from tests.kube.control.quantities import Amounts, pod_needs, quantity

_AFFINITY = "node(s) didn't match Pod's node affinity/selector"


def why_not(pod: Object, node: Object, placed: list[Object]) -> str | None:
    """Why a pod cannot go to the only node there is, on which other pods are already; None if it can."""
    unresolvable = _taint(pod, node) or _affinity(pod, node)
    reasons = [unresolvable] if unresolvable else _lacking(pod, node, placed)
    if not reasons:
        return None
    count = ", ".join(f"1 {reason}" for reason in sorted(reasons))
    fits_empty = not unresolvable and not _lacking(pod, node, [])
    remedy = (
        "No preemption victims found for incoming pod" if fits_empty else "Preemption is not helpful for scheduling"
    )
    return f"0/1 nodes are available: {count}. preemption: 0/1 nodes are available: 1 {remedy}."


def _lacking(pod: Object, node: Object, placed: list[Object]) -> list[str]:
    allocatable = {name: quantity(amount) for name, amount in node["status"]["allocatable"].items()}
    used = Amounts()
    for other in placed:
        used.add(pod_needs(other))
    reasons = [
        f"Insufficient {name}"
        for name, amount in pod_needs(pod).items()
        if amount and used[name] + amount > allocatable.get(name, 0)
    ]
    return [*reasons, "Too many pods"] if len(placed) >= allocatable["pods"] else reasons


def _taint(pod: Object, node: Object) -> str | None:
    for taint in node["spec"].get("taints") or []:
        tolerated = any(_tolerates(each, taint) for each in pod["spec"].get("tolerations") or [])
        if taint["effect"] in ("NoSchedule", "NoExecute") and not tolerated:
            return f"node(s) had untolerated taint {{{taint['key']}: {taint.get('value', '')}}}"
    return None


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator", "Equal") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    return bool(toleration.get("key") == taint["key"] and toleration.get("value", "") == taint.get("value", ""))


def _affinity(pod: Object, node: Object) -> str | None:
    labels = node["metadata"].get("labels") or {}
    if any(labels.get(key) != value for key, value in (pod["spec"].get("nodeSelector") or {}).items()):
        return _AFFINITY
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution")
    if required is None:
        return None
    terms = required["nodeSelectorTerms"]
    fits = any(all(_matches(each, labels) for each in term.get("matchExpressions") or []) for term in terms)
    return None if fits else _AFFINITY


def _matches(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt":
            return value is not None and int(value) > int(values[0])
        case _:  # Lt
            return value is not None and int(value) < int(values[0])
