"""Projects of modules that tests write, import, edit and leave no trace of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType

import pytest


class Project:
    """A folder of modules that this process can import."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, path: str, text: str) -> Path:
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(dedent(text))
        importlib.invalidate_caches()
        return target

    def load(self, name: str) -> ModuleType:
        return importlib.import_module(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield Project(folder)
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def as_main() -> Iterator[Callable[[str], dict[str, object]]]:
    """Execute text as a script or notebook cell would be: in ``__main__``, and take its names back afterwards."""
    main = vars(sys.modules["__main__"])
    before = dict(main)

    def run(text: str) -> dict[str, object]:
        exec(compile(dedent(text), "<cell>", "exec"), main)
        return main

    yield run
    for name in set(main) - set(before):
        del main[name]
