"""Isolated tasks: each attempt runs in a child process, which can be killed whatever it does.

A process that has ended a task is kept for the next one; starting one takes as long as a thousand task runs. It gets
the function, once, and the arguments as pickles over a pipe, and answers over another (``execution.isolated``). It is
not forked, because worker processes have threads, and no process of ``multiprocessing``, because those of Dask's
workers may have no children.
"""

from __future__ import annotations

import json
import logging
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from time import perf_counter
from typing import Any

from headrace import entrusted, pickling
from headrace.code.bundle import Bundle
from headrace.core.signals import Cancelled, Crashed
from headrace.core.task import Task
from headrace.execution.context import POST
from headrace.execution.failure import restore
from headrace.execution.interrupt import Control
from headrace.execution.isolated import BEGAN, BOOT, HEAD, LOGGED, SECRET, STDERR, STDOUT, VALUE, Request
from headrace.execution.limits import timed_out
from headrace.execution.logs import levels
from headrace.execution.secrets import known, remember

#: Bytes that are read from a pipe at once.
CHUNK = 1 << 20
#: Seconds between two looks whether a child that says nothing lives.
LOOK = 0.5


class Gone(Exception):
    """A child ended without an answer."""


class Late(Exception):
    """A child did not answer in time."""


class Child:
    """A process that runs tasks, one after the other, in a session and process group of its own."""

    def __init__(self) -> None:
        self.known: set[int] = set()  # the functions that it has, by number
        self.began: float | None = None  # when the attempt that it runs began
        self._lock = threading.Lock()
        self._status: int | None = None
        self._buffer = bytearray()
        self._answers, write = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-c", BOOT, json.dumps(list(map(str, sys.path))), str(write)],
                stdin=subprocess.PIPE,
                bufsize=0,
                pass_fds=(write,),
                start_new_session=True,
            )
        except BaseException:
            os.close(self._answers)
            raise
        finally:
            os.close(write)

    def ask(self, request: bytes, timeout: float | None) -> tuple[bytes, bytes]:
        """Have a task run, and return the answer.

        Parameters
        ----------
        request : bytes
            What ``isolated`` takes.
        timeout : float, optional
            Seconds from the time at which the task begins.

        Raises
        ------
        Gone
            If the process ended.
        Late
            If it took too long; it still runs.
        """
        self.began = None
        assert self._process.stdin is not None
        rest = memoryview(len(request).to_bytes(8, "big") + request)
        try:
            while rest:
                rest = rest[self._process.stdin.write(rest) or 0 :]
        except BrokenPipeError:
            raise Gone from None
        while True:
            kind, data = self._frame(timeout)
            if kind == BEGAN:
                self.began = perf_counter()
            elif kind == SECRET:
                remember(data.decode("utf-8", "surrogatepass"))
            elif kind in (STDOUT, STDERR):
                print(data.decode(errors="replace"), end="", file=sys.stdout if kind == STDOUT else sys.stderr)
            elif kind == LOGGED:
                record = logging.makeLogRecord(pickle.loads(data))
                logging.getLogger(record.name).handle(record)
            else:
                return kind, data

    def _frame(self, timeout: float | None) -> tuple[bytes, bytes]:
        self._fill(HEAD.size, timeout)
        kind, size = HEAD.unpack_from(self._buffer)
        self._fill(HEAD.size + size, timeout)
        data = bytes(memoryview(self._buffer)[HEAD.size : HEAD.size + size])
        del self._buffer[: HEAD.size + size]
        return kind, data

    def _fill(self, size: int, timeout: float | None) -> None:
        """Read until there are so many bytes."""
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        while len(self._buffer) < size:
            rest = math.inf
            if timeout is not None and self.began is not None:
                rest = max(self.began + timeout - perf_counter(), 0)
            if poll.poll(1000 * min(rest, LOOK)):
                if not (chunk := os.read(self._answers, CHUNK)):
                    raise Gone
                self._buffer += chunk
            elif rest <= LOOK:
                raise Late
            elif self._is_dead():
                raise Gone  # and something that it has forked keeps the pipe open

    def _is_dead(self) -> bool:
        """Whether it has ended, without burying it: that would free its number, by which its group is killed."""
        if not hasattr(os, "waitid"):  # macOS has none; there, the pipe alone tells
            return False
        return os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def kill(self) -> None:
        """Kill it, and all that it has started; from any thread, and at any time."""
        with self._lock:
            if self._status is None:  # else its number may be that of another process
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Kill it, and return how it ended: its exit code, or minus the signal that killed it before."""
        self.kill()
        with self._lock:
            if self._status is None:
                self._status = self._process.wait()
                assert self._process.stdin is not None
                self._process.stdin.close()
                os.close(self._answers)
            return self._status


class _Attempt:
    """What a stop kills: the child of one attempt, also if that is still to come."""

    def __init__(self) -> None:
        self.killed = False
        self._child: Child | None = None

    def runs_in(self, child: Child) -> None:
        self._child = child
        if self.killed:  # whoever kills it now has noted that, or finds the child
            child.kill()

    def kill(self) -> None:
        self.killed = True
        if self._child is not None:
            self._child.kill()


class Children:
    """The children of one plan in this process.

    Parameters
    ----------
    code : Bundle, optional
        The first-party code of its tasks.
    """

    def __init__(self, code: Bundle | None = None) -> None:
        self._code = code
        self._lock = threading.Lock()
        self._all: set[Child] = set()
        self._idle: list[Child] = []
        self._functions: dict[int, bytes] = {}
        self._closed = False

    def call(
        self, control: Control, number: int, task: Task[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Make one attempt of an isolated task.

        Parameters
        ----------
        control : Control
            Of the batch; who stops it kills the child.
        number : int
            Of the task in the plan.
        task : Task
            Whose function is called.
        args, kwargs : tuple and dict
            Its arguments.
        """
        attempt = _Attempt()
        with control.lock:
            before, control.kill = control.kill, attempt.kill  # from here on, this thread is not interrupted
        try:
            if number not in self._functions:
                self._functions[number] = pickling.dumps(task.function, f"task {task.name!r}")
            arguments = pickling.dumps((args, kwargs), f"the arguments of task {task.name!r}")
            kind, data = self._ask(attempt, number, task, arguments)
        finally:
            with control.lock:
                control.kill = before  # of coroutines that wait meanwhile
        if kind == VALUE:
            return pickling.loads(data, f"the value of task {task.name!r}")
        raise restore(pickle.loads(data))

    def _ask(self, attempt: _Attempt, number: int, task: Task[..., Any], arguments: bytes) -> tuple[bytes, bytes]:
        timeout, post = task.policy.timeout, POST.get()
        context = pickling.dumps(post.context() if post is not None else None, "the context of a task")
        while True:
            child, fresh = self._take()
            attempt.runs_in(child)
            function = self._functions[number] if number not in child.known else None
            told, code = (levels(), self._code) if fresh else ({}, None)
            request = Request(number, function, arguments, context, told, known(), entrusted.all_here(), code)
            try:
                answer = child.ask(pickle.dumps(request), timeout)
            except Late:
                assert child.began is not None
                self._drop(child)
                raise timed_out(task, perf_counter() - child.began, prompt=True) from None
            except Gone:
                status = self._drop(child)
                if attempt.killed or self._closed:
                    raise Cancelled from None
                if child.began is None and not fresh:
                    continue  # it died while it had nothing to do
                raise Crashed(_how_it_died(task.name, status)) from None
            except BaseException:
                self._drop(child)
                raise
            child.known.add(number)
            self._keep(child)
            return answer

    def _take(self) -> tuple[Child, bool]:
        """A child that has nothing to do, and whether it is new."""
        with suppress(IndexError):
            return self._idle.pop(), False
        child = Child()
        with self._lock:
            self._all.add(child)
            if self._closed:
                child.kill()
        return child, True

    def _keep(self, child: Child) -> None:
        with self._lock:
            if not self._closed:
                self._idle.append(child)
                return
        self._drop(child)

    def _drop(self, child: Child) -> int:
        with self._lock:
            self._all.discard(child)
        return child.end()

    def close(self) -> None:
        """End all children, those that run tasks, too."""
        with self._lock:
            self._closed = True
            children, idle = list(self._all), list(self._idle)
            self._idle.clear()
        for child in children:
            child.kill()
        for child in idle:
            self._drop(child)


def _how_it_died(name: str, status: int) -> str:
    if status >= 0:
        return f"task {name!r} ended its process, with exit code {status}; a task ends by returning or raising"
    try:
        killer = signal.Signals(-status).name
    except ValueError:
        killer = f"signal {-status}"
    why = {"SIGKILL": "; perhaps it used too much memory", "SIGSEGV": "; it crashed in native code"}
    return f"the process of task {name!r} was killed by {killer}{why.get(killer, '')}"
