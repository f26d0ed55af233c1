"""Clusters that do not come up: one paragraph says why, at once where waiting is in vain, and nothing is left."""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial

import pytest
import yaml

import headrace as hr
from headrace.environments.kubernetes.cluster import KubernetesCluster
from headrace.environments.kubernetes.manifests import cluster_manifest
from headrace.environments.kubernetes.spec import KubernetesSpec
from headrace.errors import KubernetesError, SetupError
from tests.waiting import until

pytestmark = pytest.mark.usefixtures("impatient")


def why_not(kube, place, **options):
    """Set up a cluster that does not come up, and return why; nothing is left."""
    options = {"image": kube.image, "namespace": place, "n_workers": 2, "security": False, **options}
    environment = hr.DaskEnvironment(
        "kubernetes", kubeconfig=options.pop("kubeconfig", str(kube.kubeconfig)), **options
    )
    with pytest.raises(SetupError) as caught:
        environment.setup()
    until(lambda: not kube.left_over(place))
    environment.close()
    return caught.value


@pytest.fixture
def fails(kube, namespace):
    return partial(why_not, kube, namespace)


def crashing(code):
    return {"containers": [{"args": [sys.executable, "-c", code]}]}


#: cause → options of a cluster, and what is told of it. They fail at the same time, of which they spend most waiting.
CAUSES = {
    "image": (
        {"image": "does-not-exist:1.0"},
        r"image 'does-not-exist:1.0' cannot be pulled \(.+\); .*image_pull_secrets=",
    ),
    "quota": ({}, r"the quota of namespace '\S+' leaves no room for its pods \(exceeded quota.+\); .*n_workers="),
    "crash": (
        {"worker_spec": crashing("import sys; print('reading'); sys.exit('no such model: 7')")},
        r"container worker of pod \S+ ends .*exit code 1(?s:.*)\n    no such model: 7",
    ),
    "command": ({"scheduler_spec": {"containers": [{"args": ["no-such-command"]}]}}, "headrace are installed"),
    "configuration": (
        {"env": {"TOKEN": {"secret": "vault", "key": "token"}}},
        r'cannot be made: secret "vault" not found; make what is missing in namespace',
    ),
    "no node": ({"cpu": 1000}, "there is no node .*Insufficient cpu"),
    "load balancer": ({"reach": "load-balancer"}, r"the load balancer of service \S+ has no address yet"),
}


@pytest.fixture(scope="module")
def outcomes(kube, impatient):
    """By cause: why, long before the deadline."""

    def attempt(cause):
        with kube.namespace() as namespace, kube.quota(namespace, pods=1) if cause == "quota" else nullcontext():
            return why_not(kube, namespace, **CAUSES[cause][0])

    with kube.no_load_balancer(), ThreadPoolExecutor(len(CAUSES)) as pool:
        return dict(zip(CAUSES, pool.map(attempt, CAUSES), strict=True))


@pytest.mark.parametrize("cause", CAUSES)
def test_a_cluster_that_does_not_come_up_says_why(outcomes, cause):
    error = outcomes[cause]
    assert getattr(error, "cause", None) == cause, error
    assert re.search(f"does not come up: .*{CAUSES[cause][1]}", str(error))


def test_what_is_waited_for_is_told(fails, capsys):
    fails(image="does-not-exist:1.0")
    told = capsys.readouterr().err
    assert re.search(r"waiting for the scheduler: pending \(image does-not-exist:1.0 cannot be pulled\)", told)


def test_an_operator_that_does_not_run_is_told_and_waited_for(fails, kube, namespace, capsys, monkeypatch):
    monkeypatch.setattr("headrace.environments.kubernetes.progress.LATE", 1.0)
    spec = KubernetesSpec.of(image=kube.image, namespace=namespace, security=False)
    kube.stop_operator()
    try:
        error = fails(deadline=5)
        assert error.cause == "operator not running"
        assert "was not up within 5 s (deadline=): nobody has taken it up" in str(error)
        assert "operator to take it up; look whether it runs: kubectl get pods" in capsys.readouterr().err
        with ThreadPoolExecutor(1) as pool:
            made = pool.submit(KubernetesCluster, spec, 1, 200)
            until(lambda: kube.objects("daskclusters", namespace))
            kube.start_operator()
            made.result().close()
    finally:
        kube.start_operator()


def test_no_permission_names_the_rule_that_is_missing(fails, kube, namespace):
    with kube.forbid("create", "daskclusters", namespace):
        error = fails()
    assert 'apiGroups: ["kubernetes.dask.org"], resources: ["daskclusters"], verbs: ["create"]' in str(error)
    assert "cannot create" in str(error)


def test_a_namespace_that_is_not_there(fails):
    assert "kubectl create namespace nowhere" in str(fails(namespace="nowhere"))


def test_no_kubeconfig(fails, tmp_path):
    assert "no kubeconfig at" in str(fails(kubeconfig=str(tmp_path / "none")))


def test_a_context_that_is_not_there(fails):
    assert "no context 'moon'" in str(fails(context="moon"))


def test_an_api_server_that_does_not_answer(fails, kube, tmp_path):
    config = yaml.safe_load(kube.kubeconfig.read_text())
    for each in config["clusters"]:
        each["cluster"]["server"] = "https://127.0.0.1:9"
    (tmp_path / "config").write_text(json.dumps(config))
    error = fails(kubeconfig=str(tmp_path / "config"))
    assert isinstance(error, KubernetesError)
    assert "cannot be reached" in str(error)


def test_a_cluster_without_the_operator_says_how_to_install_it(kube, monkeypatch):
    with kube.missing_crds() as bare, pytest.raises(KubernetesError, match=r"helm install .*dask-kubernetes-operator"):
        KubernetesCluster(KubernetesSpec.of(image="any", kubeconfig=str(bare.kubeconfig), security=False), None, 60)


def test_a_user_who_may_look_at_nothing_else_still_gets_a_diagnosis(fails, kube, namespace):
    rules = [
        {"apiGroups": ["kubernetes.dask.org"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]},
    ]
    role = {"kind": "Role", "metadata": {"name": "few", "namespace": namespace}, "rules": rules}
    error = fails(kubeconfig=str(kube.user(namespace, role)), image="does-not-exist:1.0")
    assert error.cause == "image"


def test_a_service_account_without_rights_hears_which_it_lacks(fails, kube, namespace):
    role = {"kind": "Role", "metadata": {"name": "none", "namespace": namespace}, "rules": []}
    said = str(fails(kubeconfig=str(kube.user(namespace, role))))
    assert 'resources: ["daskclusters"], verbs: ["create"]' in said
    assert "driver={'service_account': ...}" in said


def test_another_cluster_of_the_manifest_s_name_is_left_alone(kube, namespace):
    options = {"image": kube.image, "namespace": namespace, "security": False}
    manifest = cluster_manifest(KubernetesSpec.of(**options), "taken")
    kube.create("daskclusters", namespace, manifest)
    with pytest.raises(SetupError, match="give name='taken' in place of the manifest"):
        KubernetesCluster(KubernetesSpec.of(manifest=manifest, namespace=namespace), 1, 60)
    assert kube.find("daskclusters", namespace, "taken")
