"""Runs whose driver is a Job: from a laptop that goes away, to the record in a bucket."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
import yaml

import headrace as hr
from headrace.drivers import driver_of
from headrace.environments.kubernetes.manifests import KEPT
from headrace.errors import DriverLost, RunError, SetupError
from headrace.loading import Target, load_flow
from tests.cli_kit import FLOWS, loading_undone
from tests.kube.bench import CHECKOUT, PATHS, Bench
from tests.sentinels import leaks
from tests.servers import Server
from tests.waiting import until


@pytest.fixture(scope="module")
def storage(s3: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[hr.Storage]:
    """A bucket with flows."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "some_flows.py").write_text(dedent(FLOWS))
    with loading_undone(folder):
        storage = hr.Storage(f"{s3.new_bucket()}/flows", s3.storage_options)
        for name in ("etl", "endless"):
            storage.add_flow(load_flow(Target(str(folder / "some_flows.py"), name, True)))
        yield storage.build()


#: what the pod that drives a run may do, and who starts and cancels it: no more than the documentation says
_, ROLE, _ = yaml.safe_load_all((CHECKOUT / "docs/kubernetes-rbac.yaml").read_text())


@pytest.fixture
def environment(kube: Bench, namespace: str, s3: Server) -> Iterator[hr.DaskEnvironment]:
    """Two workers, and the key of the bucket in a Secret."""
    options = base64.b64encode(json.dumps(s3.storage_options).encode()).decode()
    kube.create("secrets", namespace, {"metadata": {"name": "bucket"}, "data": {"options": options}})
    kube.create("serviceaccounts", namespace, {"metadata": {"name": "driver"}})
    kube.bind(namespace, ROLE, account="driver")
    with hr.DaskEnvironment(
        "kubernetes",
        image=kube.image,
        namespace=namespace,
        kubeconfig=str(kube.user(namespace, ROLE)),
        context="restricted",
        reach="forward",
        n_workers=2,
        driver={"service_account": "driver"},
        env={"HEADRACE_STORAGE_OPTIONS": {"secret": "bucket", "key": "options"}},
    ) as environment:
        yield environment


def until_clean(kube: Bench, namespace: str) -> None:
    """Wait until there is nothing but what the test itself has made."""
    left: list[str] = []

    def is_clean() -> bool:
        left[:] = [each for each in kube.left_over(namespace) if each != "secrets/bucket"]
        return not left

    try:
        until(is_clean)
    except AssertionError:
        pytest.fail(f"left over: {left}")


