"""Executing batches with ``async def`` tasks: their coroutines wait at the same time, on one thread.

How to think about it. What a batch holds is taken apart into *units*: of a map, each child with its column, so that
each child goes depth first; of single nodes, each by itself. Units start in the order of their positions and go on
as their coroutines do; a unit begins when those that it takes values from are over. Plain tasks among them are called
as everywhere, and nothing else goes on meanwhile.

The seconds of a task run are those in which it computed, not those in which it waited. So tasks that wait look cheap,
batches of them hold many, and the waiting is shared.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Awaitable, Coroutine, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from time import perf_counter
from typing import Any

from headrace.core.events import Dispatch, Ended, Exceptional
from headrace.core.signals import Cancelled
from headrace.core.state import State
from headrace.execution.batch import Execution
from headrace.execution.context import POST, Post, pinned
from headrace.execution.interrupt import Control, forget
from headrace.execution.loaded import LoadedNode, LoadedPlan

#: Units that are under way at the same time on one thread: as many as one host is usually asked at once by a program.
MOST_AT_ONCE = 256
#: Units that a batch claims beyond those that have started, for each that may be under way, so that it is not given
#: back while it waits.
AHEAD = 4
#: The least seconds of a task run; of zero, a batch could not hold enough.
LEAST = 1e-6

Member = tuple[int, LoadedNode, dict[int, Any]]


def execution_of(plan: LoadedPlan, order: Dispatch) -> type[Execution]:
    """Return what executes a batch: coroutines need a loop.

    Parameters
    ----------
    plan : LoadedPlan
        The plan.
    order : Dispatch
        The batch.
    """
    if plan.awaits and any(plan[number].awaits for nodes, _, _ in order.strips for number in nodes):
        return AsyncExecution
    return Execution


class Stopwatch:
    """Seconds in which a task run computed."""

    __slots__ = ("control", "seconds")

    def __init__(self, control: Control) -> None:
        self.control = control
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - began


class Timed(Awaitable[Any]):
    """A coroutine whose steps are counted by a stopwatch, and its waiting is not."""

    __slots__ = ("coroutine", "watch")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], watch: Stopwatch) -> None:
        self.coroutine = coroutine
        self.watch = watch

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, watch = self.coroutine, self.watch
        answer, error = None, None
        try:
            while True:
                began = perf_counter()
                try:
                    waits_for = coroutine.send(answer) if error is None else coroutine.throw(error)
                except StopIteration as stop:
                    return stop.value
                finally:
                    watch.seconds += perf_counter() - began
                    watch.control.busy = max(LEAST, watch.seconds)
                answer, error = None, None
                try:
                    answer = yield waits_for
                except BaseException as caught:  # noqa: BLE001 - the coroutine hears of it at its next step
                    error = caught
        finally:
            coroutine.close()


class AsyncExecution(Execution):
    """One execution of one batch with coroutines in it.

    Parameters
    ----------
    *args, **kwargs
        As for ``Execution``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._at = -1
        self._most = min(self.order.at_once or MOST_AT_ONCE, MOST_AT_ONCE)
        self._next = 0  # the first position that has not started
        self._over = False  # whether somebody stopped it
        self._seconds: dict[int, float] = {}  # by position, of those that are over before some that began earlier
        self._loop: asyncio.AbstractEventLoop | None = None
        self._flight: dict[int, set[asyncio.Task[None]]] = {}  # by node: the units that are under way
        self._broken: BaseException | None = None

    @property
    def at(self) -> int:
        """Where the task run stands that is looked at."""
        return self._at

    def cancel(self) -> None:
        """Start nothing any more, and cancel the coroutines; may be called from any thread."""
        self._over = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._over = True
        self._end_early()
        for task in set().union(*self._flight.values()):
            task.cancel()

    def run(self) -> Ended:
        """Execute the batch on an event loop, and report."""
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return self._looped()
        # This thread runs a loop already, as a notebook's does, and no other can run in it.
        with ThreadPoolExecutor(1, "headrace-coroutines") as pool:
            future = pool.submit(contextvars.copy_context().run, self._looped)
            try:
                return future.result()
            except BaseException:
                self.cancel()
                raise

    def _looped(self) -> Ended:
        self.control.thread = threading.get_ident()
        with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
            self._loop = runner.get_loop()
            self.control.kill = self.cancel
            try:
                runner.run(self._main())
            except BaseException:
                self._over = True  # before the runner cancels the coroutines that are left
                raise
            finally:
                self.control.kill = None
        return self._report()

    async def _main(self) -> None:
        """Start the units in order."""
        room = asyncio.Semaphore(self._most)
        try:
            for members, child in self._units():
                await room.acquire()
                mine = members[: self._claim(len(members))]
                first, self._next = self._next, self._next + len(mine)
                if mine:
                    await self._start(mine, child, first, room)
                if len(mine) < len(members):
                    break
            while waiting := set().union(*self._flight.values()):
                await asyncio.wait(waiting)
        finally:
            self._cancel()  # whoever ends this earlier wants no more of it
        if self._broken is not None:
            raise self._broken

    def _units(self) -> Iterator[tuple[Sequence[Member], int]]:
        for nodes, low, high in self.order.strips:
            column = self._column(nodes, high - low)
            if high - low == 1:
                yield from (([member], low) for member in column)
            else:
                yield from ((list(column), child) for child in range(low, high))

    def _claim(self, wanted: int) -> int:
        """How many of the next positions may start. More are claimed than that, and not given back any more."""
        control = self.control
        with control.lock:
            if self._next + wanted > control.position:
                control.position = min(control.stop, self._next + AHEAD * self._most * wanted)
            return 0 if self._over else min(wanted, control.position - self._next)

    def _end_early(self) -> None:
        with self.control.lock:  # what was claimed and has not started is unclaimed again
            self.control.position = min(self.control.position, self._next)
            self.control.stop = min(self.control.stop, self.control.position)

    async def _start(self, members: Sequence[Member], child: int, first: int, room: asyncio.Semaphore) -> None:
        """Let a unit begin; one that never waits is over then."""
        own = {number for number, _, _ in members}
        awaited: set[asyncio.Task[None]] = set()
        for _, node, _ in members:
            for source in node.sources if self._flight else ():
                if source not in own:
                    awaited |= self._flight.get(source, set())
        unit = self._unit(members, child, first, awaited)
        if not awaited and not any(node.awaits for _, node, _ in members):
            if self._flight:
                await asyncio.sleep(0)  # a turn for those that are under way
            try:
                unit.send(None)
            except StopIteration:
                room.release()
            return
        task = asyncio.get_running_loop().create_task(unit)
        for number in own:
            self._flight.setdefault(number, set()).add(task)

        def over(task: asyncio.Task[None]) -> None:
            room.release()
            for number in own:
                self._flight[number].discard(task)
                if not self._flight[number]:
                    del self._flight[number]
            if not task.cancelled() and self._broken is None:
                self._broken = task.exception()

        task.add_done_callback(over)

    async def _unit(self, members: Sequence[Member], child: int, first: int, awaited: set[asyncio.Task[None]]) -> None:
        """Execute the task runs of a unit, one after the other."""
        while awaited and not self._over:
            try:
                _, awaited = await asyncio.wait(awaited)
            except asyncio.CancelledError:  # by `_cancel`: then nothing of it runs
                break
        for position, (number, node, mine) in enumerate(members, first):
            await self._one(position, number, node, child, mine)

    async def _one(self, position: int, number: int, node: LoadedNode, child: int, mine: dict[int, Any]) -> None:
        """Execute one task run."""
        self._at = position
        watch = Stopwatch(self.control)
        if self._over:
            self._note(number, child, State.CANCELLED)
        elif not (self.watchful or self.odd or node.picky) or self._may_run(number, node, child):
            await self._attempts(position, number, node, child, mine, watch)
            self._finish(number, node, child, mine)
        self._done(position, watch.seconds)

    async def _attempts(
        self, position: int, number: int, node: LoadedNode, child: int, mine: dict[int, Any], watch: Stopwatch
    ) -> None:
        """Make an attempt, and more if they are to follow at once, and record what came of the last one."""
        attempts, again = self.order.attempts.get((number, child), 0), True
        while again:
            attempts += 1
            error: BaseException | None = None
            try:
                value = await self._attempt(number, node, child, attempts, watch)
                mine[child] = self._checked(number, child, value)
            except self.interrupts:
                raise
            except asyncio.CancelledError as caught:
                error = Cancelled() if self._over else caught
            except BaseException as caught:  # noqa: BLE001 - whatever a task raises is its own state
                error = caught
            self._at = position
            again = error is not None and self._again(number, node, child, error, attempts)
            if error is None and attempts > 1:
                self._note(number, child, State.SUCCESS, attempts)

    async def _attempt(self, number: int, node: LoadedNode, child: int, attempts: int, watch: Stopwatch) -> Any:
        """Make one attempt, and return the value."""
        post = POST.get()
        if not isinstance(post, Post):
            return await self._value(node, child, watch)
        with pinned(post.context_of(number, child, attempts)):
            return await self._value(node, child, watch)

    async def _value(self, node: LoadedNode, child: int, watch: Stopwatch) -> Any:
        if not node.awaits:
            return self._call(node, child, watch)
        return await Timed(node.call(self, child), watch)

    def _call(self, node: LoadedNode, child: int, watch: Stopwatch) -> Any:
        """Call a plain task; it may be interrupted, and may run a loop of its own."""
        control, loop = self.control, self._loop
        with watch.running():
            try:
                asyncio._set_running_loop(None)
                control.running = perf_counter()
                return node.call(self, child)
            finally:
                control.running = None
                with control.lock:
                    pass
                forget()
                asyncio._set_running_loop(loop)

    def _finish(self, number: int, node: LoadedNode, child: int, mine: dict[int, Any]) -> None:
        """Look at what a task run left behind."""
        if node.measures:
            self._measure(number, node, child)
        if self.size_of is not None and not self.order.whole:
            self._weigh(number, child, mine)

    def cut_short(self) -> Ended:
        """Report what was done when a stop arrived outside of a task; what began and did not end was stopped."""
        self._end_early()
        done = len(self.control.seconds)
        lost = {at for at in range(done, self._next) if at not in self._seconds}
        self.exceptional = [entry for entry in self.exceptional if entry.position not in lost]
        for position in sorted(lost):
            self.exceptional.append(Exceptional(position, State.CANCELLED))
            self.expansions.pop(position, None)
            self._done(position, 0.0)
        return self._report()

    def _checked(self, number: int, child: int, value: Any) -> Any:
        confided = self.confided
        value = super()._checked(number, child, value)
        self.confided = confided  # others that were given a secret are still under way
        return value

    def _done(self, position: int, seconds: float) -> None:
        """Note how long a task run computed; in the report, all before it stand before it."""
        known = self.control.seconds
        self._seconds[position] = seconds
        while len(known) in self._seconds:
            known.append(self._seconds.pop(len(known)))
