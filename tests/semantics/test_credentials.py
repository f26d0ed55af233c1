"""No byte of a credential lies in a storage, in a log, in what is shown, or in what goes over a cluster's wires.

A whole life with sentinels for credentials: flows are added, built, listed, shown and run; on a scheduler and workers
that are processes of their own, with every byte between them recorded; tasks fail with credentials in their messages,
and a store refuses access and repeats the credentials that it was given.
"""

from __future__ import annotations

import html
import http.server
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import headrace as hr
from headrace import redaction
from headrace.errors import AccessDenied, FlowError, PreflightWarning, SetupError
from headrace.storage.spec import StorageSpec
from tests.clusters import local_cluster
from tests.recorder import Recorder
from tests.semantics import vault
from tests.semantics.vault import VARIABLE
from tests.sentinels import forms, leaks
from tests.servers import free_port
from tests.storage.test_confidential import whole_text
from tests.waiting import until

#: Apart, because the sources of tests travel with the flows in them, and shall not hold the sentinels.
MARK = "".join(["sent", "inel"])
KEY = MARK.upper().join(("AKIA", "KEY0001"))
SECRET = f"{MARK}/secret+odd=one & more"
TOKEN = f"{MARK}-session/token+2=="
SIGNING = f"{MARK}-signing-key-0123456789"
#: kinds that S3 does not know; they are looked for wherever options as such could show up.
OTHERS = {
    "sas_token": f"?sv=2022-11-02&sig={MARK}SAS%2Bsig%3D",
    "connection_string": f"AccountName=me;AccountKey={MARK}AccountKey+1==;EndpointSuffix=x",
    "password": f"{MARK}-pass word",
    "client_kwargs": {"headers": {"Authorization": f"Bearer {MARK}-bearer-1", "X-Api-Key": f"{MARK}-api-key"}},
    "proxy": f"http://me:{MARK}-proxy-password@proxy:3128",
    "unsuspicious": MARK + "0rAnd0mL00kingTextOfManyLetters123",
}
INSIDE = [f"{MARK}SAS%2Bsig%3D", f"{MARK}AccountKey+1==", f"{MARK}-bearer-1", f"{MARK}-proxy-password"]
SENTINELS = [KEY, SECRET, TOKEN, SIGNING, f"{MARK}-pass word", f"{MARK}-api-key", OTHERS["unsuspicious"], *INSIDE]
ROOT = Path(__file__).parents[2]
#: Without it, they listen everywhere, and take the port of others' dashboards.
HTTP = ["--dashboard-address", "127.0.0.1:0"]

log = logging.getLogger("headrace.tests.credentials")


@pytest.fixture(autouse=True)
def _fresh(monkeypatch):
    monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())


@pytest.mark.parametrize("form", forms(SECRET))
def test_the_search_finds_each_form(form):
    assert leaks([SECRET], b"before " + forms(SECRET)[form] + b" after")
    assert not leaks([SECRET], b"before and after, without it")


# -- as data and as text ------------------------------------------------------------------------------------------


def test_a_storage_as_data_and_as_text():
    spec = StorageSpec("s3://bucket/x", "mine", {"key": KEY, "secret": SECRET, "token": TOKEN, **OTHERS})
    shipping = StorageSpec("s3://bucket/y", "mine", {**spec.storage_options}, ship_credentials=True)
    for each in (spec, shipping, pickle.loads(pickle.dumps(spec))):
        for data in (json.dumps(each.serialize()), repr(each), pickle.dumps(each), cloudpickle.dumps(each), each.hint):
            assert leaks(SENTINELS, data) == []
    assert spec.serialize()["storage_options"] == {"client_kwargs": {"headers": {}}}
    assert leaks(SENTINELS, repr(spec.storage_options))  # so that it is known that this looks


def test_environments_do_not_write_them_down():
    for options in ({"env": {"AWS_SECRET_ACCESS_KEY": SECRET}}, {"env": [{"name": "API_TOKEN", "value": TOKEN}]}):
        environment = hr.DaskEnvironment("dask_jobqueue.SLURMCluster", **options)
        for write in (environment.serialize, lambda it=environment: pickle.dumps(it)):
            with pytest.raises(SetupError, match=r"options of .* cannot be written down.*env\.") as caught:
                write()
            assert leaks(SENTINELS, whole_text(caught.value)) == []
        assert leaks(SENTINELS, repr(environment) + repr(environment.describe())) == []
    referred = {"env": [{"name": "API_TOKEN", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "token"}}}]}
    assert hr.DaskEnvironment("dask_jobqueue.SLURMCluster", **referred).serialize()["options"] == referred
    with pytest.raises(SetupError, match="JSON without loss: session") as caught:
        hr.DaskEnvironment("dask_jobqueue.SLURMCluster", session={SECRET}).serialize()
    assert leaks(SENTINELS, whole_text(caught.value)) == []
    copy = pickle.loads(pickle.dumps(hr.DaskEnvironment("local", n_workers=2)))
    assert copy.serialize() == hr.DaskEnvironment("local", n_workers=2).serialize()


