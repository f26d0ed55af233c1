"""Processes that build, label and read at the same moment lose nothing, and see nothing half done."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.storage.flows import StoredFlows

ROOT = Path(__file__).parents[2]


def crowd(url, options, count):
    """Let them write; return who wrote which version of the flow that all share."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.storage.writers", url, json.dumps(options), str(count)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as leader:
        try:
            said, trouble = leader.communicate()
        except BaseException:  # the time of a test may be up while they are at work
            os.killpg(leader.pid, signal.SIGKILL)
            raise
    assert leader.returncode == 0, trouble
    answers = dict(json.loads(said))
    reader = answers.pop("reader")
    assert isinstance(reader, dict), reader
    assert reader["looks"] >= 2
    assert reader["flows"] > count  # the last look alone sees more
    failed = [answer for answer in answers.values() if not isinstance(answer, int)]
    assert not failed, failed[0]
    return answers


def check(url, options, count):
    answers = crowd(url, options, count)
    assert len(answers) == count
    stored = StoredFlows(url, options)
    assert set(stored.flows) == {"same", "shared", *(f"mine-{number}" for number in range(count))}
    assert [version.number for version in stored.versions("same")] == [1]
    versions = stored.versions("shared")
    assert [version.number for version in versions] == sorted(answers.values()) == [*range(1, count + 1)]
    assert len({version.location for version in versions}) == count
    for name, location in stored.flows.items():
        assert stored.load(location).name == name
    moves = stored.label_history("shared", "prod")
    assert sorted(move.version for move in moves) == [*range(1, count + 1)]
    assert stored.labels("shared") == {"prod": moves[-1].version}


@pytest.mark.parametrize("count", [10, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_many_processes_on_one_folder(count, tmp_path):
    check(f"file://{tmp_path}", {}, count)


@pytest.mark.parametrize("count", [5, pytest.param(50, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_many_processes_on_one_bucket(count, s3):
    check(f"{s3.new_bucket()}/flows", s3.storage_options, count)
