"""Ending a task that runs: the means by which a thread is interrupted in the middle of a batch.

How to think about it. A thread that executes Python can be made to raise an exception at its next step, by another
thread, and in no other way. That must hit a user's task and nothing else: not the next task run, not what headrace
itself does. So nobody interrupts without holding the batch's lock, and only while the batch says that it may be
interrupted: for a timeout by ``deadline``, for a stop by ``thread`` and ``running``. Who is through takes the lock and
takes that back: from then on nobody can be about to interrupt, and what was on its way arrives at the latest when the
lock is let go of. For what arrives in these few steps, which are no longer the task's, there is an ``except`` around
them. Python looks for interruptions where it calls functions and where it repeats loops, so nothing is called between
the task's end and the lock.

A thread that waits inside a C function (``time.sleep``, a query) hears of it when the function returns. On a
cluster such a thread gives its place to another after ``GRACE``; what runs in a process of its own is killed.
"""

from __future__ import annotations

import ctypes
import threading
from array import array
from collections.abc import Callable
from time import perf_counter

from headrace.core.events import Dispatch, Event
from headrace.core.signals import Cancelled, Signal, TimedOut
from headrace.core.strips import count

#: Seconds that a stopped task may take to end, before its thread loses its place in the pool.
GRACE = 1.0
#: Seconds between two interruptions of the same attempt. The first may be lost, in a finalizer or in an
#: ``except BaseException``; but who heard of it shall have time to tidy up.
AGAIN = 5.0

_SET = ctypes.pythonapi.PyThreadState_SetAsyncExc
_SET.argtypes = (ctypes.c_ulong, ctypes.py_object)
#: threads that were interrupted since they last forgot about it
_INTERRUPTED: set[int] = set()


class _Nothing(BaseException):
    """Takes the place of an interruption that comes too late."""


def raise_in(thread: int, signal: type[Signal]) -> None:
    """Have a thread raise a signal at its next step in Python.

    Parameters
    ----------
    thread : int
        Its ident.
    signal : type
        What it raises.
    """
    _INTERRUPTED.add(thread)
    _SET(thread, signal)


def forget() -> None:
    """Take back what this thread was to raise and has not raised yet.

    An interruption that nobody raises would have Python look for it at each step of all threads, for ever: that costs
    time, and under a profiler Python 3.11 does nothing else any more. So something is raised here in its place.
    """
    thread = threading.get_ident()
    if thread in _INTERRUPTED:
        try:
            _SET(thread, _Nothing)
            while True:
                pass
        except _Nothing:
            _INTERRUPTED.discard(thread)


class Control:
    """How far a batch is; shared between the thread that runs it, the watchdog, and those who may stop it."""

    __slots__ = (
        "batch", "began", "busy", "deadline", "interrupt_at", "kill", "leave", "limit", "lock", "position", "running",
        "seconds", "send", "stop", "stopped", "thread",
    )  # fmt: skip

    def __init__(self, order: Dispatch, send: Callable[[Event], None]) -> None:
        self.lock = threading.Lock()
        self.batch = order.batch
        self.position = 0  # task runs that have started
        self.stop = count(order.strips)
        self.limit = order.limit
        self.seconds: array[float] = array("f")
        self.began = perf_counter()
        self.running: float | None = None  # since when a task is running
        self.busy = 0.0  # seconds that a coroutine has computed which was under way last
        self.send = send
        self.thread: int | None = None  # who runs it, while it may be interrupted
        self.deadline: float | None = None  # when the attempt that is running has taken too long
        self.stopped: float | None = None  # when somebody stopped it
        self.interrupt_at = 0.0  # when a stopped one is interrupted next
        self.kill: Callable[[], None] | None = None  # ends the attempt that is running, if it is in another process
        self.leave: Callable[[], None] | None = None  # gives the thread's place to another, where that can be done

    def end(self) -> None:
        """Stop the batch: nothing of it starts any more, and what runs is interrupted."""
        with self.lock:
            self.stop = min(self.stop, self.position)
            if self.stopped is None:
                self.stopped = perf_counter()
        self.look()

    def look(self) -> None:
        """Interrupt what runs if it is due; for the watchdog, and quick while there is nothing to do."""
        if self.stopped is None and self.deadline is None:
            return
        now = perf_counter()
        with self.lock:
            if self.stopped is not None:
                if self.kill is not None:
                    self.kill()
                    self.kill = None
                elif self.thread is not None and self.running is not None and now >= self.interrupt_at:
                    self.interrupt_at = now + AGAIN
                    raise_in(self.thread, Cancelled)
            elif self.thread is not None and self.deadline is not None and now >= self.deadline:
                self.deadline = now + AGAIN
                raise_in(self.thread, TimedOut)
            leave = None
            if self.stopped is not None and now - self.stopped > GRACE:
                leave, self.leave = self.leave, None
        if leave is not None:
            leave()
