"""First-party code arrives where batches execute: on workers that were started elsewhere, and inline."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
from distributed import Client

import headrace as hr
from headrace.execution.scheduler import KEPT
from tests.execution import arriving
from tests.waiting import until


@pytest.fixture(scope="module")
def projects(tmp_path_factory):
    """Two versions of one project in two storages; nobody but their authors has the folders."""
    place = tmp_path_factory.mktemp("projects")
    return {version: arriving.stored(place / f"{version}", version, place / f"store-{version}") for version in (1, 2)}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("elsewhere")
    workers = [("--no-nanny", "--resources", "left=1"), ("--nanny", "--resources", "right=1")]
    with arriving.cluster(folder, *workers) as made:
        yield made


@pytest.fixture(scope="module")
def dask(cluster):
    with cluster.environment() as environment:
        environment.setup(None)
        yield environment


@pytest.fixture(scope="module")
def places(dask):
    return {"dask": dask, "inline": hr.LocalEnvironment()}


#: flow → parameters, and what comes of it
ROWS = {
    "versions": ({}, 1),
    "dataclasses": ({}, list(range(20))),
    "own_class": ({}, True),
    "looked_at": ({}, 7),
    "lazy_imports": ({}, {"rye": "3", "wheat": "5"}),
    "rescues": ({}, (5,)),
    "isolates": ({}, 8),
    "grows": ({}, 6),
    "awaits": ({}, 7),
    "constants": ({}, 8),
    "long_lists": ({}, list(range(30_000))),
    "large_constants": ({}, 30_001),
}


@pytest.mark.parametrize("place", ["dask", "inline"])
@pytest.mark.parametrize("name", ROWS)
def test_a_flow_needs_nothing_of_its_project(projects, places, place, name):
    parameters, expected = ROWS[name]
    run = places[place].execute(projects[1], name, parameters)
    assert run.result() == expected


def test_values_travel_between_workers(projects, dask):
    assert dask.execute(projects[1], "travels").result() == 5


def test_a_target_holds_an_object_of_the_project(projects, places, tmp_path):
    for place in places.values():
        assert place.execute(projects[1], "targets", {"folder": str(tmp_path)}).result() == 9


@pytest.mark.parametrize("place", ["dask", "inline"])
def test_state_is_shared_by_the_task_runs_of_a_process(projects, places, place):
    rows = places[place].execute(projects[1], "caches").result()
    for process in {process for process, _, _ in rows}:
        assert {(value, calls) for pid, value, calls in rows if pid == process} == {(1, 1)}


@pytest.mark.parametrize("place", ["dask", "inline"])
def test_objects_and_exceptions_of_the_project_reach_the_driver(projects, places, place):
    run = places[place].execute(projects[1], "returns")
    assert (type(run.result()).__name__, run.result().weight) == ("Grain", 7)
    assert projects[1].get_run(run.run_id).result() == run.result()
    error = places[place].execute(projects[1], "fails").error
    assert (type(error).__name__, error.weight, str(error)) == ("TooCoarse", 5, "5 is more than 3")


def test_a_result_of_the_project_is_read_by_a_process_that_never_ran_it(projects, dask):
    run = dask.execute(projects[1], "returns")
    code = f"""
import headrace as hr
found = hr.Storage({projects[1].url!r}).get_run({run.run_id!r}).result()
print(type(found).__module__, found.weight)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "mill.grain 7", done.stderr


def test_two_versions_take_turns(projects, dask):
    for version in (1, 2, 1, 2):
        assert dask.execute(projects[version], "versions").result() == version


OWN_CLASS = """
import sys, headrace as hr
from helpers import VERSION, shift

class Own:
    version = property(lambda self: VERSION)
    def shifted(self, x):
        return shift(x)

@hr.task
def asked():
    return Own().version, Own().shifted(0)

@hr.flow
def owns(): return asked()

storage = hr.Storage(sys.argv[1])
storage.add_flow(owns)
storage.build()
"""


@pytest.mark.parametrize("place", ["dask", "inline"])
def test_a_class_that_travels_by_value_is_of_one_version(places, place, tmp_path):
    storage = hr.Storage(tmp_path / "store")
    for version in (1, 2):
        arriving.set_version(tmp_path, version)
        arriving.author(tmp_path, OWN_CLASS, str(tmp_path / "store"))
    for version in (1, 2, 1):
        assert places[place].execute(storage, f"owns@{version}").result() == (version, version)


