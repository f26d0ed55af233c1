"""Modules and packages as they lie on disk now, each whole, and what they import."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
import types
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from headrace.code.imports import imported
from headrace.code.places import Place, is_native, place_of
from headrace.errors import FlowError

LOG = logging.getLogger("headrace")

#: Bytes of all that one flow takes along. More is data, which belongs where tasks can read it.
MOST = 20 << 20
_SKIPPED_FOLDERS = {"__pycache__", "node_modules"}
_SKIPPED_FILES = (".pyc", ".pyo")

#: What each file looked like when it was read: path → when changed and how large.
Signature = tuple[tuple[str, int, int], ...]


@dataclass(frozen=True)
class Unit:
    """A module, or a package with all that is in it.

    Attributes
    ----------
    root : str
        Its dotted name.
    files : mapping
        Path below the folder that is imported from → content.
    digests : mapping
        Path → sha256.
    digest : str
        sha256 of names and contents.
    imported : mapping
        Module → names of modules that its source imports.
    """

    root: str
    files: Mapping[str, bytes]
    digests: Mapping[str, str]
    digest: str
    imported: Mapping[str, frozenset[str]]

    @cached_property
    def imports(self) -> frozenset[str]:
        """Names of modules that its sources import, itself left out."""
        own = self.root + "."
        found = frozenset().union(*self.imported.values())
        return frozenset(name for name in found if name != self.root and not name.startswith(own))

    @property
    def is_package(self) -> bool:
        """Whether it is a package, and not a module alone."""
        return f"{self.root.replace('.', '/')}.py" not in self.files

    def loaded(self) -> Iterator[tuple[str, types.ModuleType]]:
        """Those of its modules that this process has loaded, from wherever, with their paths."""
        for path in self.files:
            if path.endswith(".py") and (module := sys.modules.get(module_of(path))) is not None:
                yield path, module


def make_unit(root: str, files: Mapping[str, bytes]) -> Unit:
    """Return a unit made of files that were read.

    Parameters
    ----------
    root : str
        Its dotted name.
    files : mapping
        Path → content.
    """
    found = {module_of(path): imported(data, package_of(path)) for path, data in files.items() if path.endswith(".py")}
    digests = {path: hashlib.sha256(files[path]).hexdigest() for path in sorted(files)}
    whole = "".join(f"{path}\n{digest}\n" for path, digest in digests.items())
    return Unit(root, files, digests, hashlib.sha256(whole.encode()).hexdigest(), found)


def package_of(path: str) -> str:
    """Return the package whose relative imports a file holds, by its path."""
    return ".".join(path.split("/")[:-1])


def module_of(path: str) -> str:
    """Return the dotted name of the module that a source is, by its path."""
    parts = path.removesuffix(".py").split("/")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def unit_at(place: Place) -> Unit | None:
    """Read a unit; if nothing of it changed since it was read last, return what was read then.

    Parameters
    ----------
    place : Place
        Where.

    Returns
    -------
    Unit or None
        None if it holds an extension module: that has to be installed where it is used.
    """
    signature = _signature(place)
    known = _KNOWN.get(place)
    if known is None or known[0] != signature:
        known = _KNOWN[place] = signature, _read(place, signature)
    return known[1]


_KNOWN: dict[Place, tuple[Signature, Unit | None]] = {}


def _signature(place: Place) -> Signature:
    if place.archive:
        state = os.stat(place.archive)
        return ((place.archive, state.st_mtime_ns, state.st_size),)
    found = []
    for path in place.paths:
        for file in _files_below(path) if os.path.isdir(path) else (path,):
            state = os.stat(file)
            found.append((file, state.st_mtime_ns, state.st_size))
    return tuple(found)


def _files_below(folder: str, above: tuple[str, ...] = ()) -> Iterator[str]:
    """Files of a package. What is hidden may be secret; what is compiled is of this machine."""
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        ordered = sorted(entries, key=lambda entry: entry.name)
    for entry in ordered:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry.is_symlink() and os.path.realpath(entry.path) in above:  # a link to where it is itself
                continue
            if entry.name not in _SKIPPED_FOLDERS and not os.path.exists(os.path.join(entry.path, "pyvenv.cfg")):
                yield from _files_below(entry.path, above)
        elif entry.is_file() and not entry.name.endswith(_SKIPPED_FILES):
            yield entry.path


def _read(place: Place, signature: Signature) -> Unit | None:
    stem = place.root.replace(".", "/")
    if any(is_native(path) for path, _, _ in signature):
        LOG.info("%s holds compiled code, so it does not travel with flows; install it where they run", place.root)
        return None
    files: dict[str, bytes] = {}
    if place.archive:
        files = _read_archive(place, stem)
    elif os.path.isdir(place.paths[0]):
        check_size(place.root, {path: size for path, _, size in signature})
        for folder in place.paths:
            for path, _, _ in signature:
                if path.startswith(folder + os.sep):
                    inside = os.path.relpath(path, folder).replace(os.sep, "/")
                    files.setdefault(f"{stem}/{inside}", _bytes_of(path))
    else:
        files[f"{stem}.py"] = _bytes_of(place.paths[0])
    return make_unit(place.root, files)


def _bytes_of(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _read_archive(place: Place, stem: str) -> dict[str, bytes]:
    first = os.path.relpath(place.paths[0], place.archive).replace(os.sep, "/")
    with zipfile.ZipFile(place.archive) as archive:
        names = [name for name in archive.namelist() if not name.endswith(("/", *_SKIPPED_FILES))]
        if first in names:
            return {f"{stem}.py": archive.read(first)}
        inside = [name for name in names if name.startswith(first + "/")]
        check_size(place.root, {name: archive.getinfo(name).file_size for name in inside})
        return {f"{stem}/{name[len(first) + 1 :]}": archive.read(name) for name in inside}


def check_size(what: str, sizes: Mapping[str, int]) -> None:
    """Refuse code that is mostly something else.

    Raises
    ------
    FlowError
        Names the largest files.
    """
    total = sum(sizes.values())
    if total <= MOST:
        return
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:3]
    named = ", ".join(f"{path} ({size / 1e6:.1f} MB)" for path, size in largest)
    raise FlowError(
        f"{what} cannot travel with the flow: its files are {total / 1e6:.0f} MB, and code may be {MOST / 1e6:.0f} MB; "
        f"the largest are {named}; move data out of the package, to a URL that tasks read, or install the package "
        "where the flow runs"
    )


def reached(names: Iterable[str], *, whole: bool = True) -> dict[str, Unit]:
    """Return the first-party units behind some modules, and all that these import.

    Parameters
    ----------
    names : iterable of str
        Dotted names of modules; those that are not first-party give nothing.
    whole : bool, default True
        Whether one that is too large is an error; else it is left out, as one is that holds compiled code.

    Returns
    -------
    dict of str to Unit
        By root, in order.

    Raises
    ------
    FlowError
        If one is too large; names the largest files.
    """
    found: dict[str, Unit] = {}
    waiting = sorted(names)
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        place = place_of(name)
        if place is None or place.root in found:
            continue
        try:
            unit = unit_at(place)
        except FlowError as error:
            if whole:
                raise
            LOG.info("%s", error)
            continue
        if unit is not None:
            found[place.root] = unit
            waiting += unit.imports
    return dict(sorted(found.items()))


def imported_by(names: Iterable[str], units: Mapping[str, Unit]) -> set[str]:
    """Return the names that some modules, and the modules of units that they import, import.

    Parameters
    ----------
    names : iterable of str
        Dotted names of modules.
    units : mapping of str to Unit
        By root.
    """
    sources: dict[str, frozenset[str]] = {}
    for unit in units.values():
        sources.update(unit.imported)
    found = set(names)
    waiting = list(found)
    while waiting:
        name = waiting.pop()
        parts = name.split(".")
        for length in range(1, len(parts) + 1):  # with a module, the packages that it is in are imported
            more = sources.get(".".join(parts[:length]), frozenset()) - found
            found |= more
            waiting += more
    return found
