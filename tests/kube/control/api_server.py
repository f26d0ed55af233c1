"""A Kubernetes API server in memory, with the controllers that Dask's operator relies on.

It lists and watches (resource versions, label and field selectors, 410 Gone), creates, updates, patches and deletes
with optimistic concurrency, status subresources, graceful deletion of pods, finalizers, owner references, custom
resources with schemas, quotas, roles, tokens. Logs and port-forwards come from the kubelet on the pod's node.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import logging
import re
import socket
import ssl
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from aiohttp import web

from tests.kube.control.access import Access, Attempt, User
from tests.kube.control.controllers import Controllers
from tests.kube.control.discovery import describe, is_discovery
from tests.kube.control.faults import Faults, Listener
from tests.kube.control.objects import Object, Refused, json_patched, merged
from tests.kube.control.relay import relay
from tests.kube.control.store import Resource, Store
from tests.kube.control.watching import selected, watch

_PATH = re.compile(
    r"/api(?:s/(?P<group>[^/]+))?/(?P<version>[^/]+)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<sub>[^/]+))?"
)
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class Target(NamedTuple):
    """What a request is about."""

    resource: Resource
    namespace: str | None
    name: str | None
    sub: str | None

    def find(self) -> Object:
        assert self.name is not None
        return self.resource.get(self.namespace, self.name)


class ApiServer:
    def __init__(self, store: Store, access: Access) -> None:
        self._store = store
        self._access = access
        self.faults = Faults(access)

    def app(self) -> web.Application:
        app = web.Application(middlewares=[self._answer_errors], client_max_size=2**26)
        app.router.add_route("*", "/{tail:.*}", self._handle)
        return app

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Any) -> web.StreamResponse:
        try:
            await self.faults.meet(request)
            answer: web.StreamResponse = await handler(request)
            return answer
        except Refused as error:
            return web.json_response(error.body, status=error.code)

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        path = re.sub("/+", "/", request.path).rstrip("/")  # some clients ask for /version/
        if path in ("/version", "/readyz", "/healthz", "/livez"):
            return web.json_response(describe(self._store, path))
        user = self._access.user_of(request.headers.get("Authorization", ""))
        if path.startswith("/_bench/"):
            if user.name != "admin":
                raise Refused(403, "Forbidden", "for administrators")
            await self.faults.command(path.removeprefix("/_bench/"), await request.json())
            return web.json_response({})
        if is_discovery(path):
            return web.json_response(describe(self._store, path))
        target = self._target(path)
        self._access.check(user, self._attempt(request, target))
        if request.method == "GET":
            return await self._get(request, target)
        body = await self._body(request)
        match request.method:
            case "POST":
                answer, status = self._post(request, target, user, body), 201
            case "DELETE":
                answer, status = self._delete(request, target, body), 200
            case _:
                answer, status = self._change(request, target, body), 200
        return web.json_response(answer, status=status)

    # -- what is asked for -----------------------------------------------------------------------------------

    def _target(self, path: str) -> Target:
        # /api/v1/namespaces/NAME/status is about a namespace, and not about something in it
        match = re.fullmatch(r"/api/v1/namespaces/([^/]+)/(status|finalize)", path)
        if match:
            return Target(self._store.of("namespaces"), None, match[1], match[2])
        match = _PATH.fullmatch(path)
        key = (match["group"] or "", match["version"], match["plural"]) if match else None
        resource = self._store.resources.get(key) if key else None
        if match is None or resource is None or (match["sub"] and match["sub"] not in resource.subresources):
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return Target(resource, match["namespace"], match["name"], match["sub"])

    @staticmethod
    def _attempt(request: web.Request, target: Target) -> Attempt:
        verb = _VERBS.get(request.method, "get" if target.name else "list")
        if verb == "list" and request.query.get("watch") in ("true", "1"):
            verb = "watch"
        if verb == "delete" and not target.name:
            verb = "deletecollection"
        return Attempt(verb, target.resource.group, target.resource.plural, target.sub, target.namespace, target.name)

    @staticmethod
    async def _body(request: web.Request) -> Any:
        raw = await request.read()
        try:
            return yaml.safe_load(raw) if "yaml" in request.content_type else json.loads(raw or b"{}")
        except ValueError as error:
            raise Refused(400, "BadRequest", str(error)) from None

    # -- the verbs -------------------------------------------------------------------------------------------

    async def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        resource, namespace, name, sub = target
        if name and sub in ("log", "portforward"):
            return await relay(request, self._store, target.find(), sub)
        if name:
            return web.json_response(target.find())
        if request.query.get("watch") in ("true", "1"):
            return await watch(request, resource, namespace, self._store.version)
        items = [obj for obj in resource.objects.values() if selected(request.query, namespace, obj)]
        items.sort(key=lambda obj: (obj["metadata"].get("namespace") or "", obj["metadata"]["name"]))
        head = {"kind": f"{resource.kind}List", "apiVersion": resource.group_version}
        return web.json_response({**head, "metadata": {"resourceVersion": str(self._store.version)}, "items": items})

    def _post(self, request: web.Request, target: Target, user: User, body: Object) -> Object:
        resource, namespace, name, sub = target
        if resource.plural == "selfsubjectaccessreviews":
            return self._review(user, body)
        if sub == "token":
            token = self._access.token_of(target.find())
            return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "status": {"token": token}}
        if sub == "binding":
            pod = target.find()
            if pod["spec"].get("nodeName"):
                message = f'Operation cannot be fulfilled on pods/binding "{name}": pod {name} is already assigned'
                raise Refused(409, "Conflict", message)
            self._store.patch(resource, pod, {"spec": {"nodeName": body["target"]["name"]}})
            return {"kind": "Status", "apiVersion": "v1", "status": "Success"}
        if resource.namespaced and namespace is None:
            raise Refused(404, "NotFound", "the server could not find the requested resource")
        return self._store.create(resource, namespace, body, dry_run=request.query.get("dryRun") == "All")

    def _review(self, user: User, review: Object) -> Object:
        wanted = (review.get("spec") or {}).get("resourceAttributes") or {}
        attempt = Attempt(
            wanted.get("verb", "*"),
            wanted.get("group", ""),
            wanted.get("resource", "*"),
            wanted.get("subresource") or None,
            wanted.get("namespace") or None,
            wanted.get("name") or None,
        )
        status = {"allowed": self._access.allows(user, attempt)}
        return {**review, "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "status": status}

    def _delete(self, request: web.Request, target: Target, body: Object) -> Object:
        resource, namespace, name, _ = target
        options = dict(body or {})
        if "gracePeriodSeconds" in request.query:
            options["gracePeriodSeconds"] = int(request.query["gracePeriodSeconds"])
        if name:
            return self._store.delete(resource, target.find(), options)
        for obj in [obj for obj in resource.objects.values() if selected(request.query, namespace, obj)]:
            self._store.delete(resource, obj, options)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def _change(self, request: web.Request, target: Target, body: Any) -> Object:
        old = target.find()
        if request.method == "PUT":
            return self._store.write(target.resource, old, body, target.sub)
        kind = request.content_type
        if "json-patch" in kind:
            new = json_patched(old, body)
            new["metadata"].pop("resourceVersion", None)
        elif "merge-patch" in kind:  # also a strategic one: lists are replaced, though
            new = merged(copy.deepcopy(old), body)
            if "resourceVersion" not in (body.get("metadata") or {}):
                new["metadata"].pop("resourceVersion", None)
        else:
            message = f"the body of the request was in an unknown format: {kind} (this bench knows no apply patches)"
            raise Refused(415, "UnsupportedMediaType", message)
        return self._store.write(target.resource, old, new, target.sub)


def define_custom_resources(store: Store, folder: Path) -> None:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for path in sorted(folder.glob("*.yaml")):
        for definition in yaml.load_all(path.read_text(), loader):
            if definition:
                store.create(store.of("customresourcedefinitions"), None, definition)


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--listen", type=int, required=True, help="the file descriptor of a listening socket")
    parser.add_argument("--services", required=True, help="where the addresses of services are")
    parser.add_argument("--pki", type=Path, required=True, help="a folder with tls.crt and tls.key")
    parser.add_argument("--token", type=Path, required=True, help="a file with the administrator's token")
    parser.add_argument("--crds", type=Path, help="a folder of definitions of custom resources")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(name)s %(message)s")
    store = Store(arguments.services)
    if arguments.crds:
        define_custom_resources(store, arguments.crds)
    server = ApiServer(store, Access(store, arguments.token.read_text()))
    runner = web.AppRunner(server.app(), access_log=None, shutdown_timeout=0.5, handler_cancellation=True)
    await runner.setup()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(arguments.pki / "tls.crt", arguments.pki / "tls.key")
    server.faults.listener = Listener(runner, socket.socket(fileno=arguments.listen), tls)
    await server.faults.listener.open()
    await Controllers(store).run()


if __name__ == "__main__":
    asyncio.run(main())
