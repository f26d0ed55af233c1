"""Large constants on a Dask cluster: each is scattered once, and again if the workers that have it die.

From there they are Dask's: workers that need one get it from those that have it, spill it, and count its bytes. The
scheduler passes each on once, to its first worker. A run's constants are let go of everywhere when it is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from distributed import Future

from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.execution.constants import Constant, copy
from headrace.execution.line import Line
from headrace.execution.switchboard import CONSTANT, PART

#: Seconds in which a worker must be found to scatter to; meanwhile the driver does nothing else.
WORKERLESS = 1.0


class Scattered:
    """The large constants of one run.

    Parameters
    ----------
    line : Line
        To the scheduler.
    values : sequence of object
        The constants, by number.
    alone : bool
        Whether scheduler, workers and driver are one process: nothing is pickled there.
    code : Bundle, optional
        The first-party code of the flow: whose space is active here, and not where Dask passes a constant on.
    """

    def __init__(self, line: Line, values: Sequence[Any], alone: bool, code: Bundle | None = None) -> None:
        self.line = line
        with active(code):
            constants = [Constant(copy(value) if alone else value) for value in values]
            if code is not None:
                constants = [Constant(packed=each.pack(), lasting=True) for each in constants]
        self._constants = constants
        self._futures: dict[int, Future[Any]] = {}
        self._times = 0
        self._wanted: Future[Any] | None = None

    def look(self, workers: int) -> bool:
        """Scatter what no worker has, and say whether all is there now.

        Parameters
        ----------
        workers : int
            How many there are.
        """
        missing = self._missing()
        if not missing:
            return True
        if not workers:
            if self._wanted is None:  # a cluster that adapts by itself brings its first worker for something to do
                self._wanted = self.line.client.submit(int, pure=False)
            return False
        self._times += 1
        named = {f"{CONSTANT}{self.line.run_id}-{number}{PART}{self._times}": number for number in missing}
        try:
            data = {key: self._constants[number] for key, number in named.items()}
            futures = self.line.ask(self.line.client.scatter, data, timeout=WORKERLESS)
        except OSError:  # also a timeout: the worker that was to have it died; the next look tries again
            return False
        self._futures.update((number, futures[key]) for key, number in named.items())
        self._wanted = None
        return True

    def _missing(self) -> list[int]:
        futures = self._futures
        numbers = range(len(self._constants))
        return [number for number in numbers if number not in futures or futures[number].status != "finished"]

    def renew(self) -> list[Any]:
        """Make futures anew, as Dask's client has given up those that there were; return their keys."""
        self._futures = {number: Future(each.key, self.line.client) for number, each in self._futures.items()}
        self._wanted = None
        return [future.key for future in self._futures.values()]

    @property
    def complete(self) -> bool:
        """Whether all are there, as far as is known."""
        return not self._missing()

    def key(self, number: int) -> Any:
        """The key of a constant that is there."""
        return self._futures[number].key

    def clear(self) -> None:
        """Let go of all."""
        self._constants.clear()
        self._futures.clear()
        self._wanted = None
