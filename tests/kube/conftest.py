"""`kube`: one bench for all tests of a session, started when the first test asks for it; `namespace`: a place in it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headrace.environments.kubernetes.api import Api
from headrace.environments.kubernetes.diagnosis import CAUSES
from headrace.environments.kubernetes.spec import KubernetesSpec
from tests.kube.bench import Bench, ProcessBench, open_bench


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = open_bench(lambda: tmp_path_factory.mktemp("kube"))
    try:
        # What this imports, pytest parses, and Python 3.11 cannot parse in several threads at once.
        Api(KubernetesSpec(kubeconfig=str(bench.kubeconfig))).list("Pod")
        yield bench
    finally:
        if isinstance(bench, ProcessBench):
            bench.close()
            print(bench.logs_of_parts())  # shown by pytest when a test failed


@pytest.fixture(scope="module")
def impatient() -> Iterator[None]:
    """What may pass by itself is given up after seconds, all but an operator that is away."""
    with pytest.MonkeyPatch.context() as patch:
        for cause in ("quota", "pods refused", "no node", "load balancer"):
            patch.setitem(CAUSES, cause, (3.0, CAUSES[cause][1]))
        yield


@pytest.fixture
def namespace(kube: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh namespace, and ``KUBECONFIG`` set."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    with kube.namespace() as name:
        yield name


def pytest_itemcollected(item: pytest.Item) -> None:
    """Give tests here more time: each starts a dozen processes, all of them on the processors that it has itself."""
    item.add_marker(pytest.mark.timeout(300))
