"""What the machine hears, what it orders, and the facts that both are made of.

Events are facts about batches, in the past tense; commands are orders to an executor. All are plain values that
pickle small: a batch of ten thousand successful task runs is reported by a handful of integers and one array of
durations. A repeated, late or reordered event changes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from headrace.core.state import State
from headrace.core.strips import Strip


@dataclass(slots=True)
class Failure:
    """How a task run failed, in a form that always travels.

    Attributes
    ----------
    type_name : str
        Qualified name of the exception's type.
    message : str
        ``str(exception)``.
    traceback : str
        The traceback as text, without frames of headrace.
    pickled : bytes or None
        The exception itself with its traceback, where it can be pickled.
    exception : BaseException or None
        The live exception, in the process that raised it; does not travel.
    """

    type_name: str
    message: str
    traceback: str = ""
    pickled: bytes | None = None
    exception: BaseException | None = field(default=None, compare=False)

    def __getstate__(self) -> tuple[Any, ...]:
        """All but the live exception."""
        return self.type_name, self.message, self.traceback, self.pickled

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        """Fill in what travelled."""
        self.type_name, self.message, self.traceback, self.pickled = state
        self.exception = None

    def __str__(self) -> str:
        return f"{self.type_name}: {self.message}" if self.message else self.type_name


class Exceptional(NamedTuple):
    """A task run of a batch of which more is to say than "it succeeded at the first attempt".

    Attributes
    ----------
    position : int
        Where it stands in the batch.
    state : State
        Where it ended. RETRYING: a later attempt is due after ``delay`` seconds. PENDING: it was not run, because a
        task run that it waits for is not final. RUNNING: it goes on as the flow that it returned, or as a loop.
    attempts : int
        How many attempts it took so far.
    failure : Failure or None
        Why it failed.
    delay : float
        Seconds until the next attempt.
    """

    position: int
    state: State
    attempts: int = 1
    failure: Failure | None = None
    delay: float = 0.0


class Size(NamedTuple):
    """A measured length; -1 where the value is not a sequence."""

    position: int
    measure: int
    size: int


@dataclass(slots=True)
class Progressed:
    """A batch is still running; ``position`` task runs have started, the last of them ``current`` seconds ago."""

    batch: int
    position: int
    current: float = 0.0


@dataclass(slots=True)
class HandedBack:
    """A batch gave back what it had not started: positions from ``stop`` on.

    Attributes
    ----------
    batch : int
        Which batch.
    stop : int
        The first position that comes back.
    seconds : array of float
        Durations of the positions 0, 1, … that are done.
    current : float
        Seconds that the running position has taken so far.
    """

    batch: int
    stop: int
    seconds: array[float]
    current: float


@dataclass(slots=True)
class Ended:
    """A batch is over; its values are with the executor.

    Attributes
    ----------
    batch : int
        Which batch.
    stop : int
        Positions from here on were not run.
    seconds : array of float
        Durations of the positions before ``stop``.
    exceptional : list of Exceptional
        Those of which more is to say.
    sizes : list of Size
        Lengths that were asked for.
    missing : list of (int, int)
        Values, by node and child, that were to be among the inputs and were not.
    returned : dict of int to bytes
        By node, pickled values that the flow returns, where they are small; saves the driver a round trip.
    heavy : bool
        Whether its values are so large that moving them takes longer than dispatching a batch.
    expansions : dict of int to object
        By position, for those that go on: the graph of the flow that they returned; a ``Failure``, if it could not be
        brought; None for a loop's next turn. Bytes until the driver has unpacked them.
    """

    batch: int
    stop: int
    seconds: array[float]
    exceptional: list[Exceptional] = field(default_factory=list)
    sizes: list[Size] = field(default_factory=list)
    missing: list[tuple[int, int]] = field(default_factory=list)
    returned: dict[int, bytes] = field(default_factory=dict)
    heavy: bool = False
    expansions: dict[int, Any] = field(default_factory=dict)


class Loss(Enum):
    """Why a batch ended without a report."""

    #: the process that ran it died, perhaps by the fault of one of its task runs
    KILLED = "killed"
    #: values that it needed are gone, or the cluster dropped it; it may be dispatched again
    DROPPED = "dropped"
    #: the executor cannot execute it, and would not the next time
    BROKEN = "broken"


@dataclass(slots=True)
class Lost:
    """A batch ended without a report.

    Attributes
    ----------
    batch : int
        Which batch.
    loss : Loss
        Why.
    failure : Failure
        What the executor says.
    """

    batch: int
    loss: Loss
    failure: Failure


@dataclass(slots=True)
class Vanished:
    """The values of an ended batch are gone with the worker that held them."""

    batch: int


@dataclass(slots=True)
class Resized:
    """The executor has this many threads now."""

    threads: int


@dataclass(slots=True)
class CancelRequested:
    """Somebody wants the run cancelled."""


Event = Progressed | HandedBack | Ended | Lost | Vanished | Resized | CancelRequested


class Input(NamedTuple):
    """Facts about task runs outside of a batch that are not plain successes."""

    node: int
    child: int
    state: State


class Links(NamedTuple):
    """What a batch exchanges with others that run at the same time: the batches of its gang (``core.gangs``).

    Attributes
    ----------
    gang : tuple of int
        The batches of the gang, this one among them.
    exports : dict of int to tuple of int
        By node of this batch: the batches that wait for its value.
    imports : dict of int to int
        By node of other batches that this one waits for: the batch that sends its value.
    """

    gang: tuple[int, ...]
    exports: dict[int, tuple[int, ...]]
    imports: dict[int, int]


NO_WIDTH = -1


@dataclass(slots=True)
class Dispatch:
    """Execute a batch.

    Attributes
    ----------
    batch : int
        Its number; numbers are never used again.
    strips : tuple of Strip
        Which task runs, in which order.
    inputs : tuple of int
        Batches that hold values that this one needs.
    outside : tuple of Input
        Task runs outside that it waits for and that did not succeed.
    widths : dict of int to int
        Widths of mapped nodes; ``NO_WIDTH`` where one task run stands for all that there would have been.
    attempts : dict of (int, int) to int
        Attempts that task runs have behind them; those with none are left out.
    limit : float
        Seconds after which what has not started is given back.
    failures : dict of (int, int) to Failure
        How task runs outside failed whose exceptions no batch holds any more.
    whole : bool
        Whether nothing may be given back or put off, because others count on its values already.
    links : Links or None
        What it exchanges with others while it runs.
    slices : dict
        Parts of long constant lists; see ``core.slices``.
    cuts : dict
        Of which inputs a part of one list is enough; see ``core.cuts``.
    constants : tuple of int
        Large constants that it needs; see ``core.constants``.
    urgent : bool
        Whether it goes before others of its priority, because others of its kind may not run meanwhile.
    apart : bool
        Whether it sets up or cleans up, so that it is not stopped when the run is told to end.
    at_once : int
        How many of its coroutines limits allow to run at the same time; 0 if there are no limits.
    """

    batch: int
    strips: tuple[Strip, ...]
    inputs: tuple[int, ...] = ()
    outside: tuple[Input, ...] = ()
    widths: dict[int, int] = field(default_factory=dict)
    attempts: dict[tuple[int, int], int] = field(default_factory=dict)
    limit: float = float("inf")
    failures: dict[tuple[int, int], Failure] = field(default_factory=dict)
    whole: bool = False
    links: Links | None = None
    slices: dict[tuple[int, int | str], list[tuple[int, Sequence[Any]]]] = field(default_factory=dict)
    cuts: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    constants: tuple[int, ...] = ()
    urgent: bool = False
    apart: bool = False
    at_once: int = 0


@dataclass(slots=True)
class Stop:
    """Stop these batches: nothing that they have not started shall start."""

    batches: tuple[int, ...]


@dataclass(slots=True)
class Deadline:
    """From this time on, what runs is to be interrupted; for an executor that runs it in the driver's own thread.

    Attributes
    ----------
    time : float
        When.
    strict : bool
        Whether that is so of batches, too, that run ``apart``.
    """

    time: float
    strict: bool = False


@dataclass(slots=True)
class Release:
    """Let go of the values of these batches: nothing that is to come needs them."""

    batches: tuple[int, ...]


@dataclass(slots=True)
class Wake:
    """Call ``handle`` again at this time, even if nothing happens."""

    time: float


Command = Dispatch | Stop | Deadline | Release | Wake
