"""Clusters that do not come up: one paragraph says why, at once where waiting is in vain, and nothing is left."""

from __future__ import annotations

import json
import re
import sys
import time

import pytest
import yaml

import headrace as hr
from headrace.environments.kubernetes.cluster import KubernetesCluster
from headrace.environments.kubernetes.manifests import cluster_manifest
from headrace.environments.kubernetes.spec import KubernetesSpec
from headrace.errors import KubernetesError, SetupError
from tests.waiting import until

#: Seconds within which a cluster is known not to come up.
SOON = 10.0


@pytest.fixture
def fails(kube, namespace, capsys):
    """Set up a cluster that does not come up: returns why, and checks that it was quick and nothing is left."""

    def attempt(*, within=SOON, **options):
        options = {"image": kube.image, "namespace": namespace, "n_workers": 2, "security": False, **options}
        began = time.monotonic()
        with pytest.raises(SetupError) as caught, hr.DaskEnvironment("kubernetes", **options) as env:
            env.setup()
        took = time.monotonic() - began
        assert took < within, f"{took:.1f} s: {caught.value}"
        until(lambda: not kube.left_over(namespace))
        assert "Traceback" not in str(caught.value)
        return caught.value

    return attempt


def test_an_image_that_cannot_be_pulled(fails, capsys):
    error = fails(image="does-not-exist:1.0")
    assert error.cause == "image"
    assert re.search(r"image 'does-not-exist:1.0' cannot be pulled \(.+\); .*image_pull_secrets=", str(error))
    told = capsys.readouterr().err
    assert re.search(r"waiting for the scheduler: pending \(image does-not-exist:1.0 cannot be pulled\)", told)


def test_a_quota_that_leaves_no_room(fails, kube, namespace):
    with kube.quota(namespace, pods=1):
        error = fails()
    assert error.cause == "quota"
    assert "exceeded quota" in str(error)
    assert "n_workers=" in str(error)


def test_no_node_is_told_in_the_words_of_the_scheduler_at_the_deadline(fails, capsys):
    error = fails(deadline=4, worker_groups={"default": {"resources": {"BIG": 1}, "gpus": 64}})
    assert error.cause == "no node"
    assert "was not up within 4 s" in str(error)
    assert "Insufficient nvidia.com/gpu" in str(error)
    assert "2 pending (no node: " in capsys.readouterr().err


def test_a_worker_that_crashes_shows_its_last_lines(fails):
    command = [sys.executable, "-c", "import sys; print('reading'); sys.exit('no such model: 7')"]
    error = fails(worker_spec={"containers": [{"args": command}]})
    assert error.cause == "crash"
    assert re.search(r"container worker of pod \S+ ends .*exit code 1(?s:.*)\n    no such model: 7", str(error))


def test_an_image_without_dask(fails):
    error = fails(scheduler_spec={"containers": [{"args": ["no-such-command"]}]})
    assert error.cause == "command"
    assert "headrace are installed" in str(error)


def test_a_secret_that_is_not_there(fails, namespace):
    error = fails(env={"TOKEN": {"secret": "vault", "key": "token"}})
    assert error.cause == "configuration"
    assert 'secret "vault" not found' in str(error)
    assert repr(namespace) in str(error)


def test_an_operator_that_does_not_run(fails, kube):
    kube.stop_operator()
    try:
        error = fails(within=SOON + 5)
    finally:
        kube.start_operator()
    assert error.cause == "operator not running"


def test_a_load_balancer_that_does_not_come(fails, kube):
    with kube.no_load_balancer():
        error = fails(reach="load-balancer", deadline=4)
    assert error.cause == "load balancer"
    assert "was not up within 4 s" in str(error)


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
        KubernetesCluster(KubernetesSpec.of(image="any", kubeconfig=str(bare.kubeconfig), security=False))


def test_a_user_who_may_look_at_nothing_else_still_gets_a_diagnosis(fails, kube, namespace):
    rules = [
        {"apiGroups": ["kubernetes.dask.org"], "resources": ["*"], "verbs": ["*"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "get"]},
    ]
    role = {"kind": "Role", "metadata": {"name": "few", "namespace": namespace}, "rules": rules}
    error = fails(kubeconfig=str(kube.user(namespace, role)), image="does-not-exist:1.0")
    assert error.cause == "image"


def test_another_cluster_of_the_manifest_s_name_is_left_alone(kube, namespace):
    manifest = cluster_manifest(KubernetesSpec.of(image=kube.image, namespace=namespace, security=False), "taken")
    kube.create("daskclusters", namespace, manifest)
    with pytest.raises(SetupError, match="give name='taken' in place of the manifest"):
        KubernetesCluster(KubernetesSpec.of(manifest=manifest, namespace=namespace), 1)
    assert kube.find("daskclusters", namespace, "taken")
