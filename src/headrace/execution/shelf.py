"""The shelf: values that nothing needs any more, kept for people to look at while there is room.

``run["task"][3].result()`` works after a run for small values, although no memory is owed to them: a process keeps
what its batches made until it is more than ``ROOM``, and then lets go of the oldest. Nothing on the shelf is ever
computed again; what is gone is gone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from headrace.execution.values import Values

#: Bytes on a shelf, and of the largest batch that is put there.
ROOM, LARGEST = 64 << 20, 4 << 20


class Shelf:
    """Values of batches, the oldest first.

    Parameters
    ----------
    size_of : callable
        Bytes of a value.
    """

    def __init__(self, size_of: Callable[[Any], int]) -> None:
        self.size_of = size_of
        self._values: OrderedDict[Any, tuple[int, Values]] = OrderedDict()
        self._total = 0

    def put(self, key: Any, values: Values) -> None:
        """Keep the values of a batch, if they are small."""
        size = sum(self.size_of(value) for children in values.values() for value in children.values())
        if size > LARGEST:
            return
        self._total += size - self._values.pop(key, (0, values))[0]
        self._values[key] = size, values
        while self._total > ROOM:
            _, (gone, _) = self._values.popitem(last=False)
            self._total -= gone

    def get(self, key: Any) -> Values | None:
        """Return the values of a batch, if they are still here."""
        entry = self._values.get(key)
        return None if entry is None else entry[1]

    def clear(self, run_id: str | None = None) -> None:
        """Let go of everything, or of what belongs to a run (keys are then ``(run_id, batch)``)."""
        for key in [key for key in self._values if run_id is None or key[0] == run_id]:
            self._total -= self._values.pop(key)[0]
