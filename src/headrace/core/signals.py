"""Signals: what ends an attempt in another way than by a value or by a failure of the task's own.

A task raises ``Skip``, ``Fail`` and ``Retry``; the others are raised in it, or in its place. They are no ``Exception``,
so that a task's own ``except Exception`` does not catch them. Nobody but ``core.attempts`` and those who raise them
sees them: there, they become states, and errors that are told (``errors``).
"""

from __future__ import annotations

import math
from typing import Any

from headrace.errors import FlowError


class Signal(BaseException):
    """Base of all signals.

    Parameters
    ----------
    message : str, optional
        Why; people see it.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(message)
        self.message = message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.args, self.__dict__


class Skip(Signal):
    """The task run ends as Skipped, and so does what follows, unless its policy says otherwise."""


class Fail(Signal):
    """The task run ends as Failed, without another attempt."""


class Retry(Signal):
    """The attempt is to be made again, whatever ``retry_on`` says, while ``retries`` are left.

    Parameters
    ----------
    message : str, optional
        Why; people see it.
    delay : float, optional
        Seconds until the next attempt; default: as ``retry_delay`` says.
    """

    def __init__(self, message: str = "", *, delay: float | None = None) -> None:
        super().__init__(message)
        if delay is not None and not 0 <= delay < math.inf:
            raise FlowError(f"hr.Retry's delay must be seconds >= 0, got {delay!r}")
        self.delay = delay


class Found(Signal):
    """Raised in the place of a call whose value is kept already.

    Parameters
    ----------
    value : object
        The value.
    """

    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value


class TimedOut(Signal):
    """Raised in a task that has taken longer than its ``timeout``."""


class Crashed(Signal):
    """Raised in the place of a task whose own process died."""


class Cancelled(Signal):
    """Raised in a task whose run was cancelled."""
