"""Manifests are what the golden files say, and what Dask's operator takes."""

from functools import cache
from importlib.resources import files

import pytest
import yaml

from headrace.environments.kubernetes.manifests import cluster_manifest, group_manifests, tls_secret_manifest
from headrace.environments.kubernetes.spec import IDLE_TIMEOUT, KubernetesSpec
from headrace.errors import SetupError
from tests.environments.kubernetes.cases import CERTIFICATES, GOLDEN, GROUPS, IMAGE, OWN, manifests, text

MANIFESTS = manifests()
CRDS = files("dask_kubernetes") / "operator/deployment/helm/dask-kubernetes-operator/crds"


def pods(documents):
    """Role or group → pod spec, of some manifests."""
    found = {}
    for each in documents:
        if each["kind"] == "DaskCluster":
            found["scheduler"] = each["spec"]["scheduler"]["spec"]
            found["default"] = each["spec"]["worker"]["spec"]
        else:
            found[each["metadata"]["name"]] = each["spec"]["worker"]["spec"]
    return found


def env_of(pod):
    return {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}


@pytest.mark.parametrize("name", MANIFESTS)
def test_manifests_are_those_of_the_golden_files(name):
    assert text(MANIFESTS[name]) == (GOLDEN / f"{name}.yaml").read_text(), (
        "if the new manifest is meant: python -m tests.environments.kubernetes.cases, and read the difference"
    )


def faults(schema, value, path=""):
    """What the operator's schema finds wrong, or would silently drop."""
    kind = schema.get("type")
    types = {"string": str, "integer": int, "number": (int, float), "boolean": bool, "object": dict, "array": list}
    wanted = (int, str) if schema.get("x-kubernetes-int-or-string") else types.get(kind, object)
    if not isinstance(value, wanted) or (isinstance(value, bool) and kind in ("integer", "number")):
        yield f"{path}: {value!r} is no {kind}"
    elif kind == "object":
        yield from (f"{path}.{name} is missing" for name in schema.get("required", ()) if name not in value)
        for name, each in value.items():
            if inner := schema.get("properties", {}).get(name) or schema.get("additionalProperties"):
                yield from faults(inner, each, f"{path}.{name}")
            elif "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}.{name} is unknown"
    elif kind == "array":
        for place, each in enumerate(value):
            yield from faults(schema["items"], each, f"{path}[{place}]")
    elif value not in schema.get("enum", [value]):
        yield f"{path}: {value!r} is none of {schema['enum']}"


@cache
def schema_of(kind):
    crd = yaml.load((CRDS / f"{kind.lower()}.yaml").read_text(), Loader=yaml.CSafeLoader)  # twenty times as quick
    return crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]


@pytest.mark.parametrize("name", sorted(set(MANIFESTS) - {"driver", "secret"}))
def test_the_operator_knows_each_field_of_them(name):
    for each in MANIFESTS[name]:
        assert list(faults(schema_of(each["kind"]), each["spec"])) == []


def test_the_schema_finds_faults():
    cluster = cluster_manifest(KubernetesSpec.of(image=IMAGE, scheduler_spec={"containerz": [], "hostNetwork": 3}), "c")
    del cluster["spec"]["scheduler"]["service"]
    found = list(faults(schema_of("DaskCluster"), cluster["spec"]))
    assert [each.partition(" ")[0] for each in found] == [
        ".scheduler.service", ".scheduler.spec.containerz", ".scheduler.spec.hostNetwork:",
    ]  # fmt: skip


