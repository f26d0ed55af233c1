"""Pods of a cluster, as data: one model for scheduler, worker and driver.

What we say comes first, then the user's options, then the user's patch (``worker_spec=`` …): each holds over what was
there before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.environments.kubernetes.merging import merge
from headrace.environments.kubernetes.spec import KubernetesSpec, Variable, quantity

COMM_PORT, HTTP_PORT, WORKER_HTTP_PORT = 8786, 8787, 8788
#: key of the Secret with the certificates → the configuration that reads it, as text and not as a file, so no pod needs
#: a volume for it.
_TLS = {
    "ca.crt": ["CA_FILE"],
    "tls.crt": ["SCHEDULER__CERT", "WORKER__CERT", "CLIENT__CERT"],
    "tls.key": ["SCHEDULER__KEY", "WORKER__KEY", "CLIENT__KEY"],
}
#: What the HTTP port of the scheduler serves, beside the dashboard. Without TLS, whoever reaches the pod controls the
#: scheduler anyway, so the operator gets all of Dask's API. With TLS, it is told whether the scheduler is idle, and
#: nobody can change anything there; ``distributed.http.proxy`` is left out.
_OPEN_ROUTES = (
    "distributed.http.scheduler.prometheus", "distributed.http.scheduler.info", "distributed.http.scheduler.json",
    "distributed.http.health", "distributed.http.proxy", "distributed.http.statics", "distributed.http.scheduler.api",
)  # fmt: skip
_TLS_ROUTES = (
    "distributed.http.scheduler.prometheus", "distributed.http.scheduler.info", "distributed.http.scheduler.json",
    "distributed.http.health", "distributed.http.statics", "headrace.environments.kubernetes.routes",
)  # fmt: skip
_BARE_ROUTES = ("distributed.http.health", "headrace.environments.kubernetes.routes")


def address(spec: KubernetesSpec, name: str, *, tls: bool) -> str:
    """Return the address of a cluster's scheduler within Kubernetes.

    Parameters
    ----------
    spec : KubernetesSpec
        Of the cluster.
    name : str
        Of the cluster.
    tls : bool
        Whether it listens with TLS.
    """
    namespace = f".{spec.namespace}" if spec.namespace else ""  # without one, the pods' own is meant
    return f"{'tls' if tls else 'tcp'}://{name}-scheduler{namespace}:{COMM_PORT}"


def scheduler_pod(spec: KubernetesSpec, *, tls_secret: str | None = None) -> dict[str, Any]:
    """Return the spec of the scheduler's pod.

    Parameters
    ----------
    spec : KubernetesSpec
        Of the cluster.
    tls_secret : str, optional
        Name of the Secret with the certificates; None: no TLS.
    """
    options = spec.role("scheduler")
    health = {"httpGet": {"port": "http-dashboard", "path": "/health"}}
    if not spec.dashboard:
        routes: Sequence[str] = _BARE_ROUTES
    else:
        routes = _TLS_ROUTES if tls_secret else _OPEN_ROUTES
    container = {
        "name": "scheduler",
        "args": [
            *("dask", "scheduler", "--host", "0.0.0.0"),
            *("--protocol", "tls" if tls_secret else "tcp", "--port", str(COMM_PORT)),
            *("--dashboard-address", f":{HTTP_PORT}", *_no_dashboard(spec)),
        ],
        "env": _variables(_tls(tls_secret) | {"DASK_DISTRIBUTED__SCHEDULER__HTTP__ROUTES": str(list(routes))}),
        "ports": [_port("tcp-comm", COMM_PORT), _port("http-dashboard", HTTP_PORT)],
        # A scheduler that is busy answers late; one that is killed for that loses all work. Five minutes are a hang.
        "readinessProbe": {**health, "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 30},
        "livenessProbe": {
            **health,
            "initialDelaySeconds": 15,
            "periodSeconds": 20,
            "timeoutSeconds": 10,
            "failureThreshold": 15,
        },
    }
    return merge(_pod(options, container, gpus=0), spec.scheduler_spec)


def worker_pod(spec: KubernetesSpec, name: str, group: str, *, tls_secret: str | None = None) -> dict[str, Any]:
    """Return the spec of the pods of one group of workers.

    Parameters
    ----------
    spec : KubernetesSpec
        Of the cluster.
    name : str
        Of the cluster.
    group : str
        Of the group.
    tls_secret : str, optional
        Name of the Secret with the certificates; None: no TLS.
    """
    options = spec.group(group)
    scheduler = {"DASK_SCHEDULER_ADDRESS": address(spec, name, tls=tls_secret is not None)}
    memory = options.memory_limit if options.memory_limit is not None else options.memory
    offers = " ".join(f"{resource}={amount:.15g}" for resource, amount in spec.offers(group).items())
    container = {
        "name": "worker",
        "args": [
            *("dask", "worker", "$(DASK_SCHEDULER_ADDRESS)"),
            *("--name", "$(DASK_WORKER_NAME)"),  # set by the operator, which finds workers by it
            *("--nthreads", str(spec.threads(group))),
            *("--memory-limit", "auto" if memory is None else str(int(quantity(memory)))),
            *(("--resources", offers) if offers else ()),
            *("--dashboard-address", f":{WORKER_HTTP_PORT}", *_no_dashboard(spec)),
        ],
        "env": _variables(_tls(tls_secret) | scheduler),
        "ports": [_port("http-dashboard", WORKER_HTTP_PORT)],
    }
    return merge(_pod(options, container, gpus=options.gpus), options.worker_spec)


def driver_pod(spec: KubernetesSpec, variables: Mapping[str, Variable]) -> dict[str, Any]:
    """Return the spec of the pod that drives a run.

    Parameters
    ----------
    spec : KubernetesSpec
        Of the cluster.
    variables : mapping
        Its environment variables, over those of all pods.
    """
    options = spec.role("driver")
    container = {"name": "driver", "args": ["python", "-m", "headrace", "execute"]}
    pod = _pod(options, container, gpus=0)
    pod["containers"][0] = merge(pod["containers"][0], {"env": _variables(variables)})
    return merge({**pod, "restartPolicy": "Never"}, spec.driver_spec)


def _pod(options: KubernetesSpec, container: dict[str, Any], *, gpus: float) -> dict[str, Any]:
    """The pod of a container of ours, with the user's options over it."""
    users_container = {
        "image": options.image,
        "imagePullPolicy": options.image_pull_policy,
        "env": _variables(options.env),
        "envFrom": options.env_from,
        "resources": _resources(options, gpus),
        "volumeMounts": options.volume_mounts,
    }
    users = {
        "imagePullSecrets": [{"name": each} for each in options.image_pull_secrets],
        "serviceAccountName": options.service_account,
        "nodeSelector": options.node_selector,
        "tolerations": options.tolerations,
        "affinity": options.affinity,
        "volumes": options.volumes,
        "initContainers": options.init_containers,
    }
    return merge({"containers": [merge(container, _said(users_container))]}, _said(users))


