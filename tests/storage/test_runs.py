from __future__ import annotations

import json
import pickle
import re

import pytest

from headrace.errors import AlreadyExists, DamagedObject, NotFound, RunError, TaskFailed, ValueReleased
from headrace.storage.envelope import pack
from headrace.storage.files import Files, private_memory
from headrace.storage.flows import StoredFlows
from headrace.storage.run_ids import new_run_id
from headrace.storage.runs import RunRecord

FACTS = {
    "flow": "etl",
    "location": "flows/etl/0.flow",
    "parameters": {"day": "2026-11-01", "who": "ä"},
    "environment": {"type": "LocalEnvironment"},
}
FAILED = {
    "state": "Failed",
    "errors": [
        {"node": "load", "type": "ValueError", "message": "no rows", "traceback": "Traceback …\nValueError"},
        {"node": "save", "type": "OSError", "message": "full", "traceback": ""},
    ],
}


@pytest.fixture
def stored(medium):
    return StoredFlows(medium.url, medium.options)


class TestEveryMedium:
    def test_a_run_from_begin_to_end(self, stored):
        run_id = new_run_id()
        record = stored.create_run(run_id, FACTS)
        other = StoredFlows(stored.url, stored.spec.storage_options).get_run(run_id)
        assert other.state == "Running"
        assert other.outcome is None
        assert other.flow == "etl"
        assert other.location == "flows/etl/0.flow"
        assert other.parameters == FACTS["parameters"]
        assert other.environment == FACTS["environment"]
        assert set(other.versions) == {"python", "headrace", "dask", "cloudpickle"}
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", other.start)
        record.finish({"state": "Success", "seconds": 1.5}, pickle.dumps({"rows": 3}))
        assert other.state == "Success"
        assert other.outcome == {"state": "Success", "seconds": 1.5}
        assert other.result() == {"rows": 3}
        assert repr(other) == f"<RunRecord {run_id} of etl: Success>"

    def test_ids_and_outcomes_are_taken_once(self, stored):
        record = stored.create_run("r1", FACTS)
        with pytest.raises(AlreadyExists):
            stored.create_run("r1", FACTS)
        record.finish({"state": "Success"})
        with pytest.raises(AlreadyExists, match="r1 has an outcome already"):
            record.finish({"state": "Failed"})
        assert record.state == "Success"

    def test_listed_newest_first(self, stored):
        assert stored.runs() == []
        for run_id in ("20261101T000000-b", "20261102T000000-a", "20261101T000000-a"):
            stored.create_run(run_id, FACTS).finish({"state": "Success"})
        assert [record.run_id for record in stored.runs()] == [
            "20261102T000000-a",
            "20261101T000000-b",
            "20261101T000000-a",
        ]

    def test_unknown(self, stored):
        for run_id in ("nope", "", "../x", "a/b"):
            with pytest.raises(NotFound):
                stored.get_run(run_id)

    @pytest.mark.parametrize("run_id", ["../x", "a/b", ".", "..", "a\nb", "x" * 201, ""])
    def test_no_run_is_called_so_that_it_could_not_be_found_again(self, stored, run_id):
        with pytest.raises(RunError, match=r"cannot be the id of a run"):
            stored.create_run(run_id, FACTS)
        with pytest.raises(RunError, match=r"cannot be the id of a run"):
            stored.launch_run(run_id, FACTS)
        assert stored.runs() == []


@pytest.fixture
def record():
    files = Files("memory://x", filesystem=private_memory())
    return RunRecord.create(files, "r1", FACTS)


def test_listing_reads_nothing(monkeypatch):
    stored = StoredFlows("memory://x", filesystem=private_memory())
    stored.create_run("r1", FACTS)
    read = []
    monkeypatch.setattr(Files, "read", lambda self, key: read.append(key))
    assert [record.run_id for record in stored.runs()] == ["r1"]
    assert read == []


def test_a_folder_alone_is_no_run(tmp_path):
    stored = StoredFlows(tmp_path)
    stored.create_run("r1", FACTS)
    (tmp_path / "runs" / "r2").mkdir()
    (tmp_path / "runs" / "stray").write_text("")
    assert [record.run_id for record in stored.runs()] == ["r1"]


