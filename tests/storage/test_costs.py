from __future__ import annotations

import json
import os
import stat
import threading

import pytest

import headrace as hr
from headrace.errors import AccessDenied, Unreachable
from headrace.storage import costs as costs_module
from headrace.storage import runs as runs_module
from headrace.storage.costs import MOST, Entry, StoredCosts, from_facts, to_facts
from headrace.storage.files import Files, private_memory
from headrace.storage.flows import StoredFlows
from headrace.storage.records import create_record

KEY = "flows/etl/costs.json"
TIME = "2026-11-01T12:00:00Z"


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However busy the machine is, what earlier runs told is read, and what this one tells is written."""
    monkeypatch.setattr(costs_module, "INSTANT", 20.0)
    monkeypatch.setattr(runs_module, "INSTANT", 20.0)


@pytest.fixture
def stored(medium):
    return StoredFlows(medium.url, medium.options)


@pytest.fixture
def files():
    return Files("memory://x", filesystem=private_memory())


def told(files: Files) -> dict[str, float]:
    costs = StoredCosts(files, "etl")
    assert costs._read_it.wait(20)
    return costs.means()


def keep(files: Files, means: dict[str, float], costs: StoredCosts | None = None) -> bool:
    """Keep costs as a run does; return whether anything was written."""
    costs = costs or StoredCosts(files, "etl")
    assert costs._read_it.wait(20)  # a run waits an instant only, which is no matter here
    over = costs.keep(means)
    assert over is None or over.wait(20)
    return over is not None


class TestEveryMedium:
    def test_what_one_run_keeps_the_next_one_is_told(self, stored):
        files = stored.files
        assert told(files) == {}
        assert keep(files, {"m:a a": 1.0, "m:b b": 2e-5})
        assert told(files) == {"m:a a": 1.0, "m:b b": 2e-5}
        assert keep(files, {"m:a a": 5.0, "m:c c": 0.25})
        assert told(files) == {"m:a a": 5.0, "m:b b": 2e-5, "m:c c": 0.25}
        assert files.list() == [KEY]

    def test_with_a_record(self, stored):
        for seconds in (None, 3.0):
            record = stored.create_run(f"r-{seconds}", {"flow": "etl"}, StoredCosts(stored.files, "etl"))
            assert record.earlier_costs() == ({"a": 3.0} if seconds else {})
            record.finish({"state": "Success"}, None, {"a": 3.0})
        assert set(record.outcome) == {"state"}
        reader = stored.get_run("r-None")
        assert (reader.earlier_costs(), reader.state) == ({}, "Success")

    def test_flows_and_versions_are_what_they_were(self, stored):
        stored.files.replace("flows/never-stored/costs.json", b"{}")
        assert (stored.flows, stored.versions("never-stored")) == ({}, [])
        assert "never-stored" not in stored
        assert stored.runs() == []

        location = stored.add_flow(flow)
        stored.build()
        keep(stored.files, {"a": 1.0}, StoredCosts(stored.files, "small"))
        again = StoredFlows(stored.url, stored.spec.storage_options)
        assert again.flows == {"small": location}
        assert flow in again
        assert len(again.versions("small")) == 1
        assert again.build().add_flow(flow) == location


@hr.task
def one() -> int:
    return 1


@hr.flow(name="small")
def flow():
    return one()


def test_only_what_moved_is_written(files):
    assert keep(files, {"a": 1.0})
    assert not keep(files, {"a": 1.2})
    assert not keep(files, {})
    assert keep(files, {"a": 2.0})
    assert told(files) == {"a": 2.0}


def test_the_object_is_plain(files):
    keep(files, {"m:ä ä": 0.123456789})
    data = json.loads(files.read(KEY))
    time = data["tasks"]["m:ä ä"].pop("time")
    assert data == {"format": 1, "tasks": {"m:ä ä": {"seconds": 0.1235}}}
    assert len(time) == len(TIME)
    assert time > TIME


def test_of_too_many_the_newest_stay():
    old = {f"old {number}": Entry(1.0, "2025-01-01T00:00:00Z") for number in range(MOST)}
    new = {f"new {number}": Entry(1.0, TIME) for number in range(MOST // 2)}
    kept = from_facts(to_facts({**old, **new}))
    assert len(kept) == MOST
    assert set(new) <= set(kept)


RUBBISH = [
    b"",
    b"\xff\x00",
    b"[]",
    b"{}",
    b'{"format": 2, "tasks": {"a": {"seconds": 1}}}',
    b'{"format": 1, "tasks": [1]}',
    b'{"format": 1, "tasks": {"a": {"seconds": 1.5, "time": "2026',
    b'{"format": 1, "tasks": ' + b"[" * 100_000,
    b'{"format": 1, "tasks": {"a": {"seconds": 1' + b"0" * 9000 + b"}}}",
]


@pytest.mark.parametrize("data", RUBBISH, ids=range(len(RUBBISH)))
def test_an_object_that_nobody_can_read_tells_nothing_and_is_written_anew(files, data):
    files.create(KEY, data)
    assert told(files) == {}
    assert keep(files, {"a": 1.0})
    assert told(files) == {"a": 1.0}


@pytest.mark.parametrize(
    "row",
    [
        *("1", "null", "{}", '{"seconds": "1"}', '{"seconds": null}', '{"seconds": -1}', '{"seconds": NaN}'),
        *('{"seconds": Infinity}', '{"seconds": 1e10}', '{"seconds": 1' + "0" * 400 + "}"),
    ],
)
def test_an_entry_that_cannot_be_does_not_count(row):
    entries = from_facts({"format": 1, "tasks": {"bad": json.loads(row), "good": {"seconds": 1}}})
    assert entries == {"good": Entry(1.0, "")}


def test_two_runs_at_once_the_last_one_wins(files):
    one, other = StoredCosts(files, "etl"), StoredCosts(files, "etl")
    assert keep(files, {"a": 1.0}, one)
    assert keep(files, {"b": 2.0}, other)
    assert told(files) == {"b": 2.0}


def test_racing_writers_leave_a_whole_object(medium):
    files = Files(medium.url, medium.options)
    runs = [StoredCosts(files, "etl") for _ in range(8)]
    for run in runs:
        run.means()
    over = [run.keep({f"task {at}": float(at + 1) for at in range(number, 200)}) for number, run in enumerate(runs)]
    assert all(written is not None and written.wait(20) for written in over)
    assert len(told(files)) > 190


class Trouble(Exception):
    """What no storage package raises."""


@pytest.mark.parametrize("error", [AccessDenied("no"), Unreachable("no"), Trouble(), MemoryError()])
def test_who_may_not_read_is_told_nothing_and_writes_nothing(files, monkeypatch, error):
    def fail(*args):
        raise error

    create_record(files, KEY, to_facts({"a": Entry(1.0, TIME)}))
    monkeypatch.setattr(files, "read", fail)
    assert told(files) == {}
    assert not keep(files, {"b": 1.0})


def test_who_may_not_write_goes_on(files, monkeypatch, caplog):
    def fail(key, data):
        raise AccessDenied(f"cannot write {key}")

    monkeypatch.setattr(files, "replace", fail)
    with caplog.at_level("DEBUG", "headrace"):
        assert keep(files, {"a": 1.0})
    assert told(files) == {}
    assert "cannot write flows/etl/costs.json" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    stored = StoredFlows(tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "flows").mkdir()
    os.chmod(tmp_path / "flows", stat.S_IRUSR | stat.S_IXUSR)
    record = stored.create_run("r", {"flow": "etl"}, StoredCosts(stored.files, "etl"))
    record.finish({"state": "Success"}, None, {"a": 1.0})
    assert record.state == "Success"


def test_a_store_that_does_not_answer_is_not_waited_for(files, monkeypatch):
    answer, asked = threading.Event(), threading.Event()

    def silent(*args):
        asked.set()
        assert answer.wait(20)
        return b""

    monkeypatch.setattr(costs_module, "INSTANT", 0.01)
    monkeypatch.setattr(files, "read", silent)
    costs = StoredCosts(files, "etl")
    assert asked.wait(20)
    assert costs.means() == {}
    assert costs.keep({"a": 1.0}) is None  # what is there is not known, so it is not replaced
    answer.set()


def test_no_thread_to_be_had(files, monkeypatch):
    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    costs = StoredCosts(files, "etl")
    assert costs.means() == {}
    assert costs.keep({"a": 1.0}) is None
