"""A cluster on a virtual clock, for as many threads as one likes: what it tells the machine is made, not executed.

How to think about it. The machine is the real one, and gets exactly the events that real workers send. Behind them,
only times are computed: a batch's durations are a slice of arrays that were drawn before, so a batch costs the same
to simulate however many task runs it holds. The driver's own CPU time is measured, and passes on the virtual clock,
because no order leaves the driver before it has thought.

What is left out: values weigh nothing (a batch that needs values from elsewhere waits for one round trip), Dask's
scheduler takes no time of its own (its work per batch is in the latency), and it does not steal. Workers get batches
by the least load, and keep them.
"""

from __future__ import annotations

import cProfile
import heapq
import pickle
import random
import time
from array import array
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace.core.events import Dispatch, Ended, Event, HandedBack, Progressed, Release
from headrace.core.machine import RunMachine
from headrace.core.plan import EdgeKind, Plan
from headrace.core.strips import Strip
from headrace.execution.watchdog import LOOK, looks_per_note


@dataclass(frozen=True)
class Circumstances:
    """What a flow is simulated on.

    Attributes
    ----------
    threads, per_worker : int
        How many threads, and how many of them share a worker.
    latency : float
        Seconds from the driver to a worker, and from a worker to the driver.
    mean, spread : float
        Seconds of a task run, and the sigma of their logarithms: durations are log-normal.
    free_driver : bool
        Whether the driver's CPU time does not pass on the virtual clock.
    seed : int
        Of the durations, and of the watchdogs' looks.
    """

    threads: int = 10_000
    per_worker: int = 8
    latency: float = 0.005
    mean: float = 0.01
    spread: float = 0.5
    free_driver: bool = False
    seed: int = 7


@dataclass
class Account:
    """What a simulation found.

    Attributes
    ----------
    makespan : float
        Virtual seconds until the machine knew that the run was over.
    machine, messages : float
        Seconds of CPU that the machine took, and that the driver took to unpickle events and pickle orders.
    batches, hand_backs, events : int
        How many there were.
    ready : int
        The most ranges that were ready at a time.
    worked, idle : float
        Thread seconds with work, and without it before the last task run ended.
    """

    makespan: float = 0.0
    machine: float = 0.0
    messages: float = 0.0
    batches: int = 0
    hand_backs: int = 0
    events: int = 0
    ready: int = 0
    worked: float = 0.0
    idle: float = 0.0


@dataclass(slots=True)
class Worker:
    """A process with some threads, and the batches that wait for one."""

    free: int
    load: int = 0
    waiting: deque[Dispatch] = field(default_factory=deque)


def draw_durations(plan: Plan, circumstances: Circumstances) -> list[Any]:
    """Return an array of seconds for each node: one per task run. Widths must be known from the plan."""
    chance = np.random.default_rng(circumstances.seed)
    sigma = circumstances.spread
    mu = np.log(circumstances.mean) - sigma**2 / 2
    widths: list[int] = []
    for node in plan.nodes:
        widths.append(node.widths[0] if node.widths else widths[node.widths_from[0].source])
    return [chance.lognormal(mu, sigma, width).astype(np.float32) for width in widths]


def critical_path(plan: Plan, durations: list[Any]) -> float:
    """Return the seconds below which no number of threads can get."""
    ends: list[Any] = []
    for node, seconds in zip(plan.nodes, durations, strict=True):
        start: Any = np.zeros(len(seconds))
        for edge in node.inputs:
            source = ends[edge.source]
            if edge.kind is EdgeKind.NODE:
                source = source.max(initial=0.0)
            elif edge.kind is EdgeKind.ITEM:
                source = source[edge.item]
            start = np.maximum(start, source)
        ends.append(start + seconds)
    return max(float(end.max(initial=0.0)) for end in ends)


