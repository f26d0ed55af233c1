"""What a launch that somebody has written into a storage can have its reader do."""

from __future__ import annotations

import json

from headrace.drivers import driver_of


def test_a_launch_has_no_program_run(tmp_path, monkeypatch):
    program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "touch", "args": [str(tmp_path / "ran")]}
    config = {
        "clusters": [{"name": "any", "cluster": {"server": "https://127.0.0.1:9"}}],
        "users": [{"name": "any", "user": {"exec": program}}],
        "contexts": [{"name": "any", "context": {"cluster": "any", "user": "any"}}],
    }
    (tmp_path / "theirs").write_text(json.dumps(config))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "ours"))
    launch = {"namespace": "team", "job": "headrace-1", "uid": "1", "context": "any"}
    for place in ({"kubeconfig": str(tmp_path / "theirs")}, {"kubeconfig": config}):
        seen = driver_of({"kind": "kubernetes", **launch, **place}, "1").look()
        assert seen.standing == "unknown"
        assert "no kubeconfig at" in seen.told
    assert not (tmp_path / "ran").exists()
