"""The benchmarks work; how fast anything is, they say elsewhere."""

import copy
import json

import pytest

from benchmarks import hot_path, report
from benchmarks.shapes import shapes


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    file = tmp_path_factory.mktemp("benchmarks") / "measured.json"
    hot_path.main(["--quick", "--rounds", "1", "--json", str(file)])
    return json.loads(file.read_text())


def test_both_ways_are_measured_and_checked_on_every_graph(measured):
    names = [shape["name"] for shape in measured["shapes"]]
    assert names == ["wide 50", "wide 100", "chain 20", "tree 16", "layered 24"]
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
    hot_path.check(shape, sum(range(1, 51)), "somebody")
    with pytest.raises(SystemExit, match="somebody answered 1 instead of 1275"):
        hot_path.check(shape, 1, "somebody")


@pytest.mark.parametrize("shape", shapes(quick=True), ids=lambda shape: shape.name)
def test_flow_and_raw_graph_have_as_many_tasks_as_the_shape_says(shape):
    assert len(shape.raw("salt")[0]) == shape.tasks
    nodes = shape.flow.graph(**shape.parameters).describe()
    width = shape.parameters.get("n", 1)
    assert sum(width if node["mapped"] else 1 for node in nodes) == shape.tasks
    assert shape.flow.run(**shape.parameters).result() == shape.expected()


def test_what_got_worse_is_named(measured):
    slower = copy.deepcopy(measured)
    slower["shapes"][2]["seconds"]["headrace"] = [
        2 * seconds for seconds in measured["shapes"][2]["seconds"]["headrace"]
    ]
    del slower["shapes"][4]
    worse = report.compare(measured, slower)
    assert [line.partition(":")[0] for line in worse] == ["chain 20", "layered 24"]
    assert report.compare(slower, measured) == []
