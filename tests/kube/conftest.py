"""`kube`: one bench for all tests of a session, started when the first test asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.kube.bench import Bench


@pytest.fixture(scope="session")
def kube(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    bench = Bench(tmp_path_factory.mktemp("kube"))
    try:
        yield bench
    finally:
        bench.close()
        for log in sorted(bench.folder.glob("*.log")):  # shown by pytest when a test failed
            print(f"=== {log.name}\n" + "".join(log.read_text(errors="replace").splitlines(True)[-20:]))


@pytest.fixture
def namespace(kube: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A fresh namespace, and ``KUBECONFIG`` set."""
    monkeypatch.setenv("KUBECONFIG", str(kube.kubeconfig))
    with kube.namespace() as name:
        yield name
