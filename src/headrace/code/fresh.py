"""Modules that were edited since they were loaded are loaded again: a run never uses what nobody sees any more."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import types
from collections.abc import Iterable, Mapping
from typing import Any

from headrace.code.imports import imported
from headrace.code.loaded import file_of, is_current, source_of, was_loaded
from headrace.code.units import Unit
from headrace.errors import FlowError

LOG = logging.getLogger("headrace")


def refresh(units: Mapping[str, Unit]) -> bool:
    """Load again what was edited since it was loaded, and what imports it, in place.

    Names in ``__main__`` that stand for functions and classes of these modules stand for the new ones afterwards.

    Parameters
    ----------
    units : mapping of str to Unit
        As they are on disk now.

    Returns
    -------
    bool
        Whether there was any.

    Raises
    ------
    FlowError
        If an edited module cannot be loaded.
    """
    loaded = {module.__name__: module for unit in units.values() for _, module in unit.loaded()}
    edited = [name for name, module in loaded.items() if not is_current(module)]
    if not edited:
        return False
    for name in edited:
        _check_syntax(loaded[name])
    order = _dependents(edited, loaded)
    LOG.warning("loaded again, because they were edited, or import what was: %s", ", ".join(order))
    for name in order:
        _load_again(loaded[name])
    return True


def _dependents(edited: Iterable[str], loaded: Mapping[str, types.ModuleType]) -> list[str]:
    """The edited modules and those that import them, each after what it imports, as far as they are not in a circle."""
    sources = {name: source_of(path) for name, module in loaded.items() if (path := file_of(module)) is not None}
    needs = {
        name: {each for each in imported(source, _package_of(loaded[name])) if each in loaded and each != name}
        for name, source in sources.items()
    }
    affected = set(edited)
    while more := {name for name, its in needs.items() if name not in affected and its & affected}:
        affected |= more
    order: dict[str, None] = {}
    entered: set[str] = set()

    def visit(name: str) -> None:
        if name in entered:
            return
        entered.add(name)
        for each in sorted(needs.get(name, set()) & affected):
            visit(each)
        order[name] = None

    for name in sorted(affected):
        visit(name)
    return list(order)


def _package_of(module: types.ModuleType) -> str:
    return str(getattr(module, "__package__", "") or "")


def _check_syntax(module: types.ModuleType) -> None:
    path = file_of(module)
    assert path is not None
    try:
        compile(source_of(path), path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        raise _cannot(module, error) from error


def _cannot(module: types.ModuleType, error: BaseException) -> FlowError:
    line = getattr(error, "lineno", None)
    return FlowError(
        f"module {module.__name__!r} was edited since it was loaded, and cannot be loaded again: "
        f"{type(error).__name__}: {error}{f' (line {line})' if line else ''}; correct {module.__file__}, then run again"
    )


def _load_again(module: types.ModuleType) -> None:
    spec, path = module.__spec__, file_of(module)
    assert spec is not None
    assert spec.loader is not None
    assert path is not None
    _forget_compiled(spec.cached)
    before = dict(vars(module))
    stat, source = os.stat(path), source_of(path)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _cannot(module, error) from error
    _drop_removed(module, before, source, path)
    _hand_over(before, vars(module))
    was_loaded(module, source, (stat.st_mtime_ns, stat.st_size))


def _forget_compiled(cached: str | None) -> None:
    """A compiled form says the second and the size of its source only: an edit within a second could go unnoticed."""
    if cached is not None:
        with contextlib.suppress(OSError):
            os.unlink(cached)


def _drop_removed(module: types.ModuleType, before: Mapping[str, Any], source: bytes, path: str) -> None:
    """Take away functions and classes that the source does not name any more."""
    named = set(compile(source, path, "exec", dont_inherit=True).co_names)
    for name, value in before.items():
        gone = name not in named and vars(module).get(name) is value
        if gone and isinstance(value, (types.FunctionType, type)) and value.__module__ == module.__name__:
            del vars(module)[name]


def _hand_over(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    """Give what others hold of the old module its new self: in place if it can, else where ``__main__`` names it."""
    renewed = {}
    for name, old in before.items():
        new = after.get(name, old)
        if new is old or type(new) is not type(old):
            continue
        if hasattr(old, "__renew__"):
            old.__renew__(new)
        elif isinstance(old, (types.FunctionType, type)):
            renewed[id(old)] = new
    main = vars(sys.modules["__main__"])
    for name, value in list(main.items()):
        if id(value) in renewed:
            main[name] = renewed[id(value)]
