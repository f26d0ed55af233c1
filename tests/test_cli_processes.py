"""The command line as jobs, containers and terminals call it: real processes, signals, another process's outcome."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import psutil
import pytest

from headrace import Storage
from tests.cli_kit import FLOWS, call, facts, loading_undone, process, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a file of flows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_flows.py").write_text(dedent(FLOWS))
    with loading_undone(tmp_path):
        yield tmp_path


# -- execute -----------------------------------------------------------------------------------------------------


def execute_variables(storage: Storage, name: str, **more: Any) -> dict[str, str]:
    return storage.get_env_runner(name).variables(**more)


def test_execute_in_this_process(folder: Path) -> None:
    call("add", "some_flows.py:etl", "store")
    storage = Storage("store")
    said = call("execute", **execute_variables(storage, "etl", parameters={"a": 40}, run_id="mine"))
    assert said.code == 0, said
    assert said.out == "mine Success\n"
    assert storage.get_run("mine").result() == 42
    said = call("execute", **execute_variables(storage, "etl", parameters={"a": 40}, run_id="mine"))
    refused(said, "mine")
    refused(call("execute", HEADRACE_STORAGE="{"), "HEADRACE_STORAGE", "JSON")
    refused(call("execute", HEADRACE_STORAGE="[]"), "HEADRACE_STORAGE", "object")
    refused(call("execute", HEADRACE_STORAGE="{}", HEADRACE_FLOW="etl"), "url")
    refused(call("execute", HEADRACE_STORAGE=json.dumps(storage.serialize())), "HEADRACE_FLOW")
    refused(call("execute", **execute_variables(storage, "etl", environment={"type": "Moon"})), "'Moon'")


def test_env_runner_on_a_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call("add", "some_flows.py:etl", "store")
    call("add", "some_flows.py:broken", "store")
    storage = Storage("store")
    monkeypatch.setenv("HEADRACE_ENVIRONMENT", '{"type": "of the job that this process was started for"}')
    record = storage.get_env_runner("etl").run(parameters={"a": 40})
    assert (record.state, record.result()) == ("Success", 42)
    where = {"type": "DaskEnvironment", "cluster": "local", "n_workers": 1}
    record = storage.get_env_runner("broken").run(environment=where)
    assert record.state == "Failed"
    assert record.environment == where
    # another process reads the outcome
    said = process("ls", "store", "--runs", cwd=folder)
    assert sorted(row.split()[1:3] for row in said.out.splitlines()[1:]) == [["broken", "Failed"], ["etl", "Success"]]


def test_s3_from_add_to_execute(folder: Path, s3: Any) -> None:
    url = f"{s3.new_bucket()}/flows"
    options = {"HEADRACE_STORAGE_OPTIONS": json.dumps(s3.storage_options)}
    given = [f"--storage-option={key}={value}" for key, value in s3.storage_options.items()]
    said = process("add", "some_flows.py:etl", url, *given, cwd=folder)
    assert said.code == 0, said
    storage = Storage(url, s3.storage_options)
    assert said.out.strip() == storage.flows["etl"]
    record = storage.get_env_runner("etl").run(env={**options, "HEADRACE_PARAMETERS": '{"a": 40}'})
    assert (record.state, record.result()) == ("Success", 42)
    assert "-".join(["test", "secret", "key"]) not in json.dumps(storage.get_env_runner("etl").variables())
    (folder / "some_flows.py").unlink()
    said = process("run", f"{url}#etl", "-p", "a=1", "--on", "local", "-o", "n_workers=1", cwd=folder, **options)
    assert said.code == 0, said
    assert facts(said.out)["result"] == "3"
    said = process("ls", url, "--runs", cwd=folder, **options)
    assert len(said.out.splitlines()) == 3
    missing = "s3://no-such-bucket-here/flows"
    refused(process("ls", missing, cwd=folder, **options), missing, "bucket")
    refused(process("run", f"{missing}#etl", cwd=folder, **options), missing, "bucket")


# -- real processes ----------------------------------------------------------------------------------------------


def test_exit_codes_of_processes(folder: Path) -> None:
    said = process("run", "some_flows.py#etl", "-p", "a=40", "--on", "local", "-o", "n_workers=2", cwd=folder)
    assert said.code == 0, said
    assert facts(said.out)["result"] == "42"
    said = process("run", "some_flows.py#broken", "--on", "local", "-o", "n_workers=1", cwd=folder)
    assert said.code == 1, said
    assert "return a / b" in said.err
    refused(process("run", "some_flows.py#etl", cwd=folder), "missing")


@pytest.mark.parametrize(
    ("on", "number", "code"),
    [
        ("inline", signal.SIGINT, 130),
        ("inline", signal.SIGTERM, 143),
        ("local", signal.SIGINT, 130),
        pytest.param("local", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_is_recorded_and_leaves_nothing(
    on: str, number: signal.Signals, code: int, folder: Path
) -> None:
    os.mkfifo("fifo")
    command = ["run", "some_flows.py#endless", "-p", f"path={folder / 'fifo'}", "--storage", "store", "--on", on]
    workers = ["-o", "n_workers=2"] if on == "local" else []
    running = subprocess.Popen(
        [sys.executable, "-m", "headrace", *command, *workers],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert Path("fifo").read_text() == "here"  # blocks until the task writes
    # A terminal sends Ctrl-C to all processes in its foreground, so the workers get it, too.
    os.killpg(running.pid, number) if number == signal.SIGINT else running.send_signal(number)
    out, err = running.communicate(timeout=60)
    assert running.returncode == code, err
    assert err.strip().splitlines()[-1] == "headrace: interrupted"
    assert "cancelled: wait" in err
    assert "KeyboardInterrupt" not in err  # of the command or of a worker
    [record] = Storage("store").runs()
    assert record.state == "Cancelled"
    told = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert told == {"run": record.run_id, "record": f"{Storage('store').url}/runs/{record.run_id}"}
    left = [one for one in psutil.process_iter() if _session(one.pid) == running.pid]
    _, alive = psutil.wait_procs(left, timeout=30)  # the last of them end when they see that their parent has
    assert not alive


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


@pytest.mark.slow
def test_the_demo_writes_its_report(folder: Path) -> None:
    said = process("demo", "--quick", "--folder", "out", "-o", "n_workers=2", cwd=folder)
    assert said.code == 0, said
    assert "cross_validate [map] 14/14" in said.err
    told = json.loads(Path("out/report.json").read_text())
    assert told["best"] in said.out
    assert told["accuracy"] > 0.95
    assert Path("out/confusion.png").read_bytes().startswith(b"\x89PNG")
