"""Type checkers take calls of tasks for what they will return, and find what does not fit."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import headrace as hr
from headrace.loading import load_file

ROOT = Path(__file__).parents[1]
RIGHT, WRONG = "examples/typed.py", "tests/typing/wrong.py"


def mypy(file: str) -> set[int]:
    command = [sys.executable, "-m", "mypy", "--strict", "--disable-error-code", "untyped-decorator", file]
    environment = {**os.environ, "MYPYPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return {int(line) for line in re.findall(rf"^{re.escape(file)}:(\d+): error", done.stdout, re.MULTILINE)}


def pyright(file: str) -> set[int]:
    if importlib.util.find_spec("pyright") is None:
        pytest.skip("pyright is not installed")
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable, file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return {row["range"]["start"]["line"] + 1 for row in found if row["severity"] == "error"}


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_what_is_right_passes(checker):
    assert checker(RIGHT) == set()


@pytest.mark.parametrize("checker", [mypy, pyright])
def test_what_is_wrong_is_found(checker):
    marked = {at for at, line in enumerate((ROOT / WRONG).read_text().splitlines(), 1) if "# error" in line}
    assert len(marked) > 5
    assert checker(WRONG) == marked


def test_what_is_right_runs():
    run = load_file(str(ROOT / RIGHT)).typed.run()
    assert run.state is hr.State.SUCCESS
    assert run.result() == {"text": "ccc", "sum": 14, "more": 24, "named": 6}


def test_the_package_says_that_it_is_typed():
    assert Path(hr.__file__).with_name("py.typed").exists()
