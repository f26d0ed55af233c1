"""The smallest honest executor: batches run in this thread, one after the other."""

from __future__ import annotations

import queue
import signal
import sys
import threading
import time
from array import array
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any

from headrace import pickling
from headrace.code.space import active
from headrace.core.drawing import CURRENT
from headrace.core.events import CancelRequested, Command, Deadline, Dispatch, Ended, Event, Release, Stop
from headrace.core.plan import Plan
from headrace.core.signals import Cancelled
from headrace.execution.asynchronous import execution_of
from headrace.execution.base import Executor, Wanted
from headrace.execution.constants import copy
from headrace.execution.context import at_post
from headrace.execution.dynamic import Packer, joined
from headrace.execution.interrupt import AGAIN, Control
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
        self._apart = False  # whether what runs sets up or cleans up
        self._poked: Control | None = None
        self._cancels = 0
        self._deadline: Deadline | None = None
        self._timer: threading.Timer | None = None
        self._thread = 0
        self._values: dict[int, Values] = {}
        self._shelf = Shelf(_at_least)

    def start(self, run_id: str, plan: bytes, outline: Plan) -> int:  # noqa: D102 - inherited
        with active(self.code):
            self._constants = dict(enumerate(map(copy, outline.constants)))
        with active(self.code):
            self._plan = LoadedPlan(pickling.loads(plan, f"the plan of run {run_id}"), code=self.code)
        self._packer = Packer(outline, self.code)
        self._run_id = run_id
        self._thread = threading.get_ident()
        LOGS.open(run_id)
        return 1

    def send(self, commands: Iterable[Command]) -> None:  # noqa: D102 - inherited
        for command in commands:
            if isinstance(command, Dispatch):
                self._queue.append(command)
            elif isinstance(command, Release):
                for batch in command.batches:
                    self._shelf.put(batch, self._values.pop(batch, {}))
            elif isinstance(command, Stop):
                self._queue = deque(order for order in self._queue if order.batch not in command.batches)
                self._events.extend(Ended(batch, 0, array("f")) for batch in command.batches)  # none runs, as this does
            elif isinstance(command, Deadline):
                self._set_deadline(command)

    def notify(self, event: Event) -> None:  # noqa: D102 - inherited
        self._notes.put(event)
        if isinstance(event, CancelRequested):
            self._cancels += 1
            self._stop_running(strict=self._cancels > 1)

    def _stop_running(self, *, strict: bool) -> None:
        if (running := self._running) is not None and (strict or not self._apart):
            running.end()

    def interrupt(self) -> None:
        """Ask for the end of the run, in the handler of a signal, and so perhaps in the midst of a task, which ends."""
        if threading.get_ident() != self._thread:
            self.notify(CancelRequested())
            return
        self._notes.put(CancelRequested())
        self._cancels += 1
        running = self._running
        if running is None or (self._apart and self._cancels == 1):
            return
        running.stop = min(running.stop, running.position)  # no lock: this thread itself may hold it
        if running.running is not None:
            raise KeyboardInterrupt
        if running.kill is not None:
            running.kill()  # coroutines wait; they are cancelled by their loop

    def _poke(self, control: Control) -> None:
        """Interrupt the task that runs in the main thread by a signal, of which a wait in a C function hears, too."""
        self._poked = control
        control.interrupt_at = time.perf_counter() + AGAIN
        signal.pthread_kill(self._thread, signal.SIGINT)

    def was_poked(self) -> bool:  # noqa: D102 - inherited
        poked, self._poked = self._poked, None
        if poked is not None and poked is self._running and poked.running is not None:
            raise Cancelled
        return poked is not None

    def _set_deadline(self, deadline: Deadline) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._deadline = deadline
        self._timer = threading.Timer(
            deadline.time - time.monotonic(), self._stop_running, kwargs={"strict": deadline.strict}
        )
        self._timer.daemon = True
        self._timer.start()

    def wait(self, timeout: float | None) -> list[Event]:
        """Execute the next batch, if there is one; else wait for the time to pass, or for a note."""
        notes: list[Event] = []
        late = self._deadline is not None and time.monotonic() >= self._deadline.time
        if not self._events and self._notes.empty() and not late:
            if self._queue:
                with active(self.code):
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
        if self.heeded:
            control.kill = partial(self._poke, control)
        self._apart = order.apart
        self._running = control
        if not (self._notes.empty() or order.apart):  # who wrote it did not see what runs, or is about to stop it
            control.end()
        interruption: KeyboardInterrupt | None = None
        token = CURRENT.set(None)  # a task is no part of the drawing that its run may be started from
        try:
            with at_post(execution, self._run_id, self.kind):
                ended = watched(execution)
        except KeyboardInterrupt as error:
            ended, interruption = execution.cut_short(), error
        finally:
            CURRENT.reset(token)
            self._running = None
        self._values[order.batch] = execution.kept()
        self._events.append(ended)
        if interruption is not None and not self._cancels:  # else it was noted
            raise interruption

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
        if self._timer is not None:
            self._timer.cancel()
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
