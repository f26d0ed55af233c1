"""Processes of pods, found by what their environment says, also when they have left their parents."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def processes_with(**variables: str) -> dict[int, str]:
    """Living processes with these variables in the environment they were started with: id → command."""
    wanted = {f"{name}={value}".encode() for name, value in variables.items()}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # of another user, or gone
            if wanted <= set((folder / "environ").read_bytes().split(b"\0")):
                found[int(folder.name)] = (
                    (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                )
    return found


def signal_all(processes: object, sig: signal.Signals = signal.SIGKILL) -> None:
    for process in list(processes):  # type: ignore[call-overload]
        with suppress(ProcessLookupError, PermissionError):
            os.kill(process, sig)
