"""Flows in Python files and modules, as a command line names them: ``flow.py:etl``, ``flow.py#etl``, ``pkg.mod:etl``.

A file is loaded as a module of its own, so its ``if __name__ == "__main__":`` does not run. It, and the modules beside
it, travel with its flows like all first-party code.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

from headrace.code.space import vacate
from headrace.errors import NotFound
from headrace.flows import Flow
from headrace.storage.picking import pick_flow
from headrace.storage.scripts import telling

_DOTTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


class Target(NamedTuple):
    """What a command line names.

    Attributes
    ----------
    place : str
        A Python file, a module, or the URL of a storage.
    flow : str
        The flow there; empty if none was named.
    is_code : bool
        Whether the place is a file or a module.
    """

    place: str
    flow: str
    is_code: bool


def parse_target(text: str) -> Target:
    """Take ``PLACE#FLOW`` or ``PLACE:FLOW`` apart; with ``:`` the place is always code.

    Parameters
    ----------
    text : str
        As on the command line.

    Returns
    -------
    Target
        Nothing was looked up yet, but for whether a plain word is a folder or a module.
    """
    place, flow = split(text)
    if place != text:
        return Target(place, flow, _is_code(place))
    place, mark, flow = text.rpartition(":")
    if mark and not flow.startswith("//") and "://" not in place:
        return Target(place, flow, True)
    return Target(text, "", _is_code(text))


def split(text: str) -> tuple[str, str]:
    """Take ``PLACE#FLOW`` apart at its last ``#``, because folders may have one in their names, and flows may not.

    Parameters
    ----------
    text : str
        As on the command line. Without ``#``, all of it is the place.
    """
    place, mark, flow = text.rpartition("#")
    return (place, flow) if mark else (text, "")


def _is_code(place: str) -> bool:
    if place.endswith(".py"):
        return "://" not in place
    if "://" in place or Path(place).expanduser().is_dir() or not _DOTTED.fullmatch(place):
        return False
    return PathFinder.find_spec(place.partition(".")[0], [str(Path.cwd()), *sys.path]) is not None


def load_flow(target: Target) -> Flow:
    """Load the flow that a target names, by its variable or by its own name.

    Parameters
    ----------
    target : Target
        A file or a module. Without the name of a flow, the only one there is meant.

    Raises
    ------
    NotFound
        If there is no such file, or no such flow in it; tells which there are.
    MissingModule
        If the module, or one that it imports, is not there.
    FlowError
        If its code raises an error.
    """
    module = load_file(target.place) if target.place.endswith(".py") else load_module(target.place)
    return cast(Flow, pick_flow(module, target.flow, target.place))


def load_file(place: str) -> ModuleType:
    """Load a Python file as a module.

    Parameters
    ----------
    place : str
        Its path.
    """
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise NotFound(f"there is no Python file {place}; looked for {path}")
    name = _module_name(path)
    _import_from(path.parent)
    with telling(place):
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert isinstance(spec.loader, SourceFileLoader)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            # Always from the source: a cached compilation may be older than an edit within the same second.
            code = spec.loader.source_to_code(spec.loader.get_data(str(path)), str(path))
            exec(code, module.__dict__)
        except BaseException:
            del sys.modules[name]
            raise
    return module


def load_module(name: str) -> ModuleType:
    """Import a module; it may lie in the current folder.

    Parameters
    ----------
    name : str
        Its dotted name.
    """
    if not _DOTTED.fullmatch(name):
        raise NotFound(f"{name!r} is neither a Python file (*.py) nor the name of a module")
    _import_from(Path.cwd())
    with telling(name):
        return importlib.import_module(name)


def _module_name(path: Path) -> str:
    """The file's own name, as an import from its folder would give it, unless another module has it.

    It becomes part of a flow's origin, so it must not depend on where the file lies.
    """
    name = re.sub(r"\W", "_", path.stem)
    vacate(name)
    loaded = sys.modules.get(name)
    if loaded is not None:
        taken = getattr(loaded, "__file__", None) != str(path)
    else:
        taken = _is_found_without(path.parent, name)
    return f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}" if taken else name


def _import_from(folder: Path) -> None:
    """Make a folder importable, as Python does for the file that it is given.

    It stays so: the flow's tasks may import modules beside the file when they run.
    """
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))


def _is_found_without(folder: Path, name: str) -> bool:
    """Whether a module can be imported where the folder is not: it is installed, or of Python itself."""
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    if PathFinder.find_spec(name, elsewhere) is not None:
        return True
    finders = [finder for finder in sys.meta_path if finder is not PathFinder]
    return any(finder.find_spec(name, None) is not None for finder in finders)
