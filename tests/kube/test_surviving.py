"""Runs whose pods go: the scheduler's, the workers', the operator's."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import headrace as hr
from tests.kube.bench import Bench
from tests.kube.test_reach import squares
from tests.waiting import until

N = 40


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """Where tasks leave a file each."""
    folder = tmp_path / "done"
    folder.mkdir()
    return folder


@pytest.fixture
def environment(kube: Bench, namespace: str) -> Iterator[hr.DaskEnvironment]:
    """Two workers; nothing is left of them."""
    with hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace, n_workers=2) as environment:
        environment.setup()
        environment.client.wait_for_workers(2)
        yield environment
    until(lambda: not kube.left_over(namespace))


def begun(environment: hr.DaskEnvironment, done: Path, seen: int) -> hr.FlowRun:
    """Return a run of which some is done."""
    storage = hr.Storage(done.parent / "flows")
    run = environment.start(storage, storage.add_flow(squares), {"folder": str(done), "n": N})
    until(lambda: len(list(done.iterdir())) >= seen)
    return run


def pods(kube: Bench, namespace: str, component: str) -> list[str]:
    found = kube.objects("pods", namespace, f"dask.org/component={component}")
    return [pod["metadata"]["name"] for pod in found if "deletionTimestamp" not in pod["metadata"]]


def is_right(run: hr.FlowRun) -> bool:
    run.wait()
    return bool(run.result() == sum(number * number for number in range(N)))


def test_the_scheduler_is_replaced(kube: Bench, namespace: str, environment: hr.DaskEnvironment, done: Path) -> None:
    run = begun(environment, done, 10)
    [before] = pods(kube, namespace, "scheduler")
    kube.delete_pod(namespace, before)
    assert is_right(run)
    assert pods(kube, namespace, "scheduler") != [before]


def test_workers_are_killed_again_and_again(
    kube: Bench, namespace: str, environment: hr.DaskEnvironment, done: Path
) -> None:
    run = begun(environment, done, 4)
    for seen in (8, 16, 24):
        kube.kill_pod(namespace, pods(kube, namespace, "worker")[0])
        until(lambda seen=seen: len(list(done.iterdir())) >= seen)
    assert is_right(run)


def test_the_operator_stops(kube: Bench, namespace: str, environment: hr.DaskEnvironment, done: Path) -> None:
    kube.stop_operator()
    try:
        assert is_right(begun(environment, done, 1))
    finally:
        kube.start_operator()