def _said(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value or value == 0}


def _resources(options: KubernetesSpec, gpus: float) -> dict[str, Any]:
    requests = {"cpu": options.cpu, "memory": options.memory}
    limits = {
        "cpu": options.cpu if options.cpu_limit is None else options.cpu_limit,
        "memory": options.memory if options.memory_limit is None else options.memory_limit,
        "nvidia.com/gpu": gpus or None,  # without a request, the limit is requested
    }
    both = {"requests": requests, "limits": limits}
    found = {
        kind: {name: str(value) for name, value in each.items() if value is not None} for kind, each in both.items()
    }
    return _said(found)


def _tls(secret: str | None) -> dict[str, Variable]:
    if secret is None:
        return {}
    found: dict[str, Variable] = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True"}
    for key, settings in _TLS.items():
        for setting in settings:
            reference = {"secretKeyRef": {"name": secret, "key": key}}
            found[f"DASK_DISTRIBUTED__COMM__TLS__{setting}"] = {"valueFrom": reference}
    return found


def _variables(variables: Mapping[str, Variable]) -> list[dict[str, Any]]:
    return [
        {"name": name, **({"value": value} if isinstance(value, str) else value)} for name, value in variables.items()
    ]


def _no_dashboard(spec: KubernetesSpec) -> tuple[str, ...]:
    return () if spec.dashboard else ("--no-dashboard",)


def _port(name: str, number: int) -> dict[str, Any]:
    return {"name": name, "containerPort": number, "protocol": "TCP"}
