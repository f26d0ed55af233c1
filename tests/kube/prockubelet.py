# ruff: noqa
"""A "process kubelet": one node whose pods are local processes.

It talks to any Kubernetes API server (a real kube-apiserver, or fakekube.py) and plays
kube-scheduler (binds pods by CPU requests), kubelet (runs container commands as
subprocesses, probes, restarts, back-off, logs, port-forward, graceful deletion),
kube-proxy (a TCP listener on every Service's ClusterIP / NodePort), a load balancer
(fills status.loadBalancer) and cluster DNS (a hosts file read by podshim/).

Only dependency: aiohttp (which kopf, hence the Dask operator, already needs).

Tricks: pod IPs and ClusterIPs are loopback addresses (127/8), which Linux accepts without
any set-up or privilege; podshim/sitecustomize.py turns a pod's wildcard binds into binds
to its own pod IP. `image` is only a tag: `venv:/path` puts /path/bin on PATH; an image with
"does-not-exist" or "bad-image" in it never pulls (ErrImagePull -> ImagePullBackOff).
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import datetime as dt
import ipaddress
import json
import logging
import os
import random
import re
import signal
import ssl
import struct
import subprocess
import sys
import time
from pathlib import Path

import aiohttp
from aiohttp import web

log = logging.getLogger("prockubelet")
HERE = Path(__file__).resolve().parent


def now() -> str:
    return dt.datetime.now(dt.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def cpu(q) -> float:
    q = str(q or 0)
    return float(q[:-1]) / 1000 if q.endswith("m") else float(q)


class Api:
    def __init__(self, server, token=None, ca=None):
        self.server = server.rstrip("/")
        self.headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.ssl = ssl.create_default_context(cafile=ca) if ca else False
        self.session = None

    async def __aenter__(self):
        self.session = aiohttp.ClientSession(
            headers=self.headers, connector=aiohttp.TCPConnector(ssl=self.ssl, limit=0)
        )
        return self

    async def __aexit__(self, *exc):
        await self.session.close()

    async def req(self, method, path, body=None, ctype="application/json", ok=(404, 409)):
        async with self.session.request(
            method,
            self.server + path,
            data=None if body is None else json.dumps(body),
            headers={"Content-Type": ctype},
        ) as r:
            data = await r.json(content_type=None)
            if r.status >= 400 and r.status not in ok:
                raise RuntimeError(f"{method} {path}: {r.status} {data}")
            return r.status, data

    async def merge(self, path, body):
        return await self.req("PATCH", path, body, "application/merge-patch+json")

    async def watch(self, path, handler, query=""):
        """list + watch for ever; handler(type, object) with type SYNC/ADDED/MODIFIED/DELETED."""
        while True:
            try:
                _, lst = await self.req("GET", f"{path}?{query}", ok=())
                await handler("SYNC", lst["items"])
                rv = lst["metadata"]["resourceVersion"]
                url = f"{self.server}{path}?watch=true&timeoutSeconds=300&resourceVersion={rv}&{query}"
                async with self.session.get(
                    url, timeout=aiohttp.ClientTimeout(total=None, sock_read=330), read_bufsize=2**24
                ) as r:
                    async for line in r.content:
                        ev = json.loads(line)
                        if ev["type"] == "ERROR":
                            break
                        if ev["type"] != "BOOKMARK":
                            await handler(ev["type"], ev["object"])
            except asyncio.CancelledError:
                raise
            except Exception as e:
                log.warning("watch %s: %r; again", path, e)
                await asyncio.sleep(0.5)


class Container:
    def __init__(self, spec):
        self.spec, self.name = spec, spec["name"]
        self.proc = None
        self.restarts = 0
        self.ready = False
        self.state = {"waiting": {"reason": "ContainerCreating"}}
        self.last = {}
        self.env = {}

    def status(self):
        return {
            "name": self.name,
            "image": self.spec.get("image", ""),
            "imageID": "process://" + self.spec.get("image", ""),
            "containerID": f"process://{self.proc.pid}" if self.proc else "",
            "ready": self.ready,
            "started": "running" in self.state,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }


class PodRun:
    """One pod on this node."""

    def __init__(self, kubelet, pod):
        self.k, self.pod = kubelet, pod
        m = pod["metadata"]
        self.ns, self.name, self.uid = m["namespace"], m["name"], m["uid"]
        self.path = f"/api/v1/namespaces/{self.ns}/pods/{self.name}"
        self.ip = kubelet.new_ip()
        self.started = now()
        self.phase = "Pending"
        self.inits = [Container(c) for c in pod["spec"].get("initContainers") or []]
        self.containers = [Container(c) for c in pod["spec"]["containers"]]
        self.dir = kubelet.root / f"{self.ns}_{self.name}_{self.uid}"
        self.dir.mkdir(parents=True, exist_ok=True)
        self.deleting = False
        self.gone = False
        self.task = asyncio.create_task(self.run())
        self.last_pushed = None

    # -- status ---------------------------------------------------------------
    @property
    def ready(self):
        return bool(self.phase == "Running" and all(c.ready for c in self.containers))

    async def push(self):
        def cond(t, v, reason=None):
            c = {"type": t, "status": "True" if v else "False", "lastTransitionTime": self.started}
            return c | ({"reason": reason} if reason else {})

        st = {
            "phase": self.phase,
            "hostIP": "127.0.0.1",
            "podIP": self.ip,
            "podIPs": [{"ip": self.ip}],
            "startTime": self.started,
            "conditions": [
                cond("Initialized", self.phase != "Pending"),
                cond("Ready", self.ready),
                cond("ContainersReady", self.ready),
                cond("PodScheduled", True),
            ],
            "containerStatuses": [c.status() for c in self.containers],
        }
        if self.inits:
            st["initContainerStatuses"] = [c.status() for c in self.inits]
        key = json.dumps(st, sort_keys=True)
        if key == self.last_pushed or self.gone:
            return
        code, _ = await self.k.api.merge(self.path + "/status", {"metadata": {"uid": self.uid}, "status": st})
        if code < 400:
            self.last_pushed = key

    # -- containers -----------------------------------------------------------
    async def environ(self, c):
        pod = self.pod
        env = {k: os.environ[k] for k in ("LANG", "LC_ALL", "TZ", "TMPDIR") if k in os.environ}
        path = self.k.path
        image = c.spec.get("image", "")
        if image.startswith("venv:"):
            path = f"{image[5:]}/bin:{path}"
        env |= {
            "PATH": path,
            "HOME": str(self.dir),
            "HOSTNAME": self.name,
            "POD_IP": self.ip,
            "PODSHIM_HOSTS": str(self.k.hosts),
            "PYTHONPATH": f"{HERE / 'podshim'}{os.pathsep}{self.k.pythonpath}".rstrip(os.pathsep),
            "PYTHONUNBUFFERED": "1",
        }

        for src in c.spec.get("envFrom") or []:
            for f, kind in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
                if f in src:
                    for k, v in (await self.ref(kind, src[f]["name"])).items():
                        env[src.get("prefix", "") + k] = v
        for e in c.spec.get("env") or []:
            v = e.get("value") or ""
            vf = e.get("valueFrom") or {}
            if "fieldRef" in vf:
                v = {
                    "metadata.name": self.name,
                    "metadata.namespace": self.ns,
                    "metadata.uid": self.uid,
                    "status.podIP": self.ip,
                    "status.hostIP": "127.0.0.1",
                    "spec.nodeName": self.k.node,
                }.get(vf["fieldRef"]["fieldPath"], "")
            elif "configMapKeyRef" in vf:
                v = await self.ref("configmaps", vf["configMapKeyRef"]["name"], vf["configMapKeyRef"]["key"])
            elif "secretKeyRef" in vf:
                v = await self.ref("secrets", vf["secretKeyRef"]["name"], vf["secretKeyRef"]["key"])
            if e["name"] == "PYTHONPATH":
                v = f"{HERE / 'podshim'}{os.pathsep}{v}"
            env[e["name"]] = self.expand(v, env)
        return env

    async def mounted(self, c, argv):
        """Secret, configMap, emptyDir and hostPath volumes: bind mounts in a private mount namespace (root only)."""
        mounts = []
        volumes = {v["name"]: v for v in self.pod["spec"].get("volumes") or []}
        for m in c.spec.get("volumeMounts") or []:
            v = volumes.get(m["name"], {})
            src = Path(v["hostPath"]["path"]) if "hostPath" in v else self.dir / "volumes" / m["name"]
            src.mkdir(parents=True, exist_ok=True)
            for kind, plural, field in (("secret", "secrets", "secretName"), ("configMap", "configmaps", "name")):
                if kind in v:
                    for k, data in (await self.ref(plural, v[kind][field])).items():
                        (src / k).write_text(data)
            Path(m["mountPath"]).mkdir(parents=True, exist_ok=True)
            mounts += [str(src), m["mountPath"]]
        if not mounts:
            return argv
        if os.geteuid():
            log.error("pod %s/%s: volumes need root; left out", self.ns, self.name)
            return argv
        sh = 'n=$1; shift; while [ $n -gt 0 ]; do mount --bind "$1" "$2"; shift 2; n=$((n-1)); done; exec "$@"'
        return [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            sh,
            "sh",
            str(len(mounts) // 2),
            *mounts,
            *argv,
        ]

    async def ref(self, kind, name, key=None):
        _, o = await self.k.api.req("GET", f"/api/v1/namespaces/{self.ns}/{kind}/{name}")
        data = dict(o.get("data") or {})
        if kind == "secrets":
            data = {k: base64.b64decode(v).decode() for k, v in data.items()}
        return data if key is None else data.get(key, "")

    @staticmethod
    def expand(s, env):
        return re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", lambda m: env.get(m[1], m[0]), s)

    async def start(self, c):
        image = c.spec.get("image", "")
        if re.search(r"does-not-exist|bad-image", image):
            c.state = {"waiting": {"reason": "ErrImagePull", "message": f"no such image {image}"}}
            await self.push()
            await asyncio.sleep(1)
            c.state = {"waiting": {"reason": "ImagePullBackOff", "message": f'Back-off pulling image "{image}"'}}
            await self.push()
            await asyncio.Event().wait()
        c.env = env = await self.environ(c)
        argv = [self.expand(a, env) for a in (c.spec.get("command") or []) + (c.spec.get("args") or [])]
        argv = await self.mounted(c, argv)
        out = open(self.dir / f"{c.name}.log", "ab")
        try:
            c.proc = await asyncio.create_subprocess_exec(
                *argv,
                env=env,
                cwd=c.spec.get("workingDir") or self.dir,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        except OSError as e:
            out.write(f"{e}\n".encode())
            c.proc = None
            return 127
        finally:
            out.close()
        c.state = {"running": {"startedAt": now()}}
        c.ready = "readinessProbe" not in c.spec
        log.info("pod %s/%s ip %s pid %s: %s", self.ns, self.name, self.ip, c.proc.pid, " ".join(argv))
        return None

    async def probe(self, c, p):
        try:
            if "httpGet" in p:
                port = self.port(c, p["httpGet"]["port"])
                host = p["httpGet"].get("host") or self.ip
                url = f"{p['httpGet'].get('scheme', 'HTTP').lower()}://{host}:{port}{p['httpGet'].get('path', '/')}"
                t = aiohttp.ClientTimeout(total=p.get("timeoutSeconds", 1))
                async with self.k.probes.get(url, timeout=t, ssl=False) as r:
                    return r.status < 400
            if "tcpSocket" in p:
                _, w = await asyncio.open_connection(self.ip, self.port(c, p["tcpSocket"]["port"]))
                w.close()
                return True
            if "exec" in p:
                proc = await asyncio.create_subprocess_exec(*p["exec"]["command"], env=c.env)
                return await proc.wait() == 0
        except (OSError, aiohttp.ClientError, asyncio.TimeoutError):
            return False
        return True

    def port(self, c, port):
        if isinstance(port, int) or str(port).isdigit():
            return int(port)
        return next(p["containerPort"] for p in c.spec.get("ports") or [] if p.get("name") == port)

    async def probing(self, c):
        async def loop(p, on):
            await asyncio.sleep(p.get("initialDelaySeconds", 0))
            fails = 0
            while True:
                ok = await self.probe(c, p)
                fails = 0 if ok else fails + 1
                await on(ok, fails >= p.get("failureThreshold", 3))
                await asyncio.sleep(p.get("periodSeconds", 10))

        async def on_ready(ok, dead):
            if ok != c.ready and (ok or dead):
                c.ready = ok
                await self.push()

        async def on_live(ok, dead):
            if dead:
                log.info("pod %s/%s fails its liveness probe", self.ns, self.name)
                self.kill(c, signal.SIGKILL)

        ps = [
            loop(c.spec[n], on) for n, on in (("readinessProbe", on_ready), ("livenessProbe", on_live)) if c.spec.get(n)
        ]
        if ps:
            await asyncio.gather(*ps)

    @staticmethod
    def kill(c, sig):
        if c.proc and c.proc.returncode is None:
            try:
                os.killpg(c.proc.pid, sig)
            except ProcessLookupError:
                pass

    async def once(self, c):
        began = now()
        rc = await self.start(c)
        if rc is None:
            await self.push()
            probes = asyncio.create_task(self.probing(c))
            rc = await c.proc.wait()
            probes.cancel()
            self.kill_group(c)
        c.ready = False
        if rc < 0:
            rc = 128 - rc
        c.state = {
            "terminated": {
                "exitCode": rc,
                "reason": "Completed" if rc == 0 else "Error",
                "startedAt": began,
                "finishedAt": now(),
            }
        }
        log.info("pod %s/%s container %s exited %s", self.ns, self.name, c.name, rc)
        return rc

    @staticmethod
    def kill_group(c):
        try:
            os.killpg(c.proc.pid, signal.SIGKILL)  # a nanny's orphans
        except (ProcessLookupError, PermissionError):
            pass

    async def keep(self, c):
        policy = self.pod["spec"].get("restartPolicy", "Always")
        delay = self.k.backoff
        while True:
            t = time.monotonic()
            rc = await self.once(c)
            if self.deleting or policy == "Never" or (policy == "OnFailure" and rc == 0):
                await self.push()
                return rc
            c.last, c.restarts = c.state, c.restarts + 1
            if time.monotonic() - t > 60:
                delay = self.k.backoff
            c.state = {
                "waiting": {"reason": "CrashLoopBackOff", "message": f"back-off {delay}s restarting failed container"}
            }
            await self.push()
            await asyncio.sleep(delay)
            delay = min(delay * 2, 30)

    async def run(self):
        try:
            await self.push()
            for c in self.inits:
                while await self.once(c) != 0:
                    c.last, c.restarts = c.state, c.restarts + 1
                    await asyncio.sleep(self.k.backoff)
            if self.deleting:
                return
            if not any(re.search(r"does-not-exist|bad-image", c.spec.get("image", "")) for c in self.containers):
                self.phase = "Running"
            rcs = await asyncio.gather(*(self.keep(c) for c in self.containers))
            self.phase = "Succeeded" if not any(rcs) else "Failed"
            await self.push()
        except asyncio.CancelledError:
            pass
        except Exception:
            log.exception("pod %s/%s", self.ns, self.name)

    async def stop(self, grace, api_delete=True):
        if self.deleting:
            return
        self.deleting = True
        for c in self.inits + self.containers:
            c.ready = False
            self.kill(c, signal.SIGTERM)
        await self.push()
        deadline = time.monotonic() + min(grace, self.k.max_grace)
        live = [c for c in self.inits + self.containers if c.proc]
        while any(c.proc.returncode is None for c in live) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        for c in live:
            self.kill(c, signal.SIGKILL)
            self.kill_group(c)
        self.task.cancel()
        self.gone = True
        if api_delete:
            await self.k.api.req(
                "DELETE",
                self.path,
                {
                    "apiVersion": "v1",
                    "kind": "DeleteOptions",
                    "gracePeriodSeconds": 0,
                    "preconditions": {"uid": self.uid},
                },
            )
        self.k.runs.pop(self.uid, None)
        log.info("pod %s/%s removed", self.ns, self.name)


class ServiceProxy:
    """Listeners for one Service."""

    def __init__(self, k, svc):
        self.k, self.svc, self.servers = k, svc, {}

    async def sync(self):
        """Listen only while a ready pod is behind the port; else connections are refused, as by kube-proxy."""
        want = {}
        spec = self.svc["spec"]
        ip = spec.get("clusterIP")
        for p in spec.get("ports") or []:
            if self.target(p.get("name")) is None:
                continue
            if ip and ip != "None":
                want[(ip, p["port"])] = p
            if p.get("nodePort"):
                want[("127.0.0.1", p["nodePort"])] = p
        for key in list(self.servers):
            if key not in want:
                self.servers.pop(key).close()
        for key, p in want.items():
            if key not in self.servers:
                self.servers[key] = await asyncio.start_server(
                    lambda r, w, n=p["name"] if "name" in p else None: self.serve(r, w, n), *key
                )

    def close(self):
        for s in self.servers.values():
            s.close()

    def target(self, name):
        spec = self.svc["spec"]
        p = next(p for p in spec["ports"] if p.get("name") == name)
        pods = [
            r
            for r in self.k.runs.values()
            if r.ready
            and not r.deleting
            and r.ns == self.svc["metadata"]["namespace"]
            and spec.get("selector")
            and spec["selector"].items() <= (r.pod["metadata"].get("labels") or {}).items()
        ]
        if not pods:
            return None
        r = random.choice(pods)
        tp = p.get("targetPort", p["port"])
        for c in r.containers:
            for cp in c.spec.get("ports") or []:
                if cp.get("name") == tp:
                    return r.ip, cp["containerPort"]
        return r.ip, int(tp)

    async def serve(self, reader, writer, name):
        t = self.target(name)
        if t is None:
            writer.transport.abort()
            return
        await splice(reader, writer, *t)


async def splice(reader, writer, host, port):
    try:
        r2, w2 = await asyncio.open_connection(host, port)
    except OSError:
        writer.transport.abort()
        return

    async def copy(a, b):
        try:
            while data := await a.read(2**18):
                b.write(data)
                await b.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            b.close()

    await asyncio.gather(copy(reader, w2), copy(r2, writer))


class Kubelet:
    def __init__(self, a, api):
        self.api, self.node = api, a.node
        self.root = Path(a.root).resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.hosts = self.root / "hosts"
        self.hosts.write_text("")
        self.path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.pythonpath = a.pythonpath
        self.backoff, self.max_grace, self.cpus = a.backoff, a.max_grace, a.cpus
        self.port, self.lb_delay, self.no_lb = a.port, a.lb_delay, a.no_lb
        self.runs: dict[str, PodRun] = {}
        self.services: dict[tuple, ServiceProxy] = {}
        self.unbound: dict[tuple, dict] = {}
        self._net = ipaddress.ip_network(a.pod_cidr)
        self._next = 1
        self.tls = a.tls_cert, a.tls_key

    def new_ip(self):
        used = {r.ip for r in self.runs.values()}
        while True:
            ip = str(self._net[1 + self._next % (self._net.num_addresses - 2)])
            self._next += 1
            if ip not in used:
                return ip

    # -- node -------------------------------------------------------------------
    async def node_loop(self):
        body = {
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": self.node, "labels": {"kubernetes.io/hostname": self.node}},
            "spec": {},
        }
        await self.api.req("POST", "/api/v1/nodes", body)
        while True:
            res = {"cpu": str(self.cpus), "memory": "64Gi", "pods": "200"}
            await self.api.merge(
                f"/api/v1/nodes/{self.node}/status",
                {
                    "status": {
                        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                        "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
                        "capacity": res,
                        "allocatable": res,
                        "conditions": [
                            {
                                "type": "Ready",
                                "status": "True",
                                "reason": "ProcessKubelet",
                                "lastHeartbeatTime": now(),
                                "lastTransitionTime": now(),
                            }
                        ],
                    }
                },
            )
            await asyncio.sleep(10)

    # -- pods -------------------------------------------------------------------
    async def on_pod(self, typ, obj):
        if typ == "SYNC":
            seen = {p["metadata"]["uid"] for p in obj}
            for uid, r in list(self.runs.items()):
                if uid not in seen:
                    await r.stop(0, api_delete=False)
            for p in obj:
                await self.on_pod("MODIFIED", p)
            return
        m, uid = obj["metadata"], obj["metadata"]["uid"]
        key = (m["namespace"], m["name"])
        run = self.runs.get(uid)
        if typ == "DELETED":
            self.unbound.pop(key, None)
            if run:
                asyncio.create_task(run.stop(0, api_delete=False))
            return
        if m.get("deletionTimestamp"):
            if run:
                asyncio.create_task(run.stop(m.get("deletionGracePeriodSeconds", 30)))
            elif obj["spec"].get("nodeName") == self.node:
                await self.api.req(
                    "DELETE",
                    f"/api/v1/namespaces/{key[0]}/pods/{key[1]}",
                    {"gracePeriodSeconds": 0, "preconditions": {"uid": uid}},
                )
            return
        if not obj["spec"].get("nodeName"):
            self.unbound[key] = obj
            return
        self.unbound.pop(key, None)
        if run:
            run.pod = obj
        elif obj["spec"]["nodeName"] == self.node and obj["status"].get("phase", "Pending") in ("Pending", "Running"):
            self.runs[uid] = PodRun(self, obj)

    async def scheduler_loop(self):
        """Bind pods to this node while their CPU requests fit."""
        told = set()
        while True:
            await asyncio.sleep(0.1)
            for key, pod in list(self.unbound.items()):

                def need(p):
                    return sum(
                        cpu(((c.get("resources") or {}).get("requests") or {}).get("cpu"))
                        for c in p["spec"]["containers"]
                    )

                used = sum(need(r.pod) for r in self.runs.values())
                path = f"/api/v1/namespaces/{key[0]}/pods/{key[1]}"
                if used + need(pod) > self.cpus:
                    if key not in told:
                        told.add(key)
                        await self.api.merge(
                            path + "/status",
                            {
                                "status": {
                                    "conditions": [
                                        {
                                            "type": "PodScheduled",
                                            "status": "False",
                                            "reason": "Unschedulable",
                                            "message": "0/1 nodes are available: 1 Insufficient cpu.",
                                            "lastTransitionTime": now(),
                                        }
                                    ]
                                }
                            },
                        )
                    continue
                self.unbound.pop(key, None)
                told.discard(key)
                code, r = await self.api.req(
                    "POST",
                    path + "/binding",
                    {
                        "apiVersion": "v1",
                        "kind": "Binding",
                        "metadata": {"name": key[1], "namespace": key[0]},
                        "target": {"apiVersion": "v1", "kind": "Node", "name": self.node},
                    },
                )
                if code < 400:  # count it at once, before its watch event comes
                    for _ in range(50):
                        if pod["metadata"]["uid"] in self.runs:
                            break
                        await asyncio.sleep(0.02)

    # -- services ---------------------------------------------------------------
    async def on_service(self, typ, obj):
        if typ == "SYNC":
            seen = {(s["metadata"]["namespace"], s["metadata"]["name"]) for s in obj}
            for key in list(self.services):
                if key not in seen:
                    self.services.pop(key).close()
            for s in obj:
                await self.on_service("MODIFIED", s)
            return
        key = (obj["metadata"]["namespace"], obj["metadata"]["name"])
        if key == ("default", "kubernetes"):
            return
        if typ == "DELETED":
            if key in self.services:
                self.services.pop(key).close()
        else:
            new = key not in self.services
            proxy = self.services.setdefault(key, ServiceProxy(self, obj))
            proxy.svc = obj
            if new and obj["spec"].get("type") == "LoadBalancer" and not self.no_lb:
                asyncio.create_task(self.load_balancer(key, obj))
        lines = []
        for (ns, name), p in sorted(self.services.items()):
            ip = p.svc["spec"].get("clusterIP")
            if ip and ip != "None":
                lines.append(f"{ip} {name}.{ns}.svc.cluster.local {name}.{ns}.svc {name}.{ns}\n")
        tmp = self.hosts.with_suffix(".tmp")
        tmp.write_text("".join(lines))
        tmp.replace(self.hosts)

    async def proxy_loop(self):
        while True:
            await asyncio.sleep(0.1)
            for key, p in list(self.services.items()):
                try:
                    await p.sync()
                except OSError as e:
                    log.error("service %s: %s", key, e)
                    await asyncio.sleep(1)

    async def load_balancer(self, key, svc):
        await asyncio.sleep(self.lb_delay)
        await self.api.merge(
            f"/api/v1/namespaces/{key[0]}/services/{key[1]}/status",
            {"status": {"loadBalancer": {"ingress": [{"ip": svc["spec"]["clusterIP"]}]}}},
        )

    # -- the kubelet's own HTTP API (the API server proxies logs and port-forward to it) ---------
    def find(self, ns, name):
        for r in self.runs.values():
            if (r.ns, r.name) == (ns, name):
                return r
        raise web.HTTPNotFound(text=f"pod {ns}/{name} not here")

    async def h_logs(self, request):
        r = self.find(request.match_info["ns"], request.match_info["pod"])
        name = request.match_info.get("container") or r.containers[0].name
        path = r.dir / f"{name}.log"
        data = path.read_bytes() if path.exists() else b""
        if n := int(request.query.get("tailLines", 0)):
            data = b"".join(data.splitlines(True)[-n:])
        resp = web.StreamResponse(headers={"Content-Type": "text/plain"})
        await resp.prepare(request)
        await resp.write(data)
        pos = len(data) if not n else path.stat().st_size if path.exists() else 0
        while request.query.get("follow") in ("true", "1") and not r.gone:
            await asyncio.sleep(0.2)
            with open(path, "rb") as f:
                f.seek(pos)
                if more := f.read():
                    pos += len(more)
                    await resp.write(more)
        return resp

    async def h_portforward(self, request):
        """WebSocket port-forward, protocol v4.channel.k8s.io: data on channel 2i, errors on 2i+1."""
        r = self.find(request.match_info["ns"], request.match_info["pod"])
        ports = [int(x) for v in request.query.getall("ports", request.query.getall("port", [])) for x in v.split(",")]
        ws = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await ws.prepare(request)
        conns = {}
        tasks = []
        for i, port in enumerate(ports):
            await ws.send_bytes(bytes([2 * i]) + struct.pack("<H", port))
            await ws.send_bytes(bytes([2 * i + 1]) + struct.pack("<H", port))
            try:
                rd, wr = await asyncio.open_connection(r.ip, port)
            except OSError as e:
                await ws.send_bytes(bytes([2 * i + 1]) + str(e).encode())
                continue
            conns[2 * i] = wr

            async def pump(rd=rd, ch=bytes([2 * i])):
                try:
                    while data := await rd.read(2**18):
                        await ws.send_bytes(ch + data)
                except OSError:
                    pass
                finally:  # else a client of a dead pod waits for ever
                    await ws.close()

            tasks.append(asyncio.create_task(pump()))
        try:
            async for msg in ws:
                if msg.type != aiohttp.WSMsgType.BINARY:
                    break
                if wr := conns.get(msg.data[0]):
                    wr.write(msg.data[1:])
                    await wr.drain()
        except OSError:
            pass
        finally:
            for t in tasks:
                t.cancel()
            for wr in conns.values():
                wr.close()
        return ws

    async def serve(self):
        app = web.Application()
        app.router.add_get("/containerLogs/{ns}/{pod}/{container}", self.h_logs)
        app.router.add_route("*", "/portForward/{ns}/{pod}", self.h_portforward)
        app.router.add_get("/healthz", lambda r: web.Response(text="ok"))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await runner.setup()
        ctx = None
        if self.tls[0]:
            ctx = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            ctx.load_cert_chain(*self.tls)
        await web.TCPSite(runner, "127.0.0.1", self.port, ssl_context=ctx).start()

    async def main(self):
        async with aiohttp.ClientSession() as self.probes:
            await self.serve()
            loops = [
                self.node_loop(),
                self.scheduler_loop(),
                self.proxy_loop(),
                self.api.watch("/api/v1/pods", self.on_pod),
                self.api.watch("/api/v1/services", self.on_service),
            ]
            tasks = [asyncio.create_task(c) for c in loops]
            stop = asyncio.Event()
            for s in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(s, stop.set)
            waiter = asyncio.create_task(stop.wait())
            await asyncio.wait([*tasks, waiter], return_when=asyncio.FIRST_COMPLETED)
            for t in tasks:
                if t.done() and t.exception():
                    log.error("loop died", exc_info=t.exception())
                t.cancel()
            for r in list(self.runs.values()):
                await r.stop(1, api_delete=False)


async def amain():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--server", required=True)
    p.add_argument("--token")
    p.add_argument("--ca")
    p.add_argument("--node", default="process-node")
    p.add_argument("--root", required=True, help="pod directories, logs and the hosts file")
    p.add_argument("--port", type=int, default=10250)
    p.add_argument("--tls-cert")
    p.add_argument("--tls-key")
    p.add_argument("--pod-cidr", default="127.78.0.0/16")
    p.add_argument("--pythonpath", default="", help="PYTHONPATH for pods (your library's source)")
    p.add_argument("--cpus", type=float, default=16)
    p.add_argument("--backoff", type=float, default=1.0)
    p.add_argument("--max-grace", type=float, default=10.0)
    p.add_argument("--lb-delay", type=float, default=0.5)
    p.add_argument("--no-lb", action="store_true", help="leave LoadBalancer services pending")
    a = p.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s kubelet %(message)s")
    async with Api(a.server, a.token, a.ca) as api:
        await Kubelet(a, api).main()


if __name__ == "__main__":
    asyncio.run(amain())
