"""Ctrl-C and SIGTERM during a run: it is cancelled, its clean-ups run, and then the signal does what it asks for.

Python runs handlers of signals in the main thread, between two steps of whatever that does. So a handler here only
notes what is asked and wakes the driver; where the main thread executes tasks itself, it also interrupts the task.
Handlers of others are left alone: whoever has one decides what the signal means.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from headrace.execution.underway import Underway


class Terminated(KeyboardInterrupt):
    """SIGTERM, where a program unwinds at it as at Ctrl-C."""


def terminate(number: int, frame: object) -> None:
    """Unwind; a handler for programs, which a run may stand in for."""
    raise Terminated


_STANDARD = (signal.SIG_DFL, signal.default_int_handler, terminate)
_HEEDED = (signal.SIGINT, signal.SIGTERM)


class Held:
    """A signal that came while it was held back."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def handle(self, number: int, frame: object) -> None:
        """Note a signal."""
        if self.number is None:
            self.number = number

    def deal(self) -> None:
        """Do what the signal that came asks for: raise KeyboardInterrupt, or end the process."""
        if self.number is None:
            return
        before = self.before[self.number]
        if callable(before):
            before(self.number, None)
        raise SystemExit(128 + self.number)


@contextmanager
def holding() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back during the block, or until a run in it heeds them.

    Else one that comes when a run's record has begun, and its driver has not, would leave a run without an end.
    """
    held = Held()
    with _handled(held):
        yield
    held.deal()


class Heeded(Held):
    """What signals asked for during a block.

    Attributes
    ----------
    number : int or None
        The first signal that came.
    installed : bool
        Whether Ctrl-C is heeded.
    """

    def __init__(self, underway: Underway) -> None:
        super().__init__()
        self._underway = underway

    @property
    def installed(self) -> bool:
        """Whether Ctrl-C is heeded."""
        return signal.SIGINT in self.before

    def handle(self, number: int, frame: object) -> None:
        """Note a signal, and have it heeded."""
        if self._underway.was_poked():
            return
        super().handle(number, frame)
        self._underway.heed()


@contextmanager
def heeding(underway: Underway) -> Iterator[Heeded]:
    """Have signals heeded during the block, if this is the main thread and nobody else handles them.

    Parameters
    ----------
    underway : Underway
        The run that is to end.
    """
    heeded = Heeded(underway)
    with _handled(heeded):
        yield heeded


@contextmanager
def _handled(held: Held) -> Iterator[None]:
    """Have signals noted that nobody else handles, but who holds them back; what that has noted is handed over."""
    replaced: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in _HEEDED:
            there = signal.getsignal(number)
            holder = getattr(there, "__self__", None)
            if there in _STANDARD or type(holder) is Held:
                held.before[number] = holder.before[number] if type(holder) is Held else there
                replaced[number] = signal.signal(number, held.handle)
                if type(holder) is Held and holder.number == number:
                    holder.number = None
                    held.handle(number, None)
    try:
        yield
    finally:
        for restored, handler in replaced.items():
            signal.signal(restored, handler)
