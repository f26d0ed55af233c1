"""Logs and port-forwards, which an API server gets from the kubelet of the pod's node."""

from __future__ import annotations

import asyncio

import aiohttp
from aiohttp import web

from tests.kube.control.objects import Object, Refused
from tests.kube.control.store import Store


async def relay(request: web.Request, store: Store, pod: Object, subresource: str) -> web.StreamResponse:
    metadata = pod["metadata"]
    if not pod["spec"].get("nodeName"):
        raise Refused(400, "BadRequest", f"pod {metadata['name']} does not have a host assigned")
    node = store.of("nodes").get(None, pod["spec"]["nodeName"])
    address = node["status"]["addresses"][0]["address"]
    base = f"https://{address}:{node['status']['daemonEndpoints']['kubeletEndpoint']['Port']}"
    path = f"{metadata['namespace']}/{metadata['name']}"
    async with aiohttp.ClientSession() as session:
        if subresource == "log":
            return await _logs(request, session, f"{base}/containerLogs/{path}/{_container(request, pod)}")
        return await _port_forward(request, session, f"{base}/portForward/{path}")


def _container(request: web.Request, pod: Object) -> str:
    name, asked = pod["metadata"]["name"], request.query.get("container")
    names = [each["name"] for each in pod["spec"]["containers"]]
    if not asked and len(names) > 1:
        listed = " ".join(names)
        message = f"a container name must be specified for pod {name}, choose one of: [{listed}]"
        raise Refused(400, "BadRequest", message)
    names += [each["name"] for each in pod["spec"].get("initContainers") or []]
    if asked and asked not in names:
        raise Refused(400, "BadRequest", f"container {asked} is not valid for pod {name}")
    return asked or names[0]


async def _logs(request: web.Request, session: aiohttp.ClientSession, url: str) -> web.StreamResponse:
    forever = aiohttp.ClientTimeout(total=None)
    async with session.get(url, params=request.query, timeout=forever, ssl=False) as answer:
        if answer.status != 200:
            raise Refused(400, "BadRequest", await answer.text())
        response = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await response.prepare(request)
        async for chunk in answer.content.iter_any():
            await response.write(chunk)
        return response


async def _port_forward(request: web.Request, session: aiohttp.ClientSession, url: str) -> web.StreamResponse:
    async with session.ws_connect(url, params=request.query, max_msg_size=0, ssl=False) as inner:
        outer = web.WebSocketResponse(max_msg_size=0, protocols=("v4.channel.k8s.io",))
        await outer.prepare(request)

        async def pump(source: aiohttp.ClientWebSocketResponse | web.WebSocketResponse, target: object) -> None:
            try:
                async for message in source:
                    if message.type == aiohttp.WSMsgType.BINARY:
                        await target.send_bytes(message.data)  # type: ignore[attr-defined]
            finally:
                await target.close()  # type: ignore[attr-defined]

        await asyncio.gather(pump(inner, outer), pump(outer, inner), return_exceptions=True)
        return outer
