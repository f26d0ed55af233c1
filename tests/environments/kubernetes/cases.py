"""Clusters and their manifests; ``python -m tests.environments.kubernetes.cases`` writes the golden files anew."""

from pathlib import Path

import yaml

from headrace.environments.certificates import Pems
from headrace.environments.kubernetes.manifests import (
    cluster_manifest,
    driver_job,
    group_manifests,
    tls_secret_manifest,
)
from headrace.environments.kubernetes.spec import KubernetesSpec

GOLDEN = Path(__file__).parent / "golden"
OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "driver", "uid": "1234"}
IMAGE = "registry.example/team/dask:2026.11"


CERTIFICATES = Pems("the authority", "the certificate", "the key")

EVERYTHING = {
    "image": IMAGE,
    "image_pull_policy": "Always",
    "image_pull_secrets": ["registry"],
    "namespace": "analysis",
    "service_account": "flows",
    "cpu": "1500m",
    "memory": "4Gi",
    "memory_limit": "6Gi",
    "resources": {"DISK": 100},
    "nthreads": 3,
    "env": {
        "LEVEL": 7,
        "TOKEN": {"secret": "api", "key": "token"},
        "REGION": {"config_map": "site", "key": "region"},
        "NODE": {"valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}},
    },
    "env_from": [{"secretRef": {"name": "bucket"}}],
    "labels": {"team": "rivers"},
    "annotations": {"example.org/cost-centre": "17"},
    "tolerations": [{"key": "batch", "operator": "Exists"}],
    "node_selector": {"pool": "batch"},
    "affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "volumes": [{"name": "scratch", "emptyDir": {}}],
    "volume_mounts": [{"name": "scratch", "mountPath": "/scratch"}],
    "init_containers": [{"name": "warm-up", "image": "busybox", "command": ["true"]}],
    "idle_timeout": 600,
    "reach": "load-balancer",
}
GROUPS = {
    "image": IMAGE,
    "cpu": 2,
    "memory": "4Gi",
    "node_selector": {"pool": "batch"},
    "env": {"LEVEL": "7", "QUIET": "1"},
    "scheduler": {"cpu": 1, "memory": "8Gi", "node_selector": None, "labels": {"role": "head"}},
    "worker_groups": {
        "default": {"n_workers": 4, "resources": {"IO": 2}},
        "gpu": {
            "gpus": 1,
            "n_workers": 2,
            "memory": "32Gi",
            "node_selector": {"pool": "gpu"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
            "env": {"LEVEL": "9", "QUIET": None},
            "labels": {"kind": "costly"},
            "worker_spec": {"priorityClassName": "high"},
        },
        "large": {"cpu": 16, "cpu_limit": 32, "memory": "256Gi", "n_workers": 0},
    },
    "worker_spec": {
        "terminationGracePeriodSeconds": 120,
        "containers": [{"args": ["my-worker"], "securityContext": {"runAsUser": 1000}}, {"name": "side", "image": "s"}],
    },
    "scheduler_spec": {"containers": [{"name": "scheduler", "livenessProbe": None}]},
}
OWN = {
    "manifest": {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": "whatever", "labels": {"mine": "yes"}},
        "spec": {
            "idleTimeout": 5,
            "scheduler": {"spec": {"containers": [{"name": "s", "image": "mine"}]}, "service": {"type": "ClusterIP"}},
            "worker": {"replicas": 8, "spec": {"containers": [{"name": "w", "image": "mine"}]}},
        },
    },
    "labels": {"team": "rivers"},
}


def manifests() -> dict[str, list[dict]]:
    """File name → what it must hold."""
    least, groups, everything = (KubernetesSpec.of(**each) for each in ({"image": IMAGE}, GROUPS, EVERYTHING))
    bare = KubernetesSpec.of(image=IMAGE, dashboard=False, security=False)
    tls = "etl-tls"
    patch = {"priorityClassName": "high", "containers": [{"stdin": True}]}
    driver = KubernetesSpec.of(**EVERYTHING, driver={"service_account": "driver", "cpu": "250m"}, driver_spec=patch)
    return {
        "least": [cluster_manifest(least, "etl", n_workers=3, tls_secret=tls), *group_manifests(least, "etl")],
        "open": [cluster_manifest(bare, "etl")],
        "everything": [cluster_manifest(everything, "etl", n_workers=2, tls_secret=tls, owner=OWNER)],
        "groups": [cluster_manifest(groups, "etl"), *group_manifests(groups, "etl")],
        "own": [cluster_manifest(KubernetesSpec.of(**OWN), "etl")],
        "driver": [driver_job(driver, "run-17", {"HEADRACE_FLOW": "etl", "KEY": {"secret": "s", "key": "k"}})],
        "secret": [tls_secret_manifest(tls, CERTIFICATES, owner=OWNER)],
    }


class Plain(yaml.SafeDumper):
    """Without anchors."""

    def ignore_aliases(self, data):
        return True


def text(documents: list[dict]) -> str:
    return yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=120, allow_unicode=True)


if __name__ == "__main__":
    for name, documents in manifests().items():
        (GOLDEN / f"{name}.yaml").write_text(text(documents))
