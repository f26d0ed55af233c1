"""What a user sees when a store is not there, does not answer, or says no: for each protocol, from a real socket."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from headrace.errors import AccessDenied, AlreadyExists, NotFound, StorageError, Unreachable
from headrace.storage.files import DEADLINE, Files
from headrace.storage.media import remote
from headrace.storage.trouble import is_busy, meaning, translate

#: protocol → the package that it needs
PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "http": "aiohttp", "sftp": "asyncssh"}
NOBODY = "no-such-host.invalid"
#: Seconds for an answer: the first one has to wait until packages are loaded, on a machine that may be busy.
SOON = 40.0


def at(protocol: str, host: str, port: int, deadline: float) -> Files:
    """The files of a store that is asked at an address."""
    if importlib.util.find_spec(PACKAGES[protocol]) is None:
        pytest.skip(f"needs {PACKAGES[protocol]}")
    endpoint = f"http://{host}:{port}"
    connection = (
        "DefaultEndpointsProtocol=http;AccountName=devstoreaccount1;AccountKey=c2VudGluZWw=;"
        f"BlobEndpoint={endpoint}/devstoreaccount1;"
    )
    url, options = {
        "s3": ("s3://bucket/x", {"key": "k", "secret": "sentinel", "endpoint_url": endpoint}),
        "gs": ("gs://bucket/x", {"token": "anon", "project": "p", "endpoint_url": endpoint}),
        "abfs": ("abfs://bucket/x", {"account_name": "devstoreaccount1", "connection_string": connection}),
        "http": (f"{endpoint}/x", {}),
        "sftp": (f"sftp://{host}:{port}/x", {"username": "u", "password": "sentinel", "known_hosts": None}),
    }[protocol]
    return Files(url, options, deadline=deadline)


@contextmanager
def silent() -> Iterator[int]:
    """Accepts, and says nothing."""
    with closing(socket.create_server(("127.0.0.1", 0), backlog=100)) as server:
        yield server.getsockname()[1]


@contextmanager
def dropping() -> Iterator[int]:
    """Packets are dropped: the queue of a server that never accepts is full."""
    with ExitStack() as stack:
        server = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=0)))
        for _ in range(4):
            client = stack.enter_context(closing(socket.socket()))
            client.setblocking(False)
            client.connect_ex(server.getsockname())
        yield server.getsockname()[1]


@contextmanager
def refusing() -> Iterator[int]:
    """Nothing listens at the port, and nobody else takes it."""
    with closing(socket.socket()) as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@contextmanager
def answering(status: int, asked: list[str] | None = None) -> Iterator[int]:
    """A web server that knows one answer."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if asked is not None:
                asked.append(self.command)
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = answer

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def asks(files: Files) -> dict[str, Any]:
    """The verbs that a protocol has."""
    verbs: dict[str, Any] = {"read": lambda: files.read("a"), "exists": lambda: files.exists("a")}
    if files.writable:
        verbs |= {
            "create": lambda: files.create("a", b"1"),
            "list": files.list,
            "create_many": lambda: files.create_many({"a": b"1", "b": b"2"}),
        }
    return verbs


def told(files: Files, error: type[StorageError], words: str, within: float) -> None:
    """Each verb ends in time with an error that says what was found and what to do, in one sentence, and no secret."""
    for name, ask in asks(files).items():
        begin = time.monotonic()
        with pytest.raises(error, match=words) as caught:
            ask()
        assert time.monotonic() - begin < within, name
        text = str(caught.value)
        assert "\n" not in text
        assert "sentinel" not in text
        assert "c2VudGluZWw" not in text


CLOUDS = pytest.mark.parametrize("protocol", ["s3", "gs", "abfs", "http"])
ALL = pytest.mark.parametrize("protocol", list(PACKAGES))


