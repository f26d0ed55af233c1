"""The life of a cluster: made, used, joined, scaled, and gone, whatever happened in between."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import headrace as hr
from headrace.environments.kubernetes.cluster import CREATOR, SEEN, KubernetesCluster
from headrace.environments.kubernetes.diagnosis import CAUSES
from headrace.environments.kubernetes.manifests import cluster_manifest, group_manifests
from headrace.environments.kubernetes.spec import KubernetesSpec
from headrace.errors import RunError, SetupError
from tests.environments import flows
from tests.saying import ours
from tests.waiting import until

#: A pod that does not end before a file is there.
STAYS = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("up", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.05)
"""


@pytest.fixture
def options(kube, namespace):
    return {"image": kube.image, "namespace": namespace, "security": False}


def clusters(kube, namespace):
    return [each["metadata"]["name"] for each in kube.objects("daskclusters", namespace)]


@pytest.mark.usefixtures("namespace")
def test_a_whole_life(kube, namespace, options, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("headrace.environments.kubernetes.cluster.BEAT", 600.0)
    storage = hr.Storage(tmp_path)
    location = storage.add_flow(flows.doubled)
    with hr.DaskEnvironment("kubernetes", n_workers=2, **options) as env:
        env.setup()
        env.setup()  # one cluster
        [name] = clusters(kube, namespace)
        cluster = kube.find("daskclusters", namespace, name)
        assert cluster["spec"]["idleTimeout"] == 3600
        assert re.fullmatch(r"\S+@\S+", cluster["metadata"]["annotations"][CREATOR])
        assert SEEN not in cluster["metadata"]["annotations"]  # it is young
        assert cluster["metadata"]["labels"]["headrace.io/cluster"] == name
        run = env.execute(storage, location)
        assert run.result() == sum(2 * x for x in range(10))
        facts = storage.runs()[0].environment
        assert (facts["name"], facts["namespace"], facts["context"]) == (name, namespace, kube.context)
        # Written down, it is another environment: with a cluster of its own, and no say over this one.
        again = hr.Environment.deserialize(json.loads(json.dumps(env.serialize())))
        again.close()
        assert clusters(kube, namespace) == [name]
        # The operator writes that now and then, of a cluster that runs.
        kube.request("PATCH", kube.path("daskclusters", namespace, name), {"status": {"phase": "Pending"}})
        joined = hr.DaskEnvironment("kubernetes", name=name, namespace=namespace, security=False)
        # Written down, this one joins, too.
        with joined, hr.Environment.deserialize(json.loads(json.dumps(joined.serialize()))) as other:
            joined.setup()
            assert kube.find("daskclusters", namespace, name)["metadata"]["annotations"][SEEN]
            other.setup()
            assert joined.execute(storage, location).result() == run.result()
        assert clusters(kube, namespace) == [name]
    assert clusters(kube, namespace) == []
    until(lambda: not kube.left_over(namespace))
    told = capsys.readouterr().err
    assert f"cluster {name}: waiting for" in told


def test_groups_are_scaled_each_for_itself(kube, namespace, options):
    groups = {"big": {"n_workers": 1, "resources": {"BIG": 1}, "nthreads": 2}}
    with hr.DaskEnvironment("kubernetes", n_workers=1, worker_groups=groups, **options) as env:
        env.setup()
        cluster = env._cluster

        def workers():
            found = [worker["name"] for worker in env.client.scheduler_info(n_workers=-1)["workers"].values()]
            return sorted(cluster.group_of(name) for name in found)

        assert {name: tuple(group) for name, group in cluster.groups.items()} == {
            "default": ({}, 1, 1, 1),
            "big": ({"BIG": 1.0}, 2, 1, 1),
        }
        until(lambda: workers() == ["big", "default"])
        cluster.scale(2, "big")
        until(lambda: workers() == ["big", "big", "default"])
        kept = [each["name"] for each in env.client.scheduler_info(n_workers=-1)["workers"].values()]
        kept = [name for name in kept if cluster.group_of(name) == "big"]
        cluster.let_go(kept[:1], "big")
        until(lambda: workers() == ["big", "default"])
        assert kept[1] in names_of(env.client)
        # Of the two that are left, the operator would choose the one that holds less, of whichever group.
        held = env.client.submit(bytes, 1_000_000, workers=[kept[1]])
        until(held.done)
        cluster.scale(0, "big")
        until(lambda: workers() == ["default"])
        assert cluster.group_of("somebody-else") is None


class Deployments:
    """An API server that has workers: one is new, and one, though older, does not work yet."""

    def __init__(self):
        self.done = []

    def list(self, kind, selector):
        assert (kind, selector) == ("Deployment", "dask.org/workergroup-name=one-big")
        began = {"new": ("03", 1), "old": ("01", 1), "stuck": ("02", 0)}
        return [
            {
                "metadata": {"name": name, "creationTimestamp": f"2026-11-25T09:00:{second}Z"},
                "status": {"readyReplicas": ready},
            }
            for name, (second, ready) in began.items()
        ]

    def delete(self, kind, name):
        self.done.append(name)
        return True

    def patch(self, kind, name, patch):
        self.done.append((name, patch["spec"]["worker"]["replicas"]))
        return {}


@pytest.mark.parametrize("number", [0, 1, 2, 3])
def test_of_too_many_workers_those_stay_that_have_worked_for_longest(number):
    cluster = object.__new__(KubernetesCluster)
    cluster.name, cluster.api, cluster.spec = "one", Deployments(), KubernetesSpec()
    cluster.scale(number, "big")
    assert cluster.api.done == [*["old", "new", "stuck"][number:], ("one-big", number)]


def names_of(client):
    return [each["name"] for each in client.scheduler_info(n_workers=-1)["workers"].values()]


def test_a_worker_that_is_killed_is_explained_also_in_a_cluster_of_the_users_own(kube, namespace, options, tmp_path):
    storage = hr.Storage(tmp_path / "flows")
    options["env"] = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    spec = KubernetesSpec.of(worker_groups={"spare": {"n_workers": 0}}, **options)
    own = [cluster_manifest(spec, "own"), *group_manifests(spec, "own")]
    own[1]["metadata"]["name"] = "spare"
    (tmp_path / "own.yaml").write_text("\n---\n".join(map(json.dumps, own)))
    with hr.DaskEnvironment("kubernetes", manifest=str(tmp_path / "own.yaml")) as env:
        env.setup()
        assert clusters(kube, namespace) == ["own"]
        [worker] = [pod for pod in kube.objects("pods", namespace) if "worker" in pod["metadata"]["name"]]
        name, address = worker["metadata"]["name"], f"tcp://{worker['status']['podIP']}:40000"
        kube.oom_kill(namespace, name)
        told = f"its pod was {name}: OOMKilled, exit code 137; its last lines were:"
        until(lambda: told in (text := env._cluster.explain(address)) and "distributed" in text)
        assert env._cluster.explain("tcp://10.9.8.7:1") == ""
        run = env.execute(storage, storage.add_flow(flows.killing))
        with pytest.raises(RunError, match=r"(?s)The last one was tcp://\S+; its pod was own-default-worker-"):
            run.result()
        env.scale(1, "spare")
        until(lambda: any(name.startswith("spare-worker-") for name in names_of(env.client)))


SCRIPT = """
import sys
import headrace as hr
from tests.environments import flows

if __name__ == "__main__":
    env = hr.DaskEnvironment("kubernetes", **{options!r})
    {body}
"""


@pytest.fixture
def script(kube, options, tmp_path):
    def start(body):
        text = textwrap.dedent(SCRIPT).format(options={**options, "n_workers": 1}, body=body)
        (tmp_path / "script.py").write_text(text)
        path = f"{Path(hr.__file__).parents[1]}{os.pathsep}{Path(__file__).parents[2]}"
        environment = {**os.environ, "PYTHONPATH": path, "KUBECONFIG": str(kube.kubeconfig)}
        command = [sys.executable, str(tmp_path / "script.py")]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen(command, env=environment, text=True, **pipes)

    return start


def test_a_script_that_ends_without_closing_leaves_nothing(kube, namespace, script):
    process = script("env.setup(); print(env.client.submit(sum, [1, 2]).result())")
    out, err = process.communicate(timeout=200)
    assert (process.returncode, out) == (0, "3\n"), err
    assert "Traceback" not in ours(err)
    assert clusters(kube, namespace) == []
    until(lambda: not kube.left_over(namespace))


def test_a_cluster_whose_driver_was_killed_goes_when_it_has_been_idle(kube, namespace, options, script):
    del options["security"]  # with TLS, the operator has one question only that it may ask
    options["idle_timeout"] = 3
    process = script("env.setup(); print('up', flush=True); env.client.submit(sum, [1, 2]).result(); input()")
    assert process.stdout.readline() == "up\n"
    process.kill()
    process.communicate()
    until(lambda: not clusters(kube, namespace))


def test_ctrl_c_while_it_comes_up_leaves_nothing(kube, namespace, script):
    process = script("env.setup()")
    until(lambda: clusters(kube, namespace))
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=200)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in err
    assert clusters(kube, namespace) == []
    until(lambda: not kube.left_over(namespace))


