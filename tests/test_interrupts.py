"""Real processes that are interrupted: what was set up is cleaned up, and nothing is left running."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from textwrap import dedent

import psutil
import pytest

import headrace as hr
from headrace import Storage
from tests.saying import ours
from tests.waiting import until

SCRIPT = """
    import asyncio, os, signal, sys, threading, time
    import headrace as hr
    from headrace.core import ending

    ending.GRACE = {grace}
    PATH = {path!r}

    def note(line):
        with open(PATH, "a") as file:
            file.write(line + "\\n")

    @hr.resource
    def place():
        note("made")
        return PATH

    @place.cleanup
    def leave(path):
        {cleanup}

    @hr.task
    {define} work(path):
        note("working")
        {body}

    @hr.flow
    def endless():
        with place() as path:
            work(path)

    def tell_when_heeded():
        while signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            time.sleep(0.01)
        open(PATH + "-heeded", "w").close()

    if __name__ == "__main__":
        threading.Thread(target=tell_when_heeded, daemon=True).start()
        try:
            with {environment} as environment:
                endless.storage = hr.Storage("store")
                {run}
        except KeyboardInterrupt as error:
            run = getattr(error, "run", None)  # asyncio raises one of its own
            note(f"raised with {{run.state if run else None}}")
            raise
