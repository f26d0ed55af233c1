"""Delays between attempts that grow."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from headrace.errors import FlowError


@dataclass(frozen=True)
class Exponential:
    """What ``exponential`` returns: seconds by the number of attempts so far."""

    first: float
    factor: float
    most: float
    jitter: float

    def __call__(self, attempts: int) -> float:
        """Return the seconds until the next attempt."""
        try:
            delay = min(self.most, self.first * self.factor ** (attempts - 1))
        except OverflowError:
            delay = self.most
        return delay * random.uniform(1 - self.jitter, 1 + self.jitter)


def exponential(first: float, factor: float = 2.0, *, most: float = 3600.0, jitter: float = 0.0) -> Exponential:
    """Return a ``retry_delay`` that grows from attempt to attempt.

    Parameters
    ----------
    first : float
        Seconds after the first attempt.
    factor : float, default 2.0
        By how much each delay is longer than the one before.
    most : float, default 3600.0
        Seconds that no delay exceeds, jitter aside.
    jitter : float, default 0.0
        The part of each delay, from 0 to 1, by which chance makes it longer or shorter, so that what failed together
        is not tried again together.

    Raises
    ------
    FlowError
        If a number cannot be meant.

    Examples
    --------
    >>> delay = exponential(1.0, most=5.0)
    >>> [delay(attempts) for attempts in (1, 2, 3, 4)]
    [1.0, 2.0, 4.0, 5.0]
    """
    for name, value, least, limit in (
        ("first", first, 0, math.inf),
        ("factor", factor, 1, math.inf),
        ("most", most, 0, math.inf),
        ("jitter", jitter, 0, 1 + 1e-9),
    ):
        if not isinstance(value, (int, float)) or not least <= value < limit:
            allowed = "from 0 to 1" if name == "jitter" else f"a number from {least} on"
            raise FlowError(f"exponential's {name} must be {allowed}, got {value!r}")
    return Exponential(float(first), float(factor), float(most), float(jitter))
