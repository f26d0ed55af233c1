"""Rules of the control plane, without one."""

from __future__ import annotations

from decimal import Decimal

import pytest

from tests.kube.control.objects import Refused, fields_match, json_patched, labels_match, merged
from tests.kube.control.quantities import pod_needs, quantity, written
from tests.kube.control.schema import conform
from tests.kube.manifests import pod
from tests.kube.node.placement import why_not

NODE = {
    "metadata": {"labels": {"zone": "a"}},
    "spec": {"taints": [{"key": "gpu", "effect": "NoSchedule"}]},
    "status": {"allocatable": {"cpu": "2", "memory": "1Gi", "pods": "3"}},
}
TOLERANT = [{"key": "gpu", "operator": "Exists"}]


def asking(cpu: str, memory: str = "0", **spec: object) -> dict[str, object]:
    one = pod("one", "pass", resources={"requests": {"cpu": cpu, "memory": memory}})
    one["spec"] |= {"tolerations": TOLERANT, **spec}
    return one


def test_placement() -> None:
    assert why_not(asking("2"), NODE, []) is None
    reason = why_not(asking("1500m", "2Gi"), NODE, [asking("1")])
    assert reason is not None
    assert reason.startswith("0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory.")
    assert "1 No preemption victims found" in str(why_not(asking("1500m"), NODE, [asking("1")]))
    assert "1 Too many pods" in str(why_not(asking("0"), NODE, [asking("0")] * 3))
    assert "untolerated taint {gpu: }" in str(why_not(asking("1", tolerations=[]), NODE, []))
    expression = {"key": "zone", "operator": "In", "values": ["b"]}
    terms = {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}
    affinity = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}}
    assert "didn't match Pod's node affinity/selector" in str(why_not(asking("1", affinity=affinity), NODE, []))
    expression["values"] = ["a"]
    assert why_not(asking("1", affinity=affinity), NODE, []) is None


def test_quantities() -> None:
    assert [quantity(each) for each in ("500m", "1Ki", "2", "1e3", "1M")] == [Decimal("0.5"), 1024, 2, 1000, 10**6]
    assert [written(Decimal("0.25")), written(Decimal(3)), written(Decimal(2**30), "memory")] == ["250m", "3", "1Gi"]
    with pytest.raises(Refused, match="must match the regular expression"):
        quantity("much")
    init = pod("x", resources={"limits": {"cpu": "1"}})
    init["spec"]["initContainers"] = [{"resources": {"requests": {"cpu": "3"}}}]
    assert pod_needs(init) == {"cpu": 3}


def test_patches_and_selectors() -> None:
    assert merged({"a": {"b": 1, "c": 2}, "l": [1]}, {"a": {"b": None}, "l": [2]}) == {"a": {"c": 2}, "l": [2]}
    add = {"op": "add", "path": "/l/-", "value": 2}
    assert json_patched({"l": [1]}, [add, {"op": "remove", "path": "/l/0"}]) == {"l": [2]}
    with pytest.raises(Refused):
        json_patched({"a": 1}, [{"op": "test", "path": "/a", "value": 2}])
    labels = {"a": "1", "b": "2"}
    for selector, matches in {
        "a=1,b!=3": True,
        "a in (1, 2),!c": True,
        "a notin (1)": False,
        "c": False,
        "": True,
    }.items():
        assert labels_match(selector, labels) is matches
    assert fields_match("metadata.name=x,spec.nodeName!=y", {"metadata": {"name": "x"}})


def test_schemas() -> None:
    schema = {
        "properties": {"n": {"type": "integer", "default": 1}, "env": {"additionalProperties": {"type": "string"}}},
        "required": ["n"],
    }
    value = {"env": {"A": "b"}, "unknown": 1}
    conform(value, schema)
    assert value == {"env": {"A": "b"}, "n": 1}
    with pytest.raises(Refused, match=r'env.A: Invalid value: "integer": must be of type string'):
        conform({"env": {"A": 1}}, schema)
