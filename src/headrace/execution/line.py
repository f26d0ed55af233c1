"""The line between the driver of a run and the scheduler: it may break, and is taken up again.

How to think about it. While the connection is the one on which the scheduler last told all, the line is up. Else it is
cut: nothing is sent, and nothing that Dask's client says of its futures counts, because it gives all of them up with
the connection. Dask's client connects anew by itself. Then the run is taken up (``execution.switchboard`` has the other
end): the scheduler says what it still has, and tells what was missed. If it is another scheduler, or has forgotten the
run, it is brought all that it brought the first time, and has nothing.

A peer may also be gone in silence. The kernel finds that out after ``distributed.comm.timeouts.tcp``, 30 seconds; but
not through a forward, whose near end stays. So whoever waits for the scheduler asks it now and then for a sign of life,
and breaks the connection himself if there is none.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from distributed import Client
from distributed.comm.core import CommClosedError

from headrace.errors import ClusterLost, RunError
from headrace.execution.scheduler import Opened, forget_plan, open_run
from headrace.execution.switchboard import ANSWER, BACK, OVER, topic

T = TypeVar("T")

#: Seconds without an answer from the scheduler after which a connection counts as dead.
SILENCE = 30.0
#: Seconds between two looks whether a connection is there again.
RETRY = 0.1
#: Least seconds between two messages of the client to the scheduler. Dask's own are 0.01, for which whatever is sent
#: just after another message has to wait: the first batches of each run. The scheduler's to its workers are 0.002, too.
INTERVAL = 0.002


class Line:
    """One run's line to the scheduler.

    Parameters
    ----------
    client : distributed.Client
        Connected, or connecting.
    run_id : str
        Which run.
    hear : callable
        Takes each report, in the thread of the client's loop.
    patience : float
        Seconds for which the scheduler may be out of reach.
    """

    def __init__(self, client: Client, run_id: str, hear: Callable[[bytes], None], patience: float) -> None:
        self.client = client
        self.run_id = run_id
        self.topic = topic(run_id)
        self.patience = patience
        self.heard = 0
        self.token = uuid.uuid4().hex  # tells this run from another one of the same id
        self.introduced = False
        self.mending = threading.RLock()
        self._hear = hear
        self.nthreads: dict[str, int] = {}  # by address of a worker
        self._seen = -1  # how often the workers had changed when that was told
        self._comm: Any = None  # on which all was told
        self._cut_since: float | None = None
        self._behind: tuple[int, float] | None = None  # what was heard when more was there, and since when
        self._answers: dict[int, asyncio.Future[list[Any]]] = {}
        self._numbers = itertools.count()

    # -- up or cut -----------------------------------------------------------------------------------------------

    @property
    def cut(self) -> bool:
        """Whether it has to be taken up."""
        return self._comm is None or self.client.scheduler_comm is not self._comm

    @property
    def connected(self) -> bool:
        """Whether Dask's client has a connection."""
        return bool(self.client.status == "running" and self.client.scheduler_comm is not None)

    def check(self) -> None:
        """Give up if the scheduler has been out of reach for too long.

        Raises
        ------
        ClusterLost
            Says for how long, and what to do.
        """
        where = self.client.scheduler.address if self.client.scheduler is not None else "no address"
        if not self.cut:
            self._cut_since = None
        elif self.client.status not in ("running", "connecting"):
            raise ClusterLost(
                f"the scheduler of run {self.run_id} at {where} is gone: the client that led there is "
                f"{self.client.status}. Either it, or the cluster, was closed while the run went on, or nothing "
                "answered at that address any more. Look whether the cluster is up, and run the flow again"
            )
        elif self._cut_since is None:
            self._cut_since = time.monotonic()
        elif time.monotonic() - self._cut_since > self.patience:
            raise ClusterLost(
                f"the scheduler of run {self.run_id} at {where} has been out of reach for {self.patience:g} s, so the "
                "run was given up; what it left on the cluster is taken away by the scheduler, if that still lives. "
                "Look whether the scheduler runs, and whether this machine may reach it, and run the flow again; if "
                "it needs longer to come back, say so: DaskEnvironment(..., reconnect=SECONDS)"
            )

    # -- opening and taking up -----------------------------------------------------------------------------------

    def open(self) -> Opened:
        """Introduce the run to the scheduler, when there is a connection.

        Raises
        ------
        ClusterLost
            If there is none for too long.
        RunError
            If another run of this id is there.
        """
        # Dask's client gives up for good after this time, which is also how long it may take to connect at first.
        self.client._timeout = max(self.client._timeout, self.patience + SILENCE)
        while (comm := self._connection()) is None:
            self.check()
            time.sleep(RETRY)
        # The scheduler may have noticed long before that the line is cut.
        patience = self.patience + 2 * SILENCE
        told = self.topic, self.client.id, patience, self.token
        self.introduced = True  # perhaps, also if the answer does not come
        try:
            opened = Opened(*self.ask(self.client.run_on_scheduler, open_run, *told))
        except RunError:
            self.introduced = False  # it is another run's topic
            raise
        self.client._event_handlers[self.topic] = self._on_event
        self.nthreads, self._seen = opened.nthreads, -1
        if not opened.known:
            self.heard = 0
            self._comm = comm
        return opened

    def resume(self, keys: list[Any]) -> list[Any]:
        """Take up the run with a scheduler that knows it, and return which keys it does not have.

        Over the stream, so that it comes after all that was sent there before.

        Parameters
        ----------
        keys : list
            All that the run still wants. There must be futures for them already.

        Raises
        ------
        OSError
            If the connection breaks meanwhile.
        """
        if (comm := self._connection()) is None:
            raise CommClosedError("the connection broke again")
        lost: list[Any] = self.ask(self._claim, comm, keys)
        self._behind = None
        self._comm = comm
        return lost

    def _connection(self) -> Any:
        comm = self.client.scheduler_comm if self.client.status == "running" else None
        if comm is not None:
            comm.interval = min(comm.interval, INTERVAL)
        return comm

    async def _claim(self, comm: Any, keys: list[Any]) -> list[Any]:
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            comm.send({"op": BACK, "name": self.topic, "heard": self.heard, "keys": keys, "asked": number})
            while not (await asyncio.wait({answer}, timeout=RETRY))[0]:
                if comm.closed():
                    raise CommClosedError("the connection broke again")
            return list(answer.result())
        finally:
            del self._answers[number]

    def _on_event(self, event: tuple[int, Any]) -> None:
        number, what = event
        if what == OVER:
            self._deafen()
        elif number == ANSWER:
            asked, lost = what
            if (answer := self._answers.get(asked)) is not None and not answer.done():
                answer.set_result(lost)
        elif number == self.heard:  # else it is told again, or others are missing that will be told before it
            self.heard += 1
            self._hear(what)

    def _deafen(self) -> None:
        """Dask's clients keep handlers for ever, and this one would keep the run's values."""
        self.client._event_handlers.pop(self.topic, None)

    # -- asking --------------------------------------------------------------------------------------------------

    def ask(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method of the client, and wait for as long as the scheduler gives signs of life.

        Parameters
        ----------
        call : callable
            The method, or any function that returns an awaitable when it is called in the client's loop.
        *args, **options
            For it.

        Raises
        ------
        OSError
            If the connection breaks, or the scheduler is silent.
        """
        return self.client.sync(self._watched, lambda: call(*args, **options))

    def insist(self, call: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call as ``ask`` does, again if the connection breaks, until the scheduler has been gone for too long."""
        while True:
            try:
                return self.ask(call, *args, **options)
            except OSError:
                self.check()
                time.sleep(RETRY)

    async def _watched(self, call: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.ensure_future(call())
        try:
            while not (await asyncio.wait({task}, timeout=SILENCE))[0]:
                await self.look()
            return task.result()
        finally:
            task.cancel()

    async def look(self) -> bool:
        """Confirm what was heard, and ask how many threads each worker has: also the sign of life.

        Returns
        -------
        bool
            Whether the scheduler knows the run, which is to be taken up else.

        Raises
        ------
        OSError
            If there is no answer; then the connection is broken.
        """
        assert self.client.scheduler is not None
        comm = self.client.scheduler_comm
        try:
            told = await asyncio.wait_for(
                self.client.scheduler.headrace_look(name=self.topic, heard=self.heard, seen=self._seen), SILENCE
            )
        except TimeoutError:
            self._break(comm)
            raise
        if told is None:
            if self._comm is comm:
                self._comm = None
            return False
        number, seen, nthreads = told
        if nthreads is not None:
            self._seen, self.nthreads = seen, dict(nthreads)
        now = time.monotonic()
        if number <= self.heard or self._behind is None or self._behind[0] != self.heard:
            self._behind = self.heard, now
        elif now - self._behind[1] > SILENCE and self._comm is comm:
            self._break(comm)  # it answers there, and is silent here
        return True

    def _break(self, comm: Any) -> None:
        """Break a connection that is dead, so that Dask's client makes another."""
        scheduler, current = self.client.scheduler, self.client.scheduler_comm
        if scheduler is not None and current is not None and current is comm:
            current.abort()
            self.client.rpc.remove(str(scheduler.address), reason="the scheduler is silent")

    # -- closing -------------------------------------------------------------------------------------------------

    def later(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Have something done on the cluster, not waiting for it: the garbage collector may ask, in any thread.

        Parameters
        ----------
        call : callable
            Does it, in the client's loop. It is called when there is a connection, again if that breaks, and not at all
            if there is none any more.
        """
        if self.client.status in ("running", "connecting") and self.client.loop is not None:
            self.client.loop.add_callback(self._surely, call)

    async def _surely(self, call: Callable[[], Awaitable[Any]]) -> None:
        while self.client.status in ("running", "connecting"):
            if self.connected:
                with suppress(OSError):
                    await self._watched(call)
                    return
            await asyncio.sleep(RETRY)

    def close(self) -> None:
        """Say that no report is waited for any more. The scheduler sends that back as the last."""
        if self.introduced:
            self.later(self._close)

    async def _close(self) -> None:
        assert self.client.scheduler is not None
        comm = self.client.scheduler_comm
        await self.client.scheduler.log_event(topic=self.topic, msg=OVER)
        if self.client.scheduler_comm is not comm or self.cut:
            self._deafen()  # it may never come

    def forget(self) -> None:
        """Have the scheduler forget the run."""
        if self.introduced:
            self.introduced = False
            self.later(self._forget)

    async def _forget(self) -> None:
        comm = self.client.scheduler_comm
        known = await self.client.run_on_scheduler(forget_plan, self.topic)
        if not known or self.client.scheduler_comm is not comm:
            self._deafen()  # else the last event is on its way, and Dask would complain of one that nobody hears
