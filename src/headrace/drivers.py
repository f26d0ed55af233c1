"""What drives a detached run: a process of its own, or whatever a plug-in starts elsewhere.

A launch, which the storage keeps, says of which kind the driver is, and where. A driver can be asked whether it lives,
be told to end, and be heard. Nobody is asked here how the run goes on: that stands in the run's record.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from headrace.errors import RunError
from headrace.plugins import plugin

#: Entry points of this group are classes of drivers, by the kind that a launch names; ours are there too.
GROUP = "headrace.drivers"
_OWN = {
    "process": "headrace.drivers:ProcessDriver",
    "kubernetes": "headrace.environments.kubernetes.jobs:JobDriver",
}
#: Seconds for which the log of a process is kept after its last line.
KEPT = 7 * 24 * 3600.0
#: The variable by which a driver knows its run, and by which a process is known to be one.
RUN_ID_VARIABLE = "HEADRACE_RUN_ID"


@dataclass(frozen=True)
class Look:
    """What is seen of a driver at a moment.

    Attributes
    ----------
    standing : str
        ``"alive"``: it works, or may yet. ``"gone"``: it has ended, and will write nothing any more. ``"lost"``: it
        cannot go on, as far as can be seen from here. ``"unknown"``: it cannot be seen from here.
    told : str
        Of what is gone or lost, why; of the rest, what there is to know.
    """

    standing: Literal["alive", "gone", "lost", "unknown"]
    told: str = ""


class Driver(Protocol):
    """What drives one run."""

    def look(self) -> Look:
        """Return what is seen of it."""

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it has ended, if that can be noticed."""

    def end(self) -> None:
        """Have it cancel its run and end; returns at once.

        Raises
        ------
        RunError
            If that cannot be done from here; says from where.
        """

    def log(self, lines: int | None = None) -> str:
        """Return what it said, or the last lines of it.

        Raises
        ------
        RunError
            If that cannot be read from here; says where it can.
        """


def driver_of(launch: Mapping[str, Any], run_id: str) -> Driver:
    """Return the driver that a launch names.

    Parameters
    ----------
    launch : mapping
        Its facts, with the ``kind``.
    run_id : str
        Of its run.

    Raises
    ------
    RunError
        If the kind is unknown here.
    """
    kind = launch.get("kind")
    if (cls := plugin(GROUP, _OWN, str(kind))) is None:
        raise RunError(
            f"run {run_id} is driven by a {kind!r}, and nothing here knows how to ask one; install the package that "
            f"started it, whose entry point is in the group {GROUP!r}"
        )
    return cls(launch, run_id)  # type: ignore[no-any-return]


# -- processes ---------------------------------------------------------------------------------------------------

#: Processes that this one has started, by run: who reads their end frees them.
_STARTED: dict[str, subprocess.Popen[bytes]] = {}


@functools.cache
def _this_host() -> dict[str, str]:
    """The host's name, and what tells its life and its processes from those of others with the same name."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    if not boot.exists():
        import psutil

        return {"host": socket.gethostname(), "boot": f"{psutil.boot_time():.0f}"}
    return {"host": socket.gethostname(), "boot": f"{boot.read_text().strip()} {os.readlink('/proc/self/ns/pid')}"}


def start_process(variables: Mapping[str, str], run_id: str) -> dict[str, Any]:
    """Start ``python -m headrace execute`` in a session of its own: it outlives this process and its terminal.

    Parameters
    ----------
    variables : mapping of str to str
        All environment variables of the process.
    run_id : str
        Of the run.

    Returns
    -------
    dict
        Where it is, for the launch.

    Raises
    ------
    RunError
        If it cannot be started.
    """
    for started, process in [*_STARTED.items()]:
        if process.poll() is not None:
            _STARTED.pop(started, None)
    import fcntl

    _remove_old_logs()
    log = ""
    try:
        handle, log = tempfile.mkstemp(prefix=_log_prefix(run_id), suffix=".log")
        with open(handle, "wb") as said:
            fcntl.flock(said, fcntl.LOCK_EX)  # whoever inherits it holds the lock: for as long as one can write to it
            process = subprocess.Popen(
                [sys.executable, "-m", "headrace", "execute"],
                # Whoever follows the log reads lines when they are said.
                env={"PYTHONUNBUFFERED": "1", **variables, RUN_ID_VARIABLE: run_id},
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        with suppress(OSError):
            os.unlink(log)
        raise RunError(f"no process could be started to drive run {run_id}: {error}") from error
    _STARTED[run_id] = process
    return {"kind": "process", **_this_host(), "pid": process.pid, "log": log}


def _log_prefix(run_id: str) -> str:
    return f"headrace-driver-{run_id}-"


#: The name of any log: its prefix, and what ``mkstemp`` adds.
_LOG = re.compile(rf"{_log_prefix('.+')}[a-z0-9_]{{8}}\.log")


def _remove_old_logs() -> None:
    """Remove logs of this user's that were written to long ago, and that no driver holds any more."""
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as found:
        for each in found:
            if _LOG.fullmatch(each.name):
                with suppress(OSError):  # another has removed it, or it is held
                    _remove_old(each.path)


