"""TLS on Kubernetes: on by default, everywhere, and with certificates that go with the cluster."""

from __future__ import annotations

import base64
from pathlib import Path

import psutil
import pytest

import headrace as hr
from headrace.environments.certificates import make_certificates, security_of
from headrace.errors import SetupError
from tests.environments import flows
from tests.environments.test_encryption import spoken_at
from tests.kube.bench import PATHS, Bench
from tests.waiting import until


def listening(kube: Bench, namespace: str) -> set[tuple[str, int]]:
    """All ports that are open in the pods of a namespace."""
    processes = kube.processes(namespace)
    return {
        (each.laddr.ip, each.laddr.port)
        for each in psutil.net_connections("tcp4")
        if each.status == psutil.CONN_LISTEN and each.pid in processes
    }


def test_a_cluster_is_encrypted_unless_it_was_asked_not_to_be(kube: Bench, namespace: str, tmp_path: Path) -> None:
    storage = hr.Storage(tmp_path)
    location = storage.add_flow(flows.doubled)
    with hr.DaskEnvironment("kubernetes", image=kube.image, namespace=namespace, n_workers=1) as env:
        assert env.execute(storage, location).result() == 90
        assert env.client.scheduler.address.startswith("tls://")
        name = env.client.cluster.name
        secret = kube.find("secrets", namespace, name)
        assert secret is not None
        assert secret["metadata"]["ownerReferences"][0]["name"] == name

        spoken = [spoken_at(address, env.client.security) for address in listening(kube, namespace)]
        assert sorted(spoken) == ["http", "http", "tls", "tls", "tls"]  # scheduler, worker, nanny

        key = base64.b64decode(secret["data"]["tls.key"]).decode()[40:80]
        assert not [kind for kind in PATHS if key in str(kube.objects(kind, namespace))]

        with hr.DaskEnvironment("kubernetes", name=name, namespace=namespace) as joined:
            assert joined.execute(storage, location).result() == 90
        stranger = security_of(make_certificates())
        with pytest.raises(SetupError, match=r"certificate"):
            hr.DaskEnvironment("kubernetes", name=name, namespace=namespace, security=stranger).setup()
        assert env.execute(storage, location).result() == 90
    until(lambda: not kube.left_over(namespace))


def test_without_and_with_certificates_of_ones_own(kube: Bench, namespace: str, tmp_path: Path) -> None:
    storage = hr.Storage(tmp_path)
    location = storage.add_flow(flows.doubled)
    options = {"image": kube.image, "namespace": namespace, "n_workers": 1}
    with hr.DaskEnvironment("kubernetes", security=False, reach="node-port", **options) as env:
        assert env.execute(storage, location).result() == 90
        assert env.client.scheduler.address.startswith("tcp://")
        name = env.client.cluster.name
        with pytest.raises(SetupError, match=r"no Secret of its name with certificates.*security=False"):
            hr.DaskEnvironment("kubernetes", name=name, namespace=namespace).setup()
        assert kube.find("secrets", namespace, name) is None
    own = security_of(make_certificates())
    with hr.DaskEnvironment("kubernetes", security=own, reach="load-balancer", **options) as env:
        assert env.execute(storage, location).result() == 90
        assert env.client.security is own
