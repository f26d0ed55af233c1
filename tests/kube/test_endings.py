"""Ends that were broken off, and beginnings: nothing stays, and nothing of others goes."""

from __future__ import annotations

import pytest

import headrace as hr
from headrace.environments.kubernetes import cluster as module
from headrace.environments.kubernetes.cluster import KubernetesCluster
from headrace.environments.kubernetes.manifests import cluster_manifest
from headrace.environments.kubernetes.spec import KubernetesSpec
from headrace.errors import KubernetesError, SetupError
from tests.waiting import until


def spec_of(kube, namespace, **options):
    return KubernetesSpec.of(image=kube.image, namespace=namespace, kubeconfig=str(kube.kubeconfig), **options)


@pytest.fixture
def manifest(kube, namespace):
    return cluster_manifest(spec_of(kube, namespace, security=False), "ours", n_workers=1)


def broken_off(*args, **options):
    raise KeyboardInterrupt


def test_ctrl_c_once_the_secret_is_made_leaves_none(kube, namespace, monkeypatch):
    monkeypatch.setattr("headrace.environments.kubernetes.secret.security_of", broken_off)
    with pytest.raises(KeyboardInterrupt):
        KubernetesCluster(spec_of(kube, namespace), None, 60)
    assert kube.objects("secrets", namespace, "headrace.io/cluster") == []


def test_a_secret_that_was_refused_is_not_looked_for(kube, namespace, caplog):
    with (
        kube.forbid("*", "secrets", namespace),
        pytest.raises(SetupError, match="does not let this user create Secret"),
    ):
        KubernetesCluster(spec_of(kube, namespace), None, 60)
    assert "could not be removed" not in caplog.text


def test_ctrl_c_while_a_cluster_is_removed_can_be_made_good(kube, namespace, monkeypatch):
    cluster = KubernetesCluster(spec_of(kube, namespace, security=False), 1, 200)
    with monkeypatch.context() as during:
        during.setattr(module, "remove", broken_off)
        with pytest.raises(KeyboardInterrupt):
            cluster.close()
    assert kube.find("daskclusters", namespace, cluster.name)
    cluster.close()
    cluster.close()
    until(lambda: not kube.left_over(namespace))


def test_a_cluster_of_the_same_name_stays_whatever_breaks(kube, namespace, manifest, monkeypatch):
    spec = KubernetesSpec.of(manifest=manifest, namespace=namespace, kubeconfig=str(kube.kubeconfig))
    kube.create("daskclusters", namespace, manifest)
    uid = kube.find("daskclusters", namespace, "ours")["metadata"]["uid"]
    # The API server restarts: whether the first attempt made it is not known.
    kube.break_requests({"method": "POST", "path": "daskclusters", "drop": True, "status": 500})
    with pytest.raises(SetupError, match=r"there is a DaskCluster 'ours' .*already"):
        KubernetesCluster(spec, 1, 60)
    monkeypatch.setattr("headrace.environments.kubernetes.api.Api.create", broken_off)
    with pytest.raises(KeyboardInterrupt):
        KubernetesCluster(spec, 1, 60)
    assert kube.find("daskclusters", namespace, "ours")["metadata"]["uid"] == uid


def test_one_that_was_made_by_an_attempt_without_an_answer_is_ours(kube, namespace, monkeypatch):
    create = module.Api.create

    def unanswered(self, manifest):
        made = create(self, manifest)
        if manifest["kind"] == "DaskCluster":
            raise KubernetesError("the API server cannot be reached")
        return made

    monkeypatch.setattr("headrace.environments.kubernetes.api.Api.create", unanswered)
    with pytest.raises(KubernetesError, match="cannot be reached"):
        KubernetesCluster(spec_of(kube, namespace), 1, 60)
    until(lambda: not kube.left_over(namespace))


def test_a_cluster_without_workers_is_not_waited_for(kube, namespace, manifest):
    manifest["spec"]["worker"]["replicas"] = 0
    kube.create("daskclusters", namespace, manifest)
    until(lambda: kube.objects("daskworkergroups", namespace))
    with pytest.raises(SetupError, match=r"'ours' .* has no workers; give n_workers="):
        KubernetesCluster(spec_of(kube, namespace, name="ours", security=False), None, 60)


def test_a_cluster_that_was_deleted_is_made_anew_at_once(kube, namespace):
    with hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace, security=False) as env:
        env.setup()
        lost = env._cluster
        kube.delete("daskclusters", namespace, lost.name)  # as the operator does, after an idle hour
        until(lambda: env.client.status == "connecting")
        env.setup()
        assert env._cluster.name != lost.name
        assert env.client.submit(sum, [1, 2]).result() == 3
        assert lost.status.name == "closed"
        assert lost.was_deleted()
        assert not env._cluster.was_deleted()
    until(lambda: not kube.left_over(namespace))
