"""The bench shows what a Kubernetes shows: pods, their environment, logs, Jobs, and a whole Dask cluster."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from base64 import b64encode
from pathlib import Path
from urllib.error import HTTPError

import pytest
from distributed import Client

from tests.kube.bench import CHECKOUT, Bench, ProcessBench
from tests.kube.manifests import dask_cluster, pod
from tests.kube.node.processes import processes_with
from tests.waiting import until

pytestmark = pytest.mark.skipif("HEADRACE_KUBECONFIG" in os.environ, reason="these are tests of the bench itself")
ROLE = {
    "kind": "Role",
    "metadata": {"name": "reader"},
    "rules": [{"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods"]}],
}


def phase(kube: Bench, namespace: str, name: str) -> str:
    return str((kube.find("pods", namespace, name) or {"status": {}})["status"].get("phase"))


def waiting(kube: Bench, namespace: str, name: str, group: str = "containerStatuses") -> tuple[str, str]:
    """Reason and message of why a pod's first container does not run."""
    status = (kube.find("pods", namespace, name) or {"status": {}})["status"]
    state = (status.get(group) or [{"state": {}}])[0]["state"].get("waiting", {})
    return state.get("reason", ""), state.get("message", "")


def refusal(error: HTTPError) -> str:
    return str(json.loads(error.read())["message"])


def test_a_dask_cluster_lives_and_goes(kube: Bench, namespace: str) -> None:
    kube.create("daskclusters", namespace, dask_cluster("one", workers=2))
    until(lambda: kube.find("services", namespace, "one-scheduler"))
    address = kube.find("services", namespace, "one-scheduler")["spec"]["clusterIP"]  # type: ignore[index]
    until(lambda: any(name == "Started" for name, _ in kube.events(namespace)))
    with Client(f"tcp://{address}:8786", timeout=200) as client:
        client.wait_for_workers(2, timeout=200)
        found = client.run(lambda: __import__("headrace").__file__)
        assert set(found.values()) == {str(CHECKOUT / "src/headrace/__init__.py")}
    assert any("process" in each for each in kube.left_over(namespace))
    kube.delete("daskclusters", namespace, "one")
    until(lambda: not kube.left_over(namespace))


def test_a_pod_has_its_environment_its_files_and_its_account(kube: Bench, namespace: str) -> None:
    kube.create("secrets", namespace, {"metadata": {"name": "key"}, "data": {"id": b64encode(b"sesame").decode()}})
    kube.bind(namespace, ROLE)
    code = """
        import os, kr8s, pathlib, socket
        assert socket.gethostbyname("kubernetes.default.svc") == os.environ["KUBERNETES_SERVICE_HOST"]
        assert not os.path.exists("/nowhere") and os.listdir("/secrets") == ["id"]
        assert pathlib.Path("/secrets/id").read_text() == open("/secrets/id").read() == os.environ["KEY"] == "sesame"
        open("/data/new", "w").write(os.environ["NAME"])
        os.rename("/data/new", "/data/old")
        api = kr8s.api(namespace=open("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read())
        [pod] = api.get("pods")
        print(pod.name, open("/data/old").read(), os.environ["BOTH"])
        try:
            list(api.get("secrets"))
        except kr8s.ServerError as error:
            print(error)
    """
    secret = {"secretKeyRef": {"name": "key", "key": "id"}}
    env = [
        {"name": "KEY", "valueFrom": secret},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
    ]
    env.append({"name": "BOTH", "value": "$(NAME)+$(KEY)"})
    mounts = [{"name": "key", "mountPath": "/secrets"}, {"name": "data", "mountPath": "/data"}]
    one = pod("one", textwrap.dedent(code), env=env, volumeMounts=mounts)
    one["spec"]["volumes"] = [{"name": "key", "secret": {"secretName": "key"}}, {"name": "data", "emptyDir": {}}]
    kube.create("pods", namespace, one)
    until(lambda: phase(kube, namespace, "one") in ("Succeeded", "Failed"))
    first, second = kube.logs(namespace, "one").splitlines()
    assert first == "one one one+sesame"
    account = f"system:serviceaccount:{namespace}:default"
    rest = f'cannot list resource "secrets" in API group "" in the namespace "{namespace}"'
    assert second == f'secrets is forbidden: User "{account}" {rest}'


