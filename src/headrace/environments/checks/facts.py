"""What a process tells of itself: versions, clock, room on its disk.

It must run where headrace is not installed, and under other Pythons. So it imports the standard library only, and
travels as the text of this file: a reference to a module would not be found there, and bytecode not be understood.
"""

from __future__ import annotations

import importlib
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from typing import Any

#: Those that must fit together for anything to run; told as they are loaded, which their installation may belie.
CORE = ("headrace", "dask", "distributed", "cloudpickle")
_INSTALLED = re.compile(r"(?P<name>[^-]+)-(?P<version>[^-]+)(?:-py[\d.]+)?\.(?:dist|egg)-info")


def facts() -> dict[str, Any]:
    """Return plain data; what cannot be told is left out."""
    loaded, errors = {}, {}
    for name in CORE:
        try:
            loaded[name] = str(importlib.import_module(name).__version__)
        except Exception as error:  # noqa: BLE001 - a broken installation may raise anything, and is to be told
            errors[name] = f"{type(error).__name__}: {error}"
    folder = _folder()
    return {
        "python": platform.python_version(),
        "loaded": loaded,
        "errors": errors,
        "packages": packages(),
        "time": time.time(),
        "folder": folder,
        "free": shutil.disk_usage(folder).free if os.path.isdir(folder) else None,
        "host": socket.gethostname(),
    }


def packages() -> dict[str, str]:
    """Return the versions of what is installed, by name in its one spelling; by names of folders, which is quick."""
    found: dict[str, str] = {}
    for entry in sys.path:
        try:
            names = os.listdir(entry or ".")
        except OSError:
            continue
        for name in names:
            match = _INSTALLED.fullmatch(name)
            if match:
                found.setdefault(spelled(match["name"]), match["version"])
    return found


def spelled(name: str) -> str:
    """Return the name of a package in its one spelling."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _folder() -> str:
    """Where this process spills to, if it is a worker; else, where it keeps what is temporary."""
    workers = getattr(getattr(sys.modules.get("distributed.worker"), "Worker", None), "_instances", ())
    return next((str(worker.local_directory) for worker in workers), tempfile.gettempdir())
