"""Executing batches on a Dask cluster.

Dask sees one task per batch, whose key begins with the name of the first node in it, so that its dashboard reads
like the flow. Reports come back over the scheduler's event topics, not as futures; a future per batch holds the
values.
"""

from __future__ import annotations

import pickle
import queue
import re
import time
import uuid
from array import array
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

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
from headrace.entrusted import needed_by
from headrace.errors import ClusterLost, HeadraceError, MissingModule, TaskCrashed, ValueReleased
from headrace.execution.arrival import CodePlugin, plugin_name
from headrace.execution.base import Executor, Wanted
from headrace.execution.confided import CredentialsPlugin, check_encrypted
from headrace.execution.demand import BACKLOG, MARK
from headrace.execution.dynamic import Packer
from headrace.execution.failure import capture
from headrace.execution.logs import settings
from headrace.execution.offers import addresses, asks, check, offers_of
from headrace.execution.scattered import Scattered
from headrace.execution.scheduler import OVER, RunsPlugin, claim_code, forget_plan, topic
from headrace.execution.stopping import stop_batches
from headrace.execution.worker import PlanPlugin, cut, pick, pick_kept, run_batch

#: Seconds between two looks at the futures and at the number of threads; both change only when something is lost
#: or when the cluster grows, so this bounds how long that goes unnoticed.
LOOK = 0.25
#: Least seconds between two messages of the client to the scheduler. Dask's own are 0.01, for which whatever is sent
#: just after another message has to wait: the first batches of each run. The scheduler's to its workers are 0.002, too.
INTERVAL = 0.002
#: Seconds between two attempts to reach all workers, while the scheduler learns that one of them is dead.
RETRY = 0.1
#: Seconds without an answer from the scheduler after which it counts as lost.
SILENCE = 30.0
#: Added to the priority of batches that go before others of the same priority.
URGENT = 0.5
#: Seconds without any worker after which a run gives up. Adaptive clusters may need minutes to bring the first one.
DESERTED = 600.0


#: By client: the scheduler that has our plugin.
_PREPARED: WeakKeyDictionary[Client, Any] = WeakKeyDictionary()
#: By client: the plugins by which its runs brought code to that scheduler's workers.
_BROUGHT: WeakKeyDictionary[Client, set[str]] = WeakKeyDictionary()


