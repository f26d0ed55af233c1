"""The child process in which isolated tasks run: it takes requests from one pipe, and answers on another.

It lives as long as its parent, whatever happens to that: when the pipe of requests ends, it kills its own process
group, so that what its tasks have started ends, too. Nothing of the two pipes is handed down to what tasks start.
``execution.children`` is the other side.
"""

from __future__ import annotations

import io
import logging
import os
import pickle
import queue
import signal
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

from headrace import entrusted, pickling
from headrace.code.bundle import Bundle
from headrace.code.space import space_of
from headrace.core.secret import look_up_by
from headrace.execution.context import Context, pinned
from headrace.execution.failure import capture
from headrace.execution.logs import row_of
from headrace.execution.secrets import remember, resolve
from headrace.execution.values import PASSING

#: What a frame is: the task has begun, a secret that it looked up, what it printed and logged, and how it ended.
BEGAN, SECRET, STDOUT, STDERR, LOGGED, VALUE, ERROR = b"b", b"s", b"o", b"e", b"l", b"v", b"x"
HEAD = struct.Struct("!cQ")
#: Seconds without a request after which a child ends; starting another costs a third of one.
IDLE = 30.0
#: What ``python -c`` is told: the parent's ``sys.path``, as JSON, and the pipe of answers.
BOOT = """\
import json, sys
sys.path[:] = json.loads(sys.argv.pop(1))
from headrace.execution.isolated import main
main(int(sys.argv.pop(1)))
"""


class Request(NamedTuple):
    """What a child is asked for.

    Attributes
    ----------
    task : int
        Number of the task in the plan.
    function : bytes or None
        Its function, pickled; None if the child has it.
    arguments : bytes
        Positional ones and those by keyword, pickled.
    context : bytes
        Where it is executed, a ``Context`` or None, pickled.
    levels : dict of str to int
        The levels that loggers have, by name, where they are to be set.
    secrets : tuple of str
        Texts that its parent knows as secrets.
    credentials : dict
        Of storages, that its parent was sent; see ``headrace.entrusted``.
    code : Bundle or None
        The first-party code of the tasks, once: a child is of one plan.
    """

    task: int
    function: bytes | None
    arguments: bytes
    context: bytes
    levels: dict[str, int]
    secrets: tuple[str, ...]
    credentials: dict[str, Mapping[str, Any]]
    code: Bundle | None = None


def end() -> None:
    """End this process, and all that its tasks have left behind."""
    os.killpg(0, signal.SIGKILL)


def write_frame(pipe: int, kind: bytes, data: bytes = b"") -> None:
    """Write all of a frame into a pipe."""
    rest = memoryview(HEAD.pack(kind, len(data)) + data)
    while rest:
        rest = rest[os.write(pipe, rest) :]


class _Outlet(io.RawIOBase):
    """Where the child's ``sys.stdout`` leads to: what it prints comes out where the parent prints."""

    def __init__(self, send: Callable[[bytes, bytes], None], kind: bytes, pipe: int) -> None:
        self._send, self._kind, self._pipe = send, kind, pipe

    def write(self, data: Any) -> int:
        self._send(self._kind, bytes(data))
        return len(data)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._pipe


class _Records(logging.Handler):
    """Takes what is logged in a child to its parent, whose loggers it is handed to, as if it came from there."""

    def __init__(self, send: Callable[[bytes, bytes], None]) -> None:
        super().__init__()
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(LOGGED, pickle.dumps(row_of(record)))


def _text(outlet: _Outlet) -> io.TextIOWrapper:
    """Text goes out by the line, and never in the middle of a character, because nothing else buffers it."""
    buffer: Any = outlet
    return io.TextIOWrapper(buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)


class _Child:
    """The child's loop."""

    def __init__(self, requests: int, answers: int) -> None:
        self._answers = answers
        self._lock = threading.Lock()
        self._inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._functions: dict[int, Callable[..., Any]] = {}
        sys.stdout, sys.stderr = _text(_Outlet(self._send, STDOUT, 1)), _text(_Outlet(self._send, STDERR, 2))
        logging.getLogger().addHandler(_Records(self._send))
        look_up_by(self._look_up)
        threading.Thread(target=self._read, args=(requests,), daemon=True).start()

    def _read(self, requests: int) -> None:
        with open(requests, "rb") as pipe:
            while head := pipe.read(8):
                self._inbox.put(pipe.read(int.from_bytes(head, "big")))
        end()  # the parent is gone, or wants no more

    def _send(self, kind: bytes, data: bytes = b"") -> None:
        with self._lock:
            write_frame(self._answers, kind, data)

    def _look_up(self, name: str) -> str:
        """Look a secret up, and tell the parent before the task can do anything with it."""
        value = resolve(name)
        self._send(SECRET, value.encode("utf-8", "surrogatepass"))
        return value

    def serve(self) -> None:
        """Run what is asked for, one after the other, in the main thread."""
        while True:
            try:
                request = self._inbox.get(timeout=IDLE)
            except queue.Empty:
                return end()
            answer = self._attempt(request)
            sys.stdout.flush()
            sys.stderr.flush()
            self._send(*answer)

    def _attempt(self, request: bytes) -> tuple[bytes, bytes]:
        try:
            asked: Request = pickle.loads(request)
            for name, level in asked.levels.items():
                logging.getLogger(name).setLevel(level)
            for secret in asked.secrets:
                remember(secret)
            entrusted.bring("parent", asked.credentials)
            if asked.code is not None:
                space_of(asked.code).enter()
            if asked.function is not None:
                self._functions[asked.task] = pickling.loads(asked.function, "an isolated task")
            args, kwargs = pickling.loads(asked.arguments, "an argument of an isolated task")
            context: Context | None = pickling.loads(asked.context, "the context of an isolated task")
            self._send(BEGAN)
            # What shall surround a task in its own process, too, belongs around this call.
            with pinned(context) if context is not None else nullcontext():
                value = self._functions[asked.task](*args, **kwargs)
                value = value if type(value) not in PASSING else list(value)
            return VALUE, pickling.dumps(value, "the value of an isolated task")
        except BaseException as error:  # noqa: BLE001 - whatever a task raises is its own state
            return ERROR, pickle.dumps(capture(error, leaves=False)[0])


def main(answers: int) -> None:
    """Be a child.

    Parameters
    ----------
    answers : int
        The pipe of answers; requests come from standard input.
    """
    os.set_inheritable(answers, False)
    requests = os.dup(0)  # not handed down; and tasks that read their input find none
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    _Child(requests, answers).serve()
