"""``headrace clusters``: what runs is listed, what was left over is removed, and nothing else."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

import headrace as hr
from headrace.environments.kubernetes.api import Api
from headrace.environments.kubernetes.cluster import SEEN, _this_pod
from headrace.environments.kubernetes.spec import KubernetesSpec
from tests.cli_kit import call, refused
from tests.environments import flows
from tests.waiting import until


@pytest.fixture
def env(kube, namespace):
    with hr.DaskEnvironment("kubernetes", n_workers=1, image=kube.image, namespace=namespace, security=False) as env:
        yield env


class Late(datetime):
    """A clock that is ten minutes behind."""

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) - timedelta(minutes=10)


def test_what_is_left_over_is_removed_and_what_is_used_stays(kube, namespace, env, tmp_path, monkeypatch):
    for wait in ("BEAT", "REST"):
        monkeypatch.setattr(f"headrace.environments.kubernetes.cluster.{wait}", 0.2)
    storage = hr.Storage(tmp_path)
    with monkeypatch.context() as laptop:
        laptop.setattr("headrace.environments.kubernetes.api.datetime", Late)
        assert env.execute(storage, storage.add_flow(flows.doubled), {"n": 3}).result() == 6
    name = env._cluster.name
    assert SEEN in kube.find("daskclusters", namespace, name)["metadata"]["annotations"]

    def seen():
        return kube.find("daskclusters", namespace, name)["metadata"]["annotations"][SEEN]

    before = seen()
    until(lambda: seen() != before)  # whoever uses it says so again and again; by another clock since just now
    left = {"metadata": {"name": "left", "labels": {"headrace.io/cluster": "left"}}}
    left["metadata"]["annotations"] = {SEEN: (datetime.now(UTC) - timedelta(hours=1)).isoformat()}
    template = kube.find("daskclusters", namespace, name)["spec"]
    kube.create("daskclusters", namespace, {**left, "spec": {**template, "idleTimeout": 0}})
    foreign = {"metadata": {"name": "foreign"}, "spec": {**template, "idleTimeout": 0}}
    kube.create("daskclusters", namespace, foreign)

    said = call("clusters", "--namespace", namespace)
    assert said.code == 0
    [head, ours, theirs] = sorted(said.out.splitlines(), key=lambda line: "left" in line or name in line)
    assert {line.split()[0] for line in (ours, theirs)} == {name, "left"}, head
    assert "in use" in next(line for line in (ours, theirs) if name in line)
    assert re.search(r"left.* does not any more \(last seen 6\d min ago\)", said.out)
    assert "1 cluster left over; --reap removes" in said.err

    refused(call("clusters", "--namespace", namespace, "--reap"), "nothing was removed", "--yes")
    assert kube.find("daskclusters", namespace, "left")
    gone = {"type": "DaskEnvironment", "cluster": "kubernetes", "namespace": "old", "context": "gone"}
    storage.create_run("old", {"flow": "doubled", "environment": gone})
    said = call("clusters", str(tmp_path), "--reap", "--yes")  # the storage knows where its runs had their clusters
    assert "removed 1 cluster" in said.err, said
    assert (said.code, "has no context 'gone'" in said.err) == (2, True)  # which hides no others
    assert {each["metadata"]["name"] for each in kube.objects("daskclusters", namespace)} == {name, "foreign"}
    assert "nothing was left over" in call("clusters", kube.context, "--namespace", namespace, "--reap").err


def test_where_there_is_nothing(kube, namespace, tmp_path):
    assert (
        f"no clusters that headrace made in namespace '{namespace}' at"
        in call("clusters", "--namespace", namespace).err
    )
    refused(call("clusters", "moon"), "has no context 'moon'")
    storage = hr.Storage(tmp_path)
    storage.get_runner(storage.add_flow(flows.doubled)).run({"n": 1})
    assert "none of the last runs in" in call("clusters", str(tmp_path)).err


def test_the_usual_kubeconfig_is_used_whatever_else_is_open(kube, namespace):
    role = {"kind": "Role", "metadata": {"name": "none", "namespace": namespace}, "rules": []}
    other = Api(KubernetesSpec(kubeconfig=str(kube.user(namespace, role))))
    assert (Api(KubernetesSpec()).context, other.context) == (kube.context, "restricted")


def test_all_namespaces_are_more_than_a_role_allows(kube, namespace, monkeypatch):
    rules = [
        {"apiGroups": ["kubernetes.dask.org"], "resources": ["daskclusters"], "verbs": ["list"]},
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]},
    ]
    role = {"kind": "Role", "metadata": {"name": "looks", "namespace": namespace}, "rules": rules}
    monkeypatch.setenv("KUBECONFIG", str(kube.user(namespace, role)))
    assert "no clusters that headrace made" in call("clusters").err
    refused(call("clusters", "-A"), "list DaskCluster in all namespaces", "added to the ClusterRole that the user")


def test_a_cluster_of_a_driver_in_a_pod_goes_with_it(kube, namespace, env, monkeypatch, tmp_path):
    env.setup()
    [worker] = [pod for pod in kube.objects("pods", namespace) if "worker" in pod["metadata"]["name"]]
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("HOSTNAME", worker["metadata"]["name"])
    owner = _this_pod(env._cluster.api)
    assert owner == {
        "apiVersion": "v1", "kind": "Pod", "name": worker["metadata"]["name"], "uid": worker["metadata"]["uid"],
    }  # fmt: skip
    monkeypatch.setattr("headrace.environments.kubernetes.cluster.IN_POD", tmp_path)
    (tmp_path / "namespace").write_text("another")  # where there is a pod of the same name
    assert _this_pod(env._cluster.api) is None
    spec = {**kube.find("daskclusters", namespace, env._cluster.name)["spec"], "idleTimeout": 0}
    owned = {"metadata": {"name": "owned", "ownerReferences": [owner]}, "spec": spec}
    kube.create("daskclusters", namespace, owned)
    kube.delete_pod(namespace, worker["metadata"]["name"])
    until(lambda: kube.find("daskclusters", namespace, "owned") is None)


def test_certificates_of_a_cluster_that_never_came_up_are_left_over(kube, namespace, monkeypatch):
    monkeypatch.setattr("headrace.environments.kubernetes.orphans.SILENCE", timedelta(seconds=-5))
    for name, label in (("headrace-1", "headrace-1"), ("own", "headrace-1")):
        kube.create("secrets", namespace, {"metadata": {"name": name, "labels": {"headrace.io/cluster": label}}})
    said = call("clusters", "--namespace", namespace)
    assert "1 Secret of clusters that never came up left over; --reap removes" in said.err
    with kube.forbid("list", "secrets", namespace):  # the role in the documentation may not
        assert "left over" not in call("clusters", "--namespace", namespace).err
    assert "removed 1 Secret" in call("clusters", "--namespace", namespace, "--reap", "--yes").err
    assert [each["metadata"]["name"] for each in kube.objects("secrets", namespace, "headrace.io/cluster")] == ["own"]
