"""A small virtual cluster: it drives the real machine and the real execution loop on a virtual clock.

Durations, failures, skips and killers are fixed per task run by a seed, so that what a run must come to does not
depend on how it was executed. Latency, the order of events, repeated events, lost workers and hand-backs are drawn
anew for each run.
"""

from __future__ import annotations

import heapq
import pickle
import random
import zlib
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from headrace.core.bound import Bound
from headrace.core.events import (
    CancelRequested,
    Command,
    Dispatch,
    Ended,
    Event,
    Failure,
    HandedBack,
    Loss,
    Lost,
    Progressed,
    Release,
    Resized,
    Stop,
    Vanished,
    Wake,
)
from headrace.core.graph import Graph, GraphDrawing
from headrace.core.loops import Loop
from headrace.core.machine import RunMachine
from headrace.core.plan import Plan
from headrace.core.planning import make_plan
from headrace.core.state import State
from headrace.core.strips import count, cut, locate, runs
from headrace.execution import batch as batch_module
from headrace.execution import gang as gang_module
from headrace.execution import interrupt as interrupt_module
from headrace.execution.batch import Control, Execution
from headrace.execution.dynamic import Packer, Unpacker, joined
from headrace.execution.gang import GangExecution
from headrace.execution.loaded import LoadedNode, LoadedPlan
from headrace.execution.values import Values, add_values
from headrace.execution.watchdog import LOOK
from tests.core.drawn import NodePlan, draw_graph, draw_nodes, plain
from tests.core.reference import Kill, Skip
from tests.core.simulated_gangs import Blocked, Mail, Meetings, Post

KILLED = Failure("distributed.scheduler.KilledWorker", "the worker died")
DROPPED = Failure("headrace.errors.ClusterLost", "the cluster dropped it")


@dataclass(frozen=True)
class World:
    """What each task run does; a pure function of a seed, and of rates in per mille."""

    seed: int = 0
    failing: int = 0
    flaky: int = 0
    skipping: int = 0
    killing: int = 0
    large: int = 0
    slow: float = 1e-3
    expanding: int = 0
    flows: tuple[tuple[NodePlan, ...], ...] = ()

    def draw(self, *key: Any) -> int:
        """A number from 0 to 999 that depends on the key alone."""
        return zlib.crc32(repr((self.seed, key)).encode()) % 1000

    def seconds(self, node: int | str, child: int) -> float:
        scale = (1e-5, 1e-3, 2e-2, 3e-1, 3.0)[self.draw("scale", node) % 5]
        return min(scale, self.slow) * (0.5 + self.draw("seconds", node, child) / 1000)

    def call(
        self, lists: set[Any], node: int | str, child: int, attempt: int, args: tuple[Any, ...], label: str
    ) -> Any:
        """What a task run does; a graph, if it goes on as a flow."""
        if self.draw("kill", node, child) < self.killing:
            raise Kill
        if self.draw("skip", node, child) < self.skipping:
            raise Skip
        if self.draw("fail", node, child) < self.failing:
            raise ValueError(f"{node} {child}")
        if self.draw("flaky", node, child) < self.flaky and attempt <= 1 + self.draw("times", node, child) % 2:
            raise OSError(f"{node} {child} at attempt {attempt}")
        itself = label.rpartition("/")[2][0] in "sc"  # sets up, or cleans up
        if not itself and self.draw("expand", node, child) < self.expanding and label.count("/") < 2:
            return self._flow(lists, label, self.flows[self.draw("flow", node, child) % len(self.flows)])
        value = self.draw("value", node, child, plain(args))
        return [value + more for more in range(value % 4)] if node in lists else value

    def _flow(self, lists: set[Any], label: str, nodes: tuple[NodePlan, ...]) -> Graph:
        drawing = GraphDrawing()
        with drawing.active():
            made, own = draw_nodes(nodes, drawing, shared=False)
            result = made[-1] if len(made) % 2 else [made[-1], (made[0][0], made[0])]
        lists.update(f"{label}/{made[index].name}" for index in own)
        return drawing.finish(label, result)

    def size_of(self, value: Any) -> int:
        return (1 << 21) if self.draw("large", plain(value)) < self.large else 32


