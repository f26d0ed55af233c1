"""The watchdog: gives back what a slow batch has not started, interrupts tasks, and tells how far batches are.

One daemon thread per process, started at the first batch. Nobody waits behind a slow neighbour: when a batch has
run longer than the limit that came with it, the unstarted rest goes back to the machine, which dispatches it
elsewhere.
"""

from __future__ import annotations

import math
import threading
from array import array
from time import perf_counter

from headrace.core.events import Ended, HandedBack, Progressed
from headrace.core.signals import Cancelled
from headrace.execution.batch import Execution
from headrace.execution.interrupt import Control, forget
from headrace.execution.logs import LOGS

#: Seconds between two looks; a batch is noticed at most this much after its limit.
LOOK = 0.02
#: Least number of looks between two notes of progress: ten notes a second are as many as people can read.
NOTE = 5


def looks_per_note(limit: float) -> int:
    """Return how many looks there are between two notes of a batch.

    Limits are longer on clusters with many threads, so that the driver is not flooded; neither shall notes flood it.

    Parameters
    ----------
    limit : float
        Seconds after which the batch is given back; infinite if it never is.
    """
    return NOTE if math.isinf(limit) else max(NOTE, int(limit / 2 / LOOK))


class Watchdog:
    """Watches the batches of this process."""

    def __init__(self) -> None:
        self._controls: set[Control] = set()
        self._busy = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def watch(self, control: Control) -> None:
        """Begin to watch a batch."""
        with self._lock:
            self._controls.add(control)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="headrace-watchdog", daemon=True)
                self._thread.start()
        self._busy.set()

    def unwatch(self, control: Control) -> None:
        """Stop watching a batch."""
        with self._lock:
            self._controls.discard(control)
            if not self._controls:
                self._busy.clear()

    def _run(self) -> None:
        pause = threading.Event()  # never set: a wait that a signal cannot cut short
        noted: dict[Control, tuple[int, int]] = {}
        look = 0
        while True:
            self._busy.wait()
            pause.wait(LOOK)
            look += 1
            with self._lock:
                controls = list(self._controls)
            for control in controls:
                control.look()
                if perf_counter() - control.began > control.limit:
                    give_back(control)
                if look % looks_per_note(control.limit) == 0:
                    running = control.running
                    current = perf_counter() - running if running is not None else 0.0
                    # When another one started, and each time that one has taken twice as long.
                    note = control.position, math.frexp(current)[1]
                    if noted.get(control) != note:
                        noted[control] = note
                        control.send(Progressed(control.batch, control.position, current))
            if look % NOTE == 0:
                LOGS.flush()
                noted = {control: noted[control] for control in controls if control in noted}


def give_back(control: Control) -> None:
    """Give back what a batch has not started, if there is anything."""
    with control.lock:
        if control.position >= control.stop:
            return
        stop = control.stop = control.position
        seconds: array[float] = control.seconds[:stop]
    running = control.running
    current = perf_counter() - running if running is not None else control.busy
    control.send(HandedBack(control.batch, stop, seconds, current))


WATCHDOG = Watchdog()


def watched(execution: Execution) -> Ended:
    """Execute a batch under the eyes of the watchdog, and where it can be stopped.

    Parameters
    ----------
    execution : Execution
        Of the batch.
    """
    control = execution.control
    WATCHDOG.watch(control)
    try:
        try:
            control.thread = threading.get_ident()
            ended = execution.run()
        finally:
            with control.lock:  # before anything is called; see `interrupt`
                control.thread = None
            forget()
    except Cancelled:
        ended = execution.cut_short()
    finally:
        WATCHDOG.unwatch(control)
    return ended
