"""What a run learns of its tasks' costs, and the next one makes of it, on real clusters."""

import threading
from collections import Counter

import pytest

import headrace as hr
from headrace.core.costs import key_of
from headrace.core.events import Dispatch, HandedBack
from headrace.core.strips import count
from headrace.execution.dask import DaskExecutor
from headrace.storage import costs as costs_module
from headrace.storage import runs as runs_module
from headrace.storage.costs import StoredCosts
from headrace.storage.files import Files
from tests.environments import flows

NAP = key_of(flows.nap)


@pytest.fixture(scope="module")
def threads():
    with hr.DaskEnvironment("local", processes=False, n_workers=1, threads_per_worker=2) as env:
        env.setup()
        yield env


@pytest.fixture
def storage(tmp_path):
    return hr.Storage(tmp_path)


@pytest.fixture(autouse=True)
def patient(monkeypatch):
    """However busy the machine is, what earlier runs told is read, and what this one tells is written."""
    monkeypatch.setattr(costs_module, "INSTANT", 20.0)
    monkeypatch.setattr(runs_module, "INSTANT", 20.0)


class Spy:
    """The sizes of a run's batches, in the order of dispatch, and its hand-backs."""

    def __init__(self, monkeypatch):
        self.sizes, self.handed_back = [], 0
        send, wait = DaskExecutor.send, DaskExecutor.wait

        def sending(executor, commands):
            self.sizes += [count(command.strips) for command in commands if isinstance(command, Dispatch)]
            send(executor, commands)

        def waiting(executor, timeout):
            events = wait(executor, timeout)
            self.handed_back += sum(isinstance(event, HandedBack) for event in events)
            return events

        monkeypatch.setattr(DaskExecutor, "send", sending)
        monkeypatch.setattr(DaskExecutor, "wait", waiting)

    def look(self):
        """What there was since the last look."""
        found = self.sizes, self.handed_back
        self.sizes, self.handed_back = [], 0
        return found


def told(storage):
    return StoredCosts(storage.files, "napping").means()


def test_the_second_run_begins_with_single_task_batches(threads, storage, monkeypatch):
    spy, location = Spy(monkeypatch), storage.add_flow(flows.napping)
    threads.execute(storage, location, {"seconds": 0.15})
    sizes, handed_back = spy.look()
    assert sizes[:2] == [6, 6]
    assert handed_back > 0
    assert 0.15 <= told(storage)[NAP] < 0.6  # and not the time of a batch

    threads.execute(hr.Storage(storage.url), storage.build().resolve(location), {"seconds": 0.15})
    assert spy.look() == ([1] * 12, 0)


def test_a_flow_that_became_a_hundred_times_slower_keeps_all_threads_busy(threads, storage, monkeypatch):
    spy, location = Spy(monkeypatch), storage.add_flow(flows.napping)
    threads.execute(storage, location, {"seconds": 0.002, "n": 16})
    assert told(storage)[NAP] < 0.02
    spy.look()
    run = threads.execute(storage, location, {"seconds": 0.2, "n": 16})
    sizes, handed_back = spy.look()
    assert sizes[0] > 1  # the lie was believed
    assert handed_back > 0
    assert min(Counter(run.result()).values()) > 4  # of two threads; half of them is the ideal
    assert told(storage)[NAP] >= 0.2


def test_runs_in_memory_know_of_each_other(threads, monkeypatch):
    spy = Spy(monkeypatch)
    for _ in range(2):
        with hr.Flow("napping-in-memory") as flow:
            flows.nap.map([0.15] * 4)
        flow.run(environment=threads)
    sizes, _ = spy.look()
    assert sizes[:2] == [2, 2]
    assert sizes[-4:] == [1] * 4


def test_another_process_keeps_them_too(storage):
    location = storage.add_flow(flows.napping)
    record = storage.build().get_env_runner(location).run(parameters={"seconds": 0.01, "n": 2})
    assert record.state == "Success"
    assert told(storage)[NAP] >= 0.01


def test_a_run_that_is_interrupted_keeps_nothing(storage):
    location = storage.add_flow(flows.interrupting)
    with pytest.raises(KeyboardInterrupt):
        hr.LocalEnvironment().execute(storage, location)
    (record,) = storage.runs()
    assert record.state == "Cancelled"
    assert not storage.files.list("flows")


def test_a_silent_store_holds_up_neither_start_nor_end(storage, monkeypatch):
    answer, read = threading.Event(), Files.read

    def silent(files, key):
        if key.endswith("costs.json"):
            assert answer.wait(30)
        return read(files, key)

    monkeypatch.setattr(Files, "read", silent)
    monkeypatch.setattr(costs_module, "INSTANT", 0.01)
    run = hr.LocalEnvironment().execute(storage, storage.add_flow(flows.napping), {"n": 3})
    answer.set()
    assert run.state is hr.State.SUCCESS


def test_what_cannot_be_written_changes_nothing(storage, monkeypatch):
    def refuse(files, key, data):
        raise hr.errors.AccessDenied(f"cannot write {key!r}")

    monkeypatch.setattr(Files, "replace", refuse)
    run = hr.LocalEnvironment().execute(storage, storage.add_flow(flows.napping), {"n": 3})
    assert run.state.label == storage.runs()[0].state == "Success"
    assert told(storage) == {}