class _Clock:
    now = 0.0


CLOCK = _Clock()


@contextmanager
def virtual_clock() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in (batch_module, gang_module, interrupt_module):
            patch.setattr(module, "perf_counter", lambda: CLOCK.now)
        yield


class _Lock:
    """Stands where a batch's lock is: a claim of a position is the moment to see whether the watchdog came by."""

    def __init__(self, on_claim: Any) -> None:
        self.on_claim = on_claim

    def __enter__(self) -> None:
        self.on_claim()

    def __exit__(self, *exc: object) -> None:
        pass


class Simulated(Execution):
    """The real loop; the world stands in for the tasks' functions, and may skip."""

    cluster: Cluster

    @property
    def calls(self) -> dict[tuple[int, int], int]:
        return self.__dict__.setdefault("_calls", {})

    def call(self, *args: Any) -> Any:
        node, child = locate(self.order.strips, self.control.position - 1)
        calls = self.calls[node, child] = self.calls.get((node, child), 0) + 1
        attempt = self.order.attempts.get((node, child), 0) + calls
        began = CLOCK.now
        spec = self.cluster.plan.nodes[node]
        key = spec.name if node >= len(self.cluster.loaded.plan.nodes) else node
        label = f"{spec.name}[{child}]" if spec.mapped else spec.name
        CLOCK.now += self.cluster.world.seconds(key, child)
        self.cluster.spans[node, child] = self.order.batch, began, CLOCK.now
        self.cluster.history.append((node, began, CLOCK.now))
        value = self.cluster.world.call(self.cluster.lists, key, child, attempt, args, label)
        if isinstance(value, Graph):
            return Bound(None, {}, value)
        return value

    def _attempted(self, number: int, node: LoadedNode, child: int, error: BaseException | None) -> None:
        if isinstance(error, Skip):
            self._note(number, child, State.SKIPPED)
            self.values[number][child] = None
        else:
            super()._attempted(number, node, child, error)


class SimulatedGangExecution(Simulated, GangExecution):
    """A batch of a gang."""


