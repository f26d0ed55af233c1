"""The other end of the lines: what the driver of each run was told, and what is held for one that is cut off.

How to think about it. A driver's connection may break and come back: a forward is started again, a laptop wakes up.
Dask lets go of what a client wants at the moment its connection closes. So from that moment on it is held in the name
of the run, what runs goes on, and reports are put by: for as long as the driver said that it tries to come back. When
it is back, all is its own again. It says how many reports it has heard and what it still wants, and hears the rest. If
it does not come, its run is forgotten.

Reports are numbered. A driver takes none out of turn and confirms those that it has, several times a second: so none
is lost or heard twice, wherever the connection broke, and only a moment's worth of them is kept.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from distributed import Scheduler
from distributed.comm.core import CommClosedError
from distributed.metrics import time
from distributed.scheduler import ClientState

from headrace.errors import RunError
from headrace.execution.demand import MARK

#: What every event topic of a run begins with.
TOPIC = "headrace-"
#: The last event of a topic, which its driver logs.
OVER = b""
#: In place of a report's number: what follows is the answer to a driver that is back.
ANSWER = -1
#: Stream of a client: a driver is back.
BACK = "headrace-back"
#: What the keys of a run's constants begin with.
CONSTANT = "constant-"
#: What parts the number of what is cut out of a batch, or was scattered again, from the number before it; not a dash,
#: as a run's id may end in dashes and numbers, too.
PART = "."
#: Seconds that a connection may need to go which its client has given up.
GOING = 10.0
#: Seconds without a heartbeat, of which Dask's clients send one every five, after which a driver counts as hanging. One
#: that is busy may hold its interpreter for a while; if it is for longer, idle time begins, which ends no cluster yet.
HANGING = 60.0


def _run_of(key: Any) -> str:
    """The id of the run that a key belongs to; empty, if it is not headrace's."""
    if type(key) is not str:
        return ""
    rest = key.removeprefix(CONSTANT) if key.startswith(CONSTANT) else key.partition(MARK)[2]
    return rest.rpartition("-")[0]


def topic(run_id: str) -> str:
    """The event topic on which the workers report a run."""
    return TOPIC + run_id


@dataclass(slots=True)
class Subscriber:
    """The driver of a run, as the scheduler knows it.

    Attributes
    ----------
    client : str
        Its client.
    patience : float
        Seconds for which it is waited for.
    token : str
        By which it is known, whatever others call their runs.
    reports : deque of bytes
        What it has not confirmed.
    confirmed : int
        How many reports it has; the number of the first of ``reports``.
    listening : bool
        Whether its connection is the one on which it was last told all; reports are put by else.
    held : bool
        Whether it is gone, and what it wanted is held for it.
    absences : int
        How often it was gone.
    over : bool
        Whether the run is over, so that nobody waits for reports.
    """

    client: str
    patience: float
    token: str
    reports: deque[bytes] = field(default_factory=deque)
    confirmed: int = 0
    listening: bool = True
    held: bool = False
    absences: int = 0
    over: bool = False

    @property
    def number(self) -> int:
        """Of the next report."""
        return self.confirmed + len(self.reports)

    def confirm(self, heard: int) -> None:
        """Let go of what it has heard."""
        while self.reports and self.confirmed < heard:
            self.reports.popleft()
            self.confirmed += 1


