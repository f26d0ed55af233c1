"""Bundles: the first-party sources that a flow reaches, as one object that is named by its content.

A zip archive, without compression and with fixed times, so that the same sources give the same bytes on any machine.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from headrace.code.units import Unit, check_size, make_unit, reached
from headrace.errors import DamagedObject

#: Bundles that a process keeps made; more than a few are rarely alternated between.
KEPT = 8
_TIME = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Bundle:
    """Sources of first-party modules.

    Attributes
    ----------
    sha256 : str
        Of ``data``; its name.
    data : bytes
        A zip archive.
    modules : tuple of str
        The modules and packages that it holds, by their dotted names, in order.
    """

    sha256: str
    data: bytes
    modules: tuple[str, ...]

    def facts(self) -> dict[str, Any]:
        """Return what headers and records name it by, as JSON data."""
        return {"sha256": self.sha256, "modules": list(self.modules)}

    @cached_property
    def units(self) -> dict[str, Unit]:
        """What it holds, by root."""
        files = _files(self.data)
        return {
            root: make_unit(root, {path: files[path] for path in files if _belongs(path, root)})
            for root in self.modules
        }

    def __reduce__(self) -> tuple[Any, ...]:
        return Bundle, (self.sha256, self.data, self.modules)

    def __repr__(self) -> str:
        return f"<Bundle {self.sha256[:8]}: {', '.join(self.modules)}>"


def _belongs(path: str, root: str) -> bool:
    stem = root.replace(".", "/")
    return path == f"{stem}.py" or path.startswith(f"{stem}/")


def bundle_for(names: Iterable[str], *, whole: bool = True) -> Bundle | None:
    """Return the first-party sources behind some modules, and behind all that they import, as they are on disk now.

    Parameters
    ----------
    names : iterable of str
        Dotted names of modules.
    whole : bool, default True
        Whether a package that is too large is an error; else it is left out.

    Returns
    -------
    Bundle or None
        None if none of them is first-party.

    Raises
    ------
    FlowError
        If they are too large; names the largest files.
    """
    units = reached(names, whole=whole)
    if not units:
        return None
    key = tuple((unit.root, unit.digest) for unit in units.values())
    bundle = _MADE.pop(key, None) or _make(units)
    _MADE[key] = bundle
    while len(_MADE) > KEPT:
        _MADE.popitem(last=False)
    return bundle


def bundle_of(files: Mapping[str, bytes], first: str) -> Bundle:
    """Return a module, and what it imports of the modules that lie beside it.

    Parameters
    ----------
    files : mapping
        Path → content, of whatever lies in one folder.
    first : str
        The name of the module.

    Raises
    ------
    FlowError
        If they are too large; names the largest files.
    """
    roots = {path.partition("/")[0].removesuffix(".py") for path in files if path.endswith(".py")}
    units: dict[str, Unit] = {}
    waiting = [first]
    while waiting:
        root = waiting.pop().partition(".")[0]
        if root in roots and root not in units:
            units[root] = make_unit(root, {path: files[path] for path in files if _belongs(path, root)})
            waiting += units[root].imports
    return _make(dict(sorted(units.items())))


_MADE: OrderedDict[tuple[tuple[str, str], ...], Bundle] = OrderedDict()


def _make(units: Mapping[str, Unit]) -> Bundle:
    files = {path: data for unit in units.values() for path, data in unit.files.items()}
    check_size(f"the code of modules {', '.join(units)}", {path: len(data) for path, data in files.items()})
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for path in sorted(files):
                entry = zipfile.ZipInfo(path, _TIME)
                entry.create_system = 3  # the same wherever it is made
                entry.external_attr = 0o600 << 16
                archive.writestr(entry, files[path])
        data = buffer.getvalue()
    bundle = Bundle(hashlib.sha256(data).hexdigest(), data, tuple(units))
    bundle.__dict__["units"] = dict(units)
    return bundle


def open_bundle(data: bytes, sha256: str, modules: Iterable[str], where: str) -> Bundle:
    """Return the bundle that was stored.

    Parameters
    ----------
    data : bytes
        As read.
    sha256 : str
        What its digest should be.
    modules : iterable of str
        What it holds, as the flow's manifest says.
    where : str
        For messages.

    Raises
    ------
    DamagedObject
        If the digest is another one.
    """
    if hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedObject(
            f"{where} is damaged: it does not match its sha256; nothing of it was used. Store the flow again, or "
            "restore a copy"
        )
    return Bundle(sha256, data, tuple(modules))


def _files(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
