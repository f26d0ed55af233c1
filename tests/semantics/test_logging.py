"""Logs, prints, hooks and observers: what the rows cannot say."""

import contextlib
import gc
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import headrace as hr
from headrace.execution import logs
from headrace.execution.logs import LOGS
from tests.semantics.rows_hooks import breaks, tell, tell_failure
from tests.semantics.witness import witness
from tests.waiting import until

log = logging.getLogger("tests.talk")


@hr.task(retries=1)
def talk(x):
    log.debug("debug of %s", x)
    log.info("info of %s", x, extra={"count": 3, "odd": {1}})
    if x == 1 and hr.context().attempt == 1:
        raise ValueError("once")
    try:
        raise KeyError("inner")
    except KeyError:
        log.exception("caught %s", x)
    return os.getpid()


@hr.flow
def talks():
    return talk.map(range(3))


@contextlib.contextmanager
def levels(**wanted):
    """Set levels of loggers for a while."""
    before = {name: logging.getLogger(name).level for name in wanted}
    for name, level in wanted.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def test_records_come_with_all_that_is_known_of_them(place):
    with levels(tests=logging.INFO), witness() as seen:
        run = talks.run(environment=place)
    pids = run.result()
    assert seen.logged["talk[1]"] == ["INFO tests.talk: info of 1"] * 2 + [
        line for line in seen.logged["talk[1]"] if line.startswith("ERROR")
    ]
    assert [record.attempt for record in seen.records if record.child == 1] == [1, 2, 2]
    for record in seen.records:
        assert (record.run_id, record.task, record.run_name) == (run.run_id, "talk", f"talk[{record.child}]")
        assert record.worker == "inline" or "://" in record.worker
        assert record.process in pids
        assert record.filename == Path(__file__).name
        assert record.funcName == "talk"
        if record.levelno == logging.INFO:
            assert (record.count, str(record.odd)) == (3, "{1}")
        else:
            assert 'raise KeyError("inner")' in record.exc_text
            assert "caught" in record.getMessage()


def levels_there():
    return [logging.getLogger(name).level for name in ("", "tests", "tests.talk")]


@hr.task
def levels_in_a_task():
    return levels_there()


@hr.flow
def levels_in_tasks():
    return levels_in_a_task()


def test_the_drivers_levels_hold_on_workers_while_the_run_lasts():
    with hr.DaskEnvironment("local", n_workers=1, dashboard_address="127.0.0.1:0") as place:  # with no other run on it
        place.setup(None)
        before = place.client.run(levels_there)
        with levels(root=logging.ERROR, tests=logging.DEBUG):
            assert levels_in_tasks.run(environment=place).result() == [logging.ERROR, logging.DEBUG, 0]
        gc.collect()
        until(lambda: place.client.run(levels_there) == before)


def handles_there():
    return LOGS in logging.getLogger().handlers, logging.getLogRecordFactory() is logging.LogRecord


def test_logging_is_left_as_it_was_found(place):
    run = talks.run(environment=place)
    run.release()
    gc.collect()  # runs of other tests that nobody holds any more
    until(lambda: handles_there() == (False, True))
    if isinstance(place, hr.DaskEnvironment):
        until(lambda: set(place.client.run(handles_there).values()) == {(False, True)})


@hr.task
def logs_and_waits(path):
    log.warning("begun")
    print("printed")
    until(Path(path).exists)


@hr.flow
def long_talk(path: str):
    return logs_and_waits.with_options(log_prints=True)(path)


class Listener(hr.Observer):
    wants_logs = True

    def __init__(self, heard):
        self.records = []
        self.heard = heard

    def on_log(self, record):
        self.records.append(record)
        self.heard(self.records)


def test_lines_arrive_while_the_task_runs(place, tmp_path):
    path = tmp_path / "heard"

    def heard(records):
        if len(records) == 2:
            path.touch()

    listener = Listener(heard)
    run = long_talk.run(environment=place, observers=[listener], path=str(path))
    assert run.state is hr.State.SUCCESS
    assert [record.getMessage() for record in listener.records] == ["begun", "printed"]
    assert {record.run_id for record in listener.records} == {run.run_id}