"""
BODIES = {
    "sleeps": "time.sleep(60)",
    "waits": "threading.Event().wait(60)",
    "computes": "while True: sum(range(1000))",
    "awaits": "await asyncio.sleep(60)",
}
PLACES = {"inline": "hr.LocalEnvironment()", "local": 'hr.DaskEnvironment("local", n_workers=2)'}
CLEANS = 'note("cleaned up")'
HANGS = 'note("cleaning up"); time.sleep(60)'
RUN = "endless.run(environment=environment)"
START = "endless.start(environment=environment).wait()"
ASYNC = "import asyncio; asyncio.run(endless.run_async(environment=environment))"

_STARTED: list[subprocess.Popen[str]] = []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    while _STARTED:
        process = _STARTED.pop()
        with process, suppress(ProcessLookupError):
            if process.poll() is None:  # its test has failed
                os.killpg(process.pid, signal.SIGKILL)


def lines(folder: Path) -> list[str]:
    path = folder / "told"
    return path.read_text().splitlines() if path.exists() else []


def started(
    folder: Path, place: str, body: str = "sleeps", run: str = RUN, cleanup: str = CLEANS, grace: float = 100.0
) -> subprocess.Popen[str]:
    """Start a script in a session of its own, and return when its task is at work, and somebody waits for the run."""
    script = folder / "script.py"
    define = "async def" if "await" in BODIES[body] else "def"
    words = {"define": define, "path": str(folder / "told"), "body": BODIES[body], "environment": PLACES[place]}
    script.write_text(dedent(SCRIPT).format(**words, run=run, cleanup=cleanup, grace=grace))
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    _STARTED.append(process)
    until_told("working", process, folder)
    until((folder / "told-heeded").exists)
    return process


def until_told(line: str, process: subprocess.Popen[str], folder: Path) -> None:
    until(lambda: line in lines(folder) or process.poll() is not None, 60)
    assert line in lines(folder), process.communicate()


def ended(process: subprocess.Popen[str]) -> str:
    """Wait for the end, sooner than anything ends by itself; return what was said, with nothing left of the session."""
    _, err = process.communicate(timeout=40)
    _, alive = psutil.wait_procs([one for one in psutil.process_iter() if _session(one.pid) == process.pid], timeout=30)
    assert not alive
    return err


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.parametrize("body", BODIES)
def test_ctrl_c_in_this_process(body: str, folder: Path) -> None:
    process = started(folder, "inline", body)
    process.send_signal(signal.SIGINT)
    err = ended(process)
    assert lines(folder) == ["made", "working", "cleaned up", "raised with Cancelled"]
    assert process.returncode == -signal.SIGINT  # as Python ends after an uncaught KeyboardInterrupt
    assert err.strip().endswith("KeyboardInterrupt")
    [record] = Storage("store").runs()
    assert record.state == "Cancelled"
    counts = {node["name"]: node["counts"] for node in record.outcome["nodes"]}
    assert counts == {"place": {"Success": 1}, "work": {"Cancelled": 1}, "leave": {"Success": 1}}


@pytest.mark.parametrize("body", BODIES)
def test_ctrl_c_with_a_cluster(body: str, folder: Path) -> None:
    process = started(folder, "local", body)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it, to the workers, too
    ended(process)
    assert lines(folder) == ["made", "working", "cleaned up", "raised with Cancelled"]
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("place", PLACES)
def test_sigterm(place: str, folder: Path) -> None:
    process = started(folder, place)
    process.send_signal(signal.SIGTERM)
    err = ended(process)
    assert lines(folder) == ["made", "working", "cleaned up"]
    assert process.returncode == 143
    assert "Traceback" not in ours(err)


@pytest.mark.parametrize(("place", "run"), [("local", START), ("local", ASYNC), ("inline", START)])
def test_ctrl_c_while_waiting_for_a_run_in_another_thread(place: str, run: str, folder: Path) -> None:
    process = started(folder, place, "computes", run)
    process.send_signal(signal.SIGINT)
    ended(process)
    seen = "None" if run == ASYNC else "Cancelled"
    assert lines(folder) == ["made", "working", "cleaned up", f"raised with {seen}"]
    assert process.returncode == -signal.SIGINT


@pytest.mark.parametrize("place", PLACES)
def test_a_second_ctrl_c_ends_at_once(place: str, folder: Path) -> None:
    process = started(folder, place, "computes", cleanup=HANGS)
    process.send_signal(signal.SIGINT)
    until_told("cleaning up", process, folder)
    process.send_signal(signal.SIGINT)
    ended(process)
    assert lines(folder) == ["made", "working", "cleaning up", "raised with Cancelled"]
    [record] = Storage("store").runs()
    assert record.outcome["elapsed"] < 40
    assert [error["type"] for error in record.outcome["errors"]] == ["headrace.errors.NotCleanedUp"]


def test_a_cleanup_that_hangs_is_cut_off(folder: Path) -> None:
    process = started(folder, "inline", cleanup=HANGS, grace=5.0)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    ended(process)
    assert time.monotonic() - began > 4
    [record] = Storage("store").runs()
    assert record.state == "Cancelled"
    assert "clean-up leave was not done" in record.outcome["errors"][0]["message"]


@hr.task
def interrupts(x: int) -> int:
    if x == 12:
        signal.raise_signal(signal.SIGINT)
        time.sleep(20)
    return x


@hr.task
async def waits(x: int) -> int:
    if x >= 10:
        await asyncio.sleep(20)
    return x


@hr.flow
def interrupted_among_coroutines():
    return waits.map(interrupts.map(list(range(14))))


def test_ctrl_c_in_a_plain_task_among_coroutines() -> None:
    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted_among_coroutines.run()
    run = caught.value.run  # type: ignore[attr-defined]
    states = {name: [state.label for state in run[name].states] for name in run}
    assert states == {"interrupts": ["Success"] * 12 + ["Cancelled"] * 2, "waits": ["Success"] * 10 + ["Cancelled"] * 4}
    assert not run.errors
    assert run["waits"][9].result() == 9


class Ends(hr.Observer):
    """Notes how runs end."""

    def __init__(self) -> None:
        self.states: list[hr.State] = []

    def on_end(self, nodes: object, state: hr.State, elapsed: float) -> None:
        self.states.append(state)


@hr.task
def nap(i: int) -> int:
    time.sleep(0.01)
    return i


@hr.flow
def naps():
    return nap.map(range(100_000))


def test_ctrl_c_just_when_a_run_has_begun_cancels_it(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        begin(thread)
        if thread.name.startswith("headrace-2"):  # which is how ids of runs begin
            raise KeyboardInterrupt

    ends = Ends()
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        naps.start(observers=[ends])
    until(lambda: ends.states == [hr.State.CANCELLED])
