"""The smallest honest executor: batches run in this thread, one after the other."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from headrace import pickling
from headrace.core.drawing import CURRENT
from headrace.core.events import Command, Dispatch, Event, Release, Stop
from headrace.core.plan import Plan
from headrace.execution.base import Executor, Wanted
from headrace.execution.batch import Control, Execution
from headrace.execution.dynamic import Packer, joined
from headrace.execution.loaded import LoadedPlan
from headrace.execution.shelf import Shelf
from headrace.execution.values import Values, add_values
from headrace.execution.watchdog import WATCHDOG


class InlineExecutor(Executor):
    """Executes batches in the calling thread."""

    kind = "inline"

    def __init__(self) -> None:
        self._plan: LoadedPlan | None = None
        self._packer: Packer | None = None
        self._queue: deque[Dispatch] = deque()
        self._events: deque[Event] = deque()
        self._values: dict[int, Values] = {}
        self._shelf = Shelf(_at_least)

    def start(self, run_id: str, plan: bytes, outline: Plan) -> int:  # noqa: D102 - inherited
        self._plan = LoadedPlan(pickling.loads(plan, f"the plan of run {run_id}"))
        self._packer = Packer(outline)
        return 1

    def send(self, commands: Iterable[Command]) -> None:  # noqa: D102 - inherited
        for command in commands:
            if isinstance(command, Dispatch):
                self._queue.append(command)
            elif isinstance(command, Release):
                for batch in command.batches:
                    self._shelf.put(batch, self._values.pop(batch))
            elif isinstance(command, Stop):
                self._queue = deque(order for order in self._queue if order.batch not in command.batches)

    def wait(self, timeout: float | None) -> list[Event]:
        """Execute the next batch, if there is one; else wait for the time to pass."""
        if not self._events and self._queue:
            self._execute(self._queue.popleft())
        elif not self._events and timeout:
            time.sleep(timeout)  # a retry is due later
        events = []
        while self._events:
            events.append(self._events.popleft())
        return events

    def _execute(self, order: Dispatch) -> None:
        assert self._plan is not None
        assert self._packer is not None
        plan = joined(self._plan, self._packer.pack(order))
        values: Values = {}
        for batch in order.inputs:
            add_values(values, self._values[batch])
        control = Control(order, self._events.append)
        execution = Execution(plan, order, values, control, interrupts=(KeyboardInterrupt,))
        WATCHDOG.watch(control)
        token = CURRENT.set(None)  # a task is no part of the drawing that its run may be started from
        try:
            ended = execution.run()
        finally:
            CURRENT.reset(token)
            WATCHDOG.unwatch(control)
        self._values[order.batch] = execution.kept()
        self._events.append(ended)

    def fetch(self, wanted: Wanted, most: int | None = None) -> dict[tuple[int, int], Any] | None:  # noqa: D102
        found = {
            (node, child): held[node][child]
            for batch, keys in wanted.items()
            if (held := self._values.get(batch) or self._shelf.get(batch))
            for node, child in keys
            if child in held.get(node, {})
        }
        return None if most is not None and sum(map(_at_least, found.values())) > most else found

    def finish(self) -> None:  # noqa: D102 - inherited
        self._queue.clear()
        self._events.clear()
        self._plan = None

    def release(self) -> None:  # noqa: D102 - inherited
        self._values.clear()
        self._shelf.clear()


def _at_least(value: Any) -> int:
    """Bytes of a value, not looking into it: quick, and never too many."""
    return int(getattr(value, "nbytes", 0)) or sys.getsizeof(value, 0)
