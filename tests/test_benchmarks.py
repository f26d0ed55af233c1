"""The benchmarks work; how fast anything is, they say elsewhere."""

import copy
import json
import socket
import socketserver
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from benchmarks import coarse, data, harness, hot_path, make_montage, metg, million, montage, report, storage, work
from benchmarks.shapes import shapes
from tests.servers import started


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmarks") / "measured.json"
    hot_path.main(["--quick", "--rounds", "1", "--json", str(file)])
    return json.loads(file.read_text())


def test_both_ways_are_measured_and_checked_on_every_graph(measured):
    names = [shape["name"] for shape in measured["shapes"]]
    assert names == [
        "wide 50",
        "wide 100",
        "chain 20",
        "tree 16",
        "layered 24",
        "Montage, no-ops",
        "Montage, times / 10,000",
    ]
    for shape in measured["shapes"]:
        assert {way: len(times) for way, times in shape["seconds"].items()} == {
            "raw": 1,
            "headrace": 1,
            "drawing": 1,
        }
        assert all(seconds > 0 for times in shape["seconds"].values() for seconds in times)
    assert {"cpu", "cores", "python", "dask", "distributed"} <= measured["machine"].keys()
    assert len(report.table(measured).splitlines()) == 4 + len(names)


def test_a_wrong_answer_is_not_measured():
    shape = shapes(quick=True)[0]
    harness.check(shape, sum(range(1, 51)), "somebody")
    with pytest.raises(SystemExit, match="somebody answered 1 instead of 1275"):
        harness.check(shape, 1, "somebody")


@pytest.mark.parametrize("shape", shapes(quick=True) + montage.montage_shapes(quick=True), ids=lambda shape: shape.name)
def test_flow_and_raw_graph_have_as_many_tasks_as_the_shape_says(shape):
    assert len(shape.raw("salt")[0]) == shape.tasks
    nodes = shape.flow.graph(**shape.parameters).describe()
    width = shape.parameters.get("n", 1)
    assert sum(width if node["mapped"] else 1 for node in nodes) == shape.tasks
    assert shape.flow.run(**shape.parameters).result() == shape.expected()


def test_the_instance_of_montage_is_a_graph_with_parents_first():
    jobs = montage.jobs()
    assert 900 < len(jobs) < 1_100
    assert all(parent < number for number, job in enumerate(jobs) for parent in job.parents)
    assert all(job.seconds > 0 for job in jobs)
    assert all(2 <= len(job.parents) <= 5 for job in jobs if job.kind == "mDiffFit")
    assert max(len(job.parents) for job in jobs) > 100


def test_the_instance_of_montage_can_be_made_again():
    pytest.importorskip("wfcommons", reason="only in the benchmark extra")
    made, kept = make_montage.instance(), json.loads(montage.FILE.read_text())
    if made["made by"] != kept["made by"]:
        pytest.skip(f"kept: {kept['made by']}; here: {made['made by']}")
    assert make_montage.text(made) == montage.FILE.read_text()


def test_what_got_worse_is_named(measured):
    measured = measured | {"quick": False}
    slower = copy.deepcopy(measured)
    slower["shapes"][2]["seconds"]["headrace"] = [
        2 * seconds for seconds in measured["shapes"][2]["seconds"]["headrace"]
    ]
    del slower["shapes"][4]
    worse = report.compare(measured, slower)
    assert [line.partition(":")[0] for line in worse] == ["chain 20", "layered 24"]
    assert report.compare(slower, measured) == []


def small(benchmark, tmp_path, *more):
    """Run a benchmark in small, and return what it wrote; its table must be printable."""
    file = tmp_path / "measured.json"
    benchmark.main(["--quick", "--rounds", "1", "--json", str(file), *more])
    found = json.loads(file.read_text())
    assert len(benchmark.table(found).splitlines()) == 4 + len(found["shapes"])
    return found["shapes"]


def test_coarse_tasks_never_beat_the_ideal(tmp_path):
    shapes = small(coarse, tmp_path)
    assert [shape["name"] for shape in shapes] == ["40 x 100 ms", "6 x 1 s", "400 x 10 ms", "heavy tail"]
    for shape in shapes:
        times = shape["seconds"]
        assert min(times["raw"] + times["headrace"]) > times["ideal"][0]


