"""How many requests a question costs: as many as the answer is long, however much else lies in the bucket."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace.storage.flows import StoredFlows
from headrace.storage.runs import RunRecord
from tests.storage.test_flows import make_flow

FLOWS, VERSIONS = 10, 12


class Bucket:
    """A bucket of a server in this process, so that it is quick to fill, and counts what it is asked."""

    def __init__(self, backend, endpoint, asked):
        self.backend, self.asked = backend, asked
        self.options = {"key": "k", "secret": "s", "endpoint_url": endpoint}
        backend.create_bucket("large", "us-east-1")

    def fill(self, objects):
        """Put half as many runs into the storage, and what the storage has nothing to do with beside it."""
        runs = objects // 4
        for number in range(runs):
            run_id = f"2026{number:08d}-run"
            facts = b'{"flow": "flow-%d", "location": "x"}' % (number % FLOWS)
            self.backend.put_object("large", f"flows/{RunRecord.key_of(run_id)}", facts)
            self.backend.put_object("large", f"flows/runs/{run_id}/outcome", b"")
            self.backend.put_object("large", f"other/{number:08d}/a", b"")
            self.backend.put_object("large", f"other/{number:08d}/b", b"")
        return runs

    @contextmanager
    def at_most(self, most):
        self.asked.clear()
        yield
        assert len(self.asked) <= most, "\n".join(self.asked)


@pytest.fixture
def bucket(monkeypatch) -> Iterator[Bucket]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from moto.s3.models import s3_backends
    from werkzeug.serving import make_server

    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setattr(logging.getLogger("werkzeug"), "disabled", True)
    asked: list[str] = []
    app = DomainDispatcherApplication(create_backend_app)

    def counting(environ, start_response):
        asked.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{environ.get('QUERY_STRING', '')}")
        return app(environ, start_response)

    server = make_server("127.0.0.1", 0, counting, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    backend = s3_backends["123456789012"]["aws"]
    try:
        yield Bucket(backend, f"http://127.0.0.1:{server.server_port}", asked)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        backend.reset()


@pytest.mark.parametrize("objects", [5_000, pytest.param(100_000, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_requests_do_not_grow_with_the_bucket(bucket, objects):
    stored = StoredFlows("s3://large/flows", bucket.options)
    for number in range(FLOWS):
        stored.add_flow(make_flow(name=f"flow-{number}"))
    with bucket.at_most(4 * FLOWS):  # each: list, read nothing, create the object, create the record
        stored.build(check=False)
    for factor in range(3, 2 + VERSIONS):
        stored.add_flow(make_flow(name="flow-0", factor=factor))
        with bucket.at_most(5):  # and a look whether nobody has removed it together with older versions
            stored.build(check=False)
    stored.tag("flow-0", "prod", 3)
    stored.tag("flow-0", "prod", 4)
    runs = bucket.fill(objects)
    pages = runs // 1000 + 1

    stored = StoredFlows("s3://large/flows", bucket.options)
    with bucket.at_most(1 + 2 * FLOWS):  # the names; of each, the numbers of its versions, and the newest
        assert len(stored.flows) == FLOWS
    with bucket.at_most(1 + 3 * FLOWS + 1):  # and its labels; of the one that has any, where it points
        assert stored.newest()["flow-0"].number == VERSIONS
    with bucket.at_most(1 + VERSIONS + 2):
        assert [version.number for version in stored.versions("flow-0")] == [*range(1, VERSIONS + 1)]
    with bucket.at_most(2):
        newest = stored.resolve("flow-0")
    for text in ("flow-0@3", "flow-0@prod", f"flow-0@{newest.split('/')[2][:9]}"):
        with bucket.at_most(2):
            assert stored.resolve(text)
    with bucket.at_most(1):
        assert stored.resolve(newest)
    with bucket.at_most(3):
        assert stored.manifest("flow-0")["name"] == "flow-0"
    with bucket.at_most(3):
        assert "no-such-flow" not in stored
    with bucket.at_most(pages + 20):
        found = stored.runs(20)
        assert [run.run_id for run in found] == [f"2026{number:08d}-run" for number in range(runs - 1, runs - 21, -1)]
        assert found[0].flow == f"flow-{(runs - 1) % FLOWS}"  # read with the listing, not again
    with bucket.at_most(pages + 5 + 100):
        assert {run.flow for run in stored.runs(5, flow="flow-3")} == {"flow-3"}
    with bucket.at_most(2 * runs // 1000 + 1):
        assert len(stored.runs()) == runs
    with bucket.at_most(VERSIONS + 10):
        stored.tag("flow-0", "prod", 5, expect=4)
    with bucket.at_most(pages + 200 + 2 * VERSIONS + 10):
        stored.remove("flow-0@7")
