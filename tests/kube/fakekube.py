# ruff: noqa
"""A small in-memory Kubernetes API server, with the controllers Dask's operator relies on.

    python fakekube.py --port 8001 [--kubeconfig FILE] [--crds DIR]

List / watch (resourceVersion, label and field selectors, 410 Gone), create with uid, generation and
409, merge / strategic(=merge) / JSON patch with `test`, optimistic concurrency, status subresource,
graceful pod deletion, finalizers, owner-reference garbage collection, namespaces, CRDs (discovery,
pruning, defaulting, required fields), pods/binding, pods/log and pods/portforward proxied to the
kubelet on the pod's node, Service ClusterIP / NodePort allocation, ResourceQuota on pods, and the
deployment and replicaset controllers. Only dependencies: aiohttp, PyYAML.

Faults for tests: POST /_fake/faults [{"method": "GET", "path": "regex", "status": 503, "times": 3, "delay": 0.5}]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import copy
import datetime as dt
import hashlib
import ipaddress
import json
import random
import re
import string
import sys
import traceback
import uuid
from pathlib import Path

import aiohttp
import yaml
from aiohttp import web

ALL = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
#         group, version, plural, Kind, namespaced, subresources, short names
BUILTIN = [
    ("", "v1", "namespaces", "Namespace", False, ["status"], ["ns"]),
    ("", "v1", "nodes", "Node", False, ["status"], ["no"]),
    ("", "v1", "pods", "Pod", True, ["status", "log", "binding", "portforward"], ["po"]),
    ("", "v1", "services", "Service", True, ["status"], ["svc"]),
    ("", "v1", "configmaps", "ConfigMap", True, [], ["cm"]),
    ("", "v1", "secrets", "Secret", True, [], []),
    ("", "v1", "events", "Event", True, [], ["ev"]),
    ("", "v1", "serviceaccounts", "ServiceAccount", True, [], ["sa"]),
    ("", "v1", "resourcequotas", "ResourceQuota", True, ["status"], ["quota"]),
    ("apps", "v1", "deployments", "Deployment", True, ["status"], ["deploy"]),
    ("apps", "v1", "replicasets", "ReplicaSet", True, ["status"], ["rs"]),
    ("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", True, ["status"], ["pdb"]),
    ("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, ["status"], ["crd"]),
]


def now():
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


class Err(Exception):
    def __init__(self, code, reason, message, details=None):
        self.code, self.body = (
            code,
            {
                "kind": "Status",
                "apiVersion": "v1",
                "metadata": {},
                "status": "Failure",
                "message": message,
                "reason": reason,
                "code": code,
                "details": details or {},
            },
        )


class Res:
    def __init__(self, group, version, plural, kind, namespaced, subs, short=(), singular=None, schema=None):
        self.group, self.version, self.plural, self.kind = group, version, plural, kind
        self.namespaced, self.subs, self.short, self.schema = namespaced, list(subs), list(short), schema
        self.singular = singular or kind.lower()
        self.objs: dict[tuple, dict] = {}
        self.watchers: set[asyncio.Queue] = set()
        self.history = collections.deque(maxlen=5000)  # (rv, type, object, previous object)

    @property
    def gv(self):
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def full(self):
        return f"{self.plural}.{self.group}" if self.group else self.plural


def merge(a, b):
    """RFC 7386."""
    if not isinstance(b, dict):
        return b
    a = dict(a) if isinstance(a, dict) else {}
    for k, v in b.items():
        if v is None:
            a.pop(k, None)
        else:
            a[k] = merge(a.get(k), v)
    return a


def json_patch(doc, ops):
    """RFC 6902 (add, remove, replace, test)."""
    doc = copy.deepcopy(doc)
    for op in ops:
        keys = [k.replace("~1", "/").replace("~0", "~") for k in op["path"].split("/")[1:]]
        o = doc
        try:
            for k in keys[:-1]:
                o = o[int(k)] if isinstance(o, list) else o[k]
            k = keys[-1]
            if isinstance(o, list):
                i = len(o) if k == "-" else int(k)
                if op["op"] == "add":
                    o.insert(i, op["value"])
                elif op["op"] == "replace":
                    o[i] = op["value"]
                elif op["op"] == "remove":
                    del o[i]
                elif o[i] != op["value"]:
                    raise KeyError(k)
            elif op["op"] == "remove" or (op["op"] == "replace" and k not in o):
                del o[k]
            elif op["op"] == "test":
                if o.get(k) != op["value"]:
                    raise KeyError(k)
            else:
                o[k] = op["value"]
        except (KeyError, IndexError, TypeError) as e:
            raise Err(422, "Invalid", f"the server rejected our request due to an error in our request: {op} {e!r}")
    return doc


def prune(o, schema, path=""):
    """Prune unknown fields, fill defaults, check `required` and plain types, as for a structural schema."""
    if not isinstance(schema, dict):
        return
    if isinstance(o, dict):
        props = schema.get("properties")
        for k, s in (props or {}).items():
            if k in o and o[k] is None and not s.get("nullable"):
                del o[k]
            if k not in o and "default" in s:
                o[k] = copy.deepcopy(s["default"])
        for k in schema.get("required") or []:
            if k not in o:
                raise Err(422, "Invalid", f"{path}.{k}: Required value".lstrip("."))
        if props is not None and not schema.get("x-kubernetes-preserve-unknown-fields"):
            for k in list(o):
                if k not in props and not (path == "" and k in ("apiVersion", "kind", "metadata")):
                    if not schema.get("additionalProperties"):
                        del o[k]
        for k, v in o.items():
            if path == "" and k in ("apiVersion", "kind", "metadata"):
                continue
            s = (props or {}).get(k) or schema.get("additionalProperties")
            if isinstance(s, dict):
                t = s.get("type")
                ok = {
                    "integer": int,
                    "string": str,
                    "object": dict,
                    "array": list,
                    "boolean": bool,
                    "number": (int, float),
                }.get(t)
                if (
                    ok
                    and not s.get("x-kubernetes-int-or-string")
                    and (not isinstance(v, ok) or (t == "integer" and v is True))
                ):
                    raise Err(
                        422,
                        "Invalid",
                        f'{path}.{k}: Invalid value: "{type(v).__name__}": must be of type {t}'.lstrip("."),
                    )
                prune(v, s, f"{path}.{k}")
    elif isinstance(o, list) and isinstance(schema.get("items"), dict):
        for i, v in enumerate(o):
            prune(v, schema["items"], f"{path}[{i}]")


def label_match(sel, labels):
    for part in re.findall(r"[^,()]+(?:\([^)]*\))?", sel or ""):
        part = part.strip()
        if not part:
            continue
        if m := re.fullmatch(r"(\S+)\s+(in|notin)\s+\(([^)]*)\)", part):
            vals = [v.strip() for v in m[3].split(",")]
            ok = (labels.get(m[1]) in vals) == (m[2] == "in")
        elif "!=" in part:
            k, v = part.split("!=")
            ok = labels.get(k.strip()) != v.strip()
        elif "=" in part:
            k, v = part.replace("==", "=").split("=")
            ok = labels.get(k.strip()) == v.strip()
        elif part[0] == "!":
            ok = part[1:].strip() not in labels
        else:
            ok = part in labels
        if not ok:
            return False
    return True


def field_match(sel, obj):
    for part in filter(None, (p.strip() for p in (sel or "").split(","))):
        neg = "!=" in part
        k, v = re.split(r"!=|==|=", part, maxsplit=1)
        o = obj
        for x in k.split("."):
            o = (o or {}).get(x)
        if ((str(o) if o is not None else "") == v) == neg:
            return False
    return True


class Kube:
    def __init__(self, cidr="127.97.0.0/16"):
        self.rv = 100
        self.res: dict[tuple, Res] = {}
        self.faults = []
        self.dirty = asyncio.Event()
        self._ips = ipaddress.ip_network(cidr)
        for r in BUILTIN:
            self.add(Res(*r))
        for ns in ("default", "kube-system"):
            self.create(self.r("namespaces"), None, {"metadata": {"name": ns}})

    def add(self, r):
        self.res[r.group, r.version, r.plural] = r

    def r(self, plural):
        return next(r for r in self.res.values() if r.plural == plural)

    # -- storage ------------------------------------------------------------------
    def emit(self, r, typ, obj, old=None):
        self.rv += 1
        obj["metadata"]["resourceVersion"] = str(self.rv)
        snap = copy.deepcopy(obj)
        ev = (self.rv, typ, snap, old)
        r.history.append(ev)
        for q in r.watchers:
            q.put_nowait(ev)
        self.dirty.set()
        return snap

    def get(self, r, ns, name):
        try:
            return r.objs[ns, name]
        except KeyError:
            raise Err(404, "NotFound", f'{r.full} "{name}" not found', {"name": name, "kind": r.plural})

    def create(self, r, ns, obj):
        obj = copy.deepcopy(obj)
        m = obj.setdefault("metadata", {})
        if not m.get("name"):
            if not m.get("generateName"):
                raise Err(422, "Invalid", "name or generateName is required")
            m["name"] = m["generateName"] + "".join(random.choices(string.ascii_lowercase + string.digits, k=5))
        if not re.fullmatch(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?", m["name"]) or len(m["name"]) > 253:
            raise Err(422, "Invalid", f'{r.kind} "{m["name"]}" is invalid: metadata.name: Invalid value')
        if r.namespaced:
            m["namespace"] = ns
            if (None, ns) not in self.r("namespaces").objs:
                raise Err(404, "NotFound", f'namespaces "{ns}" not found')
        else:
            ns = None
        if (ns, m["name"]) in r.objs:
            raise Err(
                409, "AlreadyExists", f'{r.full} "{m["name"]}" already exists', {"name": m["name"], "kind": r.plural}
            )
        for k in list(m):
            if k not in ("name", "generateName", "namespace", "labels", "annotations", "finalizers", "ownerReferences"):
                del m[k]  # unknown metadata fields are dropped
        m |= {"uid": str(uuid.uuid4()), "creationTimestamp": now(), "generation": 1}
        obj |= {"apiVersion": r.gv, "kind": r.kind}
        if "status" in r.subs:
            obj.pop("status", None)
        if r.schema:
            prune(obj, r.schema)
        getattr(self, f"new_{r.plural}", lambda o: None)(obj)
        r.objs[ns, m["name"]] = obj
        return self.emit(r, "ADDED", obj)

    def write(self, r, old, new, sub=None):
        new = copy.deepcopy(new)
        m, om = new.setdefault("metadata", {}), old["metadata"]
        if m.get("resourceVersion") not in (None, "", om["resourceVersion"]):
            raise Err(
                409,
                "Conflict",
                f'Operation cannot be fulfilled on {r.full} "{om["name"]}": the object has been modified',
            )
        if m.get("uid", om["uid"]) != om["uid"]:
            raise Err(409, "Conflict", "Precondition failed: UID in precondition does not match")
        for k in (
            "uid",
            "creationTimestamp",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "name",
            "namespace",
            "generation",
            "resourceVersion",
        ):
            m.pop(k, None)
            if k in om:
                m[k] = om[k]
        new |= {"apiVersion": r.gv, "kind": r.kind}
        if sub == "status":
            new = {**copy.deepcopy(old), "status": new.get("status", {})}
        elif "status" in r.subs:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        if r.schema:
            prune(new, r.schema)
        if new == old:
            return copy.deepcopy(old)
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] = om.get("generation", 1) + 1
        snap = copy.deepcopy(old)
        r.objs[om.get("namespace"), om["name"]] = new
        if (
            new["metadata"].get("deletionTimestamp")
            and not new["metadata"].get("finalizers")
            and not (r.plural == "pods" and new["metadata"].get("deletionGracePeriodSeconds"))
        ):
            return self.remove(r, new)
        return self.emit(r, "MODIFIED", new, snap)

    def remove(self, r, obj):
        m = obj["metadata"]
        r.objs.pop((m.get("namespace"), m["name"]), None)
        out = self.emit(r, "DELETED", obj, copy.deepcopy(obj))
        if r.plural == "customresourcedefinitions":
            for v in obj["spec"]["versions"]:
                self.res.pop((obj["spec"]["group"], v["name"], obj["spec"]["names"]["plural"]), None)
        if r.plural == "namespaces":
            for rr in list(self.res.values()):
                for (ns, _), o in list(rr.objs.items()):
                    if ns == m["name"]:
                        self.delete(rr, o, {})
        return out

    def delete(self, r, obj, opts):
        m = obj["metadata"]
        want = (opts.get("preconditions") or {}).get("uid")
        if want and want != m["uid"]:
            raise Err(409, "Conflict", "Precondition failed: UID")
        grace = opts.get("gracePeriodSeconds")
        if r.plural == "pods":
            if grace is None:
                grace = obj["spec"].get("terminationGracePeriodSeconds", 30)
            if not obj["spec"].get("nodeName"):
                grace = 0
        else:
            grace = 0
        if m.get("finalizers") or grace:
            if "deletionTimestamp" not in m or (r.plural == "pods" and grace < m.get("deletionGracePeriodSeconds", 0)):
                old = copy.deepcopy(obj)
                m.update(deletionTimestamp=now(), deletionGracePeriodSeconds=grace)
                return self.emit(r, "MODIFIED", obj, old)
            return copy.deepcopy(obj)
        return self.remove(r, obj)

    # -- defaulting ---------------------------------------------------------------
    def new_pods(self, o):
        for q in [q for (ns, _), q in self.r("resourcequotas").objs.items() if ns == o["metadata"]["namespace"]]:
            hard = q["spec"].get("hard", {})
            n = sum(1 for (ns, _), p in self.r("pods").objs.items() if ns == o["metadata"]["namespace"])
            if "pods" in hard and n >= int(hard["pods"]):
                raise Err(
                    403,
                    "Forbidden",
                    f'pods "{o["metadata"]["name"]}" is forbidden: exceeded quota: {q["metadata"]["name"]}',
                )
        spec = o.setdefault("spec", {})
        for k, v in {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 30,
            "dnsPolicy": "ClusterFirst",
        }.items():
            spec.setdefault(k, v)
        if not spec.get("containers"):
            raise Err(422, "Invalid", "spec.containers: Required value")
        o["status"] = {"phase": "Pending"}

    def new_services(self, o):
        spec = o["spec"]
        spec.setdefault("type", "ClusterIP")
        if "clusterIP" not in spec:
            used = {s["spec"].get("clusterIP") for s in self.r("services").objs.values()}
            spec["clusterIP"] = next(str(ip) for ip in self._ips.hosts() if str(ip) not in used)
            spec["clusterIPs"] = [spec["clusterIP"]]
        if spec["type"] in ("NodePort", "LoadBalancer"):
            used = {p.get("nodePort") for s in self.r("services").objs.values() for p in s["spec"].get("ports", [])}
            for p in spec.get("ports", []):
                if not p.get("nodePort"):
                    p["nodePort"] = next(n for n in iter(lambda: random.randint(30000, 32767), 0) if n not in used)
        for p in spec.get("ports", []):
            p.setdefault("targetPort", p["port"])
            p.setdefault("protocol", "TCP")
        o["status"] = {"loadBalancer": {}}

    def new_deployments(self, o):
        sel, tpl = o["spec"]["selector"].get("matchLabels", {}), o["spec"]["template"]["metadata"].get("labels") or {}
        if not sel or not sel.items() <= tpl.items():
            raise Err(422, "Invalid", "spec.selector: Invalid value: `selector` does not match template `labels`")
        o["spec"].setdefault("replicas", 1)
        o["status"] = {}

    def new_namespaces(self, o):
        o["status"] = {"phase": "Active"}

    def new_secrets(self, o):
        for k, v in (o.pop("stringData", None) or {}).items():
            o.setdefault("data", {})[k] = base64.b64encode(v.encode()).decode()

    def new_customresourcedefinitions(self, o):
        s, n = o["spec"], o["spec"]["names"]
        o["status"] = {
            "conditions": [{"type": t, "status": "True"} for t in ("NamesAccepted", "Established")],
            "acceptedNames": n,
            "storedVersions": [v["name"] for v in s["versions"]],
        }
        for v in s["versions"]:
            self.add(
                Res(
                    s["group"],
                    v["name"],
                    n["plural"],
                    n["kind"],
                    s["scope"] == "Namespaced",
                    [x for x in (v.get("subresources") or {})],
                    n.get("shortNames", ()),
                    n.get("singular"),
                    (v.get("schema") or {}).get("openAPIV3Schema"),
                )
            )

    # -- controllers -----------------------------------------------------------------
    async def controllers(self):
        while True:
            await self.dirty.wait()
            self.dirty.clear()
            for step in (self.gc, self.deployments, self.replicasets):
                try:
                    step()
                except Err as e:
                    print("controller:", e.body["message"], file=sys.stderr)
                except Exception:
                    traceback.print_exc()
            await asyncio.sleep(0.02)

    def gc(self):
        uids = {o["metadata"]["uid"] for r in self.res.values() for o in r.objs.values()}
        for r in list(self.res.values()):
            for o in list(r.objs.values()):
                refs = o["metadata"].get("ownerReferences")
                if refs and not any(x["uid"] in uids for x in refs) and "deletionTimestamp" not in o["metadata"]:
                    self.delete(r, o, {})

    @staticmethod
    def owned(r, owner):
        return [
            o
            for o in r.objs.values()
            if any(x["uid"] == owner["metadata"]["uid"] for x in o["metadata"].get("ownerReferences", []))
        ]

    @staticmethod
    def owner_ref(o):
        return [
            {
                "apiVersion": o["apiVersion"],
                "kind": o["kind"],
                "name": o["metadata"]["name"],
                "uid": o["metadata"]["uid"],
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ]

    def status(self, r, o, st):
        if o.get("status") != st:
            self.write(r, o, {**o, "status": st}, "status")

    def deployments(self):
        dr, rr = self.r("deployments"), self.r("replicasets")
        for d in list(dr.objs.values()):
            m = d["metadata"]
            if "deletionTimestamp" in m:
                continue
            tpl = copy.deepcopy(d["spec"]["template"])
            h = hashlib.sha1(json.dumps(tpl, sort_keys=True).encode()).hexdigest()[:10]
            tpl["metadata"].setdefault("labels", {})["pod-template-hash"] = h
            ready = total = 0
            have = False
            for rs in self.owned(rr, d):
                cur = rs["metadata"]["labels"].get("pod-template-hash") == h
                have |= cur
                want = d["spec"]["replicas"] if cur else 0
                if rs["spec"]["replicas"] != want:
                    self.write(rr, rs, merge(rs, {"spec": {"replicas": want}}))
                ready += rs.get("status", {}).get("readyReplicas", 0)
                total += rs.get("status", {}).get("replicas", 0)
            if not have:
                self.create(
                    rr,
                    m["namespace"],
                    {
                        "metadata": {
                            "name": f"{m['name']}-{h}",
                            "labels": tpl["metadata"]["labels"],
                            "ownerReferences": self.owner_ref(d),
                        },
                        "spec": {
                            "replicas": d["spec"]["replicas"],
                            "template": tpl,
                            "selector": {
                                "matchLabels": {**d["spec"]["selector"]["matchLabels"], "pod-template-hash": h}
                            },
                        },
                    },
                )
            self.status(
                dr,
                d,
                {
                    "observedGeneration": m["generation"],
                    "replicas": total,
                    "readyReplicas": ready,
                    "availableReplicas": ready,
                    "updatedReplicas": total,
                },
            )

    def replicasets(self):
        rr, pr = self.r("replicasets"), self.r("pods")
        for rs in list(rr.objs.values()):
            if "deletionTimestamp" in rs["metadata"]:
                continue
            pods = [
                p
                for p in self.owned(pr, rs)
                if "deletionTimestamp" not in p["metadata"] and p["status"].get("phase") not in ("Succeeded", "Failed")
            ]
            n = rs["spec"]["replicas"]
            tpl = rs["spec"]["template"]
            for _ in range(n - len(pods)):
                self.create(
                    pr,
                    rs["metadata"]["namespace"],
                    {
                        "metadata": {
                            "generateName": rs["metadata"]["name"] + "-",
                            "labels": tpl["metadata"].get("labels"),
                            "annotations": tpl["metadata"].get("annotations"),
                            "ownerReferences": self.owner_ref(rs),
                        },
                        "spec": tpl["spec"],
                    },
                )
            for p in sorted(pods, key=lambda p: p["metadata"]["creationTimestamp"], reverse=True)[
                : max(0, len(pods) - n)
            ]:
                self.delete(pr, p, {})

            def is_ready(p):
                return any(c["type"] == "Ready" and c["status"] == "True" for c in p["status"].get("conditions", []))

            st = {
                "replicas": len(pods),
                "readyReplicas": sum(map(is_ready, pods)),
                "observedGeneration": rs["metadata"]["generation"],
            }
            self.status(rr, rs, st)

    # -- HTTP --------------------------------------------------------------------------
    @web.middleware
    async def errors(self, request, handler):
        for f in list(self.faults):
            if f.get("method", request.method) == request.method and re.search(f.get("path", ""), request.path_qs):
                f["times"] = f.get("times", 1) - 1
                if f["times"] <= 0:
                    self.faults.remove(f)
                await asyncio.sleep(f.get("delay", 0))
                if f.get("drop"):
                    request.transport.abort()
                if "status" in f:
                    e = Err(f["status"], f.get("reason", "InternalError"), f.get("message", "injected fault"))
                    return web.json_response(e.body, status=e.code)
                break
        try:
            return await handler(request)
        except Err as e:
            return web.json_response(e.body, status=e.code)

    async def h_faults(self, request):
        self.faults = await request.json()
        return web.json_response({})

    def group_list(self):
        groups = {}
        for r in self.res.values():
            if r.group:
                groups.setdefault(r.group, []).append({"groupVersion": r.gv, "version": r.version})
        out = []
        for g, vs in sorted(groups.items()):
            vs = [v for i, v in enumerate(vs) if v not in vs[:i]]
            out.append({"name": g, "versions": vs, "preferredVersion": vs[0]})
        return out

    async def h_any(self, request):
        path = re.sub("/+", "/", request.path).rstrip("/")  # kr8s asks for /version/ and /api/
        if re.fullmatch(r"/(version|readyz|healthz|livez|api|apis|api/[^/]+|apis/[^/]+|apis/[^/]+/[^/]+)", path):
            return await self.h_disc(request, path)
        return await self.h_api(request, path)

    async def h_disc(self, request, path):
        if path == "/version":
            return web.json_response({"major": "1", "minor": "32", "gitVersion": "v1.32.0", "platform": "linux/amd64"})
        if path in ("/readyz", "/healthz", "/livez"):
            return web.Response(text="ok")
        if path == "/api":
            return web.json_response({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return web.json_response({"kind": "APIGroupList", "apiVersion": "v1", "groups": self.group_list()})
        parts = path.split("/")[2:]
        if path.startswith("/apis") and len(parts) == 1:
            for g in self.group_list():
                if g["name"] == parts[0]:
                    return web.json_response({"kind": "APIGroup", "apiVersion": "v1", **g})
        gv = "/".join(parts)
        rs = [r for r in self.res.values() if r.gv == gv]
        if not rs:
            raise Err(404, "NotFound", "the server could not find the requested resource")
        out = []
        for r in rs:
            out.append(
                {
                    "name": r.plural,
                    "singularName": r.singular,
                    "namespaced": r.namespaced,
                    "kind": r.kind,
                    "verbs": ALL,
                    "shortNames": r.short,
                }
            )
            out += [
                {
                    "name": f"{r.plural}/{s}",
                    "singularName": "",
                    "namespaced": r.namespaced,
                    "kind": r.kind,
                    "verbs": ["get", "patch", "update"],
                }
                for s in r.subs
            ]
        return web.json_response({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": gv, "resources": out})

    async def h_api(self, request, path):
        m = re.fullmatch(
            r"/api(?:s/([^/]+))?/([^/]+)(?:/namespaces/([^/]+)(?=/))?/([^/]+)(?:/([^/]+))?(?:/([^/]+))?", path
        )
        r = m and self.res.get((m[1] or "", m[2], m[4]))
        if r is None and m and m[3]:  # /api/v1/namespaces/NAME/status and the like
            m = re.fullmatch(r"/api()/(v1)()/(namespaces)/([^/]+)/(status|finalize)", path)
            r = m and self.res["", "v1", "namespaces"]
        if not r:
            raise Err(404, "NotFound", "the server could not find the requested resource")
        ns, name, sub = m[3] or None, m[5], m[6]
        body = None
        if request.method in ("POST", "PUT", "PATCH", "DELETE"):
            raw = await request.read()
            try:
                body = yaml.safe_load(raw) if "yaml" in request.content_type else json.loads(raw or b"{}")
            except ValueError as e:
                raise Err(400, "BadRequest", str(e))
        if sub in ("log", "portforward"):
            return await self.to_kubelet(request, self.get(r, ns, name), sub)
        if request.method == "GET":
            if name:
                return web.json_response(self.get(r, ns, name))
            if request.query.get("watch") in ("true", "1"):
                return await self.h_watch(request, r, ns)
            items = [o for o in r.objs.values() if self.selects(request, ns, o)]
            items.sort(key=lambda o: (o["metadata"].get("namespace") or "", o["metadata"]["name"]))
            return web.json_response(
                {
                    "kind": r.kind + "List",
                    "apiVersion": r.gv,
                    "metadata": {"resourceVersion": str(self.rv)},
                    "items": items,
                }
            )
        if request.method == "POST":
            if sub == "binding":
                pod = self.get(r, ns, name)
                if pod["spec"].get("nodeName"):
                    raise Err(409, "Conflict", "pod is already assigned")
                self.write(r, pod, merge(pod, {"spec": {"nodeName": body["target"]["name"]}}))
                return web.json_response({"kind": "Status", "status": "Success"}, status=201)
            return web.json_response(self.create(r, ns, body), status=201)
        if request.method == "DELETE":
            opts = {**(body or {}), **{k: int(v) for k, v in request.query.items() if k == "gracePeriodSeconds"}}
            if name:
                return web.json_response(self.delete(r, self.get(r, ns, name), opts))
            for o in [o for o in r.objs.values() if self.selects(request, ns, o)]:
                self.delete(r, o, opts)
            return web.json_response({"kind": "Status", "status": "Success"})
        old = self.get(r, ns, name)
        if sub and sub not in r.subs:
            raise Err(404, "NotFound", "the server could not find the requested resource")
        if request.method == "PATCH":
            new = json_patch(old, body) if "json-patch" in request.content_type else merge(copy.deepcopy(old), body)
            if not ("json-patch" not in request.content_type and "resourceVersion" in body.get("metadata", {})):
                new["metadata"].pop("resourceVersion", None)
        else:
            new = body
        return web.json_response(self.write(r, old, new, sub))

    def selects(self, request, ns, o):
        return (
            (ns is None or o["metadata"].get("namespace") == ns)
            and label_match(request.query.get("labelSelector"), o["metadata"].get("labels") or {})
            and field_match(request.query.get("fieldSelector"), o)
        )

    async def h_watch(self, request, r, ns):
        since = request.query.get("resourceVersion")
        q = asyncio.Queue()
        if since in (None, "", "0"):
            backlog = [(self.rv, "ADDED", copy.deepcopy(o), None) for o in r.objs.values()]
        else:
            backlog = [e for e in r.history if e[0] > int(since)]
            gone = len(r.history) == r.history.maxlen and r.history[0][0] > int(since) + 1
            if gone:
                backlog = [(0, "ERROR", Err(410, "Expired", "too old resource version").body, None)]
        r.watchers.add(q)
        resp = web.StreamResponse(headers={"Content-Type": "application/json"})
        end = asyncio.get_running_loop().time() + float(request.query.get("timeoutSeconds", 1800))
        try:
            await resp.prepare(request)
            while True:
                for rv, typ, o, old in backlog:
                    if typ != "ERROR":
                        hit = self.selects(request, ns, o)
                        was = old is not None and self.selects(request, ns, old)
                        if typ == "MODIFIED" and hit != was:
                            typ = "ADDED" if hit else "DELETED"
                        elif not hit:
                            continue
                    await resp.write(json.dumps({"type": typ, "object": o}).encode() + b"\n")
                    if typ == "ERROR":
                        return resp
                try:
                    backlog = [await asyncio.wait_for(q.get(), end - asyncio.get_running_loop().time())]
                except asyncio.TimeoutError:
                    return resp
        except (ConnectionError, aiohttp.ClientConnectionError):
            return resp
        finally:
            r.watchers.discard(q)

    async def to_kubelet(self, request, pod, sub):
        node = self.get(self.r("nodes"), None, pod["spec"].get("nodeName") or "")
        port = node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"]
        m = pod["metadata"]
        base = f"127.0.0.1:{port}"
        if sub == "log":
            c = request.query.get("container") or pod["spec"]["containers"][0]["name"]
            async with (
                aiohttp.ClientSession() as s,
                s.get(
                    f"http://{base}/containerLogs/{m['namespace']}/{m['name']}/{c}",
                    params=request.query,
                    timeout=aiohttp.ClientTimeout(total=None),
                ) as up,
            ):
                resp = web.StreamResponse(status=up.status, headers={"Content-Type": "text/plain"})
                await resp.prepare(request)
                async for chunk in up.content.iter_any():
                    await resp.write(chunk)
                return resp
        async with (
            aiohttp.ClientSession() as s,
            s.ws_connect(
                f"ws://{base}/portForward/{m['namespace']}/{m['name']}", params=request.query, max_msg_size=0
            ) as up,
        ):
            ws = web.WebSocketResponse(max_msg_size=0, protocols=("v4.channel.k8s.io",))
            await ws.prepare(request)

            async def pump(a, b):
                try:
                    async for msg in a:
                        if msg.type == aiohttp.WSMsgType.BINARY:
                            await b.send_bytes(msg.data)
                finally:
                    await b.close()

            await asyncio.gather(pump(up, ws), pump(ws, up), return_exceptions=True)
            return ws

    def app(self):
        app = web.Application(middlewares=[self.errors], client_max_size=2**26)
        app.router.add_post("/_fake/faults", self.h_faults)
        app.router.add_route("*", "/{tail:.*}", self.h_any)
        return app


async def amain():
    p = argparse.ArgumentParser()
    p.add_argument("--port", type=int, default=8001)
    p.add_argument("--kubeconfig")
    p.add_argument("--service-cidr", default="127.97.0.0/16")
    p.add_argument("--crds", help="folder of CRD manifests; default: the installed dask-kubernetes package's")
    a = p.parse_args()
    kube = Kube(a.service_cidr)
    crds = a.crds
    if not crds:
        import importlib.util

        crds = (
            Path(importlib.util.find_spec("dask_kubernetes").origin).parent
            / "operator/deployment/helm/dask-kubernetes-operator/crds"
        )
    for f in sorted(Path(crds).glob("*.yaml")):
        for doc in yaml.load_all(f.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            if doc:
                kube.create(kube.r("customresourcedefinitions"), None, doc)
    runner = web.AppRunner(kube.app(), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", a.port).start()
    if a.kubeconfig:
        Path(a.kubeconfig).write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "fake",
                    "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{a.port}"}}],
                    "users": [{"name": "fake", "user": {}}],
                    "contexts": [
                        {"name": "fake", "context": {"cluster": "fake", "user": "fake", "namespace": "default"}}
                    ],
                }
            )
        )
    print("ready", flush=True)
    await kube.controllers()


if __name__ == "__main__":
    asyncio.run(amain())
