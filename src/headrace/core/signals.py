"""Signals: what a task raises to say how its attempt ends.

They are no ``Exception``, so that a task's own ``except Exception`` does not catch them.
"""

from __future__ import annotations

from typing import Any


class Signal(BaseException):
    """Base of what a task raises to say how its attempt ends.

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


class Cancelled(Signal):
    """Raised in a task whose run was cancelled."""
