"""From nothing to the first result of a cluster with three workers: headrace beside ``KubeCluster``.

    python -m benchmarks.kubernetes [--rounds 3]

Runs on the cluster of ``HEADRACE_KUBECONFIG`` (with an image in ``HEADRACE_KUBE_IMAGE``), or on the tests' own bench,
where pods are processes of this machine. ``KubeCluster`` gets what it needs to work at all: commands that today's
distributed has, its own port-forward at once rather than after it has looked for a name for ten seconds, and a phase
that is put right when the operator has written "Pending" over "Running".
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.kube.bench import Bench, ProcessBench, open_bench

WORKERS = 3
#: Seconds after which a cluster that stays "Pending" is taken for one that the operator has forgotten.
STUCK = 2.0


def headrace(bench: Bench, namespace: str, *, security: bool) -> float:
    import headrace as hr

    start = time.perf_counter()
    options = {"image": bench.image, "namespace": namespace, "security": security, "kubeconfig": str(bench.kubeconfig)}
    with hr.DaskEnvironment("kubernetes", n_workers=WORKERS, **options) as env:
        env.setup()
        assert env.client.submit(sum, [1, 2]).result() == 3
        return time.perf_counter() - start


def kube_cluster(bench: Bench, namespace: str) -> float:
    from dask_kubernetes.operator import KubeCluster, make_cluster_spec
    from dask_kubernetes.operator.kubecluster.kubecluster import CreateMode
    from distributed import Client

    name = f"kubecluster-{uuid.uuid4().hex[:6]}"
    spec = make_cluster_spec(name, image=bench.image, n_workers=WORKERS, worker_command=["dask", "worker"])
    container = spec["spec"]["scheduler"]["spec"]["containers"][0]
    container["args"] = ["dask", "scheduler", *container["args"][1:]]
    over = threading.Event()
    threading.Thread(target=_heal, args=(bench, namespace, name, over), daemon=True).start()
    start = time.perf_counter()
    try:
        cluster = KubeCluster(
            custom_cluster_spec=spec,
            namespace=namespace,
            create_mode=CreateMode.CREATE_ONLY,
            port_forward_cluster_ip=True,
            quiet=True,
        )
        with cluster, Client(cluster) as client:
            assert client.submit(sum, [1, 2]).result() == 3
            return time.perf_counter() - start
    finally:
        over.set()


def _heal(bench: Bench, namespace: str, name: str, over: threading.Event) -> None:
    """Write the phase that is true; see https://github.com/dask/dask-kubernetes/issues/968."""
    since = time.monotonic()
    while not over.wait(0.25):
        cluster = bench.find("daskclusters", namespace, name) or {}
        if cluster.get("status", {}).get("phase") != "Pending":
            since = time.monotonic()
        elif time.monotonic() - since > STUCK:
            bench.request("PATCH", bench.path("daskclusters", namespace, name), {"status": {"phase": "Running"}})


def measure(bench: Bench, rounds: int) -> dict[str, list[float]]:
    """Seconds of each way, in turns."""
    ways: dict[str, Callable[[Bench, str], float]] = {
        "headrace, with TLS": lambda bench, namespace: headrace(bench, namespace, security=True),
        "headrace, without": lambda bench, namespace: headrace(bench, namespace, security=False),
        "KubeCluster, without": kube_cluster,
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds + 1):  # the first one only warms up
        for way, run in ways.items():
            with bench.namespace() as namespace:
                seconds = run(bench, namespace)
            if number:
                found[way].append(seconds)
                print(f"{way:24}{seconds:8.1f} s", flush=True)
    return found


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        import os

        bench = open_bench(lambda: Path(folder))
        os.environ["KUBECONFIG"] = str(bench.kubeconfig)  # where KubeCluster looks
        try:
            found = measure(bench, options.rounds)
        finally:
            if isinstance(bench, ProcessBench):
                bench.close()
    print("\nmedians, from nothing to the first result")
    for way, seconds in found.items():
        print(f"{way:24}{statistics.median(seconds):8.1f} s   {min(seconds):.1f} to {max(seconds):.1f}")
    return found


if __name__ == "__main__":
    main()
