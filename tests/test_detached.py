"""Runs that a process of its own drives: it outlives who started it, and its end is known whatever becomes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest
from jupyter_client.manager import KernelManager

import headrace as hr
from headrace import drivers
from headrace.cli_runs import _new_in
from headrace.errors import (
    AlreadyExists,
    DriverLost,
    NotFound,
    ParameterError,
    RunError,
    SetupError,
    StorageError,
)
from headrace.loading import Target, load_flow
from headrace.storage.runs import RunRecord
from tests.cli_kit import FLOWS, call, facts, loading_undone, process, refused
from tests.waiting import until

MORE_FLOWS = """
    @hr.task
    def meet(path):
        print("at", path)
        with open(path, "w") as fifo:
            fifo.write("here")
        with open(path) as fifo:
            return fifo.read()

    @hr.flow
    def met(path: str):
        return meet(path)

    @hr.flow
    def given(what):
        return add(what, what)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a file of flows; logs lie there, too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(drivers.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "some_flows.py").write_text(dedent(FLOWS) + dedent(MORE_FLOWS))
    os.mkfifo("fifo")
    with loading_undone(tmp_path):
        yield tmp_path
    for pid, started in list(drivers._STARTED.items()):
        started.kill()
        started.wait()
        del drivers._STARTED[pid]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with the flows."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "some_flows.py").write_text(dedent(FLOWS) + dedent(MORE_FLOWS))
    with loading_undone(folder):
        storage = hr.Storage(folder / "store")
        for name in ("etl", "endless", "met", "given"):
            storage.add_flow(load_flow(Target(str(folder / "some_flows.py"), name, True)))
        storage.build()
    return folder / "store"


@pytest.fixture
def storage(folder: Path, built: Path) -> hr.Storage:
    shutil.copytree(built, "store")
    return hr.Storage("store")


def detached(storage: hr.Storage, flow: str, environment: hr.Environment | None = None, **values: Any) -> RunRecord:
    return (environment or hr.LocalEnvironment()).execute(storage, flow, values, detach=True)


def begun(record: RunRecord) -> RunRecord:
    """The same run, when its task has met the test."""
    assert Path("fifo").read_text() == "here"
    assert record.state == "Running"
    return record


# -- who started it is gone --------------------------------------------------------------------------------------

STARTER = """
import sys, time
import headrace as hr

record = hr.LocalEnvironment().execute(hr.Storage("store"), "met", {"path": "fifo"}, detach=True)
print(record.run_id, flush=True)
time.sleep(100)
"""


def test_it_outlives_its_parent_and_all_that_its_terminal_held(folder: Path, storage: hr.Storage) -> None:
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert starter.stdout is not None
    with starter.stdout as said:
        run_id = said.readline().strip()
    record = begun(storage.get_run(run_id))
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGKILL):  # what a terminal that closes sends, and worse
        try:
            os.killpg(starter.pid, number)
        except ProcessLookupError:
            break
    starter.wait()
    assert record.wait(0.2).state == "Running"
    assert not record.done
    Path("fifo").write_text("and gone")
    assert record.wait(60).result() == "and gone"
    assert [each.state for each in storage.runs(flow="met")] == ["Success"]
    assert "at fifo" in record.logs()
    assert "Success" in record.logs(2)
    assert len(record.logs(2).splitlines()) == 2
    until(lambda: not psutil.pid_exists(record.launch["driver"]["pid"]))


KERNEL = """
import headrace as hr

storage = hr.Storage("store")
run = hr.LocalEnvironment().execute(storage, "met", {"path": "fifo"}, detach=True)
"""


