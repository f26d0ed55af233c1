"""What modules in memory were loaded from.

Python does not tell. A file that is older than the process is what was loaded. Of a younger one, the functions in
memory, the constants, and the date in its compiled form are compared with its source, once; from then on, its source is
known. Whoever else reloads a module (IPython's autoreload does) gives it a new spec.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import os
import sys
import time
import types
import weakref
from collections import Counter
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from typing import Any, NamedTuple

from headrace.code.units import Unit


class _Seen(NamedTuple):
    """What is known of a loaded module: its spec, the state of its file, and the digest of what was loaded."""

    spec: Any
    state: tuple[int, int]
    digest: str


#: how many times a module was found, or made, to be another than it was before.
_changes = 0
_SEEN: weakref.WeakKeyDictionary[types.ModuleType, _Seen] = weakref.WeakKeyDictionary()
#: functions and classes that are, or once were, ``module.name``; a reload leaves older ones in other hands.
_NAMED: weakref.WeakKeyDictionary[Any, tuple[str, str]] = weakref.WeakKeyDictionary()


def named_as(obj: Any) -> tuple[str, str] | None:
    """Return the module and name that a function or class has, or had before its module was loaded again."""
    try:
        return _NAMED.get(obj)
    except TypeError:  # a class whose metaclass knows no hash
        return None


def changes() -> int:
    """Return a number that is another one when a module that was looked at here was loaded again since."""
    return _changes


def _changed() -> None:
    global _changes
    _changes += 1


def is_current(module: types.ModuleType) -> bool:
    """Whether a module in memory is what its file says now.

    Parameters
    ----------
    module : module
        Loaded. One without a file is always current.
    """
    path = file_of(module)
    if path is None:  # or the file is gone: what is in memory is all there is
        return True
    stat = os.stat(path)
    spec, state = module.__spec__, (stat.st_mtime_ns, stat.st_size)
    seen = _SEEN.get(module)
    if seen is not None and seen.spec is spec:
        if seen.state == state:
            return True
        source = source_of(path)
        same = hashlib.sha256(source).hexdigest() == seen.digest
    else:
        if seen is not None:
            _changed()
        source = source_of(path)
        same = max(stat.st_mtime, stat.st_ctime) < _started() or _was_loaded_from(module, source, path)
        if same:
            _note_names(module)
    if same:
        _SEEN[module] = _Seen(spec, state, hashlib.sha256(source).hexdigest())
    return same


def holds(unit: Unit) -> bool:
    """Whether those modules of a unit that are loaded are its very sources; of what has no file, nothing is known."""
    for path, module in unit.loaded():
        seen = _SEEN.get(module)
        if seen is None or seen.spec is not module.__spec__:
            is_current(module)
            seen = _SEEN.get(module)
            if seen is None and file_of(module) is not None:
                return False
        if seen is not None and seen.digest != unit.digests[path]:
            return False
    return True


def was_loaded(module: types.ModuleType, source: bytes, state: tuple[int, int]) -> None:
    """Take note that a module was loaded just now.

    Parameters
    ----------
    module : module
        Loaded.
    source : bytes
        From what.
    state : tuple of int
        When its file was changed, in nanoseconds, and how large it is.
    """
    _SEEN[module] = _Seen(module.__spec__, state, hashlib.sha256(source).hexdigest())
    _changed()
    _note_names(module)


def file_of(module: types.ModuleType) -> str | None:
    """Return the source file of a module; None if it has none, or it is gone."""
    spec = getattr(module, "__spec__", None)
    if spec is None or not spec.has_location or not hasattr(spec.loader, "exec_module"):
        return None
    origin = spec.origin
    return origin if origin is not None and origin.endswith(".py") and os.path.isfile(origin) else None


def source_of(path: str) -> bytes:
    """Return what a file holds."""
    with open(path, "rb") as file:
        return file.read()


#: when this module was imported. In some containers, the system's own word is that the process is yet to begin.
_HERE_SINCE = time.time()


@functools.cache
def _started() -> float:
    """When this process began; a little earlier, because clocks of file systems are coarse."""
    import psutil

    return min(float(psutil.Process().create_time()), _HERE_SINCE) - 0.1


def _note_names(module: types.ModuleType) -> None:
    for name, value in list(vars(module).items()):
        own = isinstance(value, (types.FunctionType, type)) and value.__module__ == module.__name__
        if own and value.__qualname__ == name:
            with contextlib.suppress(TypeError):  # a class whose metaclass knows no hash
                _NAMED[value] = module.__name__, name


# -- what a module was loaded from ---------------------------------------------------------------------------------


def _was_loaded_from(module: types.ModuleType, source: bytes, path: str) -> bool:
    """Whether nothing speaks against it that a module was loaded from a source."""
    spec = module.__spec__
    assert spec is not None
    if type(spec.loader) is not SourceFileLoader:
        return True  # what another loader makes of a source cannot be compared with it
    try:
        tree = ast.parse(source, path)
        code = compile(source, path, "exec", dont_inherit=True)
    except (SyntaxError, ValueError):
        return False
    known = set(_codes(code))
    if any(each not in known for each in _codes_in_memory(module, path)):
        return False
    return _constants_agree(module, tree) and _compiled_agrees(spec.cached, path)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield constant
            yield from _codes(constant)


def _codes_in_memory(module: types.ModuleType, path: str) -> Iterator[types.CodeType]:
    values = list(vars(module).values())
    for value in values:
        if isinstance(value, type) and value.__module__ == module.__name__:
            values.extend(each for each in vars(value).values() if not isinstance(each, type))
    for value in values:
        inner = getattr(value, "__wrapped__", getattr(value, "__func__", value))
        code = getattr(inner, "__code__", None)
        # What somebody else put there has another file name.
        if isinstance(code, types.CodeType) and code.co_filename == path:
            yield code


def _constants_agree(module: types.ModuleType, tree: ast.Module) -> bool:
    """Whether names that are bound once, at the top and to a literal, still have that value."""
    bound = Counter(name for node in ast.walk(tree) for name in _names_bound(node))
    found: dict[str, Any] = {}
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if isinstance(target, ast.Name) and isinstance(statement.value, ast.Constant) and bound[target.id] == 1:
                found[target.id] = statement.value.value
    memory = vars(module)
    return all(
        name in memory and type(memory[name]) is type(value) and memory[name] == value for name, value in found.items()
    )


def _names_bound(node: ast.AST) -> Iterator[str]:
    """The names that a statement or expression binds or deletes by itself, in whatever scope."""
    if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
        yield node.id
    elif isinstance(node, ast.Global):
        yield from node.names
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).partition(".")[0]
    elif name := getattr(node, "name", None):  # functions, classes, exceptions, what patterns match
        yield name


def _compiled_agrees(cached: str | None, path: str) -> bool:
    """Whether the compiled form, which this process wrote when it loaded the module, has the date of the source."""
    if cached is None or sys.dont_write_bytecode:
        return True
    try:
        with open(cached, "rb") as file:
            head = file.read(16)
        stat = os.stat(path)
    except OSError:
        return True
    if len(head) < 16 or head[4:8] != bytes(4):
        return True
    written = int.from_bytes(head[8:12], "little"), int.from_bytes(head[12:16], "little")
    return written == (int(stat.st_mtime) & 0xFFFFFFFF, stat.st_size & 0xFFFFFFFF)
