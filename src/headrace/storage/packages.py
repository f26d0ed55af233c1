"""Packages that a flow imports and that an installer elsewhere would not give: edited, or not from a registry.

Cheap, because it runs with each build: only what was loaded is looked at, and of that, only files that are newer than
their package's list of files are read.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlparse

from headrace.storage.findings import NOTE, WARNING, Finding

#: Installers write the list of files last, but not always within the same second.
SLACK = 2.0
_INFO = ".dist-info"
_FOLDER = re.compile(rf"{re.escape(os.sep)}(?:site|dist)-packages(?={re.escape(os.sep)})")


@dataclass(frozen=True, slots=True)
class _Installed:
    """One package in a folder of packages."""

    name: str
    version: str
    files: Mapping[str, str]  # path below the folder → sha256 as its list of files tells it
    listed: float  # when
    origin: Mapping[str, Any]  # direct_url.json; empty for what came from a registry


def findings_about(modules: Iterable[ModuleType], names: Iterable[str] = ()) -> list[Finding]:
    """Return what is worth telling about the packages of modules.

    Parameters
    ----------
    modules : iterable of ModuleType
        Those that the flows have loaded.
    names : iterable of str, default ()
        Of those that they will load when they run; they are not loaded here.
    """
    files = {file for module in modules if (file := getattr(module, "__file__", None)) and file.endswith(".py")}
    files.update(file for name in names for file in _files_of(name))
    by_folder: dict[Path, set[str]] = {}
    for file in files:
        folder = _folder_of_packages(file)
        if folder is not None:
            by_folder.setdefault(folder, set()).add(os.path.relpath(file, folder))
    found = [finding for folder, names in by_folder.items() for finding in _in_folder(folder, names)]
    return sorted(found + list(_editable(files)), key=lambda finding: finding.subject)


def _files_of(module: str) -> Iterator[str]:
    """The files of a module and of the packages that it is in, as far as they can be told without loading any."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return
    if spec is None:
        return
    if spec.origin is not None and spec.origin.endswith(".py"):
        yield spec.origin
    folders = list(spec.submodule_search_locations or ())
    for part in rest:
        paths = [os.path.join(folder, part) for folder in folders]
        yield from filter(os.path.isfile, [f"{path}.py" for path in paths])
        folders = [path for path in paths if os.path.isdir(path)]
        yield from filter(os.path.isfile, [os.path.join(folder, "__init__.py") for folder in folders])


def _folder_of_packages(file: str) -> Path | None:
    # As text: there are hundreds of files, and paths as objects take most of the time.
    found = max(_FOLDER.finditer(file), key=lambda match: match.end(), default=None)
    return None if found is None else Path(file[: found.end()])


def _in_folder(folder: Path, loaded: set[str]) -> Iterator[Finding]:
    """About packages that lie in a folder like site-packages."""
    tops = {name.partition(os.sep)[0] for name in loaded}
    for info in sorted(folder.glob(f"*{_INFO}")):
        record = info / "RECORD"
        if not _lists(record, tops):
            continue
        package = _read(info, record)
        mine = [name for name in loaded if name in package.files]
        if not mine:
            continue
        edited = [name for name in sorted(mine) if _is_edited(folder / name, package.files[name], package.listed)]
        if edited:
            more = f" and {len(edited) - 1} more" if len(edited) > 1 else ""
            yield Finding(
                WARNING,
                f"package {package.name} {package.version}",
                f"{edited[0]}{more} was changed after it was installed, so it does something else here than elsewhere",
                "install it anew, or put the change into a package of your own",
            )
        elif package.origin:
            yield Finding(
                NOTE,
                f"package {package.name} {package.version}",
                f"was installed from {_told(package.origin)}, not from a registry",
                "see to it that the workers have the very same",
            )


def _lists(record: Path, tops: set[str]) -> bool:
    """Whether a list of files has one of these at its top; without parsing it: there are hundreds of lists."""
    try:
        data = b"\n" + record.read_bytes()
    except OSError:
        return False
    return any(b"\n%s/" % top in data or b"\n%s," % top in data for top in map(os.fsencode, tops))


def _read(info: Path, record: Path) -> _Installed:
    name, _, version = info.name.removesuffix(_INFO).partition("-")
    with record.open(encoding="utf-8", newline="", errors="replace") as file:
        rows = [row for row in csv.reader(file) if len(row) >= 2]
    hashes = {os.path.normpath(row[0]): row[1].removeprefix("sha256=") for row in rows if row[1].startswith("sha256=")}
    return _Installed(name, version, hashes, record.stat().st_mtime, _origin(info))


def _origin(info: Path) -> dict[str, Any]:
    try:
        found = json.loads((info / "direct_url.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_edited(file: Path, sha256: str, listed: float) -> bool:
    try:
        if file.stat().st_mtime <= listed + SLACK:
            return False
        digest = hashlib.sha256(file.read_bytes()).digest()
    except OSError:
        return False
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != sha256


def _told(origin: Mapping[str, Any]) -> str:
    url, vcs = str(origin.get("url")), origin.get("vcs_info") or {}
    if vcs:
        return f"{url}, commit {str(vcs.get('commit_id'))[:12]}"
    return f"the folder {_path(url)}" if "dir_info" in origin else url


def _path(url: str) -> str:
    return unquote(urlparse(url).path)


def _editable(files: set[str]) -> Iterator[Finding]:
    """About packages that are installed as a folder in which somebody works."""
    outside = [file for file in files if _folder_of_packages(file) is None]
    if not outside:
        return
    for name, version, folder in _editable_packages():
        if name.lower() != "headrace" and any(Path(file).is_relative_to(folder) for file in outside):
            yield Finding(
                WARNING,
                f"package {name} {version}",
                f"is an editable install of {folder}: the flow runs what stands there at that time",
                "install a version of it that does not change, here and where the workers run",
            )


def _editable_packages() -> Iterator[tuple[str, str, Path]]:
    import sys

    for entry in sys.path:
        for file in Path(entry).glob(f"*{_INFO}/direct_url.json") if entry else ():
            origin = _origin(file.parent)
            if (origin.get("dir_info") or {}).get("editable"):
                name, _, version = file.parent.name.removesuffix(_INFO).partition("-")
                yield name, version, Path(_path(str(origin.get("url"))))
