"""Which installed packages a flow imports, in which versions: for its manifest, and for people who ask why it fails."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from headrace.code.imports import needed_by_code
from headrace.code.places import is_importable
from headrace.code.units import Unit, module_of, package_of

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: always there, and in the manifest's ``versions``.
_KNOWN = {"headrace", "cloudpickle", "dask", "__main__", "__mp_main__"}


def foreign(modules: Iterable[str]) -> set[str]:
    """Return those of some modules that others have made."""
    return {name for name in modules if _top(name) not in sys.stdlib_module_names | _KNOWN}


def lacking(modules: Iterable[str], needed: AbstractSet[str], units: Mapping[str, Unit]) -> tuple[str, ...]:
    """Return the top-level modules that a flow needs when it runs, and that are not installed here.

    Parameters
    ----------
    modules : iterable of str
        Dotted names of what it imports, and what that imports.
    needed : set of str
        What its own functions import for sure.
    units : mapping of str to Unit
        The sources that travel with it, by root.
    """
    modules = set(modules)
    here = {_top(root) for root in units} | set(sys.modules)
    absent = {top for top in map(_top, foreign(modules)) if top and top not in here and not is_importable(top)}
    if not absent:
        return ()
    # What merely looks like an import, in a text say, is among the modules, so the sources are read with more care.
    surely = needed | {name for unit in units.values() for name in _needed_by(unit, modules, absent)}
    return tuple(sorted(absent & set(map(_top, surely))))


def _needed_by(unit: Unit, modules: AbstractSet[str], wanted: AbstractSet[str]) -> Iterator[str]:
    for path, data in unit.files.items():
        module = module_of(path)
        if wanted.isdisjoint(map(_top, unit.imported.get(module, ()))):
            continue
        if module not in modules and not any(name.startswith(f"{module}.") for name in modules):
            continue
        try:
            code = compile(data, path, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue  # whoever imports it is told
        yield from needed_by_code(code, package_of(path))


def _top(module: str) -> str:
    return module.partition(".")[0]


def packages_of(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages that modules belong to, by name of the package.

    Modules that belong to none, e.g. those beside a script, are left out.

    Parameters
    ----------
    modules : iterable of str
        Dotted names.
    """
    found = {_package_of(name) for name in foreign(modules)}
    return dict(sorted(pair for pair in found if pair is not None))


@functools.cache
def _package_of(module: str) -> tuple[str, str] | None:
    """(name, version) of the package that a module belongs to."""
    from importlib.metadata import PackageNotFoundError, distribution

    try:
        found = _facts(distribution(_top(module)))  # most are called like their module, and this looks at no others
    except (PackageNotFoundError, ValueError):
        found = None
    if found is not None:
        return found
    return next((facts for each, files in _installed() if _has(files, module) and (facts := _facts(each))), None)


def _facts(package: Distribution) -> tuple[str, str] | None:
    """Its name and version; None if its installation was cut short, or its removal, and it does not tell them."""
    try:
        name, version = package.metadata["Name"], package.metadata["Version"]
    except (LookupError, OSError, TypeError, ImportError):  # later Pythons raise
        return None
    return (name, version) if name and version else None


@functools.cache
def _installed() -> list[tuple[Distribution, str]]:
    """All installed packages, and the list of their files, as they wrote it."""
    from importlib.metadata import distributions

    return [(each, "\n" + (each.read_text("RECORD") or "")) for each in distributions()]


def _has(files: str, module: str) -> bool:
    # Not by the first part of its name alone: packages may share that, as those of Google do.
    path = module.replace(".", "/")
    return f"\n{path}/" in files or f"\n{path}." in files