def test_what_keeps_a_container_from_starting_is_told(kube: Bench, namespace: str) -> None:
    kube.create("pods", namespace, pod("pull", image="does-not-exist:1"))
    kube.create("pods", namespace, pod("private", image=f"private-{kube.image}"))
    missing = [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "none", "key": "a"}}}]
    kube.create("pods", namespace, pod("config", "pass", env=missing))
    crash = pod("init", "print('never')", policy="Always")
    crash["spec"]["initContainers"] = [{"name": "first", "image": "crash:no way"}]
    kube.create("pods", namespace, crash)
    until(lambda: waiting(kube, namespace, "pull")[0] == "ImagePullBackOff")
    assert "does-not-exist:1: not found" in waiting(kube, namespace, "pull")[1]
    assert ("BackOff", 'Back-off pulling image "does-not-exist:1"') in kube.events(namespace, "pull")
    until(lambda: "pull access denied" in waiting(kube, namespace, "private")[1])
    kube.create("secrets", namespace, {"metadata": {"name": "registry"}, "data": {"x": ""}})
    allowed = pod("allowed", "pass", image=f"private-{kube.image}")
    allowed["spec"]["imagePullSecrets"] = [{"name": "registry"}]
    kube.create("pods", namespace, allowed)
    until(lambda: phase(kube, namespace, "allowed") == "Succeeded")
    until(lambda: waiting(kube, namespace, "config") == ("CreateContainerConfigError", 'secret "none" not found'))
    until(lambda: waiting(kube, namespace, "init", "initContainerStatuses")[0] == "CrashLoopBackOff")
    assert waiting(kube, namespace, "init")[0] == "PodInitializing"
    with pytest.raises(HTTPError) as error:
        kube.logs(namespace, "pull")
    assert (
        refusal(error.value) == 'container "main" in pod "pull" is waiting to start: trying and failing to pull image'
    )
    kube.create("secrets", namespace, {"metadata": {"name": "none"}, "data": {"a": ""}})
    until(lambda: phase(kube, namespace, "config") == "Succeeded")


def test_a_crash_loop_keeps_the_last_words(kube: Bench, namespace: str) -> None:
    kube.create("pods", namespace, pod("loop", image="crash:out of luck", policy="Always"))
    until(lambda: waiting(kube, namespace, "loop")[0] == "CrashLoopBackOff")
    assert kube.logs(namespace, "loop", "tailLines=1") == "Error: out of luck\n"
    assert kube.logs(namespace, "loop", "previous=true").endswith("Error: out of luck\n")
    until(lambda: "BackOff" in [reason for reason, _ in kube.events(namespace, "loop")])


def test_pods_that_do_not_fit_are_told_why(kube: Bench, namespace: str) -> None:
    gpu = {"limits": {"nvidia.com/gpu": "1"}}
    kube.create("pods", namespace, pod("gpu", "pass", resources=gpu))
    kube.create("pods", namespace, pod("memory", "pass", resources={"requests": {"memory": "4Ti"}}))
    elsewhere = pod("elsewhere", "pass")
    elsewhere["spec"]["nodeSelector"] = {"zone": "b"}
    kube.create("pods", namespace, elsewhere)
    for name, why in (
        ("gpu", "1 Insufficient nvidia.com/gpu."),
        ("memory", "1 Insufficient memory."),
        ("elsewhere", "1 node(s) didn't match Pod's node affinity/selector."),
    ):
        until(lambda name=name: kube.events(namespace, name))
        [(reason, message)] = kube.events(namespace, name)
        assert reason == "FailedScheduling"
        assert message.startswith(f"0/1 nodes are available: {why}")
        conditions = kube.find("pods", namespace, name)["status"]["conditions"]  # type: ignore[index]
        assert conditions[0]["reason"] == "Unschedulable"
        assert conditions[0]["message"] == message
    with kube.node_with(**{"nvidia.com/gpu": 1}):
        until(lambda: phase(kube, namespace, "gpu") == "Succeeded")
    with kube.node_with([{"key": "for", "value": "others", "effect": "NoSchedule"}]):
        kube.create("pods", namespace, pod("tainted", "pass"))
        until(lambda: kube.events(namespace, "tainted"))
        assert "1 node(s) had untolerated taint {for: others}" in kube.events(namespace, "tainted")[0][1]
    until(lambda: phase(kube, namespace, "tainted") == "Succeeded")


