"""What the tests of the command line share: a folder with a file of flows, and ways to call commands."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from typer.testing import CliRunner

from headrace.cli import app
from headrace.code import space

FLOWS = """
    import os, threading
    import headrace as hr

    @hr.task(retries=1)
    def add(a, b):
        return a + b

    @hr.task
    def divide(a, b):
        return a / b

    @hr.task
    def wait(path):
        if path:
            with open(path, "w") as fifo:
                fifo.write("here")
        threading.Event().wait(100)

    @hr.flow
    def etl(a: int, b: int = 2, tags: list[str] = ["x"]):
        '''Add two numbers.'''
        return add(add(a, b), 0)

    @hr.flow
    def broken(n: int = 3):
        return divide.map([1] * n, range(n))

    @hr.flow
    def endless(path: str = ""):
        return wait(path)

    @hr.flow
    def undrawable(n: int = 0):
        return add(1 // n, 1)
"""


class Said:
    """What a command answered, on both channels."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"code {self.code}\n{self.out}\n{self.err}"


def call(*args: str, **env: str) -> Said:
    result = CliRunner().invoke(app, list(args), env=env, prog_name="headrace")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def process(*args: str, cwd: Path, **env: str) -> Said:
    done = subprocess.run(
        [sys.executable, "-m", "headrace", *args], cwd=cwd, capture_output=True, text=True, env={**os.environ, **env}
    )
    return Said(done.returncode, done.stdout, done.stderr)


def refused(said: Said, *words: str) -> None:
    """It ended before it began, with one paragraph that says these words."""
    assert said.code == 2, said
    paragraph = said.err.strip()
    assert paragraph.startswith("headrace: "), said
    assert "\n" not in paragraph
    assert "Traceback" not in said.err
    for word in words:
        assert word in paragraph


def facts(text: str) -> dict[str, str]:
    return dict(re.findall(r"^(\w+)\s+(.+?)\s*$", text, re.MULTILINE))


@contextmanager
def loading_undone(folder: Path) -> Iterator[Path]:
    """Take back what loading files from a folder leaves in this process."""
    path, modules = sys.path[:], set(sys.modules)
    yield folder
    for name in list(space._IN_PLACE):
        space.vacate(name)
    for name in set(sys.modules) - modules:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.path[:] = path