class DaskExecutor(Executor):
    """Executes batches on the cluster of a client.

    Parameters
    ----------
    client : distributed.Client
        Connected. It is not closed by the executor.
    coming : sequence of mapping of str to float, optional
        Resources of workers that may come later, one mapping for each kind. Default: if the client's cluster adapts by
        itself, any; else none.
    told : callable, optional
        Called when the scheduler was told that something else waits than before.
    wanted : callable, optional
        Tells how many workers are wanted. Default: those that there are.
    """

    kind = "dask"
    #: from a worker's address to what became of it, as whoever started it knows; the environment may set it
    explain: Callable[[str], str] = staticmethod(lambda address: "")

    def __init__(
        self,
        client: Client,
        coming: Sequence[Mapping[str, float]] | None = None,
        told: Callable[[], None] = lambda: None,
        wanted: Callable[[], int] | None = None,
    ) -> None:
        self.client = client
        self._coming = coming
        self._on_told = told
        self._wanted = wanted
        self._addresses: dict[str, str] = {}  # of workers that tasks may ask for by name
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._futures: dict[int, Future[Any]] = {}
        self._live: set[int] = set()
        self._looked = self._peopled = 0.0
        self._nthreads: dict[str, int] = {}
        self._told = 0
        self._comparing = False
        self._backlog: Backlog = ()
        self._registered = self._released = False
        self._scattered: Scattered | None = None
        self._kept_back: list[Dispatch] = []  # until the constants are there
        self._run_id = ""
        self._outline: Plan | None = None
        self._packer: Packer | None = None

    def start(self, run_id: str, plan: bytes, outline: Plan) -> int:  # noqa: D102 - inherited
        self._run_id = run_id
        self.check(outline.tasks)
        if self.client.scheduler_comm is not None:
            self.client.scheduler_comm.interval = min(self.client.scheduler_comm.interval, INTERVAL)
        self.client.subscribe_topic(topic(run_id), self._on_event)
        try:
            scheduler = self.client.scheduler_info(n_workers=0)
            self._prepare_scheduler(scheduler.get("id"))
            self._nthreads = dict(self.client.nthreads())
            if parcel := needed_by(plan):
                check_encrypted(self.client)
                self._bring(CredentialsPlugin(topic(run_id), parcel))
            self._bring_code()
            sha256 = self.code.sha256 if self.code is not None else None
            self._bring(PlanPlugin(run_id, plan, settings(len(self._nthreads)), sha256))
        except HeadraceError:
            raise
        except ImportError as error:
            raise MissingModule(
                f"a worker of {self.client!r} cannot load run {run_id}: {error}; install what is "
                "missing where the workers run"
            ) from error
        self._outline = outline
        self._packer = Packer(outline, self.code)
        # What Dask would encrypt, nothing else may send as it is.
        self.mails = scheduler["address"].startswith(("tcp://", "inproc://"))
        self._told = self._threads
        self._peopled = time.monotonic()
        if outline.constants:
            self._scattered = Scattered(self.client, run_id, outline.constants, self.code)
            self._scattered.look(len(self._nthreads))
        return self._told

    def check(self, tasks: Iterable[Task[..., Any]]) -> None:  # noqa: D102 - inherited
        if not (policies := asks(tasks)):
            return
        offers = offers_of(self.client.scheduler_info(n_workers=-1))
        self._addresses.update(addresses(offers))
        if self._coming is not None or getattr(self.client.cluster, "_adaptive", None) is None:
            check(policies, offers, self._coming or ())

    @property
    def _threads(self) -> int:
        return max(1, sum(self._nthreads.values()))

    def workers(self) -> tuple[int, int]:  # noqa: D102 - inherited
        present = len(self._nthreads)
        return present, present if self._wanted is None else self._wanted()

    def _prepare_scheduler(self, scheduler: Any) -> None:
        """Bring the scheduler our plugin, once in its life."""
        if _PREPARED.get(self.client) != scheduler:
            self.client.register_plugin(RunsPlugin())
            _PREPARED[self.client] = scheduler
            _BROUGHT.pop(self.client, None)

    def _bring_code(self) -> None:
        """Bring the flow's code to the workers, unless an earlier run did."""
        if self.code is None:
            return
        self._registered = True  # from here on, the scheduler has to forget something
        name, brought = plugin_name(self.code.sha256), _BROUGHT.setdefault(self.client, set())
        if name in brought:  # it is hardly ever forgotten meanwhile, and plans wait for their code
            self._later(self._claim_again)
            return
        if not self.client.run_on_scheduler(claim_code, topic(self._run_id), name):
            self._bring(CodePlugin(self.code))
        brought.add(name)

    async def _claim_again(self) -> None:
        """Claim code that an earlier run of this client brought, not making the run wait for the answer."""
        assert self.code is not None
        with suppress(OSError):  # the client notices by itself that the scheduler is gone, and `_look` with it
            name = plugin_name(self.code.sha256)
            if not await self.client.run_on_scheduler(claim_code, topic(self._run_id), name):
                await self.client.register_plugin(CodePlugin(self.code))

    def _bring(self, plugin: PlanPlugin | CodePlugin | CredentialsPlugin) -> None:
        """Bring the plan to the workers; again, if one died meanwhile, for nobody knows then which others have it."""
        self._registered = True
        end = time.monotonic() + SILENCE
        while True:
            try:
                self.client.register_plugin(plugin)
            except OSError as error:
                if self.client.status != "running" or time.monotonic() > end:
                    raise ClusterLost(
                        f"the plan of run {self._run_id} could not be brought to all workers ({type(error).__name__}: "
                        f"{error}); look whether the scheduler and the workers answer, and run the flow again"
                    ) from error
                time.sleep(RETRY)
            else:
                return

    def _on_event(self, event: tuple[float, bytes]) -> None:
        if event[1] == OVER:
            # Dask's clients keep handlers for ever, and this one would keep the run's values.
            self.client._event_handlers.pop(topic(self._run_id), None)
        else:
            self._events.put(pickle.loads(event[1]))

    def send(self, commands: Iterable[Command]) -> None:  # noqa: D102 - inherited
        groups: list[tuple[tuple[Placement, float, dict[int, str]], dict[int, DaskTask], list[DaskTask]]] = []
        keys: dict[int, str] = {}
        seats: dict[tuple[int, ...], dict[int, str]] = {}
        released: list[int] = []
        for command in commands:
            if isinstance(command, Dispatch) and command.constants and not self._has_constants():
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
                    DaskTask(f"{key}-{batch}", cut, self._run_id, *which, TaskRef(held[batch]))
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
        self._later(partial(self._tell_workers, batches))
        self._live.difference_update(batches)
        self._kept_back = [order for order in self._kept_back if order.batch not in batches]
        self.client.cancel([self._futures.pop(batch) for batch in batches if batch in self._futures], force=True)

    async def _tell_workers(self, batches: tuple[int, ...]) -> None:
        with suppress(OSError):  # the cluster is going down, and takes all with it
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
        threads = [address for address, number in self._nthreads.items() for _ in range(number)] or [""]
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
        if self.client.status not in ("running", "connecting"):
            raise ClusterLost(f"the scheduler of run {self._run_id} is gone (client status: {self.client.status})")
        if time.monotonic() - self._peopled > DESERTED:
            raise ClusterLost(
                f"the cluster of run {self._run_id} has had no worker for {DESERTED:g} s, and batches are waiting; "
                "start workers, or look why they die, and run the flow again"
            )
        events: list[Event] = []
        if not self._comparing and self.client.loop is not None:
            self._comparing = True
            self.client.loop.add_callback(self._compare, self.backlog())
        if (threads := self._threads) != self._told:
            self._told = threads
            events.append(Resized(threads))
        if self._scattered is not None and self._scattered.look(len(self._nthreads)) and self._kept_back:
            events += self._send_kept_back()
        for batch, future in list(self._futures.items()):
            if (status := future.status) not in ("error", "cancelled"):
                continue
            if batch in self._live:
                self._live.discard(batch)
                events.append(self._lost(batch, status))
            else:
                events.insert(0, Vanished(batch))
            del self._futures[batch]
        return events

    def _send_kept_back(self) -> list[Event]:
        """Send batches that waited for constants; those whose inputs were lost meanwhile are lost, too."""
        kept_back, self._kept_back = self._kept_back, []
        whole = [order for order in kept_back if all(batch in self._futures for batch in order.inputs)]
        self.send(whole)
        failure, _ = capture(ClusterLost("what it needs was lost before it could start"))
        return [Lost(order.batch, Loss.DROPPED, failure) for order in kept_back if order not in whole]

    async def _compare(self, backlog: Backlog) -> None:
        """Tell the scheduler what waits, and ask for its threads, without making the driver wait for the answer."""
        try:
            assert self.client.scheduler is not None
            if backlog != self._backlog:
                told = (topic(self._run_id), tuple(map(tuple, backlog)))
                await self.client.scheduler.log_event(topic=BACKLOG, msg=told)
                self._backlog = backlog
                self._on_told()
            nthreads = await self.client.scheduler.ncores()
            self._nthreads = dict(nthreads)
            self._peopled = time.monotonic() if nthreads else self._peopled
        except OSError:
            pass  # the client notices by itself that the scheduler is gone, and `_look` with it
        finally:
            self._comparing = False

    def _lost(self, batch: int, status: str) -> Lost:
        error = self._futures[batch].exception(timeout=SILENCE) if status == "error" else None
        if error is None:
            error = ClusterLost("the cluster dropped it, again and again; is somebody restarting it?")
        loss = Loss.DROPPED if isinstance(error, (ClusterLost, CancelledError)) else Loss.BROKEN
        if isinstance(error, KilledWorker):
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
        owed = {batch: keys for batch, keys in wanted.items() if batch in self._futures}
        kept = {batch: keys for batch, keys in wanted.items() if batch not in self._futures}
        parts = [self._pick(owed, most)] if owed else []
        for part in self.client.run(pick_kept, self._run_id, kept, most, on_error="return").values() if kept else ():
            if isinstance(part, OSError):
                continue  # a worker that is gone, with its shelf
            if isinstance(part, BaseException):
                raise part
            parts.append(part)
        found: dict[tuple[int, int], Any] = {}
        for part in parts:
            if part is None:
                return None
            with active(self.code):
                found.update(pickling.loads(part, "a value of a task"))
        return found

    def _pick(self, wanted: Wanted, most: int | None) -> bytes | None:
        """Collect values on a worker, so that only what is wanted comes here."""
        futures = [self._futures[batch] for batch in wanted]
        key = f"headrace-fetch-{uuid.uuid4().hex}"
        try:
            return self.client.submit(pick, self._run_id, list(wanted.values()), most, *futures, key=key).result()
        except (KilledWorker, CancelledError) as error:
            raise ValueReleased(
                f"a worker that held values of run {self._run_id} is gone, and with it the values; a run that is over "
                "is not run again by itself. Run the flow again, or let its last task write what shall outlive it"
            ) from error

    def finish(self) -> None:  # noqa: D102 - inherited
        if self._scattered is not None:
            self._scattered.clear()
            self._scattered = None
            self._kept_back.clear()
        self._later(self._close)

    def release(self) -> None:  # noqa: D102 - inherited
        self._released = True
        self._futures.clear()
        if self._registered:
            self._registered = False
            self._later(self._forget)

    def _later(self, clean: Callable[[], Awaitable[None]]) -> None:
        """Clean up on the cluster, not waiting for it: the garbage collector may be asking, in any thread."""
        if self.client.status == "running" and self.client.loop is not None:
            self.client.loop.add_callback(clean)

    async def _close(self) -> None:
        """Say that no report is waited for any more. The scheduler forgets the topic, and sends this on as its last."""
        assert self.client.scheduler is not None
        with suppress(OSError):  # the cluster is going down, and takes all with it
            await self.client.scheduler.log_event(topic=topic(self._run_id), msg=OVER)

    async def _forget(self) -> None:
        """Take the plan away."""
        with suppress(OSError):  # as above
            await self.client.run_on_scheduler(forget_plan, topic(self._run_id))


def _safe(name: str) -> str:
    """A node's name as the prefix of a Dask key: letters only, or Dask would cut it off."""
    return re.sub(r"[^A-Za-z]+", "_", name).strip("_") or "batch"
