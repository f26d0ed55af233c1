"""Preflight of clusters on Kubernetes: what pods lack is found from outside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import headrace as hr
from headrace.errors import PreflightWarning
from tests.environments.seeds.plain import secretive
from tests.kube.bench import Bench
from tests.servers import Server


def test_an_image_that_is_missing(kube: Bench, namespace: str, tmp_path: Path) -> None:
    with hr.DaskEnvironment("kubernetes", image="does-not-exist:1", namespace=namespace, n_workers=1) as env:
        (found,) = env.check(hr.Storage(tmp_path))
    assert found.level == "error"
    assert "'does-not-exist:1' cannot be pulled" in found.message
    assert "check its name and tag" in found.remedy


def test_what_pods_lack(
    kube: Bench,
    namespace: str,
    server_of: Callable[[str], Server],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = server_of("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", server.storage_options["key"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", server.storage_options["secret"])
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.storage_options["endpoint_url"])
    monkeypatch.delenv("SEED_TOKEN", raising=False)
    storage = hr.Storage(server.new_url())
    location = storage.add_flow(secretive)
    storage.build(check=False)
    pods = {"AWS_ENDPOINT_URL": "http://127.0.0.1:9", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    with hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace, n_workers=1, env=pods) as env:
        with pytest.warns(PreflightWarning, match=r"option env.AWS_[A-Z_]+KEY[A-Z_]*: looks like a secret.*\"secret\""):
            env.setup(storage)
        found = env.check(storage, location)
        (secret,) = [each for each in found if each.subject == "secret 'SEED_TOKEN'"]
        assert secret.level == "error"
        (bucket,) = [each for each in found if each.subject == f"storage {storage.url}"]
        assert bucket.level == "note"  # the flow keeps nothing there
        assert "nothing listens there" in bucket.message
        bucket, *others = env.check(storage)
        assert {each.subject for each in others} == {
            f"option env.AWS_{name}" for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY")
        }
        assert bucket.level == "error"
        assert bucket.remedy == "check the address and port, and storage_options"
