"""Moves of task runs that somebody wants to be told of.

Told are the moves to RUNNING, to RETRYING and to each final state; what a hand-back or a lost worker undoes is told
again only when it ends otherwise. So what is told of a task run is always a chain: RUNNING, then any number of
RETRYING and RUNNING, then one final state. Nodes of which nobody wants to hear have no ``Teller``, and cost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from headrace.core.events import Exceptional, Failure
from headrace.core.state import State


class Move(NamedTuple):
    """Task runs of one node that moved together.

    Attributes
    ----------
    node : int
        The node's number in the plan; hidden nodes have numbers, too.
    name : str
        The node's name.
    low, high : int
        Which of its task runs.
    old, new : State
        As it was told before, and now; PENDING if nothing was told before.
    attempts : int
        How many attempts each of them has made.
    seconds : sequence of float
        Of a final state: each one's seconds in the task's function.
    failure : Failure or None
        Why the last attempt failed.
    """

    node: int
    name: str
    low: int
    high: int
    old: State
    new: State
    attempts: int = 0
    seconds: Sequence[float] = ()
    failure: Failure | None = None


class Teller:
    """Tells the moves of one node's task runs.

    Parameters
    ----------
    node : int
        The node.
    name : str
        Its name.
    moves : list of Move
        Where they are told; whoever asked for them takes them out.
    """

    __slots__ = ("moves", "name", "node", "told")

    def __init__(self, node: int, name: str, moves: list[Move]) -> None:
        self.node = node
        self.name = name
        self.moves = moves
        self.told = bytearray()  # the state that was told last

    def tell(
        self,
        low: int,
        high: int,
        new: State,
        attempts: int = 0,
        seconds: Sequence[float] = (),
        failure: Failure | None = None,
    ) -> None:
        """Tell that ``[low, high)`` moved; the same state again is no news."""
        told = self.told
        told.extend(bytes(max(0, high - len(told))))
        while low < high:
            old = told[low]
            end = low + 1
            while end < high and told[end] == old:
                end += 1
            if old != new:
                told[low:end] = bytes((new,)) * (end - low)
                who = self.node, self.name, low, end
                self.moves.append(Move(*who, State(old), new, attempts, seconds[: end - low], failure))
            seconds = seconds[end - low :]
            low = end

    def dispatched(self, low: int, high: int, behind: Mapping[int, int]) -> None:
        """Tell that ``[low, high)`` is running; ``behind`` holds the attempts that children have made."""
        if not behind:
            self.tell(low, high, State.RUNNING)
            return
        for child in range(low, high):
            self.tell(child, child + 1, State.RUNNING, behind.get(child, 0))

    def attempted(self, child: int, before: int, entry: Exceptional) -> None:
        """Tell of the attempts that a batch made one after the other, all but how the last one ended.

        Parameters
        ----------
        child : int
            Of which task run.
        before : int
            How many attempts it had behind it.
        entry : Exceptional
            What the batch reports.
        """
        for attempts in range(before + 1, entry.attempts):
            self.tell(child, child + 1, State.RETRYING, attempts)
            self.tell(child, child + 1, State.RUNNING, attempts)
        if entry.state is State.RETRYING:
            self.tell(child, child + 1, State.RETRYING, entry.attempts, failure=entry.failure)