def test_from_a_bucket_to_its_result(
    storage: hr.Storage, environment: hr.DaskEnvironment, kube: Bench, namespace: str, s3: Server
) -> None:
    record = environment.execute(storage, "etl", {"a": 40}, detach=True)
    assert record.state == "Starting"
    assert environment.client is None  # nothing was set up here
    seen = ""
    while not record.done:
        record.wait(0.5)
        found = [kube.objects(kind, namespace) for kind in PATHS if kind not in ("daskautoscalers", "daskjobs")]
        seen += json.dumps([each for objects in found for each in objects if each["metadata"]["name"] != "bucket"])
    assert hr.Storage(storage.url, s3.storage_options).runs(1)[0].wait().result() == 42
    assert record.environment is not None
    assert record.environment["cluster"] == "kubernetes"
    assert '"DaskCluster"' in seen
    assert not leaks([s3.storage_options["secret"]], seen)
    [job] = kube.objects("jobs", namespace)
    name = job["metadata"]["name"]
    assert job["metadata"]["labels"]["headrace.io/run"] == record.run_id
    assert job["spec"]["ttlSecondsAfterFinished"] == KEPT
    given = {each["name"]: each.get("value") for each in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    options = json.loads(given["HEADRACE_ENVIRONMENT"])["options"]
    assert not {"kubeconfig", "context"} & set(options)  # those are of this machine
    assert options["reach"] == "dns"
    assert "etl Success" in record.logs()
    until(lambda: kube.find("jobs", namespace, name)["status"].get("succeeded"))
    until(lambda: [pod["metadata"]["labels"].get("job-name") for pod in kube.objects("pods", namespace)] == [name])
    assert kube.objects("daskclusters", namespace) == []
    assert record.launch["driver"]["job"] == name


def test_cancelled_while_it_runs(
    storage: hr.Storage, environment: hr.DaskEnvironment, kube: Bench, namespace: str
) -> None:
    record = environment.execute(storage, "endless", detach=True)
    until(lambda: record.state != "Starting")
    assert record.state == "Running", record.outcome
    assert len(kube.objects("daskclusters", namespace)) == 1
    record.cancel()
    assert record.wait().state == "Cancelled"
    until_clean(kube, namespace)


def test_drivers_that_do_not_start(
    storage: hr.Storage, kube: Bench, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = hr.DaskEnvironment("kubernetes", image="does-not-exist:1", namespace=namespace)
    record = environment.execute(storage, "etl", {"a": 1}, detach=True)
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("KUBECONFIG", str(tmp_path / "none"))
        elsewhere.setenv("HOME", str(tmp_path))
        other = storage.get_run(record.run_id)
        assert not other.wait(0.1).done
        for ask in (other.cancel, other.logs):
            with pytest.raises(RunError, match="from here: there is no way to Kubernetes"):
                ask()
    with pytest.raises(DriverLost, match=r"does-not-exist:1' cannot be pulled.*cancel\(\)"):
        record.wait()
    assert record.state == "Starting"  # the image may come
    record.cancel()
    assert record.state == "Cancelled"
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    given = {"image": "does-not-exist:1", "namespace": namespace, "kubeconfig": str(kube.kubeconfig)}
    record = hr.DaskEnvironment("kubernetes", **given).execute(storage, "etl", {"a": 1}, detach=True)
    assert set(record.launch["driver"]) == {"kind", "namespace", "job", "uid", "context"}
    kube.delete("jobs", namespace, record.launch["driver"]["job"])
    with pytest.raises(DriverLost, match="not there any more"):
        record.wait()
    assert record.state == "Starting"  # whoever has deleted it may tell, and it may be another Kubernetes
    until_clean(kube, namespace)


@pytest.mark.usefixtures("namespace")
@pytest.mark.parametrize(
    ("place", "told"), [({"namespace": "nowhere"}, "no such namespace"), ({"context": "moon"}, "no context 'moon'")]
)
def test_another_kubernetes_than_that_of_the_launch(kube: Bench, place: dict[str, str], told: str) -> None:
    launch = {"kind": "kubernetes", "namespace": "default", "job": "headrace-1", "uid": "1", "context": kube.context}
    assert driver_of(launch, "1").look().standing == "lost"
    seen = driver_of({**launch, **place}, "1").look()
    assert (seen.standing, told in seen.told) == ("unknown", True), seen


def test_a_driver_that_was_killed(
    storage: hr.Storage, environment: hr.DaskEnvironment, kube: Bench, namespace: str
) -> None:
    record = environment.execute(storage, "endless", detach=True)
    until(lambda: kube.objects("daskclusters", namespace))
    [pod] = [each for each in kube.objects("pods", namespace) if "job-name" in each["metadata"]["labels"]]
    kube.oom_kill(namespace, pod["metadata"]["name"])
    with pytest.raises(DriverLost, match=r"Job headrace-.* has ended.*OOMKilled"):
        record.wait()
    assert storage.get_run(record.run_id).state == "Crashed"
    kube.delete("jobs", namespace, record.launch["driver"]["job"])  # as Kubernetes does when its time is over
    until(lambda: not kube.objects("daskclusters", namespace))  # it goes with the pod that has made it


def test_a_folder_that_pods_do_not_see(tmp_path: Path, kube: Bench, namespace: str, storage: hr.Storage) -> None:
    folder = hr.Storage(tmp_path / "store")
    storage.copy_to(folder, "etl")
    environment = hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace)
    with pytest.raises(SetupError, match="does not see the folder"):
        environment.execute(folder, "etl", {"a": 1}, detach=True)
    assert folder.runs() == []
    assert kube.left_over(namespace) == []
