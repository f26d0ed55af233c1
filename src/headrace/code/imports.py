"""Names of the modules that sources and code objects import, wherever the import stands."""

from __future__ import annotations

import dis
import re
import types
from collections.abc import Iterator

# Python's own parser takes a second for a package of a hundred thousand lines; a flow is captured whenever it is run.
# What merely looks like an import, in a text say, names a module that is not there, or one that travels for nothing.
_IMPORT = re.compile(
    r"(?:^|[;:])[ \t]*(?:"
    r"from[ \t]+(?P<base>\.*[ \t]*[\w.]*)[ \t]+import[ \t]*(?P<names>\([^)]*\)|[^\n;(]*)"
    r"|import[ \t]+(?P<modules>[^\n;]*))",
    re.MULTILINE,
)
_CALLED = re.compile(r"""(?:import_module|__import__)\(\s*[rub]*["'](?P<name>[\w.]+)["']""")
_NOISE = re.compile(r"#[^\n]*|\\\n")
_IMPORT_NAME = dis.opmap["IMPORT_NAME"]
_WORD = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


def imported(source: bytes, package: str) -> frozenset[str]:
    """Return the dotted names that a source may import.

    Parameters
    ----------
    source : bytes
        Of one module.
    package : str
        The package that relative imports start from.

    Returns
    -------
    frozenset of str
        Absolute names. ``from a import b`` gives both ``a`` and ``a.b``, because ``b`` may be a module.
    """
    text = _NOISE.sub("", source.decode("utf-8", errors="replace"))
    found: set[str] = set()
    for match in _IMPORT.finditer(text):
        if match["modules"] is not None:
            found.update(_first_words(match["modules"]))
            continue
        dotted = match["base"].replace(" ", "").replace("\t", "")
        name = dotted.lstrip(".")
        base = absolute(name, len(dotted) - len(name), package)
        if base is not None:
            found.add(base)
            found.update(f"{base}.{word}" for word in _first_words(match["names"].strip("() \t\n")))
    for match in _CALLED.finditer(text):
        name = match["name"].lstrip(".")
        base = absolute(name, len(match["name"]) - len(name), package)
        if base is not None:
            found.add(base)
    return frozenset(found)


def _first_words(text: str) -> Iterator[str]:
    """Of ``a.b as c, d``: ``a.b`` and ``d``."""
    for piece in text.split(","):
        match = _WORD.match(piece.strip())
        if match is not None:
            yield match[0]


def absolute(name: str, level: int, package: str) -> str | None:
    """Return the absolute form of a name that may be relative; None if it leads out of the package."""
    if level == 0:
        return name or None
    parts = package.split(".") if package else []
    if level > len(parts):
        return None
    base = parts[: len(parts) - level + 1]
    return ".".join([*base, name] if name else base)


def imported_by_code(code: types.CodeType, package: str) -> set[str]:
    """Return the dotted names that a code object, and those inside it, import.

    Parameters
    ----------
    code : code
        Of a function.
    package : str
        The package that relative imports start from.
    """
    found: set[str] = set()
    _collect(code, package, found)
    return found


def needed_by_code(code: types.CodeType, package: str) -> set[str]:
    """Return what a code object, and those inside it, import for sure: not if they are ready to do without.

    Parameters
    ----------
    code, package
        As for `imported_by_code`.
    """
    found: set[str] = set()
    if _IMPORT_NAME in code.co_code[::2] and _READY.isdisjoint(code.co_names):
        constants: list[object] = []
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_CONST":
                constants.append(step.argval)
            elif step.opname == "IMPORT_NAME":
                level = constants[-2] if len(constants) > 1 else 0
                found.add(absolute(step.argval, level if isinstance(level, int) else 0, package) or package)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            found |= needed_by_code(constant, package)
    return found


#: what stands in code that looks whether a module is there, or imports it for type checkers only
_READY = {"ImportError", "ModuleNotFoundError", "Exception", "find_spec", "suppress", "importorskip", "TYPE_CHECKING"}


def _collect(code: types.CodeType, package: str, found: set[str]) -> None:
    if _IMPORT_NAME in code.co_code[::2]:  # `dis` takes its time, and most functions import nothing
        constants: list[object] = []
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_CONST":
                constants.append(step.argval)
            elif step.opname == "IMPORT_NAME":
                _note(step.argval, constants[-2:], package, found)
    if {"import_module", "__import__"}.intersection(code.co_names):
        # Which constant is the argument is not worth the reading: a text that names no module is looked up in vain.
        found.update(text for text in code.co_consts if isinstance(text, str) and _WORD.fullmatch(text))
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            _collect(constant, package, found)


def _note(name: str, constants: list[object], package: str, found: set[str]) -> None:
    """The compiler loads the level and the names after ``import`` just before."""
    level, names = constants if len(constants) == 2 else (0, None)
    base = absolute(name, level if isinstance(level, int) else 0, package)
    if base is None:
        return
    found.add(base)
    if isinstance(names, tuple):
        found.update(f"{base}.{each}" for each in names if each != "*")