def test_where_a_run_goes_on_is_told_as_soon_as_it_is_known(record):
    there = {**FACTS["environment"], "name": "one"}
    seen = RunRecord(record._files, "r1")
    assert seen.environment == FACTS["environment"]
    record.found(there)
    assert seen.environment == there
    assert RunRecord(record._files, "r1").environment == there
    assert seen.facts["environment"] == FACTS["environment"]
    record._files.replace("runs/r1/environment.json", b'{"environment": "here"}')
    with pytest.raises(DamagedObject, match=r"environment\.json tells no environment"):
        RunRecord(record._files, "r1").environment  # noqa: B018


def test_an_outcome_is_read_once(record, monkeypatch):
    read = []
    original = Files.read
    monkeypatch.setattr(Files, "read", lambda self, key: read.append(key) or original(self, key))
    assert record.state == "Running"
    assert record.state == "Running"
    record.finish({"state": "Success"})
    assert [record.state, record.outcome["state"]] == ["Success", "Success"]
    assert read == ["runs/r1/outcome"] * 3


def test_run_json_is_readable(record):
    data = json.loads(record._files.read("runs/r1/run.json"))
    assert data["run_id"] == "r1"
    assert "ä".encode() in record._files.read("runs/r1/run.json")


def test_no_result_while_running(record):
    with pytest.raises(RunError, match="has not ended yet"):
        record.result()


def test_failures_carry_the_text_of_the_error(record):
    record.finish(FAILED)
    with pytest.raises(TaskFailed, match=r"task 'load' failed with ValueError: no rows \(and 1 more") as caught:
        record.result()
    assert "Traceback …" in str(caught.value)
    assert caught.value.node == "load"


def test_a_failure_without_errors(record):
    record.finish({"state": "Cancelled"})
    with pytest.raises(RunError, match="ended as Cancelled"):
        record.result()


def test_a_result_that_was_not_kept(record):
    record.finish({"state": "Success"})
    with pytest.raises(ValueReleased, match=r"not kept.*write it to a file"):
        record.result()


def test_a_result_of_none_is_a_result(record):
    record.finish({"state": "Success"}, pickle.dumps(None))
    assert record.result() is None


def test_damage(record):
    record._files.create("runs/r1/outcome", pack("outcome", {"outcome": {}}, b"payload")[:-1] + b"x")
    with pytest.raises(DamagedObject):
        record.state  # noqa: B018
    record._files.replace("runs/r1/run.json", b"[1]")
    with pytest.raises(DamagedObject, match=r"run\.json"):
        RunRecord(record._files, "r1").facts  # noqa: B018


def test_run_ids_sort_by_age_and_differ():
    ids = [new_run_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{6}-[0-9a-f]{8}", run_id) for run_id in ids)
    stamps = [run_id.partition("-")[0] for run_id in ids]
    assert stamps == sorted(stamps)
    assert sorted(["20261125T120000.000001-0", "20261125T120000-f"])[0].endswith("f")  # as older ids were


@pytest.mark.parametrize(
    "facts", [b'{"flow": 3}', b'{"start": 7}', b'{"parameters": [1]}', b'{"versions": "x"}', b"{}"]
)
def test_facts_of_another_kind_are_damage(record, facts):
    record._files.replace("runs/r1/run.json", facts)
    with pytest.raises(DamagedObject, match=r"run\.json"):
        RunRecord(record._files, "r1").parameters  # noqa: B018
    assert repr(RunRecord(record._files, "r1")) == "<RunRecord r1: DamagedObject>"


@pytest.mark.parametrize(
    "header",
    [{}, {"outcome": "Success", "has_result": False}, {"outcome": {}}],
)
def test_an_outcome_that_tells_nothing_is_damage(record, header):
    record._files.create("runs/r1/outcome", pack("outcome", header, b""))
    with pytest.raises(DamagedObject, match="does not tell how the run ended"):
        record.state  # noqa: B018