def test_what_is_joined_must_be_there(kube, namespace):
    with pytest.raises(SetupError, match=r"no DaskCluster 'ours' to be joined in namespace .*there are none"):
        KubernetesCluster(KubernetesSpec.of(name="ours", namespace=namespace, security=False), None, 60)


def test_a_cluster_goes_although_the_operator_does_not_let_it_go(kube, namespace, options, monkeypatch):
    monkeypatch.setattr("headrace.environments.kubernetes.ending.LET_GO", 1.0)
    with hr.DaskEnvironment("kubernetes", n_workers=1, **options) as env:
        env.setup()
        kube.stop_operator()
    try:
        assert clusters(kube, namespace) == []
        until(lambda: not kube.left_over(namespace))
    finally:
        kube.start_operator()


def test_workers_that_do_not_come_are_told_and_hold_up_nothing(kube, namespace, options, caplog, monkeypatch):
    monkeypatch.setitem(CAUSES, "quota", (3.0, CAUSES["quota"][1]))
    with kube.quota(namespace, pods=2), hr.DaskEnvironment("kubernetes", n_workers=2, **options) as env:
        env.setup()
        assert len(env.client.nthreads()) == 1
        until(lambda: "1 of 2 workers" in caplog.text)
    assert "exceeded quota" in caplog.text


def test_pods_that_are_on_their_way_out_make_room(kube, namespace, options, tmp_path):
    stays = {"name": "main", "image": kube.image, "args": [sys.executable, "-c", STAYS, str(tmp_path / "go")]}
    spec = {"terminationGracePeriodSeconds": 60, "restartPolicy": "Never", "containers": [stays]}
    kube.create("pods", namespace, {"metadata": {"name": "former"}, "spec": spec})
    until(lambda: kube.find("pods", namespace, "former")["status"]["phase"] == "Running")
    until(lambda: "up" in kube.logs(namespace, "former"))
    with (
        kube.quota(namespace, pods=2),
        hr.DaskEnvironment("kubernetes", n_workers=1, **options) as env,
        ThreadPoolExecutor(1) as pool,
    ):
        kube.delete_pod(namespace, "former")
        begun = pool.submit(env.setup)
        until(lambda: [told for why, told in kube.events(namespace) if why == "FailedCreate" and "quota" in told])
        (tmp_path / "go").touch()
        begun.result()