def test_a_flow_that_was_loaded_keeps_what_it_came_with(projects):
    flows = {version: projects[version].load("slow") for version in (1, 2)}
    for version in (1, 2, 1):
        flow, storage = flows[version], projects[version]
        assert flow.run(seconds=0.0).result() == version
        assert flow.bundle.facts() == storage.manifest(storage.resolve("slow"))["code"]


OWN_AND_STORED = """
import sys, time
import headrace as hr
from helpers import VERSION, shift

@hr.task
def mine():
    return shift(0)

@hr.flow
def owned(): return mine()

storage = hr.Storage(sys.argv[1])
run = hr.LocalEnvironment().start(storage, "slow", {"seconds": 1.0, "mark": "began"})
while not __import__("os").path.exists("began"):
    time.sleep(0.01)
print(owned.run().result(), run.wait().result())
"""


def test_what_lies_here_is_captured_while_another_version_is_at_work_here(projects, tmp_path):
    arriving.set_version(tmp_path, 7)
    assert arriving.author(tmp_path, OWN_AND_STORED, projects[1].url).stdout == "7 1\n"


READS_AT_IMPORT = """
from pathlib import Path
import headrace as hr
TEXT = Path(__file__).with_name("beside.txt").read_text()

@hr.task
def said():
    return TEXT

@hr.flow
def says(): return said()
"""


def test_what_a_module_lacks_when_it_is_imported_is_told_at_once(dask, tmp_path):
    (tmp_path / "beside.txt").write_text("here")
    (tmp_path / "reads.py").write_text(READS_AT_IMPORT)
    store = "import headrace as hr, reads; hr.Storage('store').add_flow(reads.says); print(reads.says.run().result())"
    assert arriving.author(tmp_path, store).stdout == "here\n"
    run = f"""
import headrace as hr, reads
with hr.DaskEnvironment({dask.client.scheduler.address!r}) as environment:
    reads.says.run(environment=environment)
"""
    error = arriving.author(tmp_path, run, check=False).stderr.splitlines()[-1]
    assert "FlowError: the code of run" in error
    assert "beside.txt" in error


def test_two_versions_at_the_same_time(projects, dask):
    def run(version):
        return dask.execute(projects[version], "wide", {"n": 60, "seconds": 0.01}).result()

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(run, [1, 2, 1, 2]))
    assert found == [[1] * 60, [2] * 60, [1] * 60, [2] * 60]


def test_who_waits_for_another_version_goes_first_when_that_is_done(projects, dask, tmp_path):
    mark = tmp_path / "began"
    first = dask.start(projects[1], "wide", {"n": 8, "seconds": 1.5})
    until(lambda: first["slow_version"].states.count(hr.State.RUNNING))
    second = dask.start(projects[2], "slow", {"seconds": 0.0, "mark": str(mark)})
    assert second.wait(60).result() == 2
    assert first.wait(60).result() == [1] * 8


def test_values_of_one_version_are_brought_while_another_is_at_work(projects, dask):
    held = dask.execute(projects[1], "dataclasses")
    busy = dask.start(projects[2], "wide", {"n": 4, "seconds": 1.0})
    assert held.result() == list(range(20))
    assert held["make"][3].result().weight == 3
    assert busy.wait(60).result() == [2] * 4


MANY_VERSIONS = """
import sys, headrace as hr, flow
storage = hr.Storage(sys.argv[1])
for version in range(int(sys.argv[2])):
    open("helpers.py", "w").write(f"VERSION = {version}\\ndef shift(x): return x + VERSION\\n")
    storage.add_flow(flow.versions)
    storage.build(check=False)
"""


def test_code_goes_to_a_worker_once_and_the_last_few_stay(projects, cluster, tmp_path):
    with Client(cluster.address) as client, cluster.environment() as dask:

        def there():
            return {sha256 for codes in client.run(arriving.HELD).values() for sha256 in codes}

        dask.execute(projects[1], "versions").release()
        before = there()
        brought = client.run_on_scheduler(arriving.BROUGHT)
        dask.execute(projects[1], "versions").release()
        assert client.run_on_scheduler(arriving.BROUGHT) == brought
        assert there() == before
        arriving.write_project(tmp_path, 1)
        arriving.author(tmp_path, MANY_VERSIONS, str(tmp_path / "store"), str(KEPT + 2))
        storage = hr.Storage(tmp_path / "store")
        for number in range(KEPT + 2):
            assert dask.execute(storage, f"versions@{number + 1}").result() == number
        until(lambda: len(client.run_on_scheduler(arriving.BROUGHT)) <= KEPT + 1)
        assert dask.execute(storage, "versions@1").result() == 0  # forgotten by all but the client that brought it


