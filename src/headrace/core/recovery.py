"""Recovery: what to make of batches that were lost, until the one task run that is at fault is found.

A batch that dies with its worker puts all its task runs under suspicion. Suspects go out again in smaller batches,
and while there are any, none waits behind another, where it would die too. A task run that was there at two deaths
goes out with nothing else: a third death is its own.

Unless workers die whatever they do, because their pods are evicted, or somebody kills them. The sign of it is a task
run that was alone in its batch when the worker died, and succeeded later: an innocent that looked like the one at
fault. Each of these is worth one more attempt for all others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from headrace.core.events import Ended, Loss
from headrace.core.noderun import NodeRun
from headrace.core.state import State
from headrace.core.strips import Strip, cut, locate, runs

#: Into how many parts a batch is split that killed its worker. A worker takes seconds to replace, while a small batch
#: costs milliseconds: so split finely.
SPLIT = 64
#: A task run that was alone in a batch, and at this many deaths of a worker, crashed them.
MOST_DEATHS = 3
#: How often in a row, with no report in between, a batch may be dropped by the cluster before the run gives up. What
#: many batches need may be lost at once, and all are dropped then: so each counts by itself.
MOST_DROPS = 100

TaskRun = tuple[int, int]  # node, child


class Recovery:
    """Who was where when a worker died."""

    def __init__(self) -> None:
        self.suspects: dict[TaskRun, int] = {}  # with the largest batch that they may be in
        self._troubles: Counter[TaskRun] = Counter()
        self._drops: Counter[TaskRun] = Counter()  # by the first task run of a batch
        self._alone: set[TaskRun] = set()  # that were, at a death
        self._acquitted = 0  # of those, which succeeded later

    def heard(self) -> None:
        """Note that a batch reported, so the cluster works."""
        self._drops.clear()

    def hopeless(self, loss: Loss, whole: Sequence[TaskRun]) -> bool:
        """Note a loss, and say whether dispatching its task runs again makes no sense.

        Parameters
        ----------
        loss : Loss
            Why.
        whole : sequence of (node, child)
            All that was in the batch; something was.
        """
        if loss is Loss.DROPPED:
            self._drops.update(whole[:1])
            return self._drops[whole[0]] > MOST_DROPS
        if loss is Loss.BROKEN:
            return True
        self._troubles.update(whole)
        if len(whole) > 1:
            return False
        guilty = self._troubles[whole[0]] >= MOST_DEATHS + self._acquitted
        (self._alone.difference_update if guilty else self._alone.update)(whole)
        return guilty

    def suspect(self, whole: Sequence[TaskRun]) -> None:
        """Let task runs go out in smaller batches from now on."""
        self.suspects.update(dict.fromkeys(whole, max(1, len(whole) // SPLIT)))

    def cleared(self, node: int, low: int, high: int) -> None:
        """Note that task runs are final. If their values are lost later, what was held against them counts no more."""
        for child in range(low, high):
            if self.suspects.pop((node, child), None) is None:
                continue
            del self._troubles[node, child]
            if (node, child) in self._alone:
                self._alone.discard((node, child))
                self._acquitted += 1

    def room(self, threads: int, most: int, head: TaskRun) -> int:
        """How many batches may be out when this task run is the next to go."""
        if not self.suspects:
            return most
        return 1 if self._troubles[head] >= MOST_DEATHS - 1 else threads

    def differs(self, nodes: Sequence[NodeRun], strips: Iterable[Strip], event: Ended) -> tuple[list[TaskRun], str]:
        """Compare values that were made anew with the first time.

        Parameters
        ----------
        nodes : sequence of NodeRun
            The run, with how its task runs ended the first time.
        strips : iterable of Strip
            What was to be executed.
        event : Ended
            How it went.

        Returns
        -------
        again : list of (node, child)
            To be executed once more.
        problem : str
            Why that makes no sense for the last of them; empty if it does.
        """
        strips = list(strips)
        odd = {locate(strips, entry.position): entry for entry in event.exceptional}
        again: list[TaskRun] = []
        for run in runs(cut(strips, 0, event.stop)):
            entry = odd.get(run)
            if entry is None or entry.state.is_good:
                del self._troubles[run]
                continue
            again.append(run)
            if entry.state in (State.PENDING, State.RETRYING):
                continue
            self._troubles[run] += 1
            if self._troubles[run] >= MOST_DEATHS:
                return again, (
                    f"the value of {nodes[run[0]].spec.name}[{run[1]}] was lost with the worker that held it, and it "
                    f"could not be computed again: the task ended as {entry.state}, {entry.failure}"
                )
        return again, ""
