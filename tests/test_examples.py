"""The example works as it is given to people: by file path, in this process and on workers."""

import json
import struct
from pathlib import Path

import pytest

import headrace as hr
from headrace.loading import load_file

HERE = Path(__file__).parents[1] / "examples"


@pytest.fixture(scope="module")
def example():
    return load_file(str(HERE / "digits.py"))


def check(run, folder, candidates):
    assert run.state is hr.State.SUCCESS
    result = run.result()
    report = json.loads((folder / "report.json").read_text())
    assert report["best"] == result["best"]
    assert result["accuracy"] > 0.9
    assert sum(map(sum, report["confusion"])) == 450
    right = sum(report["confusion"][digit][digit] for digit in range(10))
    assert right / 450 == pytest.approx(result["accuracy"], abs=1e-4)
    assert report["finalists"][0]["model"] == result["best"]
    means = [finalist["mean"] for finalist in report["finalists"]]
    assert means == sorted(means, reverse=True)
    assert len(run["cross_validate"].states) == len(run["summarise"].states) == candidates
    assert len(run["assess"].states) == len(means)
    picture = (folder / "confusion.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", picture[16:24])
    assert width > height > 500


def test_digits_in_this_process(example, tmp_path):
    run = example.digits.run(folder=str(tmp_path / "new" / "folder"), candidates=5, folds=2)
    check(run, tmp_path / "new" / "folder", 5)


def test_digits_on_a_cluster_that_cannot_import_them(example, tmp_path):
    with hr.DaskEnvironment("local", n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as environment:
        run = example.digits.run(folder=str(tmp_path), candidates=3, folds=2, environment=environment)
        check(run, tmp_path, 3)


def test_the_grid_has_at_least_60_candidates_of_several_families(example):
    grid = example.grid(72)
    assert len({json.dumps(candidate) for candidate in grid}) == 72
    assert len({candidate["family"] for candidate in grid[:7]}) == 7
    graph = example.digits.graph()
    assert [node["name"] for node in graph.describe() if node["mapped"]] == [
        "cross_validate",
        "summarise",
        "assess",
    ]


@pytest.mark.parametrize("count", [0, 73])
def test_a_grid_of_another_size_is_refused(example, count):
    with pytest.raises(ValueError, match="candidates must be from 1 to 72"):
        example.grid(count)


def test_the_same_seed_gives_the_same_report(example, tmp_path):
    for name in ("one", "two"):
        example.digits.run(folder=str(tmp_path / name), candidates=1, folds=2).result()
    assert (tmp_path / "one" / "report.json").read_text() == (tmp_path / "two" / "report.json").read_text()
