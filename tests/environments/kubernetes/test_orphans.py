"""Which clusters nobody uses any more, told from what Kubernetes shows."""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

import headrace as hr
from headrace.cli_clusters import _specs
from headrace.environments.kubernetes.api import Api
from headrace.environments.kubernetes.orphans import judge

NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
LABELS = {"dask.org/cluster-name": "one", "dask.org/component": "worker"}


def ago(**time):
    return (NOW - timedelta(**time)).isoformat()


def cluster(seen, *owners, created="2026-11-25T09:00:00Z"):
    notes = {"headrace.io/created-by": "ada@laptop", "headrace.io/seen": seen} if seen else {}
    metadata = {
        "name": "one", "namespace": "team", "uid": "u1", "creationTimestamp": created,
        "annotations": notes, "ownerReferences": list(owners),
    }  # fmt: skip
    return {"metadata": metadata, "spec": {"idleTimeout": 3600}}


def pod(name, namespace="team", *, ready=True, labels=LABELS, phase="Running"):
    conditions = [{"type": "Ready", "status": str(ready)}]
    about = {"name": name, "namespace": namespace, "labels": labels, "uid": name}
    return {"metadata": about, "status": {"phase": phase, "conditions": conditions}}


def owned_by(name):
    return {"kind": "Pod", "name": name, "uid": name}


@pytest.mark.parametrize(
    ("found", "drivers", "why"),
    [
        (cluster(ago(seconds=40)), [], ""),
        (cluster(ago(minutes=6)), [], "whoever used it does not any more"),
        (cluster(ago(seconds=40), owned_by("driver")), [pod("driver")], ""),
        (cluster(ago(minutes=6), owned_by("driver")), [pod("driver")], "whoever used it does not any more"),
        (
            cluster(ago(seconds=40), owned_by("driver")), [pod("driver", phase="Succeeded")],
            "its driver, pod driver, has ended",
        ),
        (cluster(ago(seconds=40), owned_by("driver")), [pod("other")], "its driver, pod driver, has ended"),
        (cluster(None, created=ago(seconds=40)), [], ""),
        (cluster(None), [], "whoever used it does not any more"),
    ],
)  # fmt: skip
def test_an_orphan_is_one_whose_user_is_gone(found, drivers, why):
    assert judge(found, [], drivers, NOW).orphan == why


def test_what_is_told_of_a_cluster():
    pods = [pod("a"), pod("b", ready=False), pod("c", namespace="other"), pod("d", labels={})]
    told = judge(cluster(ago(seconds=40)), pods, [], NOW)
    assert (told.name, told.namespace, told.uid, told.creator, told.workers) == ("one", "team", "u1", "ada@laptop", 1)
    assert NOW - told.created == timedelta(hours=3)


def test_a_storage_knows_where_its_runs_had_their_clusters(tmp_path):
    storage = hr.Storage(tmp_path)
    env = hr.DaskEnvironment("kubernetes", image="ours:1", namespace="team", context="started")
    storage.create_run("1", {"flow": "one", "environment": env.describe()})  # before it was set up
    launched = hr.DaskEnvironment("kubernetes", image="ours:1", namespace="team", context="launched")
    storage.launch_run("2", {"flow": "one", "environment": launched.serialize()})
    driver = {"kind": "kubernetes", "namespace": "team", "job": "headrace-3", "uid": "u", "context": "detached"}
    storage.launch_run("3", {"flow": "one", "environment": launched.serialize(), "driver": driver})
    inside = {"type": "DaskEnvironment", "cluster": "kubernetes", "name": "headrace-1", "namespace": "team"}
    storage.create_run("3", {"flow": "one", "environment": inside})
    bare = {name: inside[name] for name in ("type", "cluster")}
    begun = storage.create_run("4", {"flow": "one", "environment": bare})
    begun.found({**inside, "namespace": "other", "context": "found"})
    specs = _specs(str(tmp_path), None, None)
    assert {(each.context, each.namespace) for each in specs} == {
        ("started", "team"), ("launched", "team"), ("detached", "team"), ("found", "other"),
    }  # fmt: skip


@pytest.mark.parametrize("told", ["Wed, 25 Nov 2020 12:00:00 GMT", "Wed, 25 Nov 2020 12:00:00 -0000", "today", None])
def test_the_time_is_that_of_the_api_server(told):
    @asynccontextmanager
    async def call(*args, **options):
        yield SimpleNamespace(headers={} if told is None else {"Date": told}, json=dict)

    api = object.__new__(Api)
    api.namespace, api.kr8s, api._ahead = "team", SimpleNamespace(call_api=call), timedelta()
    api.get("Pod", "one")
    says = NOW.replace(year=2020) if told and told.startswith("Wed") else datetime.now(UTC)
    assert abs(api.now - says) < timedelta(minutes=1)