def test_an_observer_that_raises_harms_neither_run_nor_others(place, caplog):
    def raises(records):
        raise RuntimeError("an observer's own mistake")

    deaf, listener = Listener(raises), Listener(len)
    run = talks.run(environment=place, observers=[deaf, listener])
    assert run.state is hr.State.SUCCESS
    assert len(listener.records) == len(deaf.records) == 3  # errors; the level is that of warnings
    assert caplog.text.count("Listener.on_log raised") == 3


@hr.task
def chatter(n):
    for i in range(n):
        log.warning("line %s", i)


@hr.flow
def chatters(n: int):
    return chatter(n)


def test_too_many_lines_are_dropped_and_counted(caplog, monkeypatch):
    n = 6_000
    monkeypatch.setattr(logs, "MOST_LINES", 50)  # of which a busy machine makes more, too, between two sendings
    with hr.DaskEnvironment("local", n_workers=1, threads_per_worker=1) as environment, witness() as seen:
        run = chatters.run(environment=environment, n=n)
    assert run.state is hr.State.SUCCESS
    lines = [record.getMessage() for record in seen.records]
    told = [record.args[0] for record in caplog.records if record.name == "headrace.logs"]
    assert told
    assert len(lines) + sum(int(number.replace(",", "")) for number in told) == n
    assert lines[-1] == f"line {n - 1}"


@hr.task
def runs_a_flow_inside():
    log.warning("outside")
    return chatters.run(n=1).run_id


@hr.flow
def runs_inside():
    return runs_a_flow_inside()


def test_what_a_run_inside_of_a_task_logs_arrives(place):
    with witness() as seen:
        run = runs_inside.run(environment=place)
    assert [(record.run_id, record.task) for record in seen.records] == [
        (run.run_id, "runs_a_flow_inside"),
        (run.result(), "chatter"),
    ]


SCRIPT = """
import logging, sys, threading
import headrace as hr

@hr.task(log_prints=True, run_name="greet {name}")
def greet(name):
    print("hello", end=" ")
    print(name)
    logging.getLogger("mine").warning("a warning")
    logging.getLogger("mine").info("a detail")

@hr.flow
def greets():
    return greet.map(["Ada"])

if __name__ == "__main__":
    if sys.argv[1] == "inline":
        greets.run()
    else:
        with hr.DaskEnvironment("local", n_workers=1, processes=sys.argv[1] == "processes") as environment:
            greets.run(environment=environment)
    print(type(sys.stdout).__name__)
"""


@pytest.mark.parametrize("where", ["inline", "threads", "processes"])
def test_without_any_configuration_prints_and_warnings_are_seen(where, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, where], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.splitlines() == ["greet Ada  hello Ada", "TextIOWrapper"]
    assert done.stderr.count("a warning\n") == 1
    assert "a detail" not in done.stderr


# -- hooks and observers -----------------------------------------------------------------------------------------


@hr.task(on_state=breaks, on_failure=breaks, tags=["t", "u"])
def fails(x):
    raise ValueError(f"no {x}")


@hr.flow
def failing():
    return fails.map([5])


def test_hooks_that_raise_are_told_and_logged(place, caplog):
    run = failing.run(environment=place)
    assert [(str(told.change), told.hook, str(told.error)) for told in run.hook_errors] == [
        ("fails[0]: Running", "breaks", "a broken hook"),
        ("fails[0]: Failed", "breaks", "a broken hook"),
        ("fails[0]: Failed", "breaks", "a broken hook"),
    ]
    logged = [record for record in caplog.records if record.name == "headrace.hooks"]
    assert len(logged) == 3
    assert "hook breaks raised, told of fails[0]: Failed" in logged[-1].getMessage()
    with pytest.raises(ValueError, match="no 5"):
        run.result()


