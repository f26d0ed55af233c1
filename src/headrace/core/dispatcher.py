"""The dispatcher: decides what leaves for the executor, in which batches, and when.

Each thread has one batch that runs and one that waits, so that it does not idle for a round trip. Batches of different
placements are counted apart, so that work for which there is a worker never waits behind work for which there is none.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from headrace.core import batching, gangs
from headrace.core.constants import constants_of, numbers_of
from headrace.core.costs import Costs
from headrace.core.cuts import cuts_of
from headrace.core.events import Command, Links, Progressed
from headrace.core.ledger import Ledger
from headrace.core.limits import Room
from headrace.core.noderun import NodeRun
from headrace.core.orders import write_order
from headrace.core.policy import ANYWHERE, Placement
from headrace.core.ready import Backlog, Queue, Ready, Work, merged
from headrace.core.recovery import Recovery
from headrace.core.slices import slices_of
from headrace.core.slots import EachSent
from headrace.core.state import State, move
from headrace.core.strips import Strip, count, cut, locate, runs

#: Batches per thread that are with the executor: one runs, one waits on the worker, so that no thread idles for a
#: round trip.
QUEUED = 2
#: How many gangs may fail to meet before no more are formed: the cluster is busy with other things.
MOST_STALLS = 3
#: Seconds that what is ready waits for the rest of a gang, when some of it is over: two round trips.
TOGETHER = 0.02


class Batch:
    """A dispatched batch.

    Attributes
    ----------
    strips : tuple of Strip
        What it executes.
    placement : Placement
        Where it may run.
    places : int
        How many places it takes under the limits of its placement; see ``core.limits``.
    replay : bool
        Whether it makes values anew; the states of its task runs are final.
    inputs : tuple of int
        Batches whose values it needs.
    stop : int
        Positions from here on came back.
    position : int
        How many task runs have started, as far as is known.
    learnt : int
        Positions whose durations the costs have seen.
    """

    __slots__ = ("inputs", "learnt", "placement", "places", "position", "replay", "stop", "strips")

    def __init__(self, strips: tuple[Strip, ...], placement: Placement, places: int, replay: bool) -> None:
        self.strips = strips
        self.placement = placement
        self.places = places
        self.replay = replay
        self.inputs: tuple[int, ...] = ()
        self.stop = count(strips)
        self.position = 0
        self.learnt = 0


class Dispatcher:
    """Makes batches of what is ready.

    Parameters
    ----------
    nodes : sequence of NodeRun
        The run.
    costs : Costs
        What is known of costs.
    ledger : Ledger
        Where values are.
    recovery : Recovery
        Who may not go with whom.
    threads : int
        How many threads the executor has.
    """

    def __init__(
        self, nodes: Sequence[NodeRun], costs: Costs, ledger: Ledger, recovery: Recovery, threads: int
    ) -> None:
        self.nodes = nodes
        self.costs = costs
        self.ledger = ledger
        self.recovery = recovery
        self.threads = threads
        self.gangs = True
        self.ready = Ready(nodes)
        self.batches: dict[int, Batch] = {}
        self.room = Room()
        self._next = 0
        self.constants: dict[int, tuple[int, ...]] | None = None  # by node: large ones that it takes
        self._sent: dict[int, list[EachSent]] = {}
        for run in nodes:
            self.add(run)
        self._gang: tuple[int, ...] = ()  # the batches of the latest; there is one at a time
        self._meeting: set[int] = set()  # those of them that are out
        self._stalls: set[tuple[int, ...]] = set()
        self._seats: dict[int, int] = {}  # of batches of gangs whose values are still there
        self._waiting_since: float | None = None
        self.wake: float | None = None  # when to fill again, even if nothing happens

    def add(self, run: NodeRun) -> None:
        """Note which lists of a node do not travel with the plan."""
        if run.spec.mapped and (sent := [slot for slot in run.spec.slots() if isinstance(slot, EachSent)]):
            self._sent[run.spec.index] = sent
        if self.constants is not None and (numbers := numbers_of(run.spec)):
            self.constants[run.spec.index] = numbers

    def offer(self, node: int, low: int, high: int) -> None:
        """Let a range wait for a thread."""
        move(self.nodes[node].states, low, high, State.READY)
        self.ready.add(node, low, high, alone=bool(self.recovery.suspects))

    def over(self, number: int) -> Batch | None:
        """Strike a batch off those that are out."""
        batch = self.batches.pop(number, None)
        if batch is not None:
            self.room.free(batch.placement, batch.places)
            self._meeting.discard(number)
            self.ledger.unclaim(batch.inputs)
        return batch

    def learn(self, batch: Batch, seconds: array[float], upto: int) -> None:
        """Take in durations of a batch that were not seen before.

        Parameters
        ----------
        batch : Batch
            Which.
        seconds : array of float
            Durations of its positions.
        upto : int
            How many of them are known.
        """
        totals: dict[int, list[float]] = {}
        position = batch.learnt
        for nodes, low, high in cut(batch.strips, batch.learnt, upto):
            end = position + len(nodes) * (high - low)
            for at, node in enumerate(nodes, position):
                entry = totals.setdefault(self.nodes[node].spec.task, [0.0, 0])
                entry[0] += seconds[at] if high - low == 1 else sum(seconds[at : end : len(nodes)])
                entry[1] += high - low
            position = end
        for task, (total, number) in totals.items():
            self.costs.learn(task, total, int(number))
        batch.learnt = max(batch.learnt, upto)

    def stalled(self, number: int) -> None:
        """Note that a batch put task runs off: one of a gang waited in vain for another."""
        if number in self._gang:
            self._stalls.add(self._gang)

    def clear(self) -> None:
        """Forget all batches, and what is ready."""
        self.batches.clear()
        self.room.clear()
        self._meeting.clear()
        self.ready.clear()

    def progressed(self, event: Progressed) -> None:
        """Take in how far a batch is."""
        batch = self.batches.get(event.batch)
        if batch is None:
            return
        batch.position = max(batch.position, event.position)
        if event.current and event.position:
            node, _ = locate(batch.strips, event.position - 1)
            self.costs.lasts(self.nodes[node].spec.task, event.current)

    def backlog(self) -> Backlog:
        """What is ready and not done: what waits, and what is out and has not finished."""
        totals = {
            placement: (queue.demand(self.costs, batching.GRAIN), queue.waiting)
            for placement, queue in self.ready.queues.items()
            if queue
        }
        for batch in self.batches.values():
            seconds, task_runs = totals.get(batch.placement, (0.0, 0))
            for nodes, low, high in cut(batch.strips, max(batch.position - 1, 0), batch.stop):
                tasks = (self.nodes[node].spec.task for node in nodes)
                seconds += sum(self.costs.demand(task, high - low, batching.GRAIN) for task in tasks)
                task_runs += high - low
            totals[batch.placement] = seconds, task_runs
        return merged(
            Work(placement.resources, seconds, min(task_runs, placement.takers))
            for placement, (seconds, task_runs) in totals.items()
        )

    def fill(self, now: float, *, finished: bool) -> list[Command]:
        """Dispatch what computes lost values again, and batches of what is ready while there is room for them."""
        self.wake = None
        if finished:
            return []
        return self._replay() + ([] if self._gang_is_ending(now) else self._fill())

    def _gang_is_ending(self, now: float) -> bool:
        """Whether to wait for the rest of a gang, of which some batches are over: together, all go into the next."""
        if not self._meeting or len(self._meeting) == len(self._gang):
            self._waiting_since = None
            return False
        if self._waiting_since is None:
            self._waiting_since = now
        until = self._waiting_since + TOGETHER
        if now < until:
            self.wake = until
        return now < until

    def _replay(self) -> list[Command]:
        if not self.ledger.lost:
            return []
        replays = self.ledger.replays(self.batches, self._sound(), self.costs, batching.GRAIN)
        commands: list[Command] = []
        for number, strips in enumerate(replays):
            placement = self.nodes[strips[0].nodes[0]].placement
            if self.room.left(placement) < 1:  # what comes after it may need its values
                self.ledger.lost.update(run for later in replays[number:] for run in runs(later))
                break
            commands.append(self._dispatch(tuple(strips), float("inf"), placement, replay=True))
        return commands

    def _sound(self) -> set[int]:
        """Batches that are out and will not be lost because what they need is lost already."""
        sound: set[int] = set()
        for number, batch in self.batches.items():  # each comes after those that it needs
            if all(needed in self.ledger.stored or needed in sound for needed in batch.inputs):
                sound.add(number)
        return sound

    def _fill(self) -> list[Command]:
        self.ready.arrange()
        if self.ledger.lost or self.ready.has_aside:
            self.ready.put_aside(self.ledger.can_be_served)
        commands: list[Command] = []
        rest = batching.short_rest(self.nodes, self.costs) if self.ready and not self.batches else 0.0
        for placement, queue in self.room.in_turn(self.ready.queues):
            if placement == ANYWHERE and (gang := self._form(queue)) is not None:
                queue.clear()
                commands += self._dispatch_gang(gang)
            while queue:
                left = self.room.left(placement)
                out = len(self.batches) if self.recovery.suspects else self.room.out[placement]
                if left < 1 or out >= self.recovery.room(self.threads, self.threads * QUEUED, queue.first[:2]):
                    break
                threads = min(self.threads, placement.most)
                idle = min(self.threads - out, left)
                if out and idle < 1 and self.costs.estimate(self.nodes[queue.first[0]].spec.task) is None:
                    break  # the first tries will soon tell what it costs
                grown = batching.grow(
                    queue, self.nodes, self.costs, idle, threads, self.recovery.suspects, self.ledger.heavy,
                    careful=bool(self.ledger.lost), least=rest,
                )  # fmt: skip
                commands.append(self._dispatch(tuple(grown[0]), grown[1], placement))
            if queue and placement.limits:
                self.room.reserve(placement)
        return commands

    def _form(self, queue: Queue) -> gangs.Gang | None:
        if not self.gangs or self.batches or self.threads < 2 or len(self._stalls) >= MOST_STALLS or not queue:
            return None
        if self.recovery.suspects or self.ledger.heavy or self.ledger.lost:
            return None  # who may be near whom is decided by other rules then
        return gangs.form(queue, self.nodes, self.costs, self.threads, self._seats)

    def _dispatch_gang(self, gang: gangs.Gang) -> list[Command]:
        numbers = tuple(range(self._next, self._next + len(gang.seats)))
        self._seats = {batch: seat for batch, seat in self._seats.items() if batch in self.ledger.stored}
        self._seats.update((number, seat) for seat, number in enumerate(numbers))
        self._gang = numbers if len(numbers) > 1 else ()
        self._meeting = set(self._gang)
        # A few task runs of half a span each, one after the other, may be expected to take longer than any gang should.
        expected = min(max(batching.GRAIN, gang.seconds), 1.5 * gangs.SPAN)
        limit = (batching.PATIENCE - 1) * batching.GRAIN + expected
        all_strips = [(Strip(tuple(seat), 0, 1),) for seat in gang.seats]
        for number, strips in zip(numbers, all_strips, strict=True):
            self._take(number, strips, ANYWHERE)
        orders: list[Command] = []
        for number, strips, out, into in zip(numbers, all_strips, gang.exports, gang.imports, strict=True):
            links = Links(
                numbers,
                {node: tuple(numbers[seat] for seat in sorted(seats)) for node, seats in out.items()},
                {node: numbers[seat] for node, seat in into.items()},
            )
            orders.append(self._order(number, strips, limit, links=links if self._gang else None))
        return orders

    def _dispatch(
        self, strips: tuple[Strip, ...], limit: float, placement: Placement, *, replay: bool = False
    ) -> Command:
        number = self._next
        self._take(number, strips, placement, replay=replay)
        return self._order(number, strips, limit, replay=replay)

    def _take(self, number: int, strips: tuple[Strip, ...], placement: Placement, *, replay: bool = False) -> None:
        """Make a batch the holder of its task runs."""
        self._next = number + 1
        places = self._places(strips, placement) if placement.limits else 1
        self.batches[number] = Batch(strips, placement, places, replay)
        self.room.take(placement, places)
        for nodes, low, high in strips:
            for node in nodes:
                run = self.nodes[node]
                if not replay:
                    move(run.states, low, high, State.RUNNING)
                    if run.teller is not None:
                        run.teller.dispatched(low, high, run.attempts)
                run.hold(low, high, number)
                if (outer := run.spec.stands_for) is not None:
                    self.nodes[outer[0]].holders[outer[1]] = number

    def _places(self, strips: tuple[Strip, ...], placement: Placement) -> int:
        """How many task runs of a batch with limits may run at the same time."""
        if not any(self.nodes[node].awaits for nodes, _, _ in strips for node in nodes):
            return 1
        return min(self.room.share(placement, self.threads), count(strips))

    def _order(
        self, number: int, strips: tuple[Strip, ...], limit: float, *, replay: bool = False, links: Links | None = None
    ) -> Command:
        order = write_order(self.nodes, number, strips, limit, replay, links)
        if self._sent:
            order.slices = slices_of(self._sent, strips)
        if self.ledger.heavy and links is None and self.batches[number].placement.is_free:
            order.cuts = cuts_of(self.nodes, strips, order.inputs, self.ledger.heavy)
        if self.constants is not None:
            order.constants = constants_of(self.constants, strips, order.slices)
        placement = self.batches[number].placement
        order.urgent, order.apart = bool(placement.limits) or placement.apart, placement.apart
        if placement.limits:
            order.at_once = self.batches[number].places
        self.batches[number].inputs = order.inputs
        self.ledger.claim(order.inputs)
        return order
