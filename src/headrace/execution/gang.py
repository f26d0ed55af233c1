"""Executing a batch of a gang: like any other, but some inputs come by mail, and some values go by mail at once."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from headrace.core.state import State
from headrace.core.strips import count
from headrace.execution.batch import LARGE, Execution
from headrace.execution.loaded import LoadedNode
from headrace.execution.mail import Mailbox, Outbox

#: Seconds that a letter may wait for others to be sent with. Sending costs some 0.1 ms.
TOGETHER = 0.003


class GangExecution(Execution):
    """One execution of one batch of a gang.

    Parameters
    ----------
    *args, **kwargs
        As for ``Execution``.
    mailbox : Mailbox
        Where the mail of others arrives.
    outbox : Outbox
        Takes what others wait for.
    """

    def __init__(self, *args: Any, mailbox: Mailbox, outbox: Outbox, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        links = self.order.links
        assert links is not None
        self.mailbox = mailbox
        self.outbox = outbox
        self.exports = links.exports
        self.awaited = dict(links.imports)
        self.watchful = True

    @property
    def complete(self) -> bool:
        """Whether all of it was executed, so that nobody waits for anything that will not come."""
        return self.control.position == count(self.order.strips)

    def _may_run(self, number: int, node: LoadedNode, child: int) -> bool:
        if self.outbox.waiting and (number not in self.exports or perf_counter() - self.outbox.flushed > TOGETHER):
            self.outbox.flush()
        for source in node.sources if self.awaited else ():
            if source in self.awaited and not self._receive(source):
                self._note(number, child, State.PENDING)
                self._export(number, child)
                with self.control.lock:
                    self.control.stop = self.control.position
                return False
        if not (self.odd or node.picky or self.refused):
            return True
        runs = super()._may_run(number, node, child)
        if not runs:
            self._export(number, child)
        return runs

    def _receive(self, node: int) -> bool:
        """Wait for the value of a node of another batch."""
        if self.outbox.waiting and not self.mailbox.has(node):
            self.outbox.flush()  # the one who is waited for may be waiting, too
        letter = self.mailbox.take(node, self.awaited[node], self.control.began + self.control.limit)
        if letter is None or not letter[0].is_final:
            return False
        del self.awaited[node]
        state, self.values.setdefault(node, {})[0] = letter
        if not state.is_good:
            self.odd[node, 0] = state
        return True

    def _weigh(self, number: int, child: int, mine: dict[int, Any]) -> None:
        super()._weigh(number, child, mine)
        self._export(number, child)

    def _export(self, number: int, child: int) -> None:
        """Mail what has ended, if it is small enough to go beside Dask; else mail that it will not come."""
        readers = self.exports.get(number)
        if not readers:
            return
        state = self.odd.get((number, child), State.SUCCESS)
        if state.is_final and self.bulk.sizes.get((number, child), 0) <= LARGE:
            self.outbox.add(number, readers, state, self.values[number].get(child))
        else:
            self.outbox.add(number, readers, State.PENDING, None)