def test_a_change_says_all_that_is_known(place):
    with witness() as seen:
        flow = hr.Flow("failing", lambda: fails.with_options(on_state=tell, on_failure=tell_failure)(5))
        run = flow.run(environment=place)
    begun, ended, complaint = seen.changes
    assert (begun.state, begun.attempts, begun.seconds, begun.error) == (hr.State.RUNNING, 0, 0.0, None)
    assert (ended.run_id, ended.flow_name, ended.task_name) == (run.run_id, "failing", "fails")
    assert (ended.index, ended.attempts, ended.tags) == (None, 1, ("t", "u"))
    assert ended.seconds == pytest.approx(run["fails"].duration)
    assert ended.error is complaint.error is run["fails"][0].error


_GATES = {}


def waits_at_gate(change, old, new):
    if new is hr.State.SUCCESS:
        _GATES["entered"].set()
        assert _GATES["open"].wait(30)
        _GATES["done"].append(threading.current_thread().name)


@hr.task(on_state=waits_at_gate)
def first():
    return 1


@hr.task
def opens_gate(x):
    return x


class Opens(hr.Observer):
    """Opens the gate when the second task has been executed."""

    def on_progress(self, nodes, elapsed):
        if nodes[1].done:
            assert _GATES["entered"].wait(30)
            _GATES["open"].set()

    def on_end(self, nodes, state, elapsed):
        self.on_progress(nodes, elapsed)


def test_a_slow_hook_holds_up_nothing_and_is_waited_for(place):
    _GATES.update(entered=threading.Event(), open=threading.Event(), done=[])

    @hr.flow
    def gated():
        return opens_gate(first())

    run = gated.run(environment=place, observers=[Opens()])
    assert run.result() == 1
    assert _GATES["done"] == ["headrace-hooks"]
    assert not run.hook_errors


class Moves(hr.Observer):
    def __init__(self):
        self.moves = []

    def wants_moves(self, policy):
        return policy.name == "same"

    def on_moves(self, moves):
        self.moves += moves


@hr.task
def same(x):
    return x


@hr.task
def other(x):
    return x


@hr.flow
def wide():
    return other.map(same.map(range(5000)))


def test_observers_get_moves_as_ranges(place):
    watching = Moves()
    wide.run(environment=place, observers=[watching])
    covered = {hr.State.RUNNING: set(), hr.State.SUCCESS: set()}
    for move in watching.moves:
        assert (move.node, move.name) == (0, "same")
        children = range(move.low, move.high)
        assert covered[move.new].isdisjoint(children)
        covered[move.new].update(children)
    assert covered[hr.State.RUNNING] == covered[hr.State.SUCCESS] == set(range(5000))
    assert len(watching.moves) < 500


@hr.task(dynamic=True)
def grows(n):
    return same.map(range(n))


@hr.flow
def growing():
    return grows(2)


def test_moves_name_nodes_that_join_later(place):
    watching = Moves()
    run = growing.run(environment=place, observers=[watching])
    assert {move.name for move in watching.moves} == set(run) - {"grows"} != set()


class Breaks(hr.Observer):
    def __init__(self, where):
        self.where = where

    def on_start(self, *_):
        if self.where == "start":
            raise ValueError("no place to write to")

    def on_end(self, *_):
        if self.where == "end":
            raise ValueError("no place to write to")


@pytest.mark.parametrize("where", ["start", "end"])
def test_an_observer_that_raises_leaves_no_thread(where):
    flow = hr.Flow("broken", lambda: same.with_options(on_state=tell)(1), on_state=tell)
    with pytest.raises(ValueError, match="no place to write to") as caught:
        flow.run(observers=[Breaks(where)])
    assert caught.value.run.error is caught.value
    assert "headrace-hooks" not in [thread.name for thread in threading.enumerate()]


class Interrupt(hr.Observer):
    def on_moves(self, moves):
        raise KeyboardInterrupt

    def wants_moves(self, policy):
        return True


def test_hooks_are_told_of_a_run_that_breaks_off(place):
    flow = hr.Flow("broken_off", lambda: same.with_options(on_state=tell)(1), on_state=tell, on_failure=tell_failure)
    with witness() as seen, contextlib.suppress(KeyboardInterrupt):
        flow.run(environment=place, observers=[Interrupt()])
        pytest.fail("it was interrupted")
    assert seen.told["broken_off"] == [
        "Pending > Running",
        "Running > Cancelled",
        "Cancelled at attempt 0, KeyboardInterrupt: ",
    ]