def test_nothing_is_brought_for_a_flow_without_code(cluster):
    with Client(cluster.address) as client, cluster.environment() as dask:
        before = client.run_on_scheduler(arriving.BROUGHT)
        assert bare.run(environment=dask).result() == 3
        assert client.run_on_scheduler(arriving.BROUGHT) == before


def test_a_worker_that_joins_late_has_it_all(projects, cluster, dask):
    run = dask.start(projects[1], "wide", {"n": 40, "seconds": 0.2})
    until(lambda: hr.State.SUCCESS in run["slow_version"].states)
    cluster.start_worker("--nanny", "--resources", "late=1")
    assert run.wait(90).result() == [1] * 40
    until(lambda: len(dask.client.nthreads()) == 3)
    assert dask.execute(projects[1], "only_late").result() == 1


def test_a_worker_that_dies_in_between(projects, dask, tmp_path):
    assert dask.execute(projects[1], "dies", {"folder": str(tmp_path)}).result() == 4


AUTHOR = """
import sys, headrace as hr, flow, mill
from mill.grain import TooCoarse
with hr.DaskEnvironment(sys.argv[1]) as dask:
    for where in (dask, hr.LocalEnvironment()):
        grain = flow.returns.run(environment=where).result()
        assert type(grain) is mill.Grain and grain == mill.Grain("rye", 7)
        try:
            flow.fails.run(environment=where).result()
        except TooCoarse as error:
            assert error.weight == 5
        else:
            raise AssertionError("nothing was raised")
print("as it should be")
"""


def test_classes_are_the_same_in_the_author_s_process(cluster, tmp_path):
    arriving.write_project(tmp_path, 1)
    done = arriving.author(tmp_path, AUTHOR, cluster.address, check=False)
    assert done.stdout.strip().endswith("as it should be"), done.stderr


EDITS = """
import importlib, sys
from pathlib import Path
import headrace as hr, flow

with hr.DaskEnvironment(sys.argv[1]) as dask:
    found = []
    for version in (1, 5, 6, 5):
        Path("helpers.py").write_text(f"VERSION = {version}\\ndef shift(x): return x + VERSION\\n")
        found.append([flow.versions.run(environment=dask).result(), flow.versions.run().result()])
print(found)
"""


def test_edits_between_runs_on_a_living_cluster(cluster, tmp_path):
    arriving.write_project(tmp_path, 1)
    done = arriving.author(tmp_path, EDITS, cluster.address, check=False)
    assert done.stdout.strip() == "[[1, 1], [5, 5], [6, 6], [5, 5]]", done.stderr


def _bare():
    # Of a class by value and functions of Python only, so that it reaches no module of ours.
    with hr.Flow("bare") as flow:
        hr.task(sum, name="total")([1, 2])
    return flow


bare = _bare()
NOTEBOOK = [
    """
    import headrace as hr
    from dataclasses import dataclass
    from helpers import VERSION
    import helpers
    dask = hr.DaskEnvironment({address!r})
    dask.setup(None)
    """,
    """
    @dataclass
    class Cell:
        value: int

    def scaled(x):
        return Cell(x * helpers.VERSION)

    @hr.task
    def work(x):
        return scaled(x)

    @hr.task
    def read(cell):
        assert type(cell) is Cell
        return cell

    @hr.flow
    def etl(n: int = 3):
        return read.map(work.map(range(n)))

    def show():
        found = etl.run(environment=dask).result()
        assert all(type(each) is Cell for each in found)
        print([each.value for each in found])

    show()
    """,
    """
    open("helpers.py", "w").write("VERSION = 10")
    """,
    "show()",
    """
    def scaled(x):
        return Cell(x + helpers.VERSION)
    show()
    """,
    "dask.close()",
]


@pytest.mark.parametrize("autoreload", [False, True], ids=["plain", "autoreload"])
def test_a_notebook_is_edited_cell_by_cell(cluster, tmp_path, autoreload):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient

    (tmp_path / "helpers.py").write_text("VERSION = 2")
    first = ["%load_ext autoreload\n%autoreload 2"] if autoreload else []
    cells = [*first, *(textwrap.dedent(cell).replace("{address!r}", repr(cluster.address)) for cell in NOTEBOOK)]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    place = {"metadata": {"path": str(tmp_path)}}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONPATH", arriving.ROOT)
        environment.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
        NotebookClient(notebook, timeout=100, kernel_name="python3", resources=place).execute()
    printed = [
        output.text.strip() for cell in notebook.cells for output in cell.outputs if output.get("name") == "stdout"
    ]
    assert printed == ["[0, 2, 4]", "[0, 10, 20]", "[10, 11, 12]"]
