"""Runs whose driver is a Job: from a laptop that goes away, to the record in a bucket."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import headrace as hr
from headrace.environments.kubernetes.manifests import KEPT
from headrace.errors import DriverLost, SetupError
from headrace.loading import Target, load_flow
from tests.cli_kit import FLOWS, loading_undone
from tests.kube.bench import Bench
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


@pytest.fixture
def environment(kube: Bench, namespace: str, s3: Server) -> Iterator[hr.DaskEnvironment]:
    """Two workers, and the key of the bucket in a Secret."""
    options = base64.b64encode(json.dumps(s3.storage_options).encode()).decode()
    secret = {"kind": "Secret", "metadata": {"name": "bucket"}, "data": {"options": options}}
    kube.request("POST", f"/api/v1/namespaces/{namespace}/secrets", secret)
    with hr.DaskEnvironment(
        "kubernetes",
        image=kube.image,
        namespace=namespace,
        n_workers=2,
        env={"HEADRACE_STORAGE_OPTIONS": {"secret": "bucket", "key": "options"}},
    ) as environment:
        yield environment


class Objects:
    """What the API server holds."""

    def __init__(self, kube: Bench, namespace: str) -> None:
        self._kube, self._namespace = kube, namespace

    def __call__(self, plural: str, group: str = "api/v1") -> list[dict[str, Any]]:
        return self._kube.request("GET", f"/{group}/namespaces/{self._namespace}/{plural}")["items"]

    @property
    def jobs(self) -> list[dict[str, Any]]:
        return self("jobs", "apis/batch/v1")

    @property
    def clusters(self) -> list[dict[str, Any]]:
        return self("daskclusters", "apis/kubernetes.dask.org/v1")

    def everything(self) -> str:
        """All but the Secret that the test has made."""
        core = [*self("pods"), *self("services"), *self("configmaps"), *self("events"), *self("serviceaccounts")]
        secrets = [each for each in self("secrets") if each["metadata"]["name"] != "bucket"]
        groups = self("daskworkergroups", "apis/kubernetes.dask.org/v1")
        deployments = self("deployments", "apis/apps/v1")
        return json.dumps([*core, *secrets, *self.jobs, *self.clusters, *groups, *deployments])


@pytest.fixture
def objects(kube: Bench, namespace: str) -> Objects:
    return Objects(kube, namespace)


def test_from_a_bucket_to_its_result(
    storage: hr.Storage, environment: hr.DaskEnvironment, objects: Objects, s3: Server
) -> None:
    record = environment.execute(storage, "etl", {"a": 40}, detach=True)
    assert record.state == "Starting"
    assert environment.client is None  # nothing was set up here
    seen = []
    while not record.done:
        record.wait(1)
        seen.append(objects.everything())
    assert hr.Storage.deserialize(storage.serialize(), s3.storage_options).runs(1)[0].wait().result() == 42
    assert record.environment["cluster"] == "kubernetes"
    key = [s3.storage_options["secret"]]
    assert not [leak for each in seen for leak in leaks(key, each)]
    assert any("DaskCluster" in each for each in seen)
    until(lambda: objects.jobs[0]["status"].get("succeeded"), 60)
    assert objects.clusters == []
    [job] = objects.jobs
    assert job["metadata"]["labels"]["headrace.io/run"] == record.run_id
    assert job["spec"]["ttlSecondsAfterFinished"] == KEPT
    until(
        lambda: (
            [each["metadata"]["labels"].get("job-name") for each in objects("pods")] == [record.launch["driver"]["job"]]
        )
    )
    assert "etl Success" in record.logs()


def test_cancelled_while_it_runs(storage: hr.Storage, environment: hr.DaskEnvironment, objects: Objects) -> None:
    record = environment.execute(storage, "endless", detach=True)
    until(lambda: record.state == "Running", 60)
    assert len(objects.clusters) == 1
    record.cancel()
    assert record.wait(60).state == "Cancelled"
    until(lambda: not (objects.jobs or objects.clusters or objects("pods")), 60)


def test_an_image_that_cannot_be_pulled(storage: hr.Storage, kube: Bench, namespace: str, objects: Objects) -> None:
    environment = hr.DaskEnvironment("kubernetes", image="does-not-exist:1", namespace=namespace)
    record = environment.execute(storage, "etl", {"a": 1}, detach=True)
    with pytest.raises(DriverLost, match=r"does-not-exist:1' cannot be pulled.*cancel\(\)"):
        record.wait(60)
    assert record.state == "Starting"  # the image may come
    record.cancel()
    assert record.state == "Cancelled"
    until(lambda: not (objects.jobs or objects("pods")))


def test_a_driver_that_was_killed(
    storage: hr.Storage, environment: hr.DaskEnvironment, objects: Objects, kube: Bench, namespace: str
) -> None:
    record = environment.execute(storage, "endless", detach=True)
    until(lambda: record.state == "Running", 60)
    [pod] = [each for each in objects("pods") if "job-name" in each["metadata"]["labels"]]
    path = f"/api/v1/namespaces/{namespace}/pods/{pod['metadata']['name']}"
    kube.request("DELETE", path, {"gracePeriodSeconds": 0})
    with pytest.raises(DriverLost, match=r"Job headrace-.* has ended"):
        record.wait(60)
    assert storage.get_run(record.run_id).state == "Crashed"
    until(lambda: not objects.clusters, 60)  # it goes with the pod that has made it


def test_a_folder_that_pods_do_not_see(tmp_path: Path, kube: Bench, namespace: str, storage: hr.Storage) -> None:
    folder = hr.Storage(tmp_path / "store")
    storage.copy_to(folder, "etl")
    environment = hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace)
    with pytest.raises(SetupError, match="does not see the folder"):
        environment.execute(folder, "etl", {"a": 1}, detach=True)
    assert folder.runs() == []