def _remove_old(log: str) -> None:
    import fcntl

    handle = os.open(log, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        seen = os.fstat(handle)
        is_ours = stat.S_ISREG(seen.st_mode) and seen.st_uid == os.getuid()
        if is_ours and seen.st_mtime < time.time() - KEPT:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
            os.unlink(log)
    finally:
        os.close(handle)


class ProcessDriver:
    """A process on some host.

    Parameters
    ----------
    launch : mapping
        As `start_process` returned it.
    run_id : str
        Of its run.
    """

    def __init__(self, launch: Mapping[str, Any], run_id: str) -> None:
        self.run_id = run_id
        self.host, self.boot = launch["host"], launch["boot"]
        self.pid, self._log = int(launch["pid"]), Path(launch["log"])

    def __repr__(self) -> str:
        return f"<ProcessDriver {self.pid} on {self.host}>"

    def look(self) -> Look:
        """Return what is seen of it. A process is known by its variables: its id may be another's by now."""
        here = _this_host()
        if self.host != here["host"]:
            return Look("unknown", f"its driver is process {self.pid} on host {self.host}, which this host cannot see")
        if self.boot != here["boot"]:
            return Look(
                "lost",
                f"its driver, process {self.pid}, was started on {self.host} before that was started anew, or in "
                "another container or host of this name; start the run again, if it is not going on there",
            )
        import psutil

        try:
            ended = self._how_it_ended()
        except psutil.AccessDenied:
            return Look("unknown", f"its driver is process {self.pid} of another user")
        if ended:
            return Look("gone", f"its driver, process {self.pid} on {self.host}, {ended}")
        return Look("alive", f"its driver is process {self.pid} on this host")

    @property
    def _started(self) -> subprocess.Popen[bytes] | None:
        """The process, if this one has started it."""
        started = _STARTED.get(self.run_id)
        return started if started is not None and started.pid == self.pid else None

    def _how_it_ended(self) -> str:
        """In words; empty, if it goes on."""
        import psutil

        if (started := self._started) is not None:
            code = started.poll()
            return "" if code is None else _ended(code)
        try:
            process = psutil.Process(self.pid)
            is_it = process.environ().get(RUN_ID_VARIABLE) == self.run_id and process.status() != psutil.STATUS_ZOMBIE
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            is_it = False
        return "" if is_it else "is gone"

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it has ended, if this process has started it."""
        started = self._started
        if started is None:
            time.sleep(seconds)
            return
        try:
            started.wait(seconds)
        except subprocess.TimeoutExpired:
            return

    def end(self) -> None:
        """Send it SIGTERM."""
        seen = self.look()
        if seen.standing == "alive":
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(self.pid, signal.SIGTERM)
        elif seen.standing != "gone":
            raise RunError(
                f"run {self.run_id} cannot be cancelled from here: {seen.told}; there, kill {self.pid} does it"
            )

    def log(self, lines: int | None = None) -> str:
        """Return what it wrote to its standard output and error."""
        if self.host != _this_host()["host"]:
            raise RunError(f"the log of run {self.run_id} is on host {self.host}, in {self._log}; read it there")
        if not self._log.name.startswith(_log_prefix(self.run_id)):  # who writes to the storage may name any file
            raise RunError(f"{self._log} is no log of run {self.run_id}, so it is not read; read it yourself")
        try:
            with self._log.open(errors="replace") as file:
                return "".join(file if lines is None else deque(file, lines))
        except OSError as error:
            raise RunError(
                f"the log of run {self.run_id} cannot be read from {self._log} ({error.strerror}); temporary files do "
                "not last, and how the run ended is in its record: record.outcome"
            ) from error


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was ended by {name}{' (did it run out of memory?)' if name == 'SIGKILL' else ''}"
