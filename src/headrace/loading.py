"""Flows in Python files and modules, as a command line names them: ``flow.py:etl``, ``flow.py#etl``, ``pkg.mod:etl``.

A file is loaded as a module of its own, so its ``if __name__ == "__main__":`` does not run. What is importable only
because of the folder that it lies in (the file itself, and the modules beside it) is pickled by value: neither the
workers nor the storage need the folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, cast

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
    place, mark, flow = text.rpartition("#")
    if mark:
        return Target(place, flow, _is_code(place))
    place, mark, flow = text.rpartition(":")
    if mark and not flow.startswith("//") and "://" not in place:
        return Target(place, flow, True)
    return Target(text, "", _is_code(text))


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
    """Load a Python file as a module that is pickled by value.

    Parameters
    ----------
    place : str
        Its path.
    """
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise NotFound(f"there is no Python file {place}; looked for {path}")
    name = _module_name(path)
    with _importing_from(path.parent), telling(place):
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
    with _importing_from(Path.cwd()), telling(name):
        return importlib.import_module(name)


def _module_name(path: Path) -> str:
    """The file's own name, as an import from its folder would give it, unless another module has it.

    It becomes part of a flow's origin, so it must not depend on where the file lies.
    """
    name = re.sub(r"\W", "_", path.stem)
    loaded = sys.modules.get(name)
    if loaded is not None:
        taken = getattr(loaded, "__file__", None) != str(path)
    else:
        taken = _is_found_without(path.parent, name)
    return f"{name}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}" if taken else name


@contextmanager
def _importing_from(folder: Path) -> Iterator[None]:
    """Make a folder importable, as Python does for the file that it is given.

    It stays so: the flow's tasks may import modules beside the file when they run.
    """
    if sys.path[:1] != [str(folder)]:
        sys.path.insert(0, str(folder))
    before = set(sys.modules)
    yield
    import cloudpickle

    for name in sorted({name.partition(".")[0] for name in set(sys.modules) - before}):
        module = sys.modules.get(name)
        if module is not None and _lies_in(module, folder) and not _is_found_without(folder, name):
            cloudpickle.register_pickle_by_value(module)


def _lies_in(module: ModuleType, folder: Path) -> bool:
    places = [getattr(module, "__file__", None), *getattr(module, "__path__", ())]
    return any(folder in list(Path(place).resolve().parents)[:2] for place in places if place)


def _is_found_without(folder: Path, name: str) -> bool:
    """Whether a module can be imported where the folder is not: it is installed, or of Python itself."""
    elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != folder]
    if PathFinder.find_spec(name, elsewhere) is not None:
        return True
    finders = [finder for finder in sys.meta_path if finder is not PathFinder]
    return any(finder.find_spec(name, None) is not None for finder in finders)
