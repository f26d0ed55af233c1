"""Before flows are uploaded: a fresh interpreter loads them, and what else is worth knowing is gathered.

The interpreter's start takes longer than its work, so it is started when a flow is added, and is ready when `build`
comes. One checks all flows of a build. It ends with its storage, with this process, and by itself if nothing comes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from headrace import errors
from headrace.errors import FlowError, HeadraceError
from headrace.storage.capture import Captured
from headrace.storage.findings import Finding

#: Seconds after which a flow's imports count as stuck.
PATIENCE = 120.0


class Preflight:
    """Checks flows in a fresh interpreter, of which one may be waiting."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: _Child | None = None

    def prepare(self, module: str) -> None:
        """Start an interpreter, unless one waits already.

        Parameters
        ----------
        module : str
            Of the class of the flow that will be checked; loaded while it waits.
        """
        with self._lock:
            if self._waiting is None or not self._waiting.is_alive():
                self._waiting = _Child(module)

    def stand_down(self) -> None:
        """End the interpreter that waits, if one does; a build that comes all the same starts another."""
        with self._lock:
            child, self._waiting = self._waiting, None
        if child is not None:
            child.end()

    def check(self, flows: Sequence[Captured], deadline: float = PATIENCE) -> list[Finding]:
        """Load each flow in a new process, and draw it there if it was drawn here.

        Parameters
        ----------
        flows : sequence of Captured
            Which flows.
        deadline : float
            Seconds after which the flows' imports count as stuck.

        Returns
        -------
        list of Finding
            What is worth knowing about what they import.

        Raises
        ------
        MissingModule, UnstableFlow, FlowError
            The first flow's error, if one does not load, or draws another graph than here.
        """
        if not flows:
            return []
        names = ", ".join(repr(flow.name) for flow in flows)
        data = b"".join(_frames(flows))
        try:
            code, output, said = self._take().ask(data, deadline)
            if code == 0 and not output:  # it had waited for so long that it ended just now
                code, output, said = _Child().ask(data, deadline)
        except subprocess.TimeoutExpired:
            raise FlowError(
                f"flow {names} did not load in a fresh interpreter within {deadline:g} s; look for code at the top of "
                "its modules that waits, and move it into tasks, or give it longer: storage.build(deadline=…)"
            ) from None
        if code != 0 or not output:
            tail = said.decode(errors="replace").strip()[-2000:]
            raise FlowError(
                f"flow {names}: the fresh interpreter that was to load it ended with code {code}: {tail or 'no word'}"
            )
        answer = json.loads(output)
        for verdict in answer["verdicts"]:
            if verdict is not None:
                raise _rebuilt(verdict)
        return [Finding(**each) for each in answer["findings"]]

    def _take(self) -> _Child:
        with self._lock:
            child, self._waiting = self._waiting, None
        return child if child is not None and child.is_alive() and child.environment == _environment() else _Child()


class _Child:
    """One fresh interpreter, in an empty folder, and in a session of its own: Ctrl-C is for its parent alone."""

    def __init__(self, *modules: str) -> None:
        self.environment = _environment()
        self._folder = tempfile.mkdtemp(prefix="headrace-check-")
        empty, code = os.path.join(self._folder, "empty"), os.path.join(self._folder, "code")
        os.mkdir(empty)
        # Files and no pipes: what the flows start may hold them open for longer than the flows take to load.
        self._output, self._said = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - see _end
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "headrace.storage.check", *modules],
            cwd=empty,
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=self._said,
            env={**self.environment, "HEADRACE_CACHE": code},  # what it unpacks, it takes along
            start_new_session=True,
        )
        self.end = weakref.finalize(self, _end, os.getpid(), self._process, self._folder, self._output, self._said)

    def is_alive(self) -> bool:
        """Whether it still waits: it ends by itself when nothing comes, and children of a fork may not use it."""
        return self._process.poll() is None

    def ask(self, data: bytes, deadline: float) -> tuple[int, bytes, bytes]:
        """Give it all flows, and return its exit code, its answer, and what it said otherwise."""
        try:
            # It may end before it has read all; then its exit code tells, and `communicate` takes no offence.
            self._process.communicate(data, timeout=deadline)
            return self._process.returncode, _content(self._output), _content(self._said)
        finally:
            self.end()


def _content(file: IO[bytes]) -> bytes:
    file.seek(0)
    return file.read()


def _end(owner: int, process: subprocess.Popen[bytes], folder: str, *files: IO[bytes]) -> None:
    if os.getpid() != owner:  # a fork of the process that started it has its copy of everything, and owns nothing
        return
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if process.stdin is not None:
        with suppress(BrokenPipeError):
            process.stdin.close()
    for file in files:
        file.close()
    shutil.rmtree(folder, ignore_errors=True)  # what a flow may have left there is nobody's


def _frames(flows: Iterable[Captured]) -> Iterable[bytes]:
    for flow in flows:
        code = flow.bundle.data if flow.bundle is not None else b""
        yield json.dumps([flow.location, len(flow.data), len(code), sorted(flow.imports)]).encode() + b"\n"
        yield flow.data
        yield code


def _environment() -> dict[str, str]:
    # Another hash seed makes flows that loop over sets of texts draw another order. This package must be
    # found even where it was put on the path by hand; last, so that it hides nothing.
    environment = dict(os.environ)
    environment["PYTHONHASHSEED"] = "2" if environment.get("PYTHONHASHSEED") == "1" else "1"
    root = str(Path(__file__).parents[2])
    before = [os.path.abspath(entry) for entry in environment.get("PYTHONPATH", "").split(os.pathsep) if entry]
    environment["PYTHONPATH"] = os.pathsep.join([*before, root])
    return environment


def _rebuilt(verdict: dict[str, Any]) -> HeadraceError:
    cls = getattr(errors, verdict["error"])
    return cls(verdict["message"], **verdict["facts"])  # type: ignore[no-any-return]