class Switchboard:
    """The drivers of all runs on one scheduler.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        Which.
    forget : callable
        Takes the topic of a run whose driver is gone for good.
    """

    def __init__(self, scheduler: Scheduler, forget: Callable[[str], Awaitable[None]]) -> None:
        self.scheduler = scheduler
        self.runs: dict[str, Subscriber] = {}  # by topic
        self.changes = 0  # of the workers
        self._forget = forget
        # Dask calls these by whichever name they have here. Those clients that say good-bye are removed by the first.
        self._remove, self._add = scheduler.remove_client, scheduler.add_client
        scheduler.remove_client = self._lose  # type: ignore[method-assign]
        scheduler.handlers["register-client"] = self._register
        scheduler.stream_handlers[BACK] = self.resume
        scheduler.handlers["headrace_look"] = self.look
        self._idle_since = scheduler.check_idle
        scheduler.check_idle = self.idle_since  # type: ignore[method-assign]  # asked by HTTP: by Dask's operator
        scheduler.handlers["check_idle"] = self.idle_since
        if (timer := scheduler.periodic_callbacks.get("idle-timeout")) is not None:
            timer.callback = self.idle_since  # type: ignore[assignment]

    def open(self, name: str, client: str, patience: float, token: str) -> bool:
        """Note who drives a run, and return whether that is known already.

        Raises
        ------
        RunError
            If another run has this name: each would hear what the other's tasks report.
        """
        driver = self.runs.get(name)
        if driver is None:
            self.runs[name] = Subscriber(client, patience, token)
        elif driver.token != token:
            run_id = name.removeprefix(TOPIC)
            raise RunError(
                f"another run of the id {run_id!r} is on this cluster, or its values are; give this one another id "
                "(run_id=, or leave it out), or let the other one go: del run"
            )
        return driver is not None

    def report(self, name: str, report: bytes) -> None:
        """Pass on a report, or put it by."""
        driver = self.runs[name]
        if report == OVER:
            driver.over = True
            driver.reports.clear()
            self._tell(name, driver, ANSWER, OVER)
        elif not driver.over:
            if driver.listening:
                self._tell(name, driver, driver.number, report)
            driver.reports.append(report)

    def makes_again(self, key: object) -> bool:
        """Whether a key is of a run that goes on, which makes again what it loses."""
        driver = self.runs.get(topic(_run_of(key)))
        return driver is not None and not driver.over

    def idle_since(self) -> float | None:
        """Since when there has been nothing to do, for those who end idle clusters; as ``Scheduler.check_idle``.

        Of a run that waits for a retry, Dask has no task; but who removed its cluster would end it.
        """
        if not any(map(self._goes_on, self.runs.values())):
            return self._idle_since()
        self.scheduler.idle_since = None
        return None

    def _goes_on(self, driver: Subscriber) -> bool:
        """Whether a run is not over, and its driver does not hang; one whose connection is gone is waited for."""
        client = self.scheduler.clients.get(driver.client)
        return not driver.over and (client is None or time() - client.last_seen < HANGING)

    def look(self, name: str, heard: int, seen: int) -> tuple[int, int, dict[str, int] | None] | None:
        """Answer a driver that asks how things are; also the sign of life that it waits for.

        Parameters
        ----------
        name : str
            The topic of its run.
        heard : int
            How many reports it has heard.
        seen : int
            How often the workers had changed when it was told of them; -1 if it was not.

        Returns
        -------
        (int, int, dict of str to int or None) or None
            How many reports it should have, how often the workers have changed, and unless it knows, by worker, its
            threads; None if the run is unknown here.
        """
        driver = self.runs.get(name)
        if driver is None:
            return None
        driver.confirm(heard)
        return driver.number, self.changes, None if seen == self.changes else self.scheduler.get_ncores()

    def forget(self, name: str) -> bool:
        """Let go of a run, and of what its driver should have let go of while it was gone.

        Returns
        -------
        bool
            Whether it was known; its driver is told that it is over, then.
        """
        driver = self.runs.pop(name, None)
        if driver is None:
            return False
        if not driver.over:
            self._tell(name, driver, ANSWER, OVER)
        if driver.held:
            self._release(name)
        if driver.absences and driver.client in self.scheduler.clients:
            self._let_go(driver.client, self._keys(driver.client, name))
        return True

    # -- gone and back -------------------------------------------------------------------------------------------

    def _lose(self, client: str, stimulus_id: str | None = None) -> None:
        """Hold what a client wanted whose connection has closed, before Dask lets go of it."""
        scheduler = self.scheduler
        known = client in scheduler.clients and not scheduler._ongoing_background_tasks.closed
        for name in self.of(client) if known else ():
            driver = self.runs[name]
            driver.listening, driver.held = False, True
            driver.absences += 1
            self._hold(name, client)
            scheduler._ongoing_background_tasks.call_later(driver.patience, self._expire, name, driver, driver.absences)
        self._remove(client=client, stimulus_id=stimulus_id)

    def of(self, client: str) -> list[str]:
        """Return the topics of a client's runs."""
        return [name for name, driver in self.runs.items() if driver.client == client]

    async def _expire(self, name: str, driver: Subscriber, absence: int) -> None:
        if self.runs.get(name) is driver and driver.held and driver.absences == absence:
            await self._forget(name)

    async def _register(self, comm: Any, client: str, versions: dict[str, Any]) -> None:
        """Let a client in; if it is back before its old connection was found dead, that goes first.

        Dask would close the new one, when it finds out about the old one.
        """
        old = self.scheduler.client_comms.get(client)
        if old is not None:
            old.abort()
            for _ in range(int(GOING / 0.01)):
                if self.scheduler.client_comms.get(client) is not old:
                    break
                await asyncio.sleep(0.01)
        await self._add(comm, client, versions)

    def welcome(self, client: str) -> None:
        """Give a client that is back what was held for it."""
        for name in self.of(client):
            driver = self.runs[name]
            if driver.held:
                driver.held = False
                self.scheduler.client_desires_keys(
                    [task.key for task in self.scheduler.clients[name].wants_what], client
                )
                self._release(name)

    def resume(self, client: str, name: str, heard: int, keys: list[str], asked: int) -> None:
        """Take up a run with a driver that is back: answer what is lost of what it wants, and tell what it missed.

        Parameters
        ----------
        client : str
            Its client; filled in by Dask.
        name : str
            The topic of its run.
        heard : int
            How many reports it has heard.
        keys : list of str
            All that it still wants.
        asked : int
            Goes with the answer.
        """
        driver = self.runs.get(name)
        if driver is None:
            return  # forgotten this moment; the next look tells
        driver.confirm(heard)
        wanted = set(keys)
        self._let_go(client, [key for key in self._keys(client, name) if key not in wanted])
        lost = [key for key in keys if key not in self.scheduler.tasks]
        self.scheduler.client_desires_keys(wanted.difference(lost), client)
        self._tell(name, driver, ANSWER, (asked, lost))  # after what Dask just told of them
        for number, report in enumerate(driver.reports, driver.confirmed):
            self._tell(name, driver, number, report)
        driver.listening = True

    # -- Dask's names for it -------------------------------------------------------------------------------------

    def _tell(self, name: str, driver: Subscriber, number: int, what: Any) -> None:
        comm = self.scheduler.client_comms.get(driver.client)
        if comm is not None:
            with suppress(CommClosedError):  # Dask finds that out, too, and all that was not confirmed is told again
                comm.send({"op": "event", "topic": name, "event": (number, what)})

    def _keys(self, client: str, name: str) -> list[Any]:
        """Of what a client wants, what belongs to a run: batches, parts of lists, and constants."""
        run_id = name.removeprefix(TOPIC)
        return [task.key for task in self.scheduler.clients[client].wants_what if _run_of(task.key) == run_id]

    def _hold(self, name: str, client: str) -> None:
        """Want in the name of a run what its client does; Dask's way would tell that of it, whose connection is shut.

        For each value that is there, it would log a critical error with its traceback.
        """
        scheduler = self.scheduler
        holder = scheduler.clients[name] = ClientState(name)
        for task in map(scheduler.tasks.__getitem__, self._keys(client, name)):
            assert task.who_wants is not None  # its client does
            task.who_wants.add(holder)
            holder.wants_what.add(task)

    def _release(self, name: str) -> None:
        """Hold nothing any more in the name of a run."""
        self._let_go(name, self._keys(name, name))
        del self.scheduler.clients[name]

    def _let_go(self, client: str, keys: Collection[Any]) -> None:
        self.scheduler.client_releases_keys(keys=keys, client=client)
