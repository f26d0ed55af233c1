"""The ledger: which batch holds which values, who still needs them, and what to compute again when they are lost.

A batch's values are *owed* to the consumers that are not final yet. When nothing is owed any more, they are released,
so memory holds what is needed and no more. Values that the flow returns are owed for ever.

When a worker dies, the values that it held alone vanish. Those that are still owed are computed again: the task runs
keep their final states, and only their values are made anew, in *replay* batches, together with whatever of their
own inputs was released or lost before. Dask could do that by itself, but it would run whole batches again, with task
runs that were given back and ran elsewhere, and it knows nothing of what is still needed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence

from headrace.core.costs import Costs
from headrace.core.noderun import NO_BATCH, NodeRun
from headrace.core.plan import Edge, EdgeKind, edge_children
from headrace.core.policy import ANYWHERE
from headrace.core.state import GOOD
from headrace.core.strips import Strip


class _Stored:
    """An ended batch whose values are held."""

    __slots__ = ("kept", "owed", "strips")

    def __init__(self, strips: list[Strip]) -> None:
        self.strips = strips
        self.owed = 0
        self.kept = False  # holds something that the flow returns


class Ledger:
    """Where the values of a run are.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    """

    def __init__(self, nodes: Sequence[NodeRun]) -> None:
        self.nodes = nodes
        self.stored: dict[int, _Stored] = {}
        self.heavy: set[int] = set()  # those of them whose values are expensive to move
        self.released: list[int] = []
        self._claims: Counter[int] = Counter()
        self.lost: set[tuple[int, int]] = set()
        #: by task run that went on as a flow: the node that makes its value
        self.makers: dict[tuple[int, int], int] = {}
        self._ending = False

    def store(self, batch: int, strips: Iterable[Strip], heavy: bool = False) -> None:
        """Note that a batch ended and holds the values of these strips.

        Parameters
        ----------
        batch : int
            Its number; the holders of the task runs name it already.
        strips : iterable of Strip
            What it executed. The states of its task runs are final.
        heavy : bool
            Whether its values are expensive to move.
        """
        stored = self.stored[batch] = _Stored(list(strips))
        if heavy:
            self.heavy.add(batch)
        seen: set[tuple[int, int]] = set()
        for nodes, low, high in stored.strips:
            for node in nodes:
                self._note_owed(batch, stored, node, low, high, seen)
                if (outer := self.nodes[node].spec.stands_for) is not None:
                    self._note_owed(batch, stored, outer[0], outer[1], outer[1] + 1, seen)
        self._release_if_free(batch)

    def _note_owed(
        self, batch: int, stored: _Stored, node: int, low: int, high: int, seen: set[tuple[int, int]]
    ) -> None:
        """Count who takes values of a range that a batch holds."""
        spec = self.nodes[node].spec
        stored.kept = stored.kept or spec.returned
        for edge in spec.outputs:
            if not edge.data:
                continue
            target = self.nodes[edge.target]
            if edge.kind is EdgeKind.CHILD:
                stored.owed += self._children_owed(batch, node, target, low, high)
            elif edge.kind is EdgeKind.ITEM:
                held = low <= edge.item < high and self.nodes[node].holders[edge.item] == batch
                stored.owed += held and not target.finished
            elif (
                not target.finished and (node, edge.target) not in seen and batch in self.nodes[node].holders[low:high]
            ):
                seen.add((node, edge.target))
                stored.owed += 1

    def owe(self, edge: Edge) -> None:
        """Note that a new node takes values of one that was there before."""
        holders = self.nodes[edge.source].holders
        if edge.data:
            for batch in {holders[edge.item]} if edge.kind is EdgeKind.ITEM else set(holders):
                if (stored := self.stored.get(batch)) is not None:
                    stored.owed += 1

    def claim(self, inputs: Iterable[int]) -> None:
        """Note that a batch was dispatched that needs the values of these batches."""
        self._claims.update(inputs)

    def unclaim(self, inputs: Iterable[int]) -> None:
        """Note that it is over."""
        for batch in inputs:
            self._claims[batch] -= 1
            if not self._claims[batch]:
                del self._claims[batch]
                self._release_if_free(batch)

    def _children_owed(self, batch: int, node: int, target: NodeRun, low: int, high: int) -> int:
        """How many children of a target wait for values of a range that this batch really holds."""
        if target.widthless:
            return 0
        holders = self.nodes[node].holders
        if holders[low:high].count(batch) == high - low:
            return target.unfinished_in(low, high)
        return sum(holders[child] == batch and target.unfinished_in(child, child + 1) for child in range(low, high))

    def narrowed(self, node: int) -> None:
        """Note that a node got its width, so the children of wider sources beyond that have no taker."""
        run = self.nodes[node]
        for edge in run.spec.inputs:
            if edge.data and edge.kind is EdgeKind.CHILD:
                for batch, number in Counter(self.nodes[edge.source].holders[run.width :]).items():
                    self._pay(batch, number)

    def settled(self, node: int, low: int, high: int, finished: bool) -> None:
        """Note that task runs became final, so they need no values any more.

        Parameters
        ----------
        node, low, high : int
            Which.
        finished : bool
            Whether the whole node is finished by that.
        """
        run = self.nodes[node]
        for edge in run.spec.inputs:
            if not edge.data:
                continue
            holders = self.nodes[edge.source].holders
            if edge.kind is EdgeKind.CHILD:
                # A node that never got a width takes no child's value.
                for batch, number in Counter(holders if run.widthless else holders[low:high]).items():
                    self._pay(batch, number)
            elif finished and edge.kind is EdgeKind.ITEM:
                if edge.item < len(holders):
                    self._pay(holders[edge.item], 1)
            elif finished:
                for batch in set(holders) if len(holders) > 1 else holders:
                    self._pay(batch, 1)

    def _pay(self, batch: int, number: int) -> None:
        stored = self.stored.get(batch)
        if stored is not None:
            stored.owed -= number
            self._release_if_free(batch)

    def _release_if_free(self, batch: int) -> None:
        stored = self.stored.get(batch)
        if stored is not None and stored.owed <= 0 and not stored.kept and batch not in self._claims:
            del self.stored[batch]
            self.heavy.discard(batch)
            self.released.append(batch)

    def vanish(self, batch: int) -> None:
        """Note that the values of an ended batch are gone; those still owed are to be computed again."""
        stored = self.stored.pop(batch, None)
        if stored is None:
            return
        self.heavy.discard(batch)
        for nodes, low, high in stored.strips:
            for node in nodes:
                run = self.nodes[node]
                for child in range(low, high):
                    if run.holders[child] == batch:
                        self.lose(node, child)

    def lose(self, node: int, child: int) -> None:
        """Note that one value is gone."""
        node, child = self._maker(node, child)
        run = self.nodes[node]
        if run.states[child] not in GOOD:
            run.holders[child] = NO_BATCH  # an exception or a stand-in, which is made again where it is needed
        elif self._needed(node, child):
            self.lost.add((node, child))

    def narrow(self) -> None:
        """The run is ending early: of what was lost, only what somebody will still take is needed."""
        self._ending = True
        self.lost = {key for key in self.lost if self._needed(*key)}

    def can_be_served(self, node: int, child: int) -> bool:
        """Whether no value that a task run takes is lost."""
        return self.lost.isdisjoint(self._taken(node, child))

    def _taken(self, node: int, child: int) -> Iterator[tuple[int, int]]:
        """Whose values a task run takes."""
        for edge in self.nodes[node].spec.inputs:
            if edge.data:
                for index in edge_children(edge, child, len(self.nodes[edge.source].states)):
                    yield self._maker(edge.source, index)

    def _maker(self, node: int, child: int) -> tuple[int, int]:
        """Which task run makes a task run's value: itself, or one of the flow that it went on as."""
        maker = self.makers.get((node, child)) if self.makers else None
        return (node, child) if maker is None else (maker, 0)

    def _needed(self, node: int, child: int) -> bool:
        spec = self.nodes[node].spec
        if spec.returned and not self._ending:
            return True
        if spec.stands_for is not None and self._needed(*spec.stands_for):
            return True
        for edge in spec.outputs:
            target = self.nodes[edge.target]
            by_child = edge.kind is EdgeKind.CHILD and not target.widthless
            done = not target.unfinished_in(child, child + 1) if by_child else target.finished
            if edge.data and not done and (edge.kind is not EdgeKind.ITEM or edge.item == child):
                return True
        return False

    def replays(self, live: Container[int], sound: Container[int], costs: Costs, grain: float) -> list[list[Strip]]:
        """Return batches that compute again what was lost, with all that they need.

        What needs a value of a task run that is itself to run again, or of a batch that will be lost, stays lost until
        these are over.

        Parameters
        ----------
        live : container of int
            Batches that are with the executor.
        sound : container of int
            Those of them that have, or will have, what they need.
        costs : Costs
            What is known of costs.
        grain : float
            Expected seconds of a batch.

        Returns
        -------
        list of list of Strip
            In an order in which each comes after those that it needs.
        """
        wanted, todo = set(self.lost), list(self.lost)
        early: set[tuple[int, int]] = set()  # what cannot be computed yet
        while todo:
            node, child = todo.pop()
            for key in self._taken(node, child):
                source, index = self.nodes[key[0]], key[1]
                held = source.holders[index]
                if not source.all_final(index, index + 1) or (held in live and held not in sound):
                    early.add((node, child))
                elif held == NO_BATCH or held in self.stored or held in sound:
                    continue
                elif source.states[index] not in GOOD:
                    source.holders[index] = NO_BATCH  # as in `lose`
                else:
                    if key not in wanted:
                        wanted.add(key)
                        todo.append(key)
                    if source.spec.stands_for is not None:  # known under the other's number when its batch is over
                        early.add((node, child))
        found = self._without(early, wanted) if early else sorted(wanted)
        self.lost.difference_update(found)
        return _chunks(found, self.nodes, costs, grain)

    def _without(self, early: set[tuple[int, int]], wanted: set[tuple[int, int]]) -> list[tuple[int, int]]:
        """Return what is wanted and can be computed, because it needs nothing of what cannot."""
        found = []
        for node, child in sorted(wanted):
            if (node, child) in early or not early.isdisjoint(self._taken(node, child)):
                early.add((node, child))
            else:
                found.append((node, child))
        return found


def _chunks(wanted: list[tuple[int, int]], nodes: Sequence[NodeRun], costs: Costs, grain: float) -> list[list[Strip]]:
    """Cut task runs into batches of about a grain; values only flow from lower to higher numbers of nodes."""
    found: list[list[Strip]] = []
    room, placement = 0.0, ANYWHERE
    for node, child in wanted:
        cost = costs.estimate(nodes[node].spec.task) or 0.0
        if not found or room < cost or placement != nodes[node].placement:
            found.append([])
            room, placement = grain, nodes[node].placement
        room -= cost
        strips = found[-1]
        if strips and strips[-1].nodes == (node,) and strips[-1].high == child:
            strips[-1] = Strip((node,), strips[-1].low, child + 1)
        else:
            strips.append(Strip((node,), child, child + 1))
    return found