class TestRows:
    @pytest.fixture(autouse=True)
    def short_pauses(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(remote, "FIRST_PAUSE", 0.01)

    @ALL
    @pytest.mark.parametrize("row", [silent, dropping])
    def test_no_answer(self, protocol, row):
        with row() as port:
            files = at(protocol, "127.0.0.1", port, 0.2)
            told(files, Unreachable, r"does not answer within 0\.2 s .*check the network, the address", SOON)

    @ALL
    def test_refused(self, protocol):
        with refusing() as port:
            files = at(protocol, "127.0.0.1", port, DEADLINE)
            told(files, Unreachable, "nothing listens there .*check the address and port", SOON)

    @ALL
    def test_no_such_host(self, protocol):
        told(at(protocol, NOBODY, 80, DEADLINE), Unreachable, "its host is not known .*check the address", SOON)

    @CLOUDS
    @pytest.mark.parametrize("status", [500, 503, 429])
    def test_busy(self, protocol, status):
        asked: list[str] = []
        with answering(status) as port:
            files = at(protocol, "127.0.0.1", port, DEADLINE)
            told(files, Unreachable, "too busy to answer, also when asked again .*try again later", SOON)
        with answering(status, asked) as port:  # anew: of a batch that was given up, requests may still be under way
            files = at(protocol, "127.0.0.1", port, DEADLINE)
            with pytest.raises(Unreachable):
                files.read("a")
            assert len(asked) == remote.MOST_ATTEMPTS  # the back end does not try by itself, too

    @CLOUDS
    @pytest.mark.parametrize("status", [403, 401])
    def test_denied(self, protocol, status):
        asked: list[str] = []
        with answering(status) as port:
            files = at(protocol, "127.0.0.1", port, DEADLINE)
            told(files, AccessDenied, "refuses access .*check the credentials and their permissions", SOON)
        with answering(status, asked) as port:  # anew: of a batch that was refused, requests may still be under way
            files = at(protocol, "127.0.0.1", port, DEADLINE)
            with pytest.raises(AccessDenied):
                files.read("a")
            assert len(asked) == 1

    @CLOUDS
    def test_missing(self, protocol):
        with answering(404) as port:
            files = at(protocol, "127.0.0.1", port, DEADLINE)
            with pytest.raises(NotFound, match=r"there is no such object in .*check the name and the URL"):
                files.read("a")
            assert not files.exists("a")


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("row", [silent, dropping])
def test_no_answer_within_the_default_deadline(protocol, row):
    with row() as port:
        files = at(protocol, "127.0.0.1", port, DEADLINE)
        for ask in ("read", *(["create"] if files.writable else [])):
            begin = time.monotonic()
            with pytest.raises(Unreachable, match="does not answer within 15 s"):
                asks(files)[ask]()
            assert time.monotonic() - begin < DEADLINE


@pytest.mark.parametrize("protocol", ["s3", "gs", "abfs"])
def test_a_missing_bucket(protocol, server_of):
    server = server_of(protocol)
    files = Files(f"{protocol}://no-such-bucket-here/x", dict(server.storage_options))
    verbs = asks(files)
    for ask in (files.list, files.children):
        with pytest.raises(NotFound, match=r"no such bucket or container at .*create it, or correct the URL"):
            ask()
    for verb in ("read", "create", "create_many"):
        with pytest.raises(NotFound, match=r"correct the URL|check the name and the URL"):
            verbs[verb]()


class TestNoCredentials:
    @pytest.fixture(autouse=True)
    def nobody(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "GOOGLE_APPLICATION_CREDENTIALS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path / "none"))

    def test_s3(self, s3):
        options = {"endpoint_url": s3.endpoint, "skip_instance_cache": True}
        files = Files("s3://bucket/x", options, hint="give them again")
        with pytest.raises(AccessDenied, match=r"no credentials.*AWS_ACCESS_KEY_ID.*give them again"):
            files.read("a")

    def test_gs(self, server_of, monkeypatch):
        monkeypatch.setenv("NO_GCE_CHECK", "true")  # what asks the machine whether it is one of Google's
        options = {"endpoint_url": server_of("gs").endpoint, "skip_instance_cache": True}
        with pytest.raises(AccessDenied, match=r"no credentials for gs://.*GOOGLE_APPLICATION_CREDENTIALS"):
            Files("gs://bucket/x", options).read("a")

    @pytest.mark.slow
    def test_gs_asks_the_machine_in_time(self):
        begin = time.monotonic()
        with pytest.raises(AccessDenied, match="no credentials for gs://"):
            Files("gs://bucket/x", {"skip_instance_cache": True}).read("a")
        assert time.monotonic() - begin < DEADLINE

    def test_abfs(self, monkeypatch):
        pytest.importorskip("adlfs")
        for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(AccessDenied, match=r"no credentials for abfs://.*AZURE_STORAGE"):
            Files("abfs://bucket/x", {"skip_instance_cache": True}).read("a")


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("HttpResponseError", "AuthorizationPermissionMismatch", AccessDenied),
        ("ClientError", "An error occurred (403) when calling HeadObject: Forbidden", AccessDenied),
        ("PermissionError", "[Errno 13] Permission denied", AccessDenied),
        ("SFTPPermissionDenied", "Permission denied", AccessDenied),
        ("ClientConnectorError", "Cannot connect to host", Unreachable),
        ("ServiceRequestError", "Name or service not known", Unreachable),
        ("ClientError", "An error occurred (ConditionalRequestConflict) when calling PutObject", Unreachable),
        ("ConnectionLost", "Connection lost", Unreachable),
        ("ResourceNotFoundError", "The specified container does not exist: ContainerNotFound", NotFound),
        ("ResourceNotFoundError", "BlobNotFound", NotFound),
        ("SFTPNoSuchFile", "No such file", NotFound),
        ("ResourceExistsError", "BlobAlreadyExists", AlreadyExists),
        ("OSError", "An error occurred (PreconditionFailed) when calling CompleteMultipartUpload", AlreadyExists),
        ("Strange", "something else", StorageError),
    ],
)
def test_foreign_exceptions_by_name(name, text, expected):
    foreign = type(name, (Exception,), {})(text)
    assert meaning(foreign) is expected
    error = translate(foreign, asked="read 'a'", url="x://y")
    assert type(error) is expected
    assert "read 'a'" in str(error)


def test_a_number_in_a_text_is_no_status():
    assert not is_busy(ValueError("503 things"))
    assert meaning(KeyError(403)) is StorageError
