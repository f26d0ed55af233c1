"""Calls of the Kubernetes API: which object, in words of its own, each within a time limit, errors that teach.

kr8s brings the credentials (kubeconfig, plug-ins, service account) and the connection; it is asked for paths rather
than for kinds, because it would read all that the server offers first, in some dozen requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import quote, urlencode

from headrace.environments.kubernetes.snapshot import moment_of
from headrace.errors import KubernetesError, MissingPackage, SetupError

if TYPE_CHECKING:
    from headrace.environments.kubernetes.spec import KubernetesSpec

T = TypeVar("T")

#: Seconds within which the API server must answer one call.
ANSWER = 10.0
#: Seconds for which a call is repeated when the API server, which had answered before, is away: it restarts.
AWAY = 20.0
#: Seconds between two such attempts.
AGAIN = 0.5
#: Where a pod finds its own credentials.
IN_POD = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_STARTING = threading.Lock()
OPERATOR = (
    "helm install dask-operator dask-kubernetes-operator --repo https://helm.dask.org --namespace dask-operator "
    "--create-namespace"
)


class Kind(NamedTuple):
    """Where objects of a kind are found."""

    group: str
    version: str
    plural: str
    namespaced: bool = True


KINDS = {
    "Namespace": Kind("", "v1", "namespaces", namespaced=False),
    "Node": Kind("", "v1", "nodes", namespaced=False),
    "Pod": Kind("", "v1", "pods"),
    "Service": Kind("", "v1", "services"),
    "Secret": Kind("", "v1", "secrets"),
    "ConfigMap": Kind("", "v1", "configmaps"),
    "ServiceAccount": Kind("", "v1", "serviceaccounts"),
    "Event": Kind("", "v1", "events"),
    "ResourceQuota": Kind("", "v1", "resourcequotas"),
    "Deployment": Kind("apps", "v1", "deployments"),
    "ReplicaSet": Kind("apps", "v1", "replicasets"),
    "Job": Kind("batch", "v1", "jobs"),
    "DaskCluster": Kind("kubernetes.dask.org", "v1", "daskclusters"),
    "DaskWorkerGroup": Kind("kubernetes.dask.org", "v1", "daskworkergroups"),
    "SelfSubjectAccessReview": Kind("authorization.k8s.io", "v1", "selfsubjectaccessreviews", namespaced=False),
}


class Api:
    """The API server that a spec means; safe to be called from any thread.

    Parameters
    ----------
    spec : KubernetesSpec
        Says which kubeconfig, context and namespace.

    Raises
    ------
    KubernetesError
        If there are no credentials, or nobody answers.
    MissingPackage
        If kr8s is not installed.
    """

    def __init__(self, spec: KubernetesSpec) -> None:
        try:
            import kr8s.asyncio
        except ImportError as error:
            raise MissingPackage(
                f"Kubernetes needs the package {error.name}; pip install 'headrace[kubernetes]'"
            ) from error
        self.spec = spec
        self._ahead = timedelta()
        self.kr8s = self._log_in(kr8s.asyncio.api)
        self.namespace: str = spec.namespace or self._own_namespace()
        self.server: str = self.kr8s.auth.server
        self.context: str = spec.context or self.kr8s.auth.active_context

    @property
    def now(self) -> datetime:
        """The time, by the clock of the API server, as of its last answer: the only one that all its users share.

        A difference is kept, and not a moment with what has passed since, as a machine that sleeps counts no time.
        """
        return datetime.now(UTC) + self._ahead

    # -- calls ---------------------------------------------------------------------------------------------------

    def get(self, kind: str, name: str) -> dict[str, Any] | None:
        """Return an object; None if there is none of this name."""
        return self._call("get", kind, name)

    def list(self, kind: str, selector: str = "", *, fields: str = "", everywhere: bool = False) -> list[Any]:
        """Return the objects of a kind in the namespace.

        Parameters
        ----------
        kind : str
            One of ``KINDS``.
        selector, fields : str, optional
            Which: a label selector, a field selector.
        everywhere : bool, default False
            Whether to look into all namespaces.
        """
        query = {"labelSelector": selector, "fieldSelector": fields}
        found = self._call("list", kind, query=query, everywhere=everywhere)
        assert found is not None
        return found["items"] or []

    def create(self, manifest: Mapping[str, Any]) -> dict[str, Any]:
        """Create an object, and return it as it is now."""
        made = self._call("create", manifest["kind"], manifest["metadata"].get("name", ""), manifest)
        assert made is not None
        return made

    def patch(self, kind: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any] | None:
        """Merge into an object; None if there is none of this name."""
        return self._call("patch", kind, name, patch)

    def delete(self, kind: str, name: str, *, uid: str | None = None, grace: int | None = None) -> bool:
        """Have an object deleted, with all that it owns; False if there is none.

        Parameters
        ----------
        kind, name : str
            Which.
        uid : str, optional
            Only this very object, not a later one of the same name.
        grace : int, optional
            Seconds that a pod has to end.
        """
        options: dict[str, Any] = {"propagationPolicy": "Background"}
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        try:
            return self._call("delete", kind, name, options) is not None
        except KubernetesError as error:
            if error.facts.get("status") == 409 and uid is not None:
                return False
            raise

    def logs(self, pod: str, container: str | None = None, *, previous: bool = False, tail: int = 20) -> str:
        """Return the last lines that a container of a pod wrote; empty if there are none.

        Parameters
        ----------
        pod : str
            Its name.
        container : str, optional
            Which; by default the first one.
        previous : bool, default False
            Of the container that ended last, rather than of the one that runs.
        tail : int, default 20
            How many lines.
        """
        query = {"container": container, "previous": "true" if previous else "", "tailLines": str(tail)}
        try:
            answer = self._send("GET", "get", "Pod", self._path(KINDS["Pod"], pod, "log", query), None)
        except KubernetesError as error:
            if error.facts.get("status") in (400, 404):  # none yet, or none any more
                return ""
            raise
        return str(answer.text) if answer is not None else ""

    def events(self, name: str) -> Sequence[dict[str, Any]]:
        """Return what was told of an object, oldest first; ``name`` may be of any kind."""
        found = self.list("Event", fields=f"involvedObject.name={name}")
        return sorted(found, key=moment_of)

    def run(self, work: Coroutine[Any, Any, T], timeout: float = ANSWER) -> T:
        """Await something on the event loop of all such calls.

        Parameters
        ----------
        work : coroutine
            What.
        timeout : float
            Seconds after which it is given up, with a ``TimeoutError``.
        """
        future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, timeout), _loop())
        try:
            return future.result()
        except TimeoutError:
            raise TimeoutError(f"no answer within {timeout:g} s") from None
        except BaseException:  # Ctrl-C
            future.cancel()
            raise

    # -- inside --------------------------------------------------------------------------------------------------

    def _call(
        self,
        verb: str,
        kind: str,
        name: str = "",
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str] | None = None,
        everywhere: bool = False,
    ) -> dict[str, Any] | None:
        method = {"get": "GET", "list": "GET", "create": "POST", "patch": "PATCH", "delete": "DELETE"}[verb]
        path = self._path(KINDS[kind], "" if verb == "create" else name, "", query or {}, everywhere=everywhere)
        answer = self._send(method, verb, kind, path, body, name)
        return None if answer is None else answer.json()

    def _path(
        self, kind: Kind, name: str, sub: str, query: Mapping[str, str | None], *, everywhere: bool = False
    ) -> str:
        parts = ["apis", kind.group, kind.version] if kind.group else ["api", kind.version]
        if kind.namespaced and not everywhere:
            parts += ["namespaces", quote(self.namespace)]
        parts += [part for part in (kind.plural, quote(name), sub) if part]
        given = urlencode({key: value for key, value in query.items() if value})
        return "/".join(parts) + (f"?{given}" if given else "")

    def _send(
        self, method: str, verb: str, kind: str, path: str, body: Mapping[str, Any] | None, name: str = ""
    ) -> Any:
        """Return the answer; None if there is no such object. Repeat it while the server restarts."""
        import httpx
        from kr8s import APITimeoutError, ServerError

        end, unsure = time.monotonic() + AWAY, False
        while True:
            try:
                return self.run(self._request(method, path, body))
            except ServerError as error:
                status = getattr(error.response, "status_code", 0)
                if status == 404 and name and verb in ("get", "patch", "delete") and _is_about(error, name):
                    return None
                if status == 409 and verb == "create" and unsure:
                    there = self._send("GET", "get", kind, f"{path}/{quote(name)}", None, name)
                    if there is not None and _is_made_of(there.json(), body or {}):  # the first attempt did it
                        return there
                if status < 500 or time.monotonic() > end:
                    raise self._refused(error, status, verb, kind, name, path) from None
            except (httpx.TransportError, APITimeoutError, OSError) as error:
                if time.monotonic() > end:
                    raise self._away(error) from error
            unsure = True
            time.sleep(AGAIN)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None) -> Any:
        base, _, url = path.partition("/")
        options: dict[str, Any] = {}
        if body is not None:
            options["content"] = json.dumps(body)
        if method == "PATCH":
            options["headers"] = {"Content-Type": "application/merge-patch+json"}
        async with self.kr8s.call_api(method, version="", base=f"/{base}", url=url, **options) as response:
            with suppress(KeyError, ValueError):  # each server says the time; who stands between may not
                told = parsedate_to_datetime(response.headers["Date"])
                self._ahead = told.replace(tzinfo=UTC) - datetime.now(UTC)  # HTTP knows no other
            return response

    def _log_in(self, open_api: Callable[..., Coroutine[Any, Any, Any]]) -> Any:
        """Open a session; once more if that failed at once, and not for what the kubeconfig says."""
        # By name also where it is the usual one: asked for nothing in particular, kr8s takes any session that is open.
        given = {"kubeconfig": _source(self.spec), "context": self.spec.context, "namespace": self.spec.namespace}
        began = time.monotonic()
        while True:
            try:
                return self.run(open_api(**given))
            except Exception as error:
                if isinstance(error, ValueError) or time.monotonic() - began > AGAIN:
                    raise self._closed(error) from error
            time.sleep(AGAIN)

    def _own_namespace(self) -> str:
        """The namespace of the context that is used, or of the pod that this process runs in."""
        auth = self.kr8s.auth
        if auth.active_context:
            return str(auth.kubeconfig.get_context(auth.active_context).get("namespace") or "default")
        try:
            return (IN_POD / "namespace").read_text().strip()
        except OSError:
            return "default"

    def _where(self) -> str:
        return str(getattr(self, "server", "") or f"of {_source(self.spec)}")

    def _closed(self, error: Exception) -> SetupError:
        import httpx
        from kr8s import APITimeoutError

        if isinstance(error, (httpx.TransportError, APITimeoutError, TimeoutError)):
            return self._away(error)
        if isinstance(error, ValueError) and "Unable to find valid credentials" in str(error):
            return KubernetesError(
                f"there is no way to Kubernetes from here: no kubeconfig at {_source(self.spec)}, and this process "
                "does not run in a pod; name one (kubeconfig=, or the variable KUBECONFIG), as the provider of the "
                "cluster gives it"
            )
        if isinstance(error, ValueError) and "No such context" in str(error):
            return KubernetesError(
                f"the kubeconfig {_source(self.spec)} has no context {self.spec.context!r}; "
                "kubectl config get-contexts lists those that it has"
            )
        return KubernetesError(
            f"logging in to Kubernetes with {_source(self.spec)} failed ({type(error).__name__}: {error}); look "
            "whether `kubectl get pods` works here"
        )

    def _away(self, error: Exception) -> SetupError:
        return KubernetesError(
            f"the Kubernetes API server {self._where()} cannot be reached ({type(error).__name__}: {error}); look "
            "whether the cluster is up, and whether this machine may connect to it (VPN, proxy): `kubectl get pods` "
            "tells, too"
        )

    def _refused(self, error: Exception, status: int, verb: str, kind: str, name: str, path: str) -> SetupError:
        said = str(error).rstrip(".")
        is_here = f"/namespaces/{quote(self.namespace)}/" in path
        where = f" in namespace {self.namespace!r}" if is_here else " in all namespaces" * KINDS[kind].namespaced
        what = f"{verb} {kind}{f' {name!r}' if name else ''}{where}"
        group, plural = KINDS[kind].group, KINDS[kind].plural
        facts = {"status": status, "verb": verb, "kind": kind}
        if status == 403 and "exceeded quota" in said:
            return KubernetesError(f"{what}: {said}; remove what is not needed, or have the quota raised", **facts)
        if status == 403 and "being terminated" in said:
            return KubernetesError(
                f"the namespace {self.namespace!r} is being deleted; name another: namespace=", **facts
            )
        if status == 403:
            role = "role" if is_here else "ClusterRole"
            other = ", or give a detached driver another one: driver={'service_account': ...}"
            driver = other if "system:serviceaccount:" in said else ""
            rule = f'apiGroups: ["{group}"], resources: ["{plural}"], verbs: ["{verb}"]'
            return KubernetesError(
                f"Kubernetes does not let this user {what} ({said}); have this rule added to the {role} that the "
                f"user, or the pod's service account, has{' there' if is_here else ''}: {rule}{driver}",
                **facts,
            )
        if status == 401:
            return KubernetesError(
                f"Kubernetes does not know who asks ({said}): the credentials of {_source(self.spec)} have expired, "
                "or are of another cluster; log in again",
                **facts,
            )
        if status == 404 and f'namespaces "{self.namespace}" not found' in said:
            return KubernetesError(
                f"there is no namespace {self.namespace!r} on {self._where()}; name one that is there (namespace=), or "
                f"make it: kubectl create namespace {self.namespace}",
                **facts,
            )
        if status == 404 and group == "kubernetes.dask.org":
            return KubernetesError(
                f"this Kubernetes cluster ({self._where()}) does not know what a {kind} is: the definitions (CRDs) of "
                f"Dask's operator are missing. Install the operator once per cluster: {OPERATOR}",
                **facts,
            )
        return KubernetesError(f"Kubernetes refused to {what}: {said} (HTTP status {status})", **facts)


def allowed(ask: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Ask for what can be done without; None, if this user may not know it.

    Parameters
    ----------
    ask : callable
        Of an ``Api``.
    *args, **options
        For it.
    """
    try:
        return ask(*args, **options)
    except KubernetesError as error:
        if error.facts.get("status") == 403:
            return None
        raise


def _is_about(error: Exception, name: str) -> bool:
    """Whether it is the object that was not found, rather than its kind or namespace."""
    return f'"{name}" not found' in str(error)


def _is_made_of(found: Mapping[str, Any], sent: Mapping[str, Any]) -> bool:
    """Whether an object is the one that was sent, and not somebody else's of the same name."""
    there, ours = found["metadata"], sent["metadata"]
    return all((ours.get(key) or {}).items() <= (there.get(key) or {}).items() for key in ("labels", "annotations"))


def _source(spec: KubernetesSpec) -> str:
    """Where the credentials come from."""
    return str(spec.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config")


def _loop() -> asyncio.AbstractEventLoop:
    """One event loop in a thread of its own, for all calls of this process."""
    with _STARTING:
        return _started_loop()


@cache
def _started_loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="headrace-kubernetes", daemon=True).start()
    return loop