def test_with_tls_nothing_is_open_that_controls():
    pod = pods(MANIFESTS["least"])["scheduler"]
    args, routes = pod["containers"][0]["args"], env_of(pod)["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"]
    assert args[args.index("--protocol") + 1] == "tls"
    assert env_of(pod)["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "True"
    assert "distributed.http.scheduler.api" not in routes
    assert "proxy" not in routes


def test_the_routes_of_each_kind_of_cluster_can_be_served():
    """By a scheduler of this version: it answers whether it is idle, and retires nobody with TLS."""
    from ast import literal_eval

    from distributed.http.utils import get_handlers

    for name, retires in (("least", False), ("groups", True), ("open", False)):
        modules = literal_eval(env_of(pods(MANIFESTS[name])["scheduler"])["DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES"])
        urls = {url for url, *_ in get_handlers(None, modules)}
        assert {"/api/v1/check_idle", "/health"} <= urls
        assert ("/api/v1/retire_workers" in urls) == retires, name


def test_workers_find_their_scheduler_whatever_the_operator_says():
    """It would add a ``tcp://`` address, unless there is one."""
    worker = pods(MANIFESTS["everything"])["default"]
    assert env_of(worker)["DASK_SCHEDULER_ADDRESS"] == "tls://etl-scheduler.analysis:8786"
    assert worker["containers"][0]["args"][2] == "$(DASK_SCHEDULER_ADDRESS)"


def test_groups_offer_what_they_have():
    spec = KubernetesSpec.of(**GROUPS)
    assert spec.groups == ["default", "gpu", "large"]
    assert [spec.offers(each) for each in spec.groups] == [{"IO": 2}, {"GPU": 1}, {}]
    assert [spec.threads(each) for each in spec.groups] == [2, 2, 16]
    assert [spec.size(each) for each in spec.groups] == [4, 2, 0]


def test_large_amounts_of_a_resource_are_exact():
    spec = KubernetesSpec.of(image=IMAGE, resources={"BYTES": 123456789012, "HALF": 0.5})
    args = pods([cluster_manifest(spec, "c")])["default"]["containers"][0]["args"]
    assert args[args.index("--resources") + 1] == "BYTES=123456789012 HALF=0.5"


def test_the_callers_number_of_workers_holds_over_the_specs():
    assert cluster_manifest(KubernetesSpec.of(**GROUPS), "c", n_workers=7)["spec"]["worker"]["replicas"] == 7
    assert cluster_manifest(KubernetesSpec.of(**OWN), "c", n_workers=7)["spec"]["worker"]["replicas"] == 7


def test_a_manifest_from_a_file_with_groups(tmp_path):
    group = {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskWorkerGroup",
        "metadata": {"name": "theirs"},
        "spec": {"cluster": "x", "worker": {"replicas": 3, "spec": {"containers": [{"name": "w", "image": "m"}]}}},
    }
    (tmp_path / "cluster.yaml").write_text(text([group, OWN["manifest"]]))
    spec = KubernetesSpec.of(manifest=tmp_path / "cluster.yaml")
    assert KubernetesSpec.of(**spec.to_json()) == spec
    assert spec.security is False
    assert {name: spec.size(name) for name in spec.groups} == {"default": 8, "theirs": 3}
    [built] = group_manifests(spec, "etl")
    assert built["spec"] == {**group["spec"], "cluster": "etl"}
    assert built["metadata"]["labels"]["headrace.io/cluster"] == "etl"
    assert cluster_manifest(spec, "etl")["spec"] == OWN["manifest"]["spec"]


def test_a_cluster_of_the_users_own_goes_when_it_is_idle_too():
    scheduler, worker = (OWN["manifest"]["spec"][each] for each in ("scheduler", "worker"))
    own = {**OWN["manifest"], "spec": {"scheduler": scheduler, "worker": worker}}
    assert cluster_manifest(KubernetesSpec.of(manifest=own), "etl")["spec"]["idleTimeout"] == IDLE_TIMEOUT


def test_names_that_kubernetes_would_not_take():
    spec = KubernetesSpec.of(image=IMAGE, worker_groups={"a-very-long-name-for-a-group": {}})
    with pytest.raises(SetupError, match="63"):
        group_manifests(spec, "c" * 53)


def test_the_key_of_a_certificate_is_in_its_secret_alone():
    spec = KubernetesSpec.of(image=IMAGE)
    shown = text([cluster_manifest(spec, "c", tls_secret="c-tls")])
    secret = tls_secret_manifest("c-tls", CERTIFICATES, labels={"a": "b"})
    assert secret["type"] == "kubernetes.io/tls"
    assert "the key" not in shown + text([secret])


def test_a_manifest_says_where_it_belongs_unless_the_user_does():
    group = {"kind": "DaskWorkerGroup", "metadata": {"name": "etl-gpu", "namespace": "team"}, "spec": {}}
    own = {**OWN["manifest"], "metadata": {"name": "etl", "namespace": "team"}}
    assert KubernetesSpec.of(manifest=[own, group]).namespace == "team"
    spec = KubernetesSpec.of(manifest=[own, group], namespace="other")
    made = [cluster_manifest(spec, "etl"), *group_manifests(spec, "etl")]
    assert [each["metadata"]["namespace"] for each in made] == ["other", "other"]