def test_targets_do_not_hold_them():
    with pytest.raises(FlowError, match="a target cannot hold key") as caught:
        hr.Target("s3://bucket/{day}", storage_options={"key": KEY})
    assert leaks(SENTINELS, whole_text(caught.value)) == []
    signed = f"https://host/x?X-Amz-Signature={SENTINELS[5]}"
    with pytest.raises(FlowError, match="password or a token") as caught:
        hr.Target(signed)
    assert leaks(SENTINELS, whole_text(caught.value)) == []
    storage = hr.Storage("s3://bucket/x", {"key": KEY, "secret": SECRET})
    target = hr.Target("{day}.json", storage=storage)
    assert leaks(SENTINELS, pickle.dumps(target) + cloudpickle.dumps(target) + repr(target).encode()) == []
    for wrong in ("s3://other/x", "flows/x"):
        with pytest.raises(FlowError, match=r"give a key within it"):
            hr.Target(wrong, storage=storage).read(wrong)
    with pytest.raises(FlowError, match="give the options to the storage"):
        hr.Target("x", storage=storage, storage_options={"anon": True})


# -- a store that repeats what it was given ----------------------------------------------------------------------------


class Echo(http.server.BaseHTTPRequestHandler):
    """Refuses each request, and repeats its headers, as S3 does with the key."""

    def _refuse(self) -> None:
        said = " ".join(self.headers.values())
        body = (
            "<Error><Code>InvalidAccessKeyId</Code>"
            f"<Message>no such key: {KEY} {html.escape(SECRET)} {html.escape(said)}</Message>"
            f"<AWSAccessKeyId>{KEY}</AWSAccessKeyId><Secret>{TOKEN}</Secret></Error>"
        ).encode()
        self.send_response(403)
        self.send_header("Content-Type", "application/xml")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _refuse

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def echo():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_store_that_repeats_credentials(echo, monkeypatch, caplog):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    caplog.set_level(logging.DEBUG)
    storage = hr.Storage("s3://bucket/x", {"key": KEY, "secret": SECRET, "token": TOKEN, "endpoint_url": echo})
    for ask in (
        lambda: storage.flows,
        lambda: storage.files.read("a"),
        lambda: storage.files.create("a", b"1"),
        lambda: storage.files.delete("a"),
    ):
        with pytest.raises(AccessDenied) as caught:
            ask()
        assert leaks(SENTINELS, whole_text(caught.value)) == []
        assert leaks(SENTINELS, pickle.dumps(caught.value)) == []
        assert "no such key: *** ***" in whole_text(caught.value) or "HEAD" in whole_text(caught.value)
    leaking = {record.name.partition(".")[0] for record in caplog.records if leaks(SENTINELS, record.getMessage())}
    # What they write at level debug is theirs. Below: that it is nobody else, and that this looks.
    assert leaking <= {"botocore", "aiobotocore", "s3fs", "fsspec"}
    assert leaking


# -- a whole life on a cluster -----------------------------------------------------------------------------------------


@hr.task(retries=1, log_prints=True)
def fails_with_them(place: dict[str, Any]) -> None:
    assert list(hr.Storage.deserialize(place).flows) == ["life"]  # asks the vault, and looks the signing key up
    found = vault.options()
    log.warning("connecting with %s", found)
    print("connecting with", found["secret"])
    log.warning("signing with %s", os.environ["HEADRACE_SIGNING_KEY"])
    raise ConnectionError(f"no answer, connecting with {json.dumps(found)}, {os.environ['HEADRACE_SIGNING_KEY']}")


@hr.task(isolated=True)
def fails_apart(place: dict[str, Any]) -> None:
    storage = hr.Storage.deserialize(place)
    storage.files.exists("x")
    raise ConnectionError(f"no answer, connecting with {vault.options()}")


