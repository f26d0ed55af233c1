"""What an executor is: the one contract between a run and the place where its batches execute."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from headrace.code.bundle import Bundle
from headrace.core.events import CancelRequested, Command, Event
from headrace.core.plan import Plan
from headrace.core.ready import Backlog
from headrace.core.task import Task

#: By batch: which values of it are wanted, as (node, child).
Wanted = Mapping[int, Sequence[tuple[int, int]]]


class Executor(ABC):
    """Executes the batches of one run, and holds their values until it is released.

    The calls come from one thread: ``start``, then ``send`` and ``wait`` in turn, then ``finish``; ``fetch`` at any
    time until ``release``; ``notify`` from any thread.
    """

    #: shown to people and written into the run's record
    kind: str = ""
    #: whether batches that run at the same time can send each other values; known once it has started
    mails: bool = False
    #: the first-party code of the flow, which is active where its batches execute; the driver sets it before the start
    code: Bundle | None = None
    #: whether the thread that calls is the main one, and the driver handles Ctrl-C there
    heeded: bool = False
    #: tells what is ready and not done; the driver sets it, and it may be called from ``wait`` only
    backlog: Callable[[], Backlog] = staticmethod(tuple)

    @abstractmethod
    def start(self, run_id: str, plan: bytes, outline: Plan) -> int:
        """Bring the plan to where batches will execute.

        Parameters
        ----------
        run_id : str
            Unique; names whatever the executor must name.
        plan : bytes
            The pickled ``Plan``.
        outline : Plan
            The same, as this process holds it: tells the nodes' names, and where their tasks may be executed. Its
            constants are not in the bytes; batches whose orders name them need them.

        Returns
        -------
        int
            How many threads there are.

        Raises
        ------
        MissingModule
            If the plan's code cannot be imported there.
        """

    def check(self, tasks: Iterable[Task[..., Any]]) -> None:  # noqa: B027 - most executors execute any task
        """Refuse tasks that would wait for ever, because nobody here may execute them.

        Raises
        ------
        NoSuchWorker
            If there is such a task.
        """

    @abstractmethod
    def send(self, commands: Iterable[Command]) -> None:
        """Carry out orders; returns without waiting for them.

        Of a batch that is stopped, nothing starts any more, and the task that runs is interrupted. A report of it comes
        when that has ended, also if it had not begun; its values may be gone.
        """

    @abstractmethod
    def wait(self, timeout: float | None) -> list[Event]:
        """Return what happened, at the latest after ``timeout`` seconds; an empty list if nothing did."""

    @abstractmethod
    def notify(self, event: Event) -> None:
        """Have ``wait`` return an event soon; may be called from any thread.

        Where the thread that waits executes tasks itself, a ``CancelRequested`` interrupts the one that runs, so that
        it is heard.
        """

    def interrupt(self) -> None:
        """Ask for the end of the run, in the handler of a signal; that may have come in the midst of a task."""
        self.notify(CancelRequested())

    def was_poked(self) -> bool:
        """Whether the executor itself sent the signal that is being handled."""
        return False

    def workers(self) -> tuple[int, int] | None:
        """Return how many workers there are, and how many are wanted; None if there are none to speak of."""
        return None

    @abstractmethod
    def fetch(self, wanted: Wanted, most: int | None = None) -> dict[tuple[int, int], Any] | None:
        """Bring values to this process.

        Parameters
        ----------
        wanted : mapping of batch to sequence of (node, child)
            Which.
        most : int, optional
            Largest number of bytes to bring; if they are more, nothing is brought.

        Returns
        -------
        dict of (node, child) to value, or None
            None if they are larger than ``most``. Values that are no longer kept are left out.
        """

    @abstractmethod
    def finish(self) -> None:
        """The run is over; values stay until ``release``."""

    @abstractmethod
    def release(self) -> None:
        """Let go of all values and of the plan. May be called twice, and from any thread."""