def test_a_heavy_tail_is_mostly_short_with_a_few_that_are_long():
    naps = coarse.lengths()["heavy tail"]
    assert sorted(naps)[len(naps) // 2] < 0.01
    assert 1 <= sum(nap == 2.0 for nap in naps) <= 5


def test_the_granularity_is_found_for_both(tmp_path):
    [shape] = small(metg, tmp_path, "--pattern", "stencil")
    assert shape["name"] == "stencil 4"
    assert all(0 < duration < 1 for found in shape["seconds"].values() for duration in found)


@pytest.mark.parametrize("overhead", [1e-5, 3e-3, 0.2])
def test_the_search_finds_where_half_of_the_time_is_overhead(overhead):
    duration, tries = metg.search(lambda seconds: 100 * (seconds + overhead), 100)
    assert overhead <= duration <= overhead * metg.NEAR
    assert len(tries) < 12


@pytest.mark.parametrize("pattern", work.PATTERNS)
def test_the_patterns_are_the_same_graph_both_ways(pattern):
    shape = work.spinning(pattern, 4, 5, 0.0)
    assert len(shape.raw("salt")[0]) == shape.tasks
    assert shape.flow.run(**shape.parameters).result() == shape.expected()


@pytest.mark.slow  # two drivers and two clusters, each of new processes
def test_many_no_ops_and_the_memory_that_they_take(tmp_path):
    ours, theirs = small(million, tmp_path, "--tasks", "2000")
    assert (ours["tasks"], theirs["tasks"]) == (2_000, 2_000)
    for shape in ours, theirs:
        memory = shape["memory"]
        assert memory["peak"].keys() == {"driver", "scheduler", "workers"}
        assert all(0 < memory["start"][name] <= peak for name, peak in memory["peak"].items())


def test_data_that_moves_is_counted(tmp_path):
    for shape in small(data, tmp_path):
        assert shape["moved"].keys() == shape["peak"].keys() == {"raw", "headrace"}
        assert all(0 <= moved[0] < 200 for moved in shape["moved"].values())


def test_the_data_shapes_answer_what_numpy_answers():
    for shape in data.data_shapes(quick=True):
        parameters = shape.parameters | {"size": 80}
        small_shape = work.moving(shape.name, shape.flow, **parameters)
        assert small_shape.flow.run(**parameters).result() == small_shape.expected()


def test_a_delay_is_added_and_nothing_is_throttled():
    """Each answer comes so much later, also when many are on their way, in as many pieces as they like."""
    late, times = 0.25, 40
    with (
        echo() as port,
        delayed(port, late) as front,
        socket.create_connection(("127.0.0.1", front)) as client,
        client.makefile("rb") as answers,
    ):
        for _ in range(2):  # the connection stays open
            start = time.perf_counter()
            client.sendall(b"one\n")
            assert answers.readline() == b"one\n"
            assert time.perf_counter() - start >= late
        start = time.perf_counter()
        for number in range(times):
            client.sendall(b"%d\n" % number)
            time.sleep(0.001)  # so that they are pieces of their own
        assert [answers.readline() for _ in range(times)] == [b"%d\n" % number for number in range(times)]
        assert late <= time.perf_counter() - start < times * late / 2
        client.shutdown(socket.SHUT_WR)
        assert answers.read() == b""  # the end is passed on, too


@contextmanager
def delayed(port, seconds):
    command = [sys.executable, "-m", "benchmarks.delay", str(port), "--seconds", str(seconds)]
    with started(command, r"127\.0\.0\.1:(\d+)") as (front, _):
        yield int(front)


@contextmanager
def echo():
    """A server that says what it is told."""

    class Echo(socketserver.StreamRequestHandler):
        def handle(self):
            for line in self.rfile:
                self.wfile.write(line)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def test_objects_are_put_and_got_in_all_ways(tmp_path):
    shapes = small(storage, tmp_path)
    assert [shape["name"] for shape in shapes] == [
        f"{where}: {verb} {what}"
        for where in ("folder", "S3", "S3 + 30 ms")
        for what in ("30 x 1 KB", "2 MB")
        for verb in ("put", "get")
    ]
    for shape in shapes:
        assert list(shape["seconds"]) == [way for way in storage.WAYS if shape["tasks"] > 1 or "batch" not in way]
        if "30 ms" in shape["name"]:
            for way, times in shape["seconds"].items():
                rounds = 1 if "batch" in way else shape["tasks"]
                assert min(times) >= rounds * storage.DELAY, way
