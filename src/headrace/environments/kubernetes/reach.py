"""Ways to the scheduler of a cluster on Kubernetes: through the API server, by the cluster's own DNS, from outside.

None of them makes Dask look up services by itself, which costs it about ten seconds each time outside of the cluster.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from headrace.environments.kubernetes.forward import Forward, is_forbidden
from headrace.errors import SetupError

if TYPE_CHECKING:
    from headrace.environments.kubernetes.api import Api
    from headrace.environments.kubernetes.spec import KubernetesSpec

T = TypeVar("T")

#: Seconds between two looks at what has to come yet.
LOOK = 0.25
#: Seconds for one question to the DNS of the cluster, which answers at once if it is there.
RESOLVE = 2.0
#: Seconds that a forward has in any case, however long it took until the scheduler was there.
LEAST = 5.0
#: Names of the ports of the scheduler's service, as Dask's operator wants them.
COMM, DASHBOARD = "tcp-comm", "http-dashboard"


@dataclass(frozen=True)
class Way:
    """A way to a scheduler.

    Parameters
    ----------
    address : str
        For ``distributed.Client``.
    dashboard_link : str
        Of Dask's dashboard; empty, if it cannot be reached.
    close : callable
        Ends it. May be repeated.
    """

    address: str
    dashboard_link: str
    close: Callable[[], None]


def reach(api: Api, spec: KubernetesSpec, name: str, *, timeout: float = 60.0) -> Way:
    """Open a way to the scheduler of a cluster.

    Parameters
    ----------
    api : Api
        The API server.
    spec : KubernetesSpec
        ``reach`` says by which way, ``security`` whether the scheduler talks TLS.
    name : str
        Of the cluster.
    timeout : float, default 60.0
        Seconds within which what it needs must be there.

    Returns
    -------
    Way
        To be closed at the end.

    Raises
    ------
    SetupError
        If it is not there in time; says what is missing.
    """
    end = time.monotonic() + timeout
    service = _awaited(end, lambda: api.get("Service", f"{name}-scheduler"))
    if service is None:
        raise SetupError(
            f"the cluster {name!r} has no service {name}-scheduler in the namespace {api.namespace!r} after "
            f"{timeout:g} s, by which its scheduler is reached; is Dask's operator running?"
        )
    protocol = "tls" if spec.security else "tcp"
    kind = spec.reach
    if kind == "auto":
        kind = "dns" if _is_inside(_host(service)) else "forward"
    if kind == "forward":
        return _forward(api, spec, service, protocol, end)
    if kind == "dns":
        return _open_way(protocol, _host(service), _ports(service, "port"))
    if kind == "load-balancer":
        return _open_way(protocol, _balancer(api, service, end, timeout), _ports(service, "port"))
    return _open_way(protocol, _node(api), _ports(_of_type(service, "NodePort", kind), "nodePort"))


def _forward(api: Api, spec: KubernetesSpec, service: Mapping[str, Any], protocol: str, end: float) -> Way:
    selector = ",".join(f"{label}={value}" for label, value in service["spec"]["selector"].items())
    targets = _ports(service, "targetPort")
    access = {"kubeconfig": spec.kubeconfig, "context": spec.context}
    forward = Forward(access, api.namespace, selector, list(targets.values()))
    try:
        forward.check(max(end - time.monotonic(), LEAST))
    except BaseException as error:
        forward.close()
        if isinstance(error, Exception):
            raise _no_forward(api, error) from error
        raise
    return _open_way(
        protocol, "127.0.0.1", {port: forward.ports[target] for port, target in targets.items()}, forward.close
    )


def _no_forward(api: Api, error: Exception) -> SetupError:
    if is_forbidden(error):
        return SetupError(
            f"Kubernetes does not let this user forward ports to pods in the namespace {api.namespace!r}; have this "
            'rule added to his role: apiGroups: [""], resources: ["pods/portforward"], verbs: ["get", "create"]; or '
            "give another reach=, such as 'load-balancer'"
        )
    return SetupError(
        f"no port could be forwarded to the scheduler's pod in the namespace {api.namespace!r} "
        f"({type(error).__name__}: {error}); look whether `kubectl port-forward` works from here, or give another "
        "reach=, such as 'load-balancer'"
    )


def _open_way(protocol: str, host: str, ports: Mapping[str, Any], close: Callable[[], None] = lambda: None) -> Way:
    shown = f"http://{_bracketed(host)}:{ports[DASHBOARD]}/status" if DASHBOARD in ports else ""
    return Way(f"{protocol}://{_bracketed(host)}:{ports[COMM]}", shown, close)


def _ports(service: Mapping[str, Any], which: str) -> dict[str, Any]:
    """By the name of a port of the service, the number that counts here."""
    ports = {port.get("name", COMM): port.get(which) or port["port"] for port in service["spec"]["ports"]}
    if COMM not in ports:
        raise SetupError(
            f"the service {service['metadata']['name']} has no port that is called {COMM!r}, but {', '.join(ports)}; "
            "that is how the scheduler's port is found, so give it this name in the manifest"
        )
    return ports


def _host(service: Mapping[str, Any]) -> str:
    return f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"


def _is_inside(host: str) -> bool:
    """Whether this process runs in a pod of the same Kubernetes cluster: one that knows the service by its name."""
    if "KUBERNETES_SERVICE_HOST" not in os.environ:  # is set in each pod, and outside there is no need to ask
        return False
    found: list[Any] = []

    def look_up() -> None:
        try:
            found.extend(socket.getaddrinfo(host, None))
        except OSError:
            return

    asking = threading.Thread(target=look_up, daemon=True)  # there is no time limit for it otherwise
    asking.start()
    asking.join(RESOLVE)
    return bool(found)


def _balancer(api: Api, service: Mapping[str, Any], end: float, timeout: float) -> str:
    """The address of the load balancer, which a cloud may take minutes to bring up."""
    name = _of_type(service, "LoadBalancer", "load-balancer")["metadata"]["name"]

    def given() -> str | None:
        now = api.get("Service", name)
        ingress = ((now or {}).get("status", {}).get("loadBalancer") or {}).get("ingress") or [{}]
        address: str | None = ingress[0].get("ip") or ingress[0].get("hostname")
        return address

    address = _awaited(end, given)
    if address is None:
        raise SetupError(
            f"the load balancer of the service {name} in the namespace {api.namespace!r} is still pending after "
            f"{timeout:g} s; give deadline= if the cloud needs longer, or use reach='forward' where the Kubernetes "
            "cluster has no load balancers"
        )
    return address


def _node(api: Api) -> str:
    """The address of a node, preferably one that is known outside of the cluster."""
    addresses = [address for node in api.list("Node") for address in node.get("status", {}).get("addresses") or ()]
    for kind in ("ExternalIP", "InternalIP"):
        for address in addresses:
            if address["type"] == kind:
                return str(address["address"])
    raise SetupError("no node of the Kubernetes cluster tells its address; use reach='forward'")


def _of_type(service: Mapping[str, Any], wanted: str, reach: str) -> Mapping[str, Any]:
    found = service["spec"].get("type", "ClusterIP")
    if found not in (wanted, "LoadBalancer"):  # a load balancer has node ports, too
        raise SetupError(
            f"reach={reach!r} needs a service of the type {wanted}, but {service['metadata']['name']} is a {found}; "
            "the cluster was made for another way, so use reach='forward', or make one for this way"
        )
    return service


def _awaited(end: float, look: Callable[[], T | None]) -> T | None:
    """What is there at last, or None if it does not come in time."""
    while True:
        if (found := look()) is not None or time.monotonic() > end:
            return found
        time.sleep(LOOK)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
