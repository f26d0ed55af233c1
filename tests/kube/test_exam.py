"""Kubernetes sits the exam of all environments, as somebody who may do what the docs say that he must."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import headrace as hr
from headrace.testing import EnvironmentTests, Make
from tests.kube.bench import Bench

RIGHTS = Path(__file__).parents[2] / "docs" / "kubernetes-rbac.yaml"


class TestKubernetes(EnvironmentTests):
    takes = frozenset({"n_workers", "adapt"})
    patience = 200.0

    @pytest.fixture(scope="class")
    def place(self, kube: Bench) -> Iterator[tuple[str, Path]]:
        """A namespace, and the kubeconfig of somebody whose rights are those of the page."""
        _, role, binding = yaml.safe_load_all(RIGHTS.read_text())
        assert binding["roleRef"]["name"] == role["metadata"]["name"]
        with kube.namespace() as namespace:
            yield namespace, kube.user(namespace, role)

    @pytest.fixture(scope="class")
    def make(self, kube: Bench, place: tuple[str, Path]) -> Make:
        namespace, kubeconfig = place

        def make(**options: Any) -> hr.Environment:
            given = {"image": kube.image, "namespace": namespace, "kubeconfig": str(kubeconfig)}
            size = {} if options.keys() & {"n_workers", "adapt"} else {"n_workers": 1}
            return hr.DaskEnvironment("kubernetes", **{**given, **size, **options})

        return make

    @pytest.fixture(scope="class")
    def left(self, kube: Bench, place: tuple[str, Path]) -> Callable[[], set[Any]]:
        return lambda: set(kube.left_over(place[0]))

    @pytest.fixture
    def broken(self, make: Make) -> hr.Environment:
        return make(image="does-not-exist:1")
