# ruff: noqa
"""Run a real Kubernetes control plane on loopback, with local processes for pods.

    python kubeup.py up   DIR [--bin BIN_DIR | --fake]   # returns when ready; prints the kubeconfig's path
    python kubeup.py down DIR

etcd + kube-apiserver + kube-controller-manager (deployment, replicaset, GC, ... controllers)
+ prockubelet.py + the Dask operator controller (kopf), each a plain process with its log and
pid file in DIR. CRDs are those in the installed dask-kubernetes package. No root needed.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Plane:
    def __init__(self, d):
        self.d = Path(d).resolve()

    def spawn(self, name, *argv, env=None):
        with open(self.d / f"{name}.log", "ab") as out:
            p = subprocess.Popen(
                [str(a) for a in argv],
                stdout=out,
                stderr=out,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                cwd=self.d,
                env=env,
            )
        (self.d / f"{name}.pid").write_text(str(p.pid))
        return p

    def call(self, path, body=None, method=None):
        r = urllib.request.Request(
            self.url + path,
            data=json.dumps(body).encode() if body else None,
            method=method,
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        ctx = ssl.create_default_context(cafile=self.d / "ca.crt") if self.url.startswith("https") else None
        with urllib.request.urlopen(r, context=ctx, timeout=10) as f:
            return f.read()

    def wait(self, what, fn, timeout=60):
        end = time.time() + timeout
        while True:
            try:
                if fn() is not False:
                    return
            except (OSError, urllib.error.URLError):
                pass
            if time.time() > end:
                raise SystemExit(f"{what} not ready in {timeout} s; see the logs in {self.d}")
            time.sleep(0.1)

    def up(self, a):
        d = self.d
        d.mkdir(parents=True, exist_ok=True)
        t0 = time.time()
        (self.up_fake if a.fake else self.up_real)(a)
        t1 = time.time()
        self.up_node(a)
        print(f"{d / 'kubeconfig'}", flush=True)
        print(f"control plane in {t1 - t0:.1f} s, all in {time.time() - t0:.1f} s", file=sys.stderr)

    def up_fake(self, a):
        port = free_port()
        self.url, self.token = f"http://127.0.0.1:{port}", "none"
        self.spawn(
            "fakekube",
            sys.executable,
            HERE / "fakekube.py",
            "--port",
            port,
            "--kubeconfig",
            self.d / "kubeconfig",
            "--service-cidr",
            a.service_cidr,
            *(["--crds", a.crds] if a.crds else []),
        )
        self.wait("fakekube", lambda: self.call("/apis/kubernetes.dask.org/v1"))
        self.tls = []

    def up_real(self, a):
        d = self.d
        b = Path(a.bin).resolve()
        etcd = shutil.which("etcd") or b / "etcd"
        # one self-signed certificate serves as CA, API server and kubelet certificate
        subprocess.run(
            [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
                "-days",
                "3650",
                "-subj",
                "/CN=realkube",
                "-keyout",
                d / "ca.key",
                "-out",
                d / "ca.crt",
                "-addext",
                "subjectAltName=IP:127.0.0.1,DNS:localhost",
            ],
            check=True,
            capture_output=True,
        )
        self.token = secrets.token_hex(16)
        (d / "tokens.csv").write_text(f'{self.token},admin,admin,"system:masters"\n')
        ep, pp, ap = (free_port() for _ in range(3))
        self.url = f"https://127.0.0.1:{ap}"
        kubeconfig = d / "kubeconfig"
        kubeconfig.write_text(
            json.dumps(
                {  # JSON is YAML
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "realkube",
                    "clusters": [
                        {
                            "name": "realkube",
                            "cluster": {"server": self.url, "certificate-authority": str(d / "ca.crt")},
                        }
                    ],
                    "users": [{"name": "admin", "user": {"token": self.token}}],
                    "contexts": [
                        {
                            "name": "realkube",
                            "context": {"cluster": "realkube", "user": "admin", "namespace": "default"},
                        }
                    ],
                },
                indent=1,
            )
        )
        kubeconfig.chmod(0o600)
        data = (
            Path("/dev/shm") / f"realkube-etcd-{ep}" if Path("/dev/shm").is_dir() else d / "etcd"
        )  # fsync is free there
        (d / "etcd-dir").write_text(str(data))
        self.spawn(
            "etcd",
            etcd,
            "--data-dir",
            data,
            "--listen-client-urls",
            f"http://127.0.0.1:{ep}",
            "--advertise-client-urls",
            f"http://127.0.0.1:{ep}",
            "--listen-peer-urls",
            f"http://127.0.0.1:{pp}",
            "--initial-advertise-peer-urls",
            f"http://127.0.0.1:{pp}",
            "--initial-cluster",
            f"default=http://127.0.0.1:{pp}",
        )
        self.spawn(
            "kube-apiserver",
            b / "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{ep}",
            "--bind-address=127.0.0.1",
            f"--secure-port={ap}",
            f"--tls-cert-file={d}/ca.crt",
            f"--tls-private-key-file={d}/ca.key",
            f"--token-auth-file={d}/tokens.csv",
            "--authorization-mode=AlwaysAllow",
            "--anonymous-auth=false",
            "--service-account-issuer=https://realkube",
            f"--service-account-signing-key-file={d}/ca.key",
            f"--service-account-key-file={d}/ca.crt",
            "--service-cluster-ip-range=127.96.0.0/16",  # ClusterIPs the service proxy can just bind
            "--endpoint-reconciler-type=none",  # else it refuses a loopback advertise address
            "--advertise-address=127.0.0.1",
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds,Priority",
            "--kubelet-preferred-address-types=InternalIP",
            "--event-ttl=10m",
            "--allow-privileged=true",
            f"--cert-dir={d}/certs",
        )
        self.wait("kube-apiserver", lambda: self.call("/readyz"))
        self.spawn(
            "kube-controller-manager",
            b / "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            "--controllers=deployment,replicaset,garbagecollector,namespace,endpoint,endpointslice,job,statefulset,resourcequota,podgc",
            "--leader-elect=false",
            "--port=0",
            "--secure-port=0",
            "--bind-address=127.0.0.1",
            "--concurrent-gc-syncs=4",
        )
        self.wait("default namespace", lambda: self.call("/api/v1/namespaces/default"))
        import dask_kubernetes

        import yaml

        crds = Path(dask_kubernetes.__file__).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
        if not crds.is_dir():
            crds = Path(dask_kubernetes.__file__).parent / "operator/customresources"
        if a.crds:
            crds = Path(a.crds)
        names = []
        for f in sorted(crds.glob("dask*.yaml")):
            for doc in yaml.safe_load_all(f.read_text()):
                if doc and doc.get("kind") == "CustomResourceDefinition":
                    self.call("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", doc, "POST")
                    names.append(doc["metadata"]["name"])
        for n in names:
            self.wait(n, lambda: self.call(f"/apis/kubernetes.dask.org/v1/{n.split('.')[0]}"))
        self.tls = ["--ca", d / "ca.crt", "--tls-cert", d / "ca.crt", "--tls-key", d / "ca.key"]

    def up_node(self, a):
        d, kubeconfig = self.d, self.d / "kubeconfig"
        self.spawn(
            "prockubelet",
            sys.executable,
            HERE / "prockubelet.py",
            "--server",
            self.url,
            "--token",
            self.token,
            "--root",
            d / "pods",
            "--port",
            free_port(),
            *self.tls,
            "--pythonpath",
            a.pythonpath,
            *a.kubelet_arg,
        )
        env = dict(
            os.environ,
            KUBECONFIG=str(kubeconfig),
            PODSHIM_HOSTS=str(d / "pods/hosts"),
            PYTHONPATH=f"{HERE / 'podshim'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        )
        if not a.no_operator:
            lp = free_port()
            self.spawn(
                "operator",
                sys.executable,
                "-m",
                "kopf",
                "run",
                "--standalone",
                "--all-namespaces",
                f"--liveness=http://127.0.0.1:{lp}/healthz",
                "-m",
                "dask_kubernetes.operator.controller.controller",
                env=env,
            )
            self.wait(
                "operator", lambda: urllib.request.urlopen(f"http://127.0.0.1:{lp}/healthz", timeout=5).status == 200
            )
        self.wait("node", lambda: self.call("/api/v1/nodes/process-node"))

    def down(self):
        for name in ("operator", "prockubelet", "kube-controller-manager", "kube-apiserver", "fakekube", "etcd"):
            f = self.d / f"{name}.pid"
            if not f.exists():
                continue
            pid = int(f.read_text())
            try:
                os.kill(pid, signal.SIGTERM)
                for _ in range(50):
                    os.kill(pid, 0)
                    with open(f"/proc/{pid}/stat") as s:
                        if s.read().rsplit(")", 1)[1].split()[0] == "Z":
                            break
                    time.sleep(0.1)
                else:
                    os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, FileNotFoundError):
                pass
            f.unlink()
        f = self.d / "etcd-dir"
        if f.exists():
            shutil.rmtree(f.read_text(), ignore_errors=True)


if __name__ == "__main__":
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("cmd", choices=["up", "down"])
    p.add_argument("dir")
    p.add_argument("--bin", default=os.environ.get("KUBE_BIN", "bin"))
    p.add_argument("--crds")
    p.add_argument("--service-cidr", default="127.97.0.0/16")
    p.add_argument(
        "--fake", action="store_true", help="fakekube.py in place of etcd, kube-apiserver and kube-controller-manager"
    )
    p.add_argument("--pythonpath", default="")
    p.add_argument("--no-operator", action="store_true")
    p.add_argument("--kubelet-arg", action="append", default=[])
    a = p.parse_args()
    plane = Plane(a.dir)
    if a.cmd == "up":
        plane.down()
        try:
            plane.up(a)
        except BaseException:
            plane.down()
            raise
    else:
        plane.down()
