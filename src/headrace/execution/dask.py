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
from collections.abc import Iterable
from typing import Any

from dask._task_spec import Task as DaskTask
from dask._task_spec import TaskRef
from distributed import CancelledError, Client, Future, KilledWorker

from headrace.core.events import Command, Dispatch, Ended, Event, Lost, Resized, Stop
from headrace.errors import ClusterLost, HeadraceError, MissingModule, RunError, TaskCrashed, ValueReleased
from headrace.execution.base import Executor, Wanted
from headrace.execution.failure import capture
from headrace.execution.worker import PlanPlugin, pick, run_batch, topic

#: Seconds between two looks at the futures and at the number of threads; both change only when something is lost
#: or when the cluster grows, so this bounds how long that goes unnoticed.
LOOK = 0.25
#: Seconds without an answer from the scheduler after which it counts as lost.
SILENCE = 30.0


class DaskExecutor(Executor):
    """Executes batches on the cluster of a client.

    Parameters
    ----------
    client : distributed.Client
        Connected. It is not closed by the executor.
    """

    kind = "dask"

    def __init__(self, client: Client) -> None:
        self.client = client
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._futures: dict[int, Future[Any]] = {}
        self._live: set[int] = set()
        self._looked = 0.0
        self._threads = self._told = 0
        self._counting = False
        self._registered = False
        self._run_id = ""
        self._names: list[str] = []

    def start(self, run_id: str, plan: bytes) -> int:  # noqa: D102 - inherited
        self._run_id = run_id
        self.client.subscribe_topic(topic(run_id), self._on_event)
        try:
            self.client.register_plugin(PlanPlugin(run_id, plan))
            self._registered = True
        except HeadraceError:
            raise
        except ImportError as error:
            raise MissingModule(
                f"a worker of {self.client!r} cannot load run {run_id}: {error}; install what is "
                "missing where the workers run"
            ) from error
        self._names = [_safe(node.name) for node in pickle.loads(plan).nodes]
        self._threads = max(1, sum(self.client.nthreads().values()))
        self._told = self._threads
        return self._threads

    def _on_event(self, event: tuple[float, bytes]) -> None:
        self._events.put(pickle.loads(event[1]))

    def send(self, commands: Iterable[Command]) -> None:  # noqa: D102 - inherited
        graph: dict[Any, DaskTask] = {}
        keys: dict[int, str] = {}
        for command in commands:
            if isinstance(command, Dispatch):
                key = self._key(command)
                inputs = [TaskRef(self._futures[batch].key) for batch in command.inputs]
                graph[key] = DaskTask(key, run_batch, self._run_id, pickle.dumps(command, protocol=5), *inputs)
                keys[command.batch] = key
            elif isinstance(command, Stop):
                self.client.cancel([self._futures[batch] for batch in command.batches], force=True)
                self._live.difference_update(command.batches)
        if graph:
            futures = self.client.get(graph, list(keys.values()), sync=False)
            self._futures.update(zip(keys, futures, strict=True))
            self._live.update(keys)

    def _key(self, order: Dispatch) -> str:
        """A key of its own group, or Dask would take batches for root tasks and hold them back on the scheduler."""
        return f"{self._names[order.strips[0].nodes[0]]}-{self._run_id}-{order.batch}"

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
        events: list[Event] = []
        if not self._counting and self.client.loop is not None:
            self._counting = True
            self.client.loop.add_callback(self._count_threads)
        if (threads := self._threads) != self._told:
            self._told = threads
            events.append(Resized(threads))
        for batch in list(self._live):
            status = self._futures[batch].status
            if status in ("error", "cancelled"):
                self._live.discard(batch)
                events.append(self._lost(batch, status))
        return events

    async def _count_threads(self) -> None:
        """Ask the scheduler for its threads, without making the driver wait for the answer."""
        try:
            assert self.client.scheduler is not None
            nthreads = await self.client.scheduler.ncores()
            self._threads = max(1, sum(nthreads.values()))
        except OSError:
            pass  # the client notices by itself that the scheduler is gone, and `_look` with it
        finally:
            self._counting = False

    def _lost(self, batch: int, status: str) -> Lost:
        error = self._futures[batch].exception(timeout=SILENCE) if status == "error" else None
        if error is None:
            error = ClusterLost("the cluster cancelled it, for instance because its scheduler was restarted")
        killed = isinstance(error, KilledWorker)
        if killed:
            error = TaskCrashed(
                "the process that ran it died, each time it was tried: it was killed (perhaps for using too much "
                f"memory), or it crashed in native code. Dask says: {error}"
            )
        failure, _ = capture(error)
        return Lost(batch, killed, failure)

    def fetch(self, wanted: Wanted, most: int | None = None) -> dict[tuple[int, int], Any] | None:  # noqa: D102
        if not wanted:
            return {}
        futures = [self._futures.get(batch) for batch in wanted]
        if None in futures:
            raise ValueReleased(f"run {self._run_id} was released, so its values are gone; run the flow again")
        future = self.client.submit(
            pick, list(wanted.values()), most, *futures, key=f"headrace-fetch-{self._run_id}-{id(wanted)}", pure=False
        )
        try:
            data = future.result()
        except (RunError, KilledWorker, CancelledError) as error:
            raise ValueReleased(
                f"a worker that held values of run {self._run_id} is gone, and with it the values; a run that is over "
                "is not run again by itself. Run the flow again, or let its last task write what shall outlive it"
            ) from error
        return None if data is None else pickle.loads(data)

    def finish(self) -> None:
        """Take the plan from the workers: should one of them die later, Dask shall not run a task a second time."""
        if self.client.status == "running" and self.client.loop is not None:
            self.client.unsubscribe_topic(topic(self._run_id))
            if self._registered:
                self._registered = False
                self.client.loop.add_callback(_forget, self.client, topic(self._run_id))  # not waited for

    def release(self) -> None:  # noqa: D102 - inherited
        self._futures.clear()


async def _forget(client: Client, name: str) -> None:
    """Remove the plan from the workers, and the run's events from the scheduler."""
    try:
        if client.scheduler is not None:
            await client.scheduler.unregister_worker_plugin(name=name)
        await client.run_on_scheduler(_drop_topic, name)
    except OSError:
        pass  # the cluster is going down, and takes both with it


def _drop_topic(name: str, dask_scheduler: Any = None) -> None:
    dask_scheduler._broker._topics.pop(name, None)


def _safe(name: str) -> str:
    """A node's name as the prefix of a Dask key: letters only, or Dask would cut it off."""
    return re.sub(r"[^A-Za-z]+", "_", name).strip("_") or "batch"