class Cluster:
    """Threads that execute batches, and messages that take their time.

    Parameters
    ----------
    graph : Graph
        What to run.
    lists : set of int
        Nodes whose task runs return lists.
    world : World
        What task runs do.
    seed : int
        Of everything that is not the world.
    threads : int
        How many batches execute at once.
    trouble : bool
        Whether workers die, and messages are repeated, late and out of order.
    cancels : sequence of float
        When to ask for the end.
    timeout : float, optional
        Of the run.
    """

    def __init__(
        self,
        graph: Graph,
        lists: set[int],
        world: World,
        *,
        seed: int = 0,
        threads: int = 2,
        trouble: bool = False,
        cancels: Sequence[float] = (),
        timeout: float | None = None,
    ) -> None:
        self.graph = graph
        self.plan: Plan = make_plan(graph)
        self.loaded = LoadedPlan(pickle.loads(pickle.dumps(self.plan)))  # as workers hold it
        for index in range(len(self.plan.nodes)):
            if not isinstance(self.loaded[index].function, Loop):
                self.loaded[index].function = self._call
        self.lists, self.world, self.trouble = lists, world, trouble
        self.random = random.Random(seed)
        self.threads = self.free = self.capacity = threads
        self.busy: set[int] = set()  # batches that have a thread
        self.spans: dict[tuple[int, int], tuple[int, float, float]] = {}  # in which batch, from when until when
        self.history: list[tuple[int, float, float]] = []  # node, from when until when, each time that it ran
        self.told: dict[int, float] = {}  # when the machine heard of a batch's end
        self.idle: list[list[float]] = []  # from when until when a thread had nothing to do
        self.packer, self.unpacker = Packer(self.plan), Unpacker()
        self.machine = RunMachine(self.plan, threads, timeout=timeout)
        self.now = 0.0
        self.queue: deque[Dispatch] = deque()
        self.arrivals: list[
            tuple[float, int, Event | tuple[int, ...] | None, int | None]
        ] = []  # a tuple: see _execute_gang
        self.sequence = 0
        self.stored: dict[int, Values] = {}  # all values that were ever made
        self.held: dict[int, Values] = {}  # those that the cluster still has
        self.ended: set[int] = set()
        self.vanished = self.replayed = self.replaced = 0
        self.orders: dict[int, Dispatch] = {}
        self.live: dict[tuple[int, int], int] = {}
        self.recording: list[tuple[float, list[Event]]] = []
        self.answers: list[list[Command]] = []
        self.wake: float | None = None
        self.running: Simulated | None = None
        self.mail, self.meetings = Mail(CLOCK), Meetings()
        self.taken: dict[int, Values] = {}
        self.gangs = 0
        for at in cancels:
            self._arrive(at, CancelRequested())

    def _call(self, *args: Any) -> Any:
        assert self.running is not None
        return self.running.call(*args)

    # -- time ----------------------------------------------------------------------------------------------------

    def run(self) -> RunMachine:
        """Drive the machine to its end."""
        with virtual_clock():
            self._obey(self.machine.start(0.0))
            while not self.machine.finished:
                assert self.arrivals or self.wake is not None, "stalled: nothing runs, nothing is due"
                self._step()
        return self.machine

    def _step(self) -> None:
        at = min([arrival[0] for arrival in self.arrivals[:1]] + ([self.wake] if self.wake is not None else []))
        self.now = max(self.now, at)
        window = self.random.choice((0.0, 0.01))
        events: list[Event] = []
        while self.arrivals and self.arrivals[0][0] <= self.now + window:
            at, _, event, freed = heapq.heappop(self.arrivals)
            self.now = max(self.now, at)
            if freed in self.busy:
                self.busy.discard(freed)
                self.free += 1
            if isinstance(event, tuple):
                self._execute_gang(event)
            elif event is not None:
                self._note(event)
                events.append(event)
        self._lose_values()
        self._lose_all()
        self._start_batches()
        if self.idle and len(self.idle[-1]) == 1:
            self.idle[-1].append(self.now)
        self.unpacker.unpack(events, lambda tasks: None)
        self.recording.append((self.now, events))
        self._obey(self.machine.handle(self.now, events))
        if self.free > 0 and self.idle and self.idle[-1][1:] == [self.now]:
            self.idle[-1].pop()
        elif self.free > 0:
            self.idle.append([self.now])

    def _lose_values(self) -> None:
        """Now and then, a worker dies that alone held the values of a batch."""
        if self.trouble and self.ended and self.vanished < 20 and self.random.random() < 0.1:
            gone = self.random.choice(sorted(self.ended))
            self.ended.discard(gone)
            del self.held[gone]
            self.vanished += 1
            self._arrive(self.now + 0.001, Vanished(gone))  # an executor tells this before what follows from it

    def _lose_all(self) -> None:
        """Now and then, the scheduler is replaced, and all is gone; what has ended may have been reported just then."""
        if not self.trouble or self.replaced == 3 or self.random.random() > 0.02:
            return
        self.replaced += 1
        lost = set(self.live.values())
        self.queue.clear()
        self.busy.clear()
        self.free = self.capacity
        self.meetings = Meetings()
        self.mail.silent.update(lost)
        self.history = [(node, began, min(end, self.now)) for node, began, end in self.history if began < self.now]
        for batch in lost:
            self._arrive(self.now + 0.001, Lost(batch, Loss.DROPPED, DROPPED))
        for batch in (*lost, *self.ended):
            self._arrive(self.now + 0.001, Vanished(batch))
        self.held.clear()
        self.ended.clear()

    def _arrive(self, at: float, event: Event | tuple[int, ...] | None, freed: int | None = None) -> None:
        self.sequence += 1
        heapq.heappush(self.arrivals, (at, self.sequence, event, freed))

    def _latency(self) -> float:
        return self.random.choice((0.001, 0.005, 0.3)) if self.trouble else 0.001

    def _note(self, event: Event) -> None:
        """Keep the book of live dispatches, as the machine comes to know of their ends."""
        if isinstance(event, HandedBack):
            gone = set(runs(cut(self.orders[event.batch].strips, event.stop, 1 << 30)))
            self.live = {run: batch for run, batch in self.live.items() if batch != event.batch or run not in gone}
        elif isinstance(event, (Ended, Lost)):
            self.told.setdefault(event.batch, self.now)
            if isinstance(event, Ended) and event.batch in self.held:
                self.ended.add(event.batch)
            self.live = {run: batch for run, batch in self.live.items() if batch != event.batch}

    # -- orders --------------------------------------------------------------------------------------------------

    def _obey(self, commands: list[Command]) -> None:
        self.answers.append(commands)
        self.wake = None
        for command in commands:
            match command:
                case Dispatch(batch, strips):
                    assert batch not in self.orders, "a batch number was used twice"
                    for run in runs(strips):
                        assert run not in self.live, f"{run} is in batch {batch} and still live in {self.live[run]}"
                        self.live[run] = batch
                    self.orders[batch] = command
                    (self.queue.appendleft if command.urgent else self.queue.append)(command)
                case Stop(batches):
                    for order in [order for order in self.queue if order.batch in batches]:
                        self.queue.remove(order)
                        self._arrive(self.now + self._latency(), Ended(order.batch, 0, array("f")))
                    self.live = {run: batch for run, batch in self.live.items() if batch not in batches}
                    for batch in batches:  # what runs is interrupted, or loses its thread after a while
                        self._arrive(self.now + self.random.choice((0.001, 1.0)), None, freed=batch)
                case Release(batches):
                    for batch in batches:
                        self.held.pop(batch, None)
                        self.ended.discard(batch)
                case Wake(time):
                    self.wake = time
        self._start_batches()

    def _start_batches(self) -> None:
        while self.free > 0 and self.queue:
            self.free -= 1
            self.busy.add(self.queue[0].batch)
            self._execute(self.queue.popleft())
        if self.trouble and self.random.random() < 0.05:  # a cluster that adapts; leaving workers finish their batches
            now = self.random.choice((1, self.threads, 3, 12))
            self.free, self.capacity = self.free + now - self.capacity, now
            self._arrive(self.now + 0.1, Resized(now))

    def _execute(self, order: Dispatch) -> None:
        """Execute a batch, ahead of time, and let its messages arrive when they are due."""
        if any(batch not in self.held for batch in order.inputs):
            assert self.trouble, "a batch needs values that were released"
            self.mail.silent.add(order.batch)
            self._arrive(self.now + self._latency(), Lost(order.batch, Loss.DROPPED, DROPPED), freed=order.batch)
            return
        if order.links is not None:
            gang = order.links.gang
            self.meetings.join(order, self.now)
            self.taken[order.batch] = self._inputs(order)
            if any(waiting.batch in gang for waiting in self.queue):
                self._arrive(self.now + order.limit, gang)
            else:
                self._execute_gang(gang)
            return
        chance = self.random.random() if self.trouble else 1.0
        start = self.now
        if chance < 0.1:  # a worker dies, Dask runs the batch again elsewhere; its hand-back is on its way already
            start, _, events = self._execute_at(order, start)
            for at, event in events:
                if isinstance(event, HandedBack):
                    self._arrive(at + self._latency(), event)
        end, execution, events = self._execute_at(order, start)
        innocent_loss = 0.1 <= chance < 0.15 and execution is not None and execution.control.stop > 1
        if innocent_loss:
            del events[-1]
        for at, event in events:
            self._arrive(at + self._latency(), event)
        if execution is None or innocent_loss:
            self._arrive(end + self._latency(), Lost(order.batch, Loss.KILLED, KILLED))
        else:
            self.stored[order.batch] = self.held[order.batch] = execution.kept()
            ended = events[-1][1]
            if 0.15 <= chance < 0.3:
                self._arrive(end + 1.0, ended)
        self._arrive(end, None, freed=order.batch)

    def _inputs(self, order: Dispatch) -> Values:
        """What is with a batch when it starts."""
        values: Values = {}
        for batch in order.inputs:
            add_values(values, self.held[batch])
        return values

    def _execute_gang(self, gang: tuple[int, ...]) -> None:
        """Execute what has started of a gang; if anything has, it will not be joined by the rest."""
        if not self.meetings.present(gang):
            return
        self.gangs += 1
        for order, (end, execution, events) in self.meetings.execute(gang, self.mail, self._execute_at):
            lost = execution is None or (self.trouble and self._chance(order) < 0.05)
            for at, event in events[:-1] if lost else events:
                self._arrive(at + self._latency(), event)
            if lost:
                self.mail.silent.add(order.batch)
                self._arrive(end + self._latency(), Lost(order.batch, Loss.KILLED, KILLED))
            else:
                self.stored[order.batch] = self.held[order.batch] = execution.kept()
            self._arrive(end, None, freed=order.batch)

    def _chance(self, order: Dispatch) -> float:
        """A number from 0 to 1 that is the same for each execution of a batch."""
        return zlib.crc32(repr((self.world.seed, order.batch)).encode()) / (1 << 32)

    def _execute_at(
        self, order: Dispatch, start: float, post: Post | None = None
    ) -> tuple[float, Simulated | None, list[tuple[float, Event]]]:
        events: list[tuple[float, Event]] = []
        values = self._inputs(order) if post is None else {n: dict(some) for n, some in self.taken[order.batch].items()}
        CLOCK.now = start
        control = Control(order, lambda event: events.append((CLOCK.now, event)))
        delay = LOOK * (self._chance(order) if post is not None else self.random.random())
        control.lock = _Lock(lambda: self._look(control, events, delay))  # type: ignore[assignment]
        options = {"size_of": self.world.size_of, "interrupts": (Kill, Blocked)}
        loaded = joined(self.loaded, self.packer.pack(order))
        for node in {node for nodes, _, _ in order.strips for node in nodes}:
            known = node < len(self.loaded.plan.nodes) or self.plan.nodes[node].hidden
            if not known and not isinstance(loaded[node].function, Loop):
                loaded[node].function = self._call
        execution: Simulated
        if post is None:
            execution = Simulated(loaded, order, values, control, **options)
        else:
            execution = SimulatedGangExecution(loaded, order, values, control, **options, mailbox=post, outbox=post)
        execution.cluster = self
        self.running = execution
        try:
            ended = execution.run()
        except Kill:
            return CLOCK.now, None, events
        assert len(ended.seconds) == ended.stop
        if post is not None:
            post.flush(closed=True)
        events.append((CLOCK.now, ended))
        return CLOCK.now, execution, events

    def _look(self, control: Control, events: list[tuple[float, Event]], delay: float) -> None:
        """Do what the watchdog did while the last task run was running."""
        if CLOCK.now - control.began <= control.limit + delay:
            return
        if control.position >= control.stop:
            return
        stop = control.stop = control.position
        when = control.began + control.limit
        seconds = control.seconds[: max(stop - 1, 0)]
        events.append((when, Progressed(control.batch, stop)))
        waiting = isinstance(self.running, SimulatedGangExecution)  # perhaps; then nothing is known of its task
        current = 0.0 if waiting else max(when - control.began - sum(seconds), 0.0)
        events.append((when, HandedBack(control.batch, stop, seconds, current)))


def replay(cluster: Cluster) -> list[list[Command]]:
    """Give what was recorded to a new machine."""
    machine = RunMachine(make_plan_again(cluster), cluster.threads, timeout=cluster.machine.timeout)
    machine.costs.prior = cluster.machine.costs.prior
    return [machine.start(0.0), *(machine.handle(now, events) for now, events in cluster.recording)]


def make_plan_again(cluster: Cluster) -> Plan:
    return make_plan(cluster.graph)


__all__ = ["Cluster", "NodePlan", "World", "count", "draw_graph", "plain", "replay"]