def test_it_outlives_a_restart_of_the_kernel(
    folder: Path, storage: hr.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(folder / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    kernels = KernelManager(kernel_cmd=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"])
    kernels.start_kernel(cwd=str(folder))
    client = kernels.blocking_client()
    client.start_channels()
    try:
        client.wait_for_ready(60)
        answer = client.execute(KERNEL, reply=True, timeout=90)
        assert answer["content"]["status"] == "ok", answer
        [record] = storage.runs(flow="met")
        begun(record)
        kernels.restart_kernel(now=True)
        client.wait_for_ready(60)
        assert not record.done
        Path("fifo").write_text("and gone")
        looked = 'import headrace as hr; found = hr.Storage("store").runs()[0].wait(60).result()'
        answer = client.execute(looked, reply=True, timeout=90, user_expressions={"found": "found"})
        assert answer["content"]["user_expressions"]["found"]["data"]["text/plain"] == "'and gone'"
    finally:
        client.stop_channels()
        kernels.shutdown_kernel(now=True)


# -- drivers that die --------------------------------------------------------------------------------------------


def test_a_driver_that_cannot_even_begin_is_told_with_its_last_words(
    folder: Path, storage: hr.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "sitecustomize.py").write_text(
        "import os\nif 'HEADRACE_RUN_ID' in os.environ:\n    os.write(2, b'no such luck\\n')\n    os._exit(3)"
    )
    with monkeypatch.context() as environment:
        environment.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
        record = detached(storage, "etl", a=1)
    assert record.state == "Starting"
    assert [each.state for each in storage.runs()] == ["Starting"] == [each.state for each in storage.runs(5)]
    assert "Starting" in call("ls", "store", "--runs").out
    with pytest.raises(DriverLost, match=r"ended with code 3.*\nno such luck"):
        record.wait(60)
    assert storage.get_run(record.run_id).state == "Crashed"
    for ask in (record.wait, record.result):
        with pytest.raises(DriverLost, match="no such luck"):
            ask()
    said = call("ls", "store", "--runs")
    assert "Crashed" in said.out
    said = call("wait", "store", record.run_id)
    assert said.code == 1
    assert "no such luck" in said.err


def test_no_driver_is_started_for_a_run_that_cannot_be_called_so(
    storage: hr.Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "start_process", None)
    with pytest.raises(RunError, match="'a/b' cannot be the id of a run"):
        hr.LocalEnvironment().execute(storage, "etl", {"a": 1}, detach=True, run_id="a/b")


def test_a_log_that_cannot_be_made_is_told(
    storage: hr.Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(RunError, match=r"no process could be started to drive run .*gone"):
        detached(storage, "etl", a=1)


def test_a_driver_that_is_killed(storage: hr.Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    record = begun(detached(storage, "met", path="fifo"))
    pid = record.launch["driver"]["pid"]
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(DriverLost, match=r"SIGKILL.*memory"):
        record.wait(60)
    assert storage.get_run(record.run_id).outcome["state"] == "Crashed"


def test_a_driver_that_died_is_seen_by_others_than_its_parent(storage: hr.Storage) -> None:
    record = begun(detached(storage, "met", path="fifo"))
    started = drivers._STARTED.pop(record.run_id)
    started.kill()
    until(lambda: psutil.Process(started.pid).status() == psutil.STATUS_ZOMBIE)  # nobody has asked how it ended
    with pytest.raises(DriverLost, match=f"process {started.pid} on .* is gone"):
        storage.get_run(record.run_id).wait(60)
    started.wait()


def test_its_process_id_is_another_process_by_now(storage: hr.Storage) -> None:
    record = detached(storage, "endless")
    driver = {**record.launch["driver"], "pid": os.getpid()}
    look = drivers.ProcessDriver(driver, record.run_id).look()
    assert look.standing == "gone"
    drivers.ProcessDriver(driver, record.run_id).end()  # nobody is ended in its place
    record.cancel()
    assert record.wait(60).state == "Cancelled"


def test_what_keeps_it_from_beginning_is_recorded(storage: hr.Storage) -> None:
    record = detached(storage, "etl", hr.DaskEnvironment("tcp://127.0.0.1:1", deadline=5), a=1)
    with pytest.raises(RunError, match=r"Crashed: .*SetupError: no Dask scheduler answers at tcp://127.0.0.1:1"):
        record.wait(60)
    [error] = record.outcome["errors"]
    assert error["node"] is None
    assert "Traceback" in error["traceback"]
    assert "no Dask scheduler answers" in record.logs()


def test_a_run_is_not_begun_twice(storage: hr.Storage) -> None:
    record = begun(detached(storage, "met", path="fifo"))
    variables = storage.get_env_runner("met").variables({"path": "fifo"}, {"type": "LocalEnvironment"}, record.run_id)
    refused(call("execute", **variables), record.run_id)
    assert record.state == "Running"  # and not ended by the second one
    Path("fifo").write_text("once")
    assert record.wait(60).result() == "once"
    with pytest.raises(AlreadyExists):
        storage.launch_run(record.run_id, {"flow": "met", "driver": {}})


# -- to end it ---------------------------------------------------------------------------------------------------


def test_cancelled_while_it_runs(storage: hr.Storage) -> None:
    record = detached(storage, "endless", hr.DaskEnvironment("local", n_workers=1), path="fifo")
    begun(record)
    children = psutil.Process(record.launch["driver"]["pid"]).children(recursive=True)
    assert children
    storage.get_run(record.run_id).cancel()
    assert record.wait(60).state == "Cancelled"
    with pytest.raises(RunError, match="Cancelled"):
        record.result()
    record.cancel()  # once more is no error
    _, alive = psutil.wait_procs(children, timeout=30)
    assert not alive


def test_cancelled_before_it_begins(storage: hr.Storage) -> None:
    record = detached(storage, "endless")
    record.cancel()
    assert record.wait(60).state == "Cancelled"
    until(
        lambda: (
            not psutil.pid_exists(record.launch["driver"]["pid"])
            or drivers.driver_of(record.launch["driver"], record.run_id).look().standing == "gone"
        )
    )


def test_runs_that_are_not_detached(storage: hr.Storage) -> None:
    ended = storage.get_env_runner("etl").run(parameters={"a": 1})
    assert ended.wait().result() == 3
    ended.cancel()
    record = storage.create_run("mine", {"flow": "etl"})
    assert not record.wait(0.05).done
    with pytest.raises(RunError, match=r"not started with detach=True, so it cannot be cancelled from here"):
        record.cancel()
    with pytest.raises(RunError, match=r"not started with detach=True, so it has no log"):
        record.logs()
    with pytest.raises(NotFound):
        assert record.launch


# -- elsewhere ---------------------------------------------------------------------------------------------------


def test_a_driver_on_another_host_is_not_judged(storage: hr.Storage) -> None:
    here = drivers._this_host()
    driver = {"kind": "process", **here, "host": "elsewhere", "pid": os.getpid(), "log": "x.log"}
    record = storage.launch_run("r1", {"flow": "etl", "driver": driver})
    assert not record.wait(0.05).done
    with pytest.raises(RunError, match=f"elsewhere.*kill {os.getpid()}"):
        record.cancel()
    with pytest.raises(RunError, match=r"elsewhere, in x\.log"):
        record.logs()


def test_a_host_that_was_started_anew(storage: hr.Storage) -> None:
    driver = {"kind": "process", **drivers._this_host(), "boot": "before", "pid": os.getpid(), "log": "x.log"}
    record = storage.launch_run("r1", {"flow": "etl", "driver": driver})
    with pytest.raises(DriverLost, match="started anew"):
        record.wait(60)
    assert record.state == "Starting"  # it may be another host of this name, so nothing is written


def test_a_file_that_is_no_log_of_the_run_is_not_read(storage: hr.Storage, folder: Path) -> None:
    """Who writes to the storage does not choose what is read here, and told there."""
    (folder / "private").write_text("my key")
    driver = {"kind": "process", **drivers._this_host(), "pid": 2**22 + 1, "log": str(folder / "private")}
    record = storage.launch_run("r1", {"flow": "etl", "driver": driver})
    with pytest.raises(RunError, match="is no log of run r1"):
        record.logs()
    with pytest.raises(DriverLost, match="left no log"):
        record.wait(60)
    assert "my key" not in str(record.outcome)


def test_old_logs_go_when_another_run_is_started_but_nothing_else_does(storage: hr.Storage, folder: Path) -> None:
    running = begun(detached(storage, "met", path="fifo"))
    held = Path(running.launch["driver"]["log"])
    old = [folder / f"headrace-driver-{name}.log" for name in ("r1-abcd_123", "20261125T231858.459532-fa-abcdefgh")]
    kept = [folder / name for name in ("headrace-notes-abcdefgh.log", "headrace-driver-r1-abcdefgh.log.gz")]
    link, folder_of_this_name = (folder / f"headrace-driver-{name}-abcdefgh.log" for name in ("link", "folder"))
    folder_of_this_name.mkdir()
    for each in (*old, *kept):
        each.write_text("once")
    link.symlink_to(kept[0])
    new = folder / "headrace-driver-new-abcdefgh.log"
    new.write_text("just now")
    for each in (held, *old, *kept, folder_of_this_name):
        os.utime(each, (0, time.time() - drivers.KEPT - 1))
    os.utime(link, (0, 0), follow_symlinks=False)
    detached(storage, "etl", a=1).wait(60)
    assert not any(each.exists() for each in old)
    assert all(each.exists() for each in (held, new, link, folder_of_this_name, *kept))
    Path("fifo").write_text("done")
    assert running.wait(60).result() == "done"
    until(
        lambda: not psutil.pid_exists(running.launch["driver"]["pid"]) or drivers._STARTED[running.run_id].poll() == 0
    )
    os.utime(held, (0, 0))
    detached(storage, "etl", a=1).wait(60)
    assert not held.exists()
    with pytest.raises(RunError, match="temporary files do not last"):
        running.logs()


def test_a_kind_of_driver_that_is_not_known_here(storage: hr.Storage) -> None:
    record = storage.launch_run("r1", {"flow": "etl", "driver": {"kind": "moon"}})
    with pytest.raises(RunError, match=r"'moon'.*headrace\.drivers"):
        record.wait(60)


# -- refused -----------------------------------------------------------------------------------------------------


def test_what_cannot_be_detached(storage: hr.Storage, folder: Path) -> None:
    here = hr.LocalEnvironment()
    memory = hr.Storage("memory://detached")
    with pytest.raises(StorageError, match="memory is not shared"):
        here.execute(memory, memory.add_flow(storage.load("etl")), {"a": 1}, detach=True)
    staged = hr.Storage("staged")
    with pytest.raises(StorageError, match="build"):
        here.execute(staged, staged.add_flow(storage.load("etl")), {"a": 1}, detach=True)
    with pytest.raises(SetupError, match="give its address"):
        detached(storage, "etl", hr.DaskEnvironment(object()), a=1)
    with pytest.raises(ParameterError, match="'b'"):
        detached(storage, "etl", a=1, b="x")
    with pytest.raises(ParameterError, match=r"'what' cannot be given.* a object has no JSON form"):
        detached(storage, "given", what=object())
    with pytest.raises(ParameterError, match="bytes long"):
        detached(storage, "given", what="x" * 200_000)
    with pytest.raises(RunError, match="observers="):
        here.execute(storage, "etl", {"a": 1}, observers=[hr.Observer()], detach=True)  # type: ignore[call-overload]
    assert storage.runs() == []
    assert not list(folder.glob("*.log"))


def test_a_launch_that_cannot_be_written_leaves_no_driver(storage: hr.Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.create_run("r1", {"flow": "etl"})
    storage.launch_run("r1", {"flow": "etl", "driver": {}})
    with pytest.raises(AlreadyExists):
        hr.LocalEnvironment().execute(storage, "endless", run_id="r1", detach=True)
    [started] = drivers._STARTED.values()
    assert started.wait(60) != 0


# -- the command line, and what else lists runs ------------------------------------------------------------------


def test_of_a_log_that_lost_its_beginning_only_what_is_new_is_told() -> None:
    lines = [f"line {number}\n" for number in range(1000)]
    assert _new_in("".join(lines[:3]), "".join(lines[:2])) == lines[2]
    assert _new_in("".join(lines[500:]), "".join(lines[:998])) == "".join(lines[998:])
    assert _new_in("another\n", "".join(lines)) == "another\n"
    assert _new_in("first\n", "") == "first\n"


def test_an_error_of_ours_that_kept_a_run_from_beginning_is_told_without_a_traceback(storage: hr.Storage) -> None:
    record = storage.launch_run("r1", {"flow": "etl", "driver": {"kind": "x"}})
    record.stop_before_begin(hr.State.CRASHED, "headrace.errors.SetupError", "no luck", "Traceback of ours")
    said = call("show", "store", "--run", "r1")
    assert "the run failed with headrace.errors.SetupError: no luck" in said.err
    assert "Traceback" not in said.err


def test_commands(storage: hr.Storage, folder: Path) -> None:
    said = process("run", "store#met", "-p", "path=fifo", "--detach", cwd=folder)
    assert said.code == 0, said
    run_id = facts(said.out)["run"]
    assert facts(said.out)["record"] == f"{storage.url}/runs/{run_id}"
    assert f"headrace wait {storage.url} {run_id}" in said.err
    begun(storage.get_run(run_id))
    assert "Running" in call("show", "store", "--run", run_id).out
    Path("fifo").write_text("done")
    said = process("wait", "store", run_id, cwd=folder)
    assert said.code == 0, said
    assert "at fifo" in said.err
    assert facts(said.out)["state"] == "Success"
    assert [said.err.count("task runs"), said.out.count("task runs")] == [1, 0]  # the driver has told the outcome
    said = process("run", "some_flows.py#endless", "--storage", "store", "--detach", cwd=folder)
    run_id = facts(said.out)["run"]
    said = process("cancel", "store", run_id, cwd=folder)
    assert said.code == 0, said
    assert "ended as Cancelled" in said.err
    refused(call("run", "some_flows.py#etl", "-p", "a=1", "--detach"), "--storage URL")


def test_a_run_that_never_began_is_copied_and_removed_like_others(storage: hr.Storage) -> None:
    record = storage.launch_run("r1", {"flow": "etl", "location": storage.flows["etl"], "driver": {"kind": "x"}})
    record.stop_before_begin(hr.State.CRASHED, "SetupError", "no luck")
    other = hr.Storage("other")
    for copied in (1, 0):
        assert storage.copy_to(other, "etl", runs=True).runs == copied
    assert other.get_run("r1").state == "Crashed"
    assert [each.run_id for each in other.runs(flow="etl")] == ["r1"]
    other.remove("etl", runs=True)
    assert other.runs() == []
