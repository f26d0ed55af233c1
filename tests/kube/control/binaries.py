"""The real thing: etcd, kube-apiserver and kube-controller-manager, if somebody has them."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from tests.kube.plane import Plane

_CONTROLLERS = (
    "deployment,replicaset,garbagecollector,namespace,endpoint,endpointslice,job,serviceaccount,resourcequota,podgc,"
    "ttl-after-finished"
)
Starter = Callable[[], "subprocess.Popen[bytes]"]


def start_binaries(plane: Plane, folder: Path) -> dict[str, Starter]:
    """Start them, define Dask's custom resources; returns how each is started."""
    from tests.kube.plane import custom_resources

    (plane.folder / "tokens.csv").write_text(f'{plane.token},admin,admin,"system:masters"\n')
    starters = {
        "etcd": lambda: _etcd(plane, folder),
        "kube-apiserver": lambda: _api_server(plane, folder),
        "kube-controller-manager": lambda: _controllers(plane, folder),
    }
    plane._wanted |= starters
    for name in ("etcd", "kube-apiserver"):
        plane.start(name)
    plane.wait("kube-apiserver", lambda: plane.call("/readyz"))
    plane.start("kube-controller-manager")
    plane.wait("the default namespace", lambda: plane.call("/api/v1/namespaces/default"))
    if plane._arguments.crds:
        for path in sorted(custom_resources().glob("*.yaml")):
            for definition in yaml.safe_load_all(path.read_text()):
                plane.call("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition, "POST")
                plural = definition["spec"]["names"]["plural"]
                plane.wait(plural, partial(plane.call, f"/apis/kubernetes.dask.org/v1/{plural}"))
    return starters


def _etcd(plane: Plane, folder: Path) -> subprocess.Popen[bytes]:
    clients, peers = f"http://{plane.address}:2379", f"http://{plane.address}:2380"
    command = [shutil.which("etcd") or str(folder / "etcd"), "--data-dir", str(plane.folder / "etcd")]
    command += ["--listen-client-urls", clients, "--advertise-client-urls", clients, "--listen-peer-urls", peers]
    command += ["--initial-advertise-peer-urls", peers, "--initial-cluster", f"default={peers}", "--unsafe-no-fsync"]
    return plane.spawn("etcd", *command)


def _api_server(plane: Plane, folder: Path) -> subprocess.Popen[bytes]:
    pki = plane.pki
    return plane.spawn(
        "kube-apiserver",
        folder / "kube-apiserver",
        f"--etcd-servers=http://{plane.address}:2379",
        f"--bind-address={plane.address}",
        "--secure-port=6443",
        f"--tls-cert-file={pki}/tls.crt",
        f"--tls-private-key-file={pki}/tls.key",
        f"--token-auth-file={plane.folder}/tokens.csv",
        "--authorization-mode=RBAC",
        "--service-account-issuer=https://bench",
        f"--service-account-signing-key-file={pki}/tls.key",
        f"--service-account-key-file={pki}/tls.crt",
        f"--service-cluster-ip-range={plane.net}.128.0/17",
        "--endpoint-reconciler-type=none",  # else it refuses a loopback advertise address
        f"--advertise-address={plane.address}",
        # the kubelet of the bench mounts tokens by itself
        "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds,Priority",
        "--kubelet-preferred-address-types=InternalIP",
        "--event-ttl=10m",
        "--allow-privileged=true",
        f"--cert-dir={plane.folder}/certs",
    )


def _controllers(plane: Plane, folder: Path) -> subprocess.Popen[bytes]:
    return plane.spawn(
        "kube-controller-manager",
        folder / "kube-controller-manager",
        f"--kubeconfig={plane.folder}/kubeconfig",
        f"--controllers={_CONTROLLERS}",
        "--leader-elect=false",
        "--secure-port=0",
        "--concurrent-gc-syncs=4",
    )
