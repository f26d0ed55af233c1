"""Which modules are first-party, and where they lie, without importing any."""

from __future__ import annotations

import functools
import os
import site
import sys
import sysconfig
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path
from typing import NamedTuple

#: What headrace itself runs on. Even if somebody has it as an editable checkout, a process cannot have it twice.
OWN = frozenset(
    {"headrace", "dask", "distributed", "cloudpickle", "fsspec", "pydantic", "pydantic_core", "tornado", "tblib"}
)
_INSTALLED = {"site-packages", "dist-packages"}
#: finders of ours, which tell where modules of bundles are; they are not asked where this process has its own.
FINDERS: list[object] = []


class Place(NamedTuple):
    """Where the smallest thing lies that can be imported by itself: a module, or a package with all that is in it.

    Attributes
    ----------
    root : str
        Its dotted name; of a namespace package, each part is a place of its own.
    paths : tuple of str
        Its file, or its folders; if it lies in a zip archive, they lead through that.
    archive : str
        The zip archive; empty if it lies in the file system.
    """

    root: str
    paths: tuple[str, ...]
    archive: str = ""


def place_of(name: str) -> Place | None:
    """Return where a module comes from; None if it is not first-party, or nowhere.

    Parameters
    ----------
    name : str
        Its dotted name. It need not be loaded, and is not.
    """
    top = name.partition(".")[0]
    if top in OWN or top in sys.stdlib_module_names or top in ("", "__main__", "__mp_main__") or top in _FOREIGN:
        return None
    spec = _spec_of(top, None)
    if spec is None:
        return None
    dotted = top
    for part in name.split(".")[1:]:
        if not _is_namespace(spec):
            break
        dotted = f"{dotted}.{part}"
        found = _spec_of(dotted, spec.submodule_search_locations)
        if found is None:
            return None
        spec = found
    if _is_namespace(spec):
        return None
    if dotted == top and (spec.origin in (None, "built-in", "frozen") or is_installed(str(spec.origin))):
        _FOREIGN.add(top)  # what is installed stays so
        return None
    return _place(dotted, spec)


#: top-level names that are known not to be first-party.
_FOREIGN: set[str] = set()


def _spec_of(name: str, path: Iterable[str] | None) -> ModuleSpec | None:
    module = sys.modules.get(name)
    if module is not None and (spec := getattr(module, "__spec__", None)) is not None:
        return spec  # type: ignore[no-any-return]
    return find_elsewhere(name, path)


def find_elsewhere(name: str, path: Iterable[str] | None = None) -> ModuleSpec | None:
    """Return what this process, without any bundle, would import under a name; the module is not loaded.

    Parameters
    ----------
    name : str
        Dotted.
    path : iterable of str, optional
        Of the package that it is in.
    """
    folders = None if path is None else list(path)
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        if find is None or finder in FINDERS:
            continue
        try:
            spec = find(name, folders)
        except (ImportError, AttributeError, KeyError, ValueError):  # a finder of somebody else that cannot say
            continue
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def is_importable(name: str) -> bool:
    """Whether this process, without any bundle, would find a module; what is loaded does not count."""
    path: Iterable[str] | None = None
    dotted = ""
    for part in name.split("."):
        dotted = f"{dotted}.{part}".lstrip(".")
        spec = find_elsewhere(dotted, path)
        if spec is None:
            return False
        path = spec.submodule_search_locations or ()
    return True


def _is_namespace(spec: ModuleSpec) -> bool:
    return spec.submodule_search_locations is not None and (spec.origin is None or spec.origin == "namespace")


def _place(root: str, spec: ModuleSpec) -> Place | None:
    origin = spec.origin
    if origin is None or origin in ("built-in", "frozen") or is_installed(origin):
        return None
    archive = str(getattr(spec.loader, "archive", "") or "")
    if archive or os.path.exists(origin):
        folders = spec.submodule_search_locations
        paths = (origin,) if folders is None else tuple(dict.fromkeys((os.path.dirname(origin), *folders)))
        return Place(root, paths, archive)
    return None


def is_native(path: str) -> bool:
    """Whether a file is an extension module, which fits one machine only, and a process can load once only."""
    return path.endswith((*EXTENSION_SUFFIXES, ".so", ".pyd", ".dylib"))


@functools.lru_cache(maxsize=10_000)
def is_installed(path: str) -> bool:
    """Whether a file is of Python, or was installed there from elsewhere."""
    if not _INSTALLED.isdisjoint(Path(path).parts):
        return True
    absolute = os.path.realpath(path)
    if not _INSTALLED.isdisjoint(Path(absolute).parts):
        return True
    return any(absolute.startswith(folder) for folder in _of_python())


@functools.cache
def _of_python() -> tuple[str, ...]:
    return tuple(sorted({os.path.realpath(folder) + os.sep for folder in _folders_of_python()}))


def _folders_of_python() -> Iterator[str]:
    paths = sysconfig.get_paths()
    yield from (paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))
    yield from getattr(site, "getsitepackages", list)()
    if site.ENABLE_USER_SITE:
        yield site.getusersitepackages()