class VirtualCluster:
    """Drives a machine to the end of its run.

    Parameters
    ----------
    plan : Plan
        What to run.
    durations : list of array
        Seconds of each node's task runs.
    circumstances : Circumstances
        Where.
    profile : cProfile.Profile, optional
        Switched on while the machine works.
    """

    def __init__(
        self, plan: Plan, durations: list[Any], circumstances: Circumstances, profile: cProfile.Profile | None = None
    ) -> None:
        self.durations = durations
        self.at = circumstances
        self.profile = profile
        self.machine = RunMachine(plan, circumstances.threads)
        self.account = Account()
        self.random = random.Random(circumstances.seed)
        whole, rest = divmod(circumstances.threads, circumstances.per_worker)
        self.workers = [Worker(size) for size in [circumstances.per_worker] * whole + [rest] * (rest > 0)]
        # By load per thread. A worker's entry counts only while it says the worker's present load.
        self._loads = [(0.0, number, 0) for number in range(len(self.workers))]
        self._queue: list[tuple[float, int, Any, Any]] = []
        self._sequence = 0
        self._inbox: list[bytes] = []
        self._last_end = 0.0

    def run(self) -> Account:
        """Run it and return what was found."""
        account = self.account
        driver = self._think(0.0, None)
        while not self.machine.finished:
            if not self._inbox:
                driver = max(driver, self._until_news())
            self._advance(driver)
            driver = self._think(driver, self._inbox)
        account.makespan = driver
        account.idle = self._last_end * self.at.threads - account.worked
        return account

    # -- the driver ----------------------------------------------------------------------------------------------

    def _think(self, now: float, inbox: list[bytes] | None) -> float:
        """Let the machine handle what came, send its orders, and return when the driver is done with that."""
        account, machine = self.account, self.machine
        began = time.thread_time()
        events: list[Event] = [pickle.loads(message) for message in inbox or ()]
        read = time.thread_time()
        if self.profile is not None:
            self.profile.enable()
        commands = machine.start(now) if inbox is None else machine.handle(now, events)
        if self.profile is not None:
            self.profile.disable()
        thought = time.thread_time()
        orders = [pickle.dumps(order, protocol=5) for order in commands if isinstance(order, Dispatch)]
        done = time.thread_time()
        self._inbox = []
        account.machine += thought - read
        account.messages += read - began + done - thought
        account.events += len(events)
        account.batches += len(orders)
        account.ready = max(account.ready, sum(map(len, machine.dispatcher.ready.queues.values())))
        if not self.at.free_driver:
            now += done - began
        for order in commands:
            if isinstance(order, Dispatch):
                fetching = 2 * self.at.latency if order.inputs else 0.0
                self._push(now + self.at.latency + fetching, self._place, order)
            else:
                assert isinstance(order, Release), f"no {order} was to be expected"
        return now

    # -- time ----------------------------------------------------------------------------------------------------

    def _push(self, at: float, what: Any, about: Any) -> None:
        self._sequence += 1
        heapq.heappush(self._queue, (at, self._sequence, what, about))

    def _tell(self, at: float, event: Event) -> None:
        self._push(at + self.at.latency, self._hear, pickle.dumps(event, protocol=5))

    def _hear(self, now: float, message: bytes) -> None:
        self._inbox.append(message)

    def _until_news(self) -> float:
        """Go on until a message reaches the driver, and return when."""
        while not self._inbox:
            assert self._queue, "stalled: nothing runs, nothing is on its way"
            now, _, what, about = heapq.heappop(self._queue)
            what(now, about)
        return now

    def _advance(self, to: float) -> None:
        """Let everything happen that happens while the driver is busy."""
        while self._queue and self._queue[0][0] <= to:
            now, _, what, about = heapq.heappop(self._queue)
            what(now, about)

    # -- workers -------------------------------------------------------------------------------------------------

    def _place(self, now: float, order: Dispatch) -> None:
        """Give a batch to the worker with the least load."""
        while True:
            _, number, load = heapq.heappop(self._loads)
            worker = self.workers[number]
            if load == worker.load:
                break
        self._change(number, 1)
        if worker.free:
            worker.free -= 1
            self._start(now, number, order)
        else:
            worker.waiting.append(order)

    def _change(self, number: int, by: int) -> None:
        worker = self.workers[number]
        worker.load += by
        heapq.heappush(self._loads, (worker.load / self.at.per_worker, number, worker.load))

    def _free(self, now: float, number: int) -> None:
        worker = self.workers[number]
        self._change(number, -1)
        if worker.waiting:
            self._start(now, number, worker.waiting.popleft())
        else:
            worker.free += 1

    def _start(self, now: float, number: int, order: Dispatch) -> None:
        """Execute a batch ahead of time: all that will happen is known."""
        seconds = self._seconds(order.strips)
        ends = now + np.cumsum(seconds, dtype=np.float64)
        look = now + order.limit + LOOK * self.random.random()
        if look < ends[-1]:
            done = int(np.searchsorted(ends, look, side="right"))
            if done + 1 < len(seconds):
                seconds, ends = seconds[: done + 1], ends[: done + 1]
                current = look - (float(ends[done - 1]) if done else now)
                self._tell(look, HandedBack(order.batch, done + 1, _array(seconds[:done]), current))
                self.account.hand_backs += 1
        end = float(ends[-1])
        period = LOOK * looks_per_note(order.limit)
        for note in np.arange(now + period, end, period):
            self._tell(note, Progressed(order.batch, int(np.searchsorted(ends, note, side="right")) + 1))
        self._tell(end, Ended(order.batch, len(seconds), _array(seconds)))
        self._push(end, self._free, number)
        self.account.worked += end - now
        self._last_end = max(self._last_end, end)

    def _seconds(self, strips: tuple[Strip, ...]) -> Any:
        """The durations of a batch's task runs, in their order."""
        parts = []
        for nodes, low, high in strips:
            if len(nodes) == 1:
                parts.append(self.durations[nodes[0]][low:high])
            else:
                parts.append(np.stack([self.durations[node][low:high] for node in nodes], axis=1).ravel())
        return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _array(seconds: Any) -> array[float]:
    found: array[float] = array("f")
    found.frombytes(seconds.tobytes())
    return found
