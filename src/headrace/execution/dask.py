"""Executing batches on a Dask cluster.

Dask sees one task per batch, whose key begins with the name of the first node in it, so that its dashboard reads
like the flow. Reports come back over the scheduler's event topics, not as futures; a future per batch holds the
values.
"""

from __future__ import annotations

import pickle
import queue
import re
import threading
import time
import uuid
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from dask._task_spec import Task as DaskTask
from dask._task_spec import TaskRef
from dask.base import annotate
from distributed import CancelledError, Client, Future, KilledWorker

from headrace import pickling
from headrace.code.space import active
from headrace.core.events import Command, Dispatch, Ended, Event, Loss, Lost, Release, Resized, Stop, Vanished
from headrace.core.plan import Plan
from headrace.core.policy import Placement
from headrace.core.ready import Backlog
from headrace.core.task import Task
from headrace.errors import ClusterLost, TaskCrashed, ValueReleased
from headrace.execution.base import Executor, Wanted
from headrace.execution.demand import BACKLOG, MARK
from headrace.execution.dynamic import Packer
from headrace.execution.failure import capture
from headrace.execution.line import RETRY, SILENCE, Line
from headrace.execution.offers import addresses, asks, check, offers_of
from headrace.execution.scattered import Scattered
from headrace.execution.scheduler import LEFT, Opened
from headrace.execution.stopping import stop_batches
from headrace.execution.supplies import Supplies
from headrace.execution.switchboard import PART
from headrace.execution.worker import cut, pick, pick_kept, run_batch

#: Seconds between two looks at the futures and at the number of threads; both change only when something is lost
#: or when the cluster grows, so this bounds how long that goes unnoticed.
LOOK = 0.25
#: What Dask says of futures whose values will not come any more.
GIVEN_UP = ("error", "cancelled")
#: Added to the priority of batches that go before others of the same priority.
URGENT = 0.5
#: Seconds without any worker after which a run gives up. Adaptive clusters may need minutes to bring the first one.
DESERTED = 600.0


