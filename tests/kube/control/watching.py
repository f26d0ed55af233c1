"""Selecting objects, and telling of their changes."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Mapping

from aiohttp import ClientConnectionError, web

from tests.kube.control.objects import Object, Refused, fields_match, labels_match
from tests.kube.control.store import Change, Resource


def selected(query: Mapping[str, str], namespace: str | None, obj: Object) -> bool:
    metadata = obj["metadata"]
    return (
        namespace in (None, metadata.get("namespace"))
        and labels_match(query.get("labelSelector"), metadata.get("labels") or {})
        and fields_match(query.get("fieldSelector"), obj)
    )


async def watch(request: web.Request, resource: Resource, namespace: str | None, version: int) -> web.StreamResponse:
    """Tell of changes since a version, or of all objects and then of changes, until the time is up."""
    queue: asyncio.Queue[Change] = asyncio.Queue()
    changes = _backlog(request.query.get("resourceVersion"), resource, version)
    resource.watchers.add(queue)
    response = web.StreamResponse(headers={"Content-Type": "application/json"})
    loop = asyncio.get_running_loop()
    end = loop.time() + float(request.query.get("timeoutSeconds", 1800))
    try:
        await response.prepare(request)
        while True:
            for change in changes:
                kind = _as_seen(request.query, namespace, change)
                if kind is not None:
                    await response.write(json.dumps({"type": kind, "object": change.obj}).encode() + b"\n")
                if kind == "ERROR":
                    return response
            changes = [await asyncio.wait_for(queue.get(), end - loop.time())]
    except (ConnectionError, ClientConnectionError, TimeoutError):
        return response
    finally:
        resource.watchers.discard(queue)


def _backlog(since: str | None, resource: Resource, version: int) -> list[Change]:
    if since in (None, "", "0"):
        return [Change(version, "ADDED", copy.deepcopy(obj), None) for obj in resource.objects.values()]
    history = resource.history
    if len(history) == history.maxlen and history[0].version > int(since) + 1:
        expired = Refused(410, "Expired", f"too old resource version: {since} ({history[0].version})")
        return [Change(0, "ERROR", expired.body, None)]
    return [change for change in history if change.version > int(since)]


def _as_seen(query: Mapping[str, str], namespace: str | None, change: Change) -> str | None:
    """What a change is to who sees selected objects only: one that is selected no more has gone."""
    if change.kind == "ERROR":
        return "ERROR"
    is_in = selected(query, namespace, change.obj)
    was_in = change.before is not None and selected(query, namespace, change.before)
    if change.kind == "MODIFIED" and is_in != was_in:
        return "ADDED" if is_in else "DELETED"
    return change.kind if is_in else None