def test_jobs_end_well_or_give_up_and_go(kube: Bench, namespace: str) -> None:
    template = pod(
        "x", "import os; print('here'); os._exit(int(os.environ['CODE']))", env=[{"name": "CODE", "value": "0"}]
    )
    good = {"metadata": {"name": "good"}, "spec": {"template": template}}
    template = pod("y", image="crash:no luck")
    bad = {"metadata": {"name": "bad"}, "spec": {"template": template, "backoffLimit": 1}}
    kube.create("jobs", namespace, good)
    kube.create("jobs", namespace, bad)
    template = pod("z", "import time; time.sleep(600)")
    kube.create("jobs", namespace, {"metadata": {"name": "gone"}, "spec": {"template": template, "backoffLimit": 0}})
    until(lambda: kube.objects("pods", namespace, "job-name=gone"))
    kube.delete_pod(namespace, kube.objects("pods", namespace, "job-name=gone")[0]["metadata"]["name"])

    def conditions(name: str) -> list[tuple[str, str]]:
        job = kube.find("jobs", namespace, name) or {"status": {}}
        return [(each["type"], each["reason"]) for each in job["status"].get("conditions") or []]

    until(lambda: ("Complete", "CompletionsReached") in conditions("good"))
    kube.request("PATCH", kube.path("jobs", namespace, "good"), {"spec": {"ttlSecondsAfterFinished": 1}})
    until(lambda: ("Failed", "BackoffLimitExceeded") in conditions("bad"))
    assert len(kube.objects("pods", namespace, "job-name=bad")) == 2
    until(lambda: ("Failed", "BackoffLimitExceeded") in conditions("gone"))  # it is not begun twice
    until(lambda: not kube.find("jobs", namespace, "good"))
    until(lambda: not kube.objects("pods", namespace, "job-name=good"))


def test_what_a_server_refuses(kube: Bench, namespace: str) -> None:
    bad = pod("one", "pass")
    bad["metadata"]["labels"]["by"] = "me@here"
    with pytest.raises(HTTPError) as error:
        kube.create("pods", namespace, bad)
    assert 'Pod "one" is invalid: metadata.labels: Invalid value: "me@here": a valid label' in refusal(error.value)
    cluster = dask_cluster("x", workers=1)
    del cluster["spec"]["worker"]["spec"]
    with pytest.raises(HTTPError) as error:
        kube.create("daskclusters", namespace, cluster)
    assert refusal(error.value) == "spec.worker.spec: Required value"
    with pytest.raises(HTTPError) as error:
        kube.create("pods", "no-such-place", pod("one", "pass"))
    assert refusal(error.value) == 'namespaces "no-such-place" not found'


def test_rights_of_a_role_and_no_more(kube: Bench, namespace: str) -> None:
    user = Bench(kube.user(namespace, ROLE), kube.image)
    assert user.objects("pods", namespace) == []
    with pytest.raises(HTTPError) as error:
        user.delete("pods", namespace, "one")
    name = f"system:serviceaccount:{namespace}:restricted"
    rest = f'cannot delete resource "pods" in API group "" in the namespace "{namespace}"'
    assert refusal(error.value) == f'pods "one" is forbidden: User "{name}" {rest}'
    for verb, allowed in (("list", True), ("create", False)):
        attributes = {"namespace": namespace, "verb": verb, "resource": "pods"}
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        body = review | {"spec": {"resourceAttributes": attributes}}
        answer = user.request("POST", "apis/authorization.k8s.io/v1/selfsubjectaccessreviews", body)
        assert answer["status"]["allowed"] is allowed


def test_two_benches_side_by_side_and_nothing_is_left_of_a_killed_one(kube: Bench, tmp_path: Path) -> None:
    """Whoever started the second bench is killed: all of it ends, also pods that have left their session."""
    script = """
        import sys, time
        from pathlib import Path
        from tests.kube.bench import ProcessBench
        from tests.kube.manifests import pod
        bench = ProcessBench(Path(sys.argv[1]), "--no-operator")
        bench.create("pods", "default", pod("stay", "import os, time; os.fork() or os.setsid(); time.sleep(600)"))
        print(bench.address, flush=True)
        time.sleep(600)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'src'}"}
    starter = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert starter.stdout is not None
    try:
        address = starter.stdout.readline().strip()
        assert isinstance(kube, ProcessBench)
        assert address != kube.address
        until(lambda: len(processes_with(BENCH=address)) == 2)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.communicate()
    until(lambda: not processes_with(BENCH=address))
    servers = f"--folder\0{tmp_path}".encode()
    until(lambda: not [each for each in Path("/proc").glob("[0-9]*/cmdline") if servers in _read(each)])


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