@hr.task
def denied(place: dict[str, Any], echo: str) -> None:
    data = {**place, "storage_options": {**place["storage_options"], "endpoint_url": echo}}
    hr.Storage.deserialize(data).files.read("x")


@hr.task
def gives_away() -> list[str]:
    return [json.loads(os.environ[VARIABLE])["token"]]


class Cluster:
    """A scheduler and two workers, with a recorder before each."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder, self.environment = folder, environment
        self.processes: list[subprocess.Popen[bytes]] = []
        port = free_port()
        self.scheduler = self._recorder(port)
        self.recorders = [self.scheduler]
        self._start("scheduler", "--host", "127.0.0.1", "--port", str(port), *HTTP, "--no-show")
        for number in range(2):
            port = free_port()
            before = self._recorder(port)
            self.recorders.append(before)
            where = ["--listen-address", f"tcp://127.0.0.1:{port}", "--contact-address", before.address]
            self._start(
                "worker", self.scheduler.address, *where, "--no-nanny", *HTTP, "--nthreads", "2",
                "--name", str(number), "--local-directory", str(folder / f"worker-{number}"),
            )  # fmt: skip

    def come_up(self) -> None:
        """Wait until both workers are there: what connects through a recorder before that is broken."""
        until(lambda: self.said().count(b"Registered to:") == 2, 100)

    def _recorder(self, port: int) -> Recorder:
        found = Recorder()
        found.pass_on_to(port)
        return found

    def _start(self, *command: str) -> None:
        with open(self.folder / f"log-{len(self.processes)}", "wb") as said:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "distributed.cli.dask_" + command[0], *command[1:]],
                    cwd=self.folder,
                    env=self.environment,
                    stdout=said,
                    stderr=subprocess.STDOUT,
                )
            )

    def heard(self) -> bytes:
        return b"\n".join(bytes(each.heard) for each in self.recorders)

    def said(self) -> bytes:
        return b"\n".join(path.read_bytes() for path in sorted(self.folder.glob("log-*")))

    def close(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()
        for each in self.recorders:
            each.close()


@pytest.fixture
def cluster(tmp_path, s3):
    options = {"key": KEY, "secret": SECRET, "token": TOKEN}
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "HEADRACE_SIGNING_KEY": SIGNING,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
        "DASK_DISTRIBUTED__COMM__COMPRESSION": "null",
        "DASK_LOGGING__DISTRIBUTED": "debug",
        VARIABLE: json.dumps(options),
    }
    found = Cluster(tmp_path, environment)
    try:
        found.come_up()
        yield found
    finally:
        found.close()


def test_a_whole_life(cluster, s3, echo, monkeypatch, caplog, capfd):
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("HEADRACE_SIGNING_KEY", SIGNING)
    monkeypatch.setenv(VARIABLE, cluster.environment[VARIABLE])
    monkeypatch.syspath_prepend(str(ROOT))
    caplog.set_level(logging.DEBUG)
    url = s3.new_bucket() + "/deep"
    storage = hr.Storage(
        url,
        {"key": KEY, "secret": SECRET, "token": TOKEN, "endpoint_url": s3.endpoint},
        credentials="tests.semantics.vault:options",
    )

    @hr.task(target=hr.Target("kept/{x}", storage=storage))
    def kept(x: int) -> int:
        return x * x

    @hr.task
    def looks() -> list[str]:
        return storage.files.list("kept")

    @hr.flow
    def life(place: dict[str, Any], echo: str, n: int = 4):
        squares = kept.map(range(n))
        return squares, fails_with_them(place), fails_apart(place), denied(place, echo), looks(upstream=[squares])

    place = storage.serialize()
    life.storage, shown = storage, []
    location = storage.add_flow(life, example={"place": place, "echo": echo, "n": 2})
    storage.build()
    with hr.DaskEnvironment(cluster.scheduler.address) as environment:
        environment.setup(storage)
        for _ in range(2):  # the second one finds hints and targets
            run = environment.execute(storage, location, {"place": place, "echo": echo})
            shown += [repr(run), run._repr_html_(), repr(run.errors), str(run.failures()), repr(run.summaries())]
            shown += [whole_text(error) for error in run.errors.values()]
        assert run.state is hr.State.FAILED
        assert run["kept"].states == [hr.State.CACHED] * 4
        assert run["looks"].result() == [f"kept/{number}" for number in range(4)]
        for name in ("fails_with_them", "fails_apart"):
            assert "connecting with" in str(run.errors[name])
            assert "***" in str(run.errors[name])
        assert isinstance(run.errors["denied"], AccessDenied)
        record = storage.get_run(run.run_id)
        shown += [repr(storage), repr(environment), json.dumps(environment.describe()), life._repr_html_()]
        shown += [json.dumps(life.serialize(example={"place": place, "echo": echo})), repr(record.outcome)]
        shown += [str(life.graph(place=place, echo=echo)), repr(storage.get_runner(location)), repr(run["kept"])]
        shown += [json.dumps(storage.get_env_runner(location).variables({"place": place, "echo": echo}))]
        pickles = [pickle.dumps(each) for each in (storage, kept.policy.target)] + [cloudpickle.dumps((life, kept))]
        until(lambda: "connecting with ***" in caplog.text and "connecting with {'key': '***'" in caplog.text)

        medium = everything_in(url, s3)
        assert len(medium) > 6
        assert leaks(SENTINELS, b"\n".join(medium.values())) == []
        assert leaks(SENTINELS, "\n".join(medium)) == []
        assert len(cluster.heard()) > 10_000
        assert leaks(SENTINELS, cluster.heard()) == []
        assert leaks(SENTINELS, cluster.said()) == []
        assert leaks(SENTINELS, "\n".join(shown)) == []
        assert leaks(SENTINELS, b"\n".join(pickles)) == []
        assert leaks(SENTINELS, "\n".join(capfd.readouterr())) == []
        ours = [record for record in caplog.records if not re.match("(aio)?botocore|s3fs|fsspec", record.name)]
        assert leaks(SENTINELS, "\n".join(record.getMessage() for record in ours)) == []

        # It is known that all of this looks, because a task that gives its credentials away is found out.
        @hr.flow
        def leaky():
            return gives_away()

        traitor = leaky.run(environment=environment)
        assert traitor.result() == [TOKEN]
        assert leaks(SENTINELS, cluster.heard())


def everything_in(url: str, s3: Any) -> dict[str, bytes]:
    """All objects of the bucket, read without any of our code."""
    import s3fs

    filesystem = s3fs.S3FileSystem(**s3.storage_options, use_listings_cache=False)
    bucket = url.removeprefix("s3://").partition("/")[0]
    return {path: filesystem.cat_file(path) for path in filesystem.find(bucket)}


# -- credentials that may travel ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("encrypted", [True, False])
def test_credentials_travel_over_encrypted_connections_only(encrypted, s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    storage = hr.Storage(s3.new_bucket(), s3.storage_options, ship_credentials=True)
    alone = hr.Storage(storage.url, s3.storage_options)

    def flow_for(place: hr.Storage) -> hr.Flow:
        @hr.task(target=hr.Target(f"kept-{len(place.serialize())}/{{x}}", storage=place))
        def kept(x: int) -> int:
            return x * x

        @hr.task(isolated=True)
        def apart() -> bool:
            return place.files.exists("nothing")

        @hr.flow
        def keeping():
            return kept.map([1, 2]), apart()

        return keeping

    options = {"protocol": "tls", "security": True} if encrypted else {}
    with (
        local_cluster(n_workers=1, threads_per_worker=1, **options, processes=True) as cluster,
        hr.DaskEnvironment(cluster) as environment,
    ):
        if not encrypted:
            told = r"encrypted connections only, but this cluster talks at tcp://"
            with pytest.warns(PreflightWarning, match=told), pytest.raises(SetupError, match=told):
                flow_for(storage).run(environment=environment)
            return
        run = flow_for(storage).run(environment=environment)
        assert run.result() == ([1, 4], False)
        run.release()
        until(lambda: not any(environment.client.run(lambda: __import__("headrace").entrusted.all_here()).values()))
        with pytest.warns(PreflightWarning, match="found no credentials for s3://"):
            lost = flow_for(alone).run(environment=environment)  # which says nothing of shipping
        assert isinstance(lost.errors["kept[0]"], AccessDenied)
        assert "serialized without key, secret" in str(lost.errors["kept[0]"])


def test_a_fresh_interpreter_on_this_machine_is_given_them(s3, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))

    @hr.flow
    def plain():
        return hr.task(len)([1])

    storage = hr.Storage(s3.new_bucket(), s3.storage_options, ship_credentials=True)
    location = storage.add_flow(plain)
    storage.build()
    runner = storage.get_env_runner(location)
    assert s3.storage_options["secret"] not in json.dumps(runner.variables())
    assert runner.run().state == "Success"