class DaskExecutor(Executor):
    """Executes batches on the cluster of a client.

    Parameters
    ----------
    client : distributed.Client
        Connected. It is not closed by the executor.
    coming : sequence of mapping of str to float, optional
        Resources of workers that may come later, one mapping for each kind, or None for any. Default: if the client's
        cluster adapts by itself, any; else none.
    reconnect : float
        Seconds for which the scheduler may be out of reach.
    """

    kind = "dask"
    #: from a worker's address to what became of it, as whoever started it knows; the environment may set it
    explain: Callable[[str], str] = staticmethod(lambda address: "")

    #: called when the scheduler was told that something else waits than before; the environment may set it
    on_told: Callable[[], None] = staticmethod(lambda: None)
    #: tells how many workers are wanted; the environment may set it
    wanted: Callable[[], int] = staticmethod(int)

    def __init__(
        self, client: Client, coming: Sequence[Mapping[str, float] | None] | None = None, reconnect: float = 60.0
    ) -> None:
        self.client = client
        self._coming = coming
        self._reconnect = reconnect
        self._addresses: dict[str, str] = {}  # of workers that tasks may ask for by name
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._futures: dict[int, Future[Any]] = {}
        self._live: set[int] = set()
        self._looked = self._peopled = 0.0
        self._told = 0
        self._comparing = False
        self._backlog: Backlog = ()
        self._finished = self._released = False
        self._scattered: Scattered | None = None
        self._kept_back: list[Dispatch] = []  # until the constants are there
        self._put_off: list[Command] = []  # until the scheduler is within reach
        self._run_id = ""
        self._outline: Plan | None = None
        self._packer: Packer | None = None
        self._thread = 0  # which drives the run
        self._line: Line
        self._supplies: Supplies | None = None

    def start(self, run_id: str, plan: bytes, outline: Plan) -> int:  # noqa: D102 - inherited
        self._run_id, self._thread = run_id, threading.get_ident()
        line = self._line = Line(self.client, run_id, self._hear, self._reconnect)
        self.check(outline.tasks)
        self._supplies = Supplies(line, plan, self.code)
        opened = self._open()
        self._outline = outline
        self._packer = Packer(outline, self.code)
        # What Dask would encrypt, nothing else may send as it is.
        self.mails = opened.address.startswith(("tcp://", "inproc://"))
        self._told = self._threads
        if outline.constants:
            self._scattered = Scattered(line, outline.constants, opened.address.startswith("inproc://"), self.code)
            self._scattered.look(len(self._line.nthreads))
        return self._told

    def check(self, tasks: Iterable[Task[..., Any]]) -> None:  # noqa: D102 - inherited
        if not (policies := asks(tasks)):
            return
        assert self.client.scheduler is not None
        offers = offers_of(self._line.insist(self.client.scheduler.identity, n_workers=-1))
        self._addresses.update(addresses(offers))
        if self._coming is not None or getattr(self.client.cluster, "_adaptive", None) is None:
            check(policies, offers, self._coming or ())

    @property
    def _threads(self) -> int:
        return max(1, sum(self._line.nthreads.values()))

    def workers(self) -> tuple[int, int]:  # noqa: D102 - inherited
        return len(self._line.nthreads), max(len(self._line.nthreads), self.wanted())

    def _hear(self, report: bytes) -> None:
        self._events.put(pickle.loads(report))

    # -- the line to the scheduler -------------------------------------------------------------------------------

    def _open(self) -> Opened:
        """Bring the scheduler what the run needs; again, if the connection breaks meanwhile."""
        line, supplies = self._line, self._supplies
        assert supplies is not None
        while True:
            try:
                opened = line.open()
                if not (opened.known and supplies.complete):
                    supplies.bring(opened)
                if opened.known or self._futures:
                    self._take_up()
            except OSError as error:
                if not line.cut:
                    raise ClusterLost(
                        f"the plan of run {self._run_id} could not be brought to all workers ({type(error).__name__}: "
                        f"{error}); look whether the scheduler and the workers answer, and run the flow again"
                    ) from error
                line.check()
                time.sleep(RETRY)
            else:
                self._peopled, self._backlog = time.monotonic(), ()
                return opened

    def _take_up(self) -> None:
        """Go on where the connection broke: with new futures, as Dask's client gave up all that there were."""
        client = self.client
        constants = self._scattered.renew() if self._scattered is not None else []
        self._futures = {batch: Future(future.key, client) for batch, future in self._futures.items()}
        keys = [future.key for future in self._futures.values()]
        lost = set(self._line.resume(keys + constants))
        gone = [batch for batch, future in self._futures.items() if future.key in lost]
        failure, _ = capture(ClusterLost("the scheduler that it was sent to is gone, or did not get it"))
        for batch in gone:
            del self._futures[batch]
            if batch in self._live:
                self._live.discard(batch)
                self._events.put(Lost(batch, Loss.DROPPED, failure))
            self._events.put(Vanished(batch))  # also if it was live: its report may be among the events already

    def _mend(self) -> bool:
        """Take the line up if it is cut and there is a connection again; return whether it is up.

        While the run goes on, its own thread does that, for it has to hear of what is lost before it sends more.
        """
        line = self._line
        with line.mending:
            if line.cut and line.connected and (self._finished or self._thread == threading.get_ident()):
                self._open()
            line.check()
            return not line.cut

    def send(self, commands: Iterable[Command]) -> None:  # noqa: D102 - inherited
        groups: list[tuple[tuple[Placement, float, dict[int, str]], dict[int, DaskTask], list[DaskTask]]] = []
        keys: dict[int, str] = {}
        seats: dict[tuple[int, ...], dict[int, str]] = {}
        released: list[int] = []
        for command in commands:
            if self._line.cut and not isinstance(command, Stop):
                self._put_off.append(command)
            elif isinstance(command, Dispatch) and command.constants and not self._has_constants():
                self._kept_back.append(command)
            elif isinstance(command, Dispatch):
                key = self._key(command)
                gang = command.links.gang if command.links is not None else ()
                addresses = seats.get(gang) or seats.setdefault(gang, self._seats(gang))
                order = self._packed(command, addresses)
                placement = self._placement(command)
                where = placement, placement.priority + (URGENT if command.urgent else 0), addresses
                if not groups or groups[-1][0] != where:
                    groups.append((where, {}, []))
                held = {batch: keys.get(batch) or self._futures[batch].key for batch in command.inputs}
                parts = [
                    DaskTask(f"{key}{PART}{batch}", cut, self._run_id, *which, TaskRef(held[batch]))
                    for batch, which in command.cuts.items()
                ]
                held.update(zip(command.cuts, [part.key for part in parts], strict=True))
                constants = [self._scattered.key(number) for number in command.constants] if self._scattered else []
                groups[-1][1][command.batch] = DaskTask(
                    key, run_batch, self._run_id, order, *map(TaskRef, (*held.values(), *constants)),
                    # It shall run wherever a thread is free, and not only where the constants are already.
                    _data_producer=bool(constants) and not held,
                )  # fmt: skip
                groups[-1][2].extend(parts)
                keys[command.batch] = key
            elif isinstance(command, Release):
                released.extend(command.batches)
            elif isinstance(command, Stop):
                self._stop(command.batches)
        for (placement, priority, addresses), tasks, parts in groups:
            if addresses:
                at = {task.key: [addresses[batch]] for batch, task in tasks.items()}
                with annotate(workers=at.__getitem__, allow_other_workers=True):
                    self._submit(placement, priority, tasks, parts)
            else:
                self._submit(placement, priority, tasks, parts)
        for batch in released:  # only now: what was just sent may need them
            self._futures.pop(batch, None)

    def _packed(self, command: Dispatch, addresses: dict[int, str]) -> bytes:
        """The order for a batch; parts of lists that go with it may hold anything."""
        assert self._packer is not None
        order = command, addresses, self._packer.pack(command)
        if not command.slices:
            return pickle.dumps(order, protocol=5)
        with active(self.code):
            return pickling.dumps(order, "part of a list")

    def _stop(self, batches: tuple[int, ...]) -> None:
        """Have the workers stop batches, not waiting for it, and the scheduler forget them."""
        self._line.later(partial(self._tell_workers, batches))
        self._live.difference_update(batches)
        self._kept_back = [order for order in self._kept_back if order.batch not in batches]
        self._put_off = [each for each in self._put_off if not (isinstance(each, Dispatch) and each.batch in batches)]
        self.client.cancel([self._futures.pop(batch) for batch in batches if batch in self._futures], force=True)

    async def _tell_workers(self, batches: tuple[int, ...]) -> None:
        running = await self.client._run(stop_batches, self._run_id, batches, on_error="ignore")
        for batch in set(batches).difference(*running.values()):  # it had not begun, so nothing else tells of it
            self._events.put(Ended(batch, 0, array("f")))

    def _has_constants(self) -> bool:
        return self._scattered is not None and self._scattered.complete

    def _submit(self, placement: Placement, priority: float, tasks: dict[int, DaskTask], parts: list[DaskTask]) -> None:
        """Give batches to the scheduler that may all run at the same places, and what cuts lists for them."""
        futures = self.client.get(
            {task.key: task for task in (*tasks.values(), *parts)},
            [task.key for task in tasks.values()],
            sync=False,
            workers=[self._addresses.get(worker, worker) for worker in placement.workers] or None,
            resources=dict(placement.resources) or None,
            priority=priority,
        )
        self._futures.update(zip(tasks, futures, strict=True))
        self._live.update(tasks)

    def _seats(self, gang: tuple[int, ...]) -> dict[int, str]:
        """At which worker each batch of a gang shall run: one thread each, neighbours in one process."""
        threads = [address for address, number in self._line.nthreads.items() for _ in range(number)] or [""]
        return {batch: threads[seat % len(threads)] for seat, batch in enumerate(gang)}

    def _placement(self, order: Dispatch) -> Placement:
        assert self._outline is not None
        return self._outline.policy(order.strips[0].nodes[0]).placement

    def _key(self, order: Dispatch) -> str:
        """Begins with the name of the first node, which Dask's dashboard shows."""
        assert self._outline is not None
        name = _safe(self._outline.nodes[order.strips[0].nodes[0]].name)
        return f"{name}{MARK}{self._run_id}-{order.batch}"

    def notify(self, event: Event) -> None:  # noqa: D102 - inherited
        self._events.put(event)

    def wait(self, timeout: float | None) -> list[Event]:
        """Wait for the first event, and return it with all that came meanwhile."""
        end = time.monotonic() + timeout if timeout is not None else float("inf")
        events: list[Event] = []
        while not events:
            now = time.monotonic()
            if now - self._looked > LOOK:
                self._looked = now
                events += self._look()
            rest = min(LOOK, end - now)
            try:
                events.append(self._events.get(timeout=max(rest, 0)))
            except queue.Empty:
                if now >= end:
                    break
        while not self._events.empty():
            events.append(self._events.get())
        self._live.difference_update(event.batch for event in events if isinstance(event, Ended))
        return events

    def _look(self) -> list[Event]:
        """Find batches that were lost, and a cluster that changed its size or is gone."""
        if self._line.cut:
            return self._send_put_off() if self._mend() else []
        self._line.check()
        if time.monotonic() - self._peopled > DESERTED:
            raise ClusterLost(
                f"the cluster of run {self._run_id} has had no worker for {DESERTED:g} s, and batches are waiting; "
                "start workers, or look why they die, and run the flow again"
            )
        events: list[Event] = self._send_put_off() if self._put_off else []
        if not self._comparing and self.client.loop is not None:
            self._comparing = True
            self.client.loop.add_callback(self._compare, self.backlog())
        if (threads := self._threads) != self._told:
            self._told = threads
            events.append(Resized(threads))
        if self._scattered is not None and self._scattered.look(len(self._line.nthreads)) and self._kept_back:
            events += self._send_kept_back()
        given_up = [(batch, status) for batch, each in self._futures.items() if (status := each.status) in GIVEN_UP]
        if self._line.cut:  # all of them are given up, then
            return events
        for batch, status in given_up:
            if batch in self._live:
                self._live.discard(batch)
                events.append(self._lost(batch, status))
            else:
                events.insert(0, Vanished(batch))
            del self._futures[batch]
        return events

    def _send_kept_back(self) -> list[Event]:
        kept_back, self._kept_back = self._kept_back, []
        return self._send_late(kept_back)

    def _send_put_off(self) -> list[Event]:
        put_off, self._put_off = self._put_off, []
        return self._send_late(put_off)

    def _send_late(self, commands: Iterable[Command]) -> list[Event]:
        """Send what had to wait; batches whose inputs were lost meanwhile are lost, too."""
        known, whole = set(self._futures), list[Command]()
        failure, _ = capture(ClusterLost("what it needs was lost before it could start"))
        lost: list[Event] = []
        for command in commands:
            if isinstance(command, Dispatch):
                if not known.issuperset(command.inputs):
                    lost.append(Lost(command.batch, Loss.DROPPED, failure))
                    continue
                known.add(command.batch)
            whole.append(command)
        self.send(whole)
        return lost

    async def _compare(self, backlog: Backlog) -> None:
        """Tell the scheduler what waits, and ask for its threads, without making the driver wait for the answer."""
        try:
            if not await self._line.look():
                return  # it is another scheduler
            self._peopled = time.monotonic() if self._line.nthreads else self._peopled
            if backlog != self._backlog:
                assert self.client.scheduler is not None
                told = (self._line.topic, tuple(map(tuple, backlog)))
                await self.client.scheduler.log_event(topic=BACKLOG, msg=told)
                self._backlog = backlog
                self.on_told()
        except OSError:
            pass  # the connection is broken, and `_look` finds that
        finally:
            self._comparing = False

    def _lost(self, batch: int, status: str) -> Lost:
        error = self._futures[batch].exception(timeout=SILENCE) if status == "error" else None
        if error is None:
            error = ClusterLost("the cluster dropped it, again and again; is somebody restarting it?")
        loss = Loss.DROPPED if isinstance(error, (ClusterLost, CancelledError)) else Loss.BROKEN
        if isinstance(error, KilledWorker) and error.last_worker.extra.get(LEFT):
            loss = Loss.DROPPED
            error = ClusterLost(f"the worker at {error.last_worker.address} left while it ran")
        elif isinstance(error, KilledWorker):
            loss = Loss.KILLED
            address = error.last_worker.address
            known = self.explain(address)
            error = TaskCrashed(
                "the process that ran it died, each time it was tried: it was killed (perhaps for using too much "
                f"memory), or it crashed in native code. The last one was {address}{f'; {known}' if known else ''}"
            )
        failure, _ = capture(error)
        return Lost(batch, loss, failure)

    def fetch(self, wanted: Wanted, most: int | None = None) -> dict[tuple[int, int], Any] | None:  # noqa: D102
        if self._released:
            raise ValueReleased(f"run {self._run_id} was released, so its values are gone; run the flow again")
        if wanted and self.client.status in ("closing", "closed"):
            raise ValueReleased(
                f"the environment of run {self._run_id} was closed, and the values that its workers held are gone; "
                "fetch them before, or let the flow return them"
            )
        parts = self._parts(wanted, most)
        found: dict[tuple[int, int], Any] = {}
        for part in parts:
            if part is None:
                return None
            with active(self.code):
                found.update(pickling.loads(part, "a value of a task"))
        return found

    def _parts(self, wanted: Wanted, most: int | None) -> list[bytes | None]:
        """Collect values on the workers, again if the connection breaks meanwhile."""
        while True:
            try:
                if self._mend():
                    return self._collect(wanted, most)
            except ClusterLost as error:
                if not self._finished:
                    raise
                raise ValueReleased(
                    f"the values of run {self._run_id} were kept on a cluster that is gone, and went with it; run the "
                    "flow again, or let its last task write what shall outlive the cluster"
                ) from error
            except OSError:
                if not self._line.cut:
                    raise
            time.sleep(RETRY)

    def _collect(self, wanted: Wanted, most: int | None) -> list[bytes | None]:
        owed = {batch: keys for batch, keys in wanted.items() if batch in self._futures}
        kept = {batch: keys for batch, keys in wanted.items() if batch not in self._futures}
        parts = [self._pick(owed, most)] if owed else []
        if not kept:
            return parts
        for part in self._line.ask(self.client.run, pick_kept, self._run_id, kept, most, on_error="return").values():
            if isinstance(part, OSError):
                continue  # a worker that is gone, with its shelf
            if isinstance(part, BaseException):
                raise part
            parts.append(part)
        return parts

    def _pick(self, wanted: Wanted, most: int | None) -> bytes | None:
        """Collect values on a worker, so that only what is wanted comes here."""
        futures = [self._futures[batch] for batch in wanted]
        key = f"headrace-fetch-{uuid.uuid4().hex}"
        try:
            future = self.client.submit(pick, self._run_id, list(wanted.values()), most, *futures, key=key)
            return self._line.ask(future._result)  # type: ignore[no-any-return]
        except (KilledWorker, CancelledError) as error:
            if self._line.cut:
                raise ConnectionError("the scheduler was out of reach") from error
            raise ValueReleased(
                f"a worker that held values of run {self._run_id} is gone, and with it the values; a run that is over "
                "is not run again by itself. Run the flow again, or let its last task write what shall outlive it"
            ) from error

    def finish(self) -> None:  # noqa: D102 - inherited
        self._finished = True
        if self._scattered is not None:
            self._scattered.clear()
            self._scattered = None
        self._kept_back.clear()
        self._put_off.clear()
        if self._supplies is not None:
            self._line.close()

    def release(self) -> None:  # noqa: D102 - inherited
        self._released = True
        self._futures.clear()
        if self._supplies is not None:
            self._line.forget()


def _safe(name: str) -> str:
    """A node's name as the prefix of a Dask key: letters only, or Dask would cut it off."""
    return re.sub(r"[^A-Za-z]+", "_", name).strip("_") or "batch"
