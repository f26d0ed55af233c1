"""Bundles as folders of this host: unpacked once, for whichever process comes first, and readable by this user only."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from headrace.errors import SetupError

#: Names the folder that bundles are unpacked below. Default: one for this user, in the folder for temporary files.
VARIABLE = "HEADRACE_CACHE"
#: Seconds after which a folder that no process began to use may go.
UNUSED = 30 * 24 * 3600.0


def unpack(name: str, files: Mapping[str, bytes]) -> str:
    """Return the folder that holds some files, and nothing that differs from them.

    Parameters
    ----------
    name : str
        Of the folder: a digest of the files.
    files : mapping
        Path → content.

    Raises
    ------
    SetupError
        If there is no place to write to.
    """
    try:
        below = _root()
        folder = below / name
        if _is_intact(folder, files):
            os.utime(folder)
        else:
            _write(folder, files)
            _tidy(below)
    except OSError as error:
        raise SetupError(
            f"cannot unpack the code of a flow: {error}; set {VARIABLE} to a folder that this process may write to"
        ) from error
    return str(folder)


def _root() -> Path:
    given = os.environ.get(VARIABLE)
    # Python 3.11 writes compiled modules beside sources, so that another interpreter must not share the folder.
    inside = Path("code", sys.implementation.cache_tag or "python")
    if given:
        root = Path(given).expanduser().absolute() / inside  # tasks may go to another folder
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        return root
    user = str(os.getuid()) if hasattr(os, "getuid") else ""
    own = Path(tempfile.gettempdir()) / f"headrace-{user}".rstrip("-")
    own.mkdir(mode=0o700, exist_ok=True)
    if not _is_ours(own):
        raise PermissionError(f"{own} is there already, and others may write to it")
    root = own / inside
    root.mkdir(mode=0o700, parents=True, exist_ok=True)
    return root


def _is_ours(folder: Path) -> bool:
    """Whether nobody else can have put code there: temporary folders are open to all."""
    state = os.lstat(folder)
    if not hasattr(os, "getuid"):
        return stat.S_ISDIR(state.st_mode)
    return stat.S_ISDIR(state.st_mode) and state.st_uid == os.getuid() and not state.st_mode & 0o022


def _is_intact(folder: Path, files: Mapping[str, bytes]) -> bool:
    """Whether all is there as it should be: whoever cleans up old temporary files takes single ones away."""
    try:
        return all((folder / path).read_bytes() == content for path, content in files.items())
    except OSError:
        return False


def _tidy(below: Path) -> None:
    """Remove what no process began to use for a month: each edit of a module leaves a folder."""
    long_ago = time.time() - UNUSED
    for folder in below.iterdir():
        with contextlib.suppress(OSError):  # another process may tidy up as well
            if folder.stat().st_mtime < long_ago:
                shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write all aside, then put it in place at once: others find it whole or not at all."""
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name[:8]}-", dir=folder.parent))
    try:
        for path, content in files.items():
            target = aside / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
        for _ in range(3):  # another process may put its own there in between
            with contextlib.suppress(OSError):
                aside.rename(folder)
                return
            if _is_intact(folder, files):
                return
            broken = Path(tempfile.mkdtemp(prefix=".broken-", dir=folder.parent))
            with contextlib.suppress(FileNotFoundError):
                folder.rename(broken / "it")
            shutil.rmtree(broken, ignore_errors=True)
        raise FileExistsError(f"{folder} is not as it should be, and cannot be replaced")
    finally:
        shutil.rmtree(aside, ignore_errors=True)
