"""No byte of a secret lies in a storage, in a log, or in what goes between driver, scheduler and workers."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import headrace as hr
from headrace.errors import SecretNotFound, TaskFailed
from headrace.execution import dask, supplies, worker
from headrace.execution.isolated import Request

VALUE = "-".join(["sentinel", "70c4a1e9"])  # not as it is, because this source travels with its flows
os.environ["HEADRACE_BYTES_SECRET"] = VALUE


@hr.task
def sign(text: str, key: str) -> str:
    return f"{text}:{len(key)}"


@hr.task(retries=1)
def say(key: str) -> None:
    raise ConnectionError(f"no answer from https://me:{key}@host")


@hr.task(retries=1, retry_delay=0.01)
def say_later(key: str) -> None:
    raise ConnectionError(f"no answer from https://me:{key}@host")


@hr.task
def give(key: str) -> list[str]:
    return [key]


@hr.task
def skips(key: str) -> None:
    raise hr.Skip(f"not for {key}")


@hr.task(isolated=True, log_prints=True)
def tell_apart() -> list[str]:
    key = hr.Secret("HEADRACE_BYTES_SECRET").get()
    print("logging in with", key)
    logging.getLogger("talkative").warning("logged in with %s", key)
    return [key]


@hr.task(isolated=True)
def say_apart() -> None:
    raise ConnectionError(f"no answer from https://me:{hr.Secret('HEADRACE_BYTES_SECRET').get()}@host")


@hr.task(dynamic=True)
def sign_all(key: str):
    return sign.map(["a", "b"], hr.unmapped(key)), say_apart(), tell_apart()


@hr.flow(name="talkative")
def talkative(key: str = hr.Secret("HEADRACE_BYTES_SECRET")):
    signed = sign.map(["a", "b"], hr.unmapped(key))
    sign_all(key)
    return signed, say(key), say_later(key), give(key), skips(key), sign("c", hr.Secret("HEADRACE_BYTES_SECRET"))


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_no_byte_of_a_secret_is_stored_sent_or_shown(place, tmp_path, monkeypatch, caplog, capfd):
    sent = []
    plugin, send, pick, hear = supplies.PlanPlugin, worker._send, dask.pickle.dumps, dask.DaskExecutor._hear
    monkeypatch.setattr(supplies, "PlanPlugin", lambda *args: sent.append(pickle.dumps(args)) or plugin(*args))
    monkeypatch.setattr(worker, "_send", lambda *args: sent.append(pickle.dumps(args[1:])) or send(*args))

    def dumps(value, *args, **more):
        data = pick(value, *args, **more)
        if not isinstance(value, Request):  # which a worker's own child gets, and nobody else
            sent.append(data)
        return data

    monkeypatch.setattr(dask.pickle, "dumps", dumps)
    monkeypatch.setattr(dask.DaskExecutor, "_hear", lambda self, report: sent.append(report) or hear(self, report))
    caplog.set_level(logging.DEBUG)
    storage = hr.Storage(tmp_path / "storage")
    location = storage.add_flow(talkative)
    storage.build()
    run = place.execute(storage, location, {"key": hr.Secret("HEADRACE_BYTES_SECRET")})
    monkeypatch.undo()
    assert run.state is hr.State.FAILED
    assert any(b"***" in data for data in sent) or isinstance(
        place, hr.LocalEnvironment
    )  # what was looked at were reports
    assert run["sign"].result() == run["sign_all/sign"].result() == ["a:17", "b:17"]
    assert "logging in with ***" in caplog.text
    with pytest.raises(TaskFailed, match=r"me:\*\*\*@host"):
        run.result()
    assert storage.get_run(run.run_id).parameters == {"key": {"$secret": "HEADRACE_BYTES_SECRET"}}
    shown = [repr(run), run._repr_html_(), repr(run.errors), str(run.failures()), caplog.text, *capfd.readouterr()]
    shown += [str(error) for error in run.errors.values()]
    for text in (*sent, bytes_below(tmp_path), *(text.encode() for text in shown)):
        assert VALUE.encode() not in text
    assert b"HEADRACE_BYTES_SECRET" in bytes_below(tmp_path)


def test_a_secret_goes_through_environment_variables_as_its_name(tmp_path, monkeypatch):
    monkeypatch.setenv("OTHER_SECRET", VALUE)

    @hr.flow(name="signing")
    def signing(config: dict[str, str], key: str):
        return sign(config["text"], key), sign("x", config["key"])

    storage = hr.Storage(tmp_path)
    location = storage.add_flow(signing)
    storage.build()
    values = {"config": {"text": "hi", "key": hr.Secret("OTHER_SECRET")}, "key": hr.Secret("OTHER_SECRET")}
    runner = storage.get_env_runner(location)
    assert json.loads(runner.variables(values)["HEADRACE_PARAMETERS"])["key"] == {"$secret": "OTHER_SECRET"}
    record = runner.run(parameters=values)
    assert record.state == "Success"
    assert record.parameters["key"] == {"$secret": "OTHER_SECRET"}
    assert VALUE.encode() not in bytes_below(tmp_path)


def test_other_objects_do_not_go_through_environment_variables(tmp_path):
    storage = hr.Storage(tmp_path)
    location = storage.add_flow(talkative)
    storage.build()
    with pytest.raises(TypeError, match=r"JSON data or secrets.*got a object"):
        storage.get_env_runner(location).variables({"key": object()})


def headrace(*args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "headrace", *args], capture_output=True, text=True, check=False,
        env={**os.environ, **more},
    )  # fmt: skip


def test_a_secret_is_given_on_the_command_line_by_its_name(tmp_path):
    path = tmp_path / "flow.py"
    path.write_text(
        "import headrace as hr\n@hr.task\ndef sign(key): return len(key)\n@hr.flow\ndef signing(key: str): "
        "return sign(key)\n"
    )
    done = headrace("run", f"{path}#signing", "--secret", "key=OTHER_SECRET", OTHER_SECRET=VALUE)
    assert done.returncode == 0, done.stderr
    assert "result  17" in done.stdout
    twice = headrace("run", f"{path}#signing", "--secret", "key=A", "-p", "key=b")
    assert (twice.returncode, "key is given twice" in twice.stderr) == (2, True)


def test_show_shows_the_name(tmp_path):
    storage = hr.Storage(tmp_path)
    storage.add_flow(talkative)
    storage.build()
    done = headrace("show", f"{tmp_path}#talkative")
    assert "HEADRACE_BYTES_SECRET" in done.stdout
    assert VALUE not in done.stdout


def test_a_secret_is_looked_up_where_the_task_runs(monkeypatch):
    with hr.DaskEnvironment("local", n_workers=1) as environment:
        environment.setup(None)
        monkeypatch.setenv("ONLY_HERE", VALUE)

        @hr.flow(name="looking")
        def looking():
            return sign("x", hr.Secret("ONLY_HERE"))

        assert looking.run().state is hr.State.SUCCESS
        with pytest.raises(SecretNotFound, match="ONLY_HERE"):
            looking.run(environment=environment).result()
