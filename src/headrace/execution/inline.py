"""The smallest honest executor: batches run in this thread, one after the other."""

from __future__ import annotations

import queue
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from headrace import pickling
from headrace.core.drawing import CURRENT
from headrace.core.events import CancelRequested, Command, Dispatch, Event, Release, Stop
from headrace.core.plan import Plan
from headrace.execution.asynchronous import execution_of
from headrace.execution.base import Executor, Wanted
from headrace.execution.constants import copy
from headrace.execution.context import at_post
from headrace.execution.dynamic import Packer, joined
from headrace.execution.interrupt import Control
from headrace.execution.loaded import LoadedPlan
from headrace.execution.logs import LOGS
from headrace.execution.shelf import Shelf
from headrace.execution.values import Values, add_values
from headrace.execution.watchdog import watched


class InlineExecutor(Executor):
    """Executes batches in the calling thread."""

    kind = "inline"

    def __init__(self) -> None:
        self._plan: LoadedPlan | None = None
        self._packer: Packer | None = None
        self._constants: dict[int, Any] = {}
        self._run_id = ""
        self._queue: deque[Dispatch] = deque()
        self._events: deque[Event] = deque()
        self._notes: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._running: Control | None = None
        self._values: dict[int, Values] = {}
        self._shelf = Shelf(_at_least)

    def start(self, run_id: str, plan: bytes, outline: Plan) -> int:  # noqa: D102 - inherited
        self._constants = dict(enumerate(map(copy, outline.constants)))
        self._plan = LoadedPlan(pickling.loads(plan, f"the plan of run {run_id}"))
        self._packer = Packer(outline)
        self._run_id = run_id
        LOGS.open(run_id)
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

    def notify(self, event: Event) -> None:  # noqa: D102 - inherited
        self._notes.put(event)
        if isinstance(event, CancelRequested) and (running := self._running) is not None:
            running.end()

    def wait(self, timeout: float | None) -> list[Event]:
        """Execute the next batch, if there is one; else wait for the time to pass, or for a note."""
        notes: list[Event] = []
        if not self._events and self._notes.empty():
            if self._queue:
                self._execute(self._queue.popleft())
            elif timeout:
                with suppress(queue.Empty):  # a retry is due later
                    notes.append(self._notes.get(timeout=timeout))
        events = []
        while self._events:
            events.append(self._events.popleft())
        while not self._notes.empty():
            notes.append(self._notes.get())
        return events + notes

    def _execute(self, order: Dispatch) -> None:
        assert self._plan is not None
        assert self._packer is not None
        plan = joined(self._plan, self._packer.pack(order))
        values: Values = {}
        for batch in order.inputs:
            add_values(values, self._values[batch])
        control = Control(order, self._events.append)
        execution = execution_of(plan, order)(
            plan, order, values, control, interrupts=(KeyboardInterrupt,), constants=self._constants
        )
        self._running = control
        if not self._notes.empty():  # whoever wrote it did not see what runs, or is about to stop it
            control.end()
        token = CURRENT.set(None)  # a task is no part of the drawing that its run may be started from
        try:
            with at_post(execution, self._run_id, self.kind):
                ended = watched(execution)
        finally:
            CURRENT.reset(token)
            self._running = None
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
        if self._plan is not None:
            LOGS.close_run(self._run_id)
            self._plan.children.close()
        self._constants.clear()
        self._plan = None

    def release(self) -> None:  # noqa: D102 - inherited
        self._values.clear()
        self._shelf.clear()


def _at_least(value: Any) -> int:
    """Bytes of a value, not looking into it: quick, and never too many."""
    return int(getattr(value, "nbytes", 0)) or sys.getsizeof(value, 0)
