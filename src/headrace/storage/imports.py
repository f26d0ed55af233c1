"""Which installed packages a flow imports, in which versions: for its manifest, and for people who ask why it fails."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from importlib.metadata import Distribution

#: always there, and in the manifest's ``versions``.
_KNOWN = {"headrace", "cloudpickle", "dask", "__main__", "__mp_main__"}


def packages_of(modules: Iterable[str]) -> dict[str, str]:
    """Return the versions of the installed packages that modules belong to, by name of the package.

    Modules that belong to none, e.g. those beside a script, are left out.

    Parameters
    ----------
    modules : iterable of str
        Dotted names.
    """
    foreign = {name for name in modules if name.partition(".")[0] not in sys.stdlib_module_names | _KNOWN}
    found = {_package_of(name) for name in foreign}
    return dict(sorted(pair for pair in found if pair is not None))


@functools.cache
def _package_of(module: str) -> tuple[str, str] | None:
    """(name, version) of the package that a module belongs to."""
    from importlib.metadata import PackageNotFoundError, distribution

    top = module.partition(".")[0]
    try:
        found = _facts(distribution(top))  # most are called like their module, and this looks at no others
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
