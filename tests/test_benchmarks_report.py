"""Two files of any benchmark are compared, and what got worse is named."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import report

HERE = {"machine": {"cpu": "a", "cores": 2}, "rounds": 1, "quick": False}


def shape(name, **facts):
    return HERE | {"shapes": [{"name": name, "tasks": 10} | facts]}


def million(ours, driver):
    def of(name, seconds, tasks):
        peak = {"driver": driver, "scheduler": 50.0, "workers": 90.0}
        return {"name": name, "tasks": tasks, "seconds": {"seconds": [seconds]}, "memory": {"start": {}, "peak": peak}}

    return HERE | {"shapes": [of("headrace", ours, 1000), of("raw Dask", 10.0, 100)]}


def micro(median, size, processor="a"):
    entry = {"name": "test_messages[wide]", "stats": {"median": median}, "extra_info": {"task_runs": 10, "bytes": size}}
    return {"machine_info": {"cpu": {"brand_raw": processor}}, "benchmarks": [entry]}


WORSE = {
    "hot_path": (
        shape("wide", seconds={"raw": [3.0], "headrace": [1.0], "drawing": [0.1]}),
        shape("wide", seconds={"raw": [3.0], "headrace": [1.5], "drawing": [0.1]}),
        ["wide: 3 times as quick as raw Dask before, 2 now"],
    ),
    "data": (
        shape(
            "drawn", seconds={"raw": [1.0], "headrace": [1.0]}, moved={"headrace": [0.0]}, peak={"headrace": [100.0]}
        ),
        shape(
            "drawn", seconds={"raw": [1.0], "headrace": [1.0]}, moved={"headrace": [9.0]}, peak={"headrace": [300.0]}
        ),
        [
            "drawn: 0 MiB moved between workers before, 9 now",
            "drawn: 100 MiB at most in workers before, 300 now",
        ],
    ),
    "million": (
        million(1.0, 80.0),
        million(4.0, 160.0),
        [
            "headrace: 100 times as quick per task as raw Dask before, 25 now",
            "headrace: 80 MiB at most in driver before, 160 now",
        ],
    ),
    "simulate": (
        shape("deep", efficiency=[0.9, 0.95, 0.8], free=[0.97], driver=[8.0]),
        shape("deep", efficiency=[0.5, 0.95, 0.4], free=[0.96], driver=[11.0]),
        [
            "deep: 0.9 of the ideal before, 0.5 now",
            "deep: 8 µs of the driver per task run before, 11 now",
        ],
    ),
    "storage": (
        shape("S3: get", seconds={"fsspec": [60.0], "headrace": [30.0], "headrace batch": [3.0], "obstore": [28.0]}),
        shape("S3: get", seconds={"fsspec": [60.0], "headrace": [60.0], "headrace batch": [6.0], "obstore": [28.0]}),
        [
            "S3: get: 2 times as quick as plain fsspec, headrace before, 1 now",
            "S3: get: 20 times as quick as plain fsspec, headrace batch before, 10 now",
        ],
    ),
    "micro": (
        micro(2e-5, 50),
        micro(4e-5, 100),
        [
            "messages[wide]: 2 µs per task run before, 4 now",
            "messages[wide]: 5 bytes per task run before, 10 now",
        ],
    ),
}


@pytest.mark.parametrize("benchmark_name", WORSE)
def test_each_benchmark_s_files_are_compared(benchmark_name):
    before, after, sentences = WORSE[benchmark_name]
    assert report.compare(before, after) == sentences
    assert report.compare(before, before) == []
    assert report.compare(after, before) == []


def test_a_little_worse_is_not_worse():
    before, after = (shape("wide", seconds={"raw": [3.0], "headrace": [took]}) for took in (1.0, 1.2))
    assert report.compare(before, after) == []


def test_what_is_no_longer_measured_is_named():
    before = shape("wide", seconds={"raw": [3.0], "headrace": [1.0]})
    assert report.compare(before, HERE | {"shapes": []}) == ["wide: times as quick as raw Dask is no longer measured"]


def test_quick_measurements_are_refused():
    before = shape("wide", seconds={"raw": [3.0], "headrace": [1.0]})
    with pytest.raises(SystemExit, match="--quick, which measures nothing"):
        report.compare(before, before | {"quick": True})


def command(tmp_path, *results):
    files = []
    for number, result in enumerate(results):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps(result))
    report.main(list(map(str, files)))


def test_the_command_names_what_got_worse_and_fails(tmp_path, capsys):
    before, after, sentences = WORSE["micro"]
    with pytest.raises(SystemExit) as end:
        command(tmp_path, before, after)
    assert (end.value.code, capsys.readouterr().out.splitlines()) == (1, sentences)
    with pytest.raises(SystemExit) as end:
        command(tmp_path, before, before)
    assert (end.value.code, capsys.readouterr().out) == (0, "nothing got worse\n")


def test_the_command_warns_of_other_processors(tmp_path, capsys):
    with pytest.raises(SystemExit):
        command(tmp_path, micro(1e-5, 1), micro(1e-5, 1, processor="b"))
    assert "different processors, a and b" in capsys.readouterr().out


def test_one_file_is_listed(tmp_path, capsys):
    command(tmp_path, micro(2e-5, 50))
    assert "| messages[wide] | 2 | µs per task run |" in capsys.readouterr().out


def test_the_micro_benchmarks_write_what_the_report_reads(tmp_path):
    root, file = Path(report.__file__).parents[1], tmp_path / "micro.json"
    quick = ["--benchmark-max-time", "0.001", "--benchmark-min-rounds", "1", "-k", "chain or draw"]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "benchmarks/micro.py", "--benchmark-json", str(file), *quick],
        cwd=root,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")},  # alone
        check=True,
        capture_output=True,
        timeout=100,
    )
    found = report.quantities(json.loads(file.read_text()))
    assert {unit for name, unit in found if name == "machine[chain]"} == {"µs per task run", "µs per event"}
    assert {unit for name, unit in found if name == "messages[chain]"} == {"µs per task run", "bytes per task run"}
    assert {"worker[chain]", "make_plan[chain]", "pickle_plan[chain]", "load_plan[chain]"} <= {
        name for name, _ in found
    }
    assert {f"draw[{shape}]" for shape in ("wide", "chain", "tree", "layered", "Montage")} <= {
        name for name, _ in found
    }
    assert all(quantity.value > 0 for quantity in found.values())
