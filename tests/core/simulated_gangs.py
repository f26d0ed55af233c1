"""Gangs on the virtual cluster: batches that send each other mail while they run.

Batches are executed ahead of time, one after the other, so one may ask for mail that its sender has not written yet.
Then its execution is thrown away, and made again from the beginning once there is more mail. What task runs do depends
on a seed alone, so it comes out the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.core.events import Dispatch
from headrace.core.state import State

LATENCY = 0.001


class Blocked(BaseException):
    """Mail is asked for that is not written yet."""


class Mail:
    """All mail of a run.

    Parameters
    ----------
    clock : object
        Its ``now`` is the time of the batch that is being executed.
    """

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.letters: dict[tuple[int, int], tuple[float, State, Any]] = {}  # by reader and node
        self.closed: dict[int, float] = {}
        self.silent: set[int] = set()  # batches that will never write again, without a word


class Post:
    """Mailbox and outbox of one batch, in one."""

    def __init__(self, mail: Mail, order: Dispatch) -> None:
        self.mail, self.order = mail, order
        self.waiting, self.flushed = False, 0.0
        self.wrote = False

    def has(self, node: int) -> bool:
        return (self.order.batch, node) in self.mail.letters

    def take(self, node: int, sender: int, deadline: float) -> tuple[State, Any] | None:
        clock = self.mail.clock
        letter = self.mail.letters.get((self.order.batch, node))
        if letter is None and sender not in self.mail.closed and sender not in self.mail.silent:
            raise Blocked
        if letter is not None:
            at = letter[0] + LATENCY
        else:
            at = self.mail.closed[sender] + LATENCY if sender in self.mail.closed else deadline
        clock.now = max(clock.now, min(at, deadline))
        return letter[1:] if letter is not None and at <= deadline else None

    def add(self, node: int, readers: tuple[int, ...], state: State, value: Any) -> None:
        for reader in readers:
            if (reader, node) not in self.mail.letters:
                self.wrote = True
                self.mail.letters[reader, node] = (self.mail.clock.now, state, value)

    def flush(self, *, closed: bool = False) -> None:
        if closed:
            self.mail.closed[self.order.batch] = self.mail.clock.now


class Meetings:
    """Gangs of which some batches have started and wait for the others."""

    def __init__(self) -> None:
        self._met: dict[tuple[int, ...], dict[int, tuple[Dispatch, float]]] = {}

    def join(self, order: Dispatch, now: float) -> None:
        """Note that a batch has started."""
        self._met.setdefault(gang_of(order), {})[order.batch] = (order, now)

    def present(self, gang: tuple[int, ...]) -> dict[int, tuple[Dispatch, float]]:
        """Return who has started and was not executed yet."""
        return self._met.get(gang, {})

    def execute(
        self, gang: tuple[int, ...], mail: Mail, execute: Callable[[Dispatch, float, Post], Any]
    ) -> list[tuple[Dispatch, Any]]:
        """Execute all that are present; those that are not will write nothing that these still see."""
        members = self._met.pop(gang)
        absent = {batch for batch in gang if batch not in members and batch not in mail.closed} - mail.silent
        mail.silent |= absent
        done: list[tuple[Dispatch, Any]] = []
        while members:
            progress = False
            for batch, (order, start) in list(members.items()):
                post = Post(mail, order)
                try:
                    outcome = execute(order, start, post)
                except Blocked:
                    progress = progress or post.wrote
                    continue
                progress = True
                if outcome[1] is None:  # killed
                    mail.silent.add(batch)
                del members[batch]
                done.append((order, outcome))
            assert progress, f"the batches {sorted(members)} of a gang wait for each other"
        mail.silent -= absent
        return done


def gang_of(order: Dispatch) -> tuple[int, ...]:
    """The batches of an order's gang."""
    assert order.links is not None
    return order.links.gang
