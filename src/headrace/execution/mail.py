"""Mail: values that batches of one gang send each other while they run, from worker to worker.

Letters go over the connections that Dask's workers have among themselves, so what holds for these (addresses, TLS)
holds for letters. A batch puts letters into its ``Outbox``; a *line* per receiving worker sends them in order; on the
other side they lie in the ``Mailbox`` of the batch that will ask for them, whether it runs already or not. A letter
that does not arrive is no error: the batch that waits for it gives back what it has not done.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from collections import deque
from collections.abc import Callable, Iterable
from time import perf_counter
from typing import Any

from distributed.protocol.pickle import dumps

from headrace.core.state import State

logger = logging.getLogger(__name__)

#: The name of the message among Dask's own.
MAIL = "headrace-mail"

#: By node: the state in which it ended, and its value. PENDING: it will not come by mail.
Letters = dict[int, tuple[State, Any]]


class Mailbox:
    """The letters to one batch."""

    def __init__(self) -> None:
        self._arrival = threading.Condition()
        self._parcels: list[bytes | Letters] = []
        self._letters: Letters = {}
        self._closed: set[int] = set()

    def put(self, sender: int, parcel: bytes | Letters, closed: bool) -> None:
        """Take in letters, pickled or not; with ``closed``, the last ones of their sender."""
        with self._arrival:
            self._parcels.append(parcel)
            if closed:
                self._closed.add(sender)
            self._arrival.notify_all()

    def take(self, node: int, sender: int, deadline: float) -> tuple[State, Any] | None:
        """Wait for the letter about a node.

        Parameters
        ----------
        node : int
            About which node.
        sender : int
            The batch that will write it.
        deadline : float
            Until when to wait, by ``time.perf_counter``.

        Returns
        -------
        (State, value) or None
            None if it will not come, or did not in time.
        """
        while True:
            with self._arrival:
                self._open_parcels()
                if node in self._letters:
                    return self._letters.pop(node)
                rest = deadline - perf_counter()
                if sender in self._closed or rest <= 0:
                    return None
                self._arrival.wait(rest)

    def _open_parcels(self) -> None:
        parcels, self._parcels = self._parcels, []
        for parcel in parcels:
            try:
                self._letters.update(pickle.loads(parcel) if isinstance(parcel, bytes) else parcel)
            except Exception:
                # Whoever waits for it gives the task run back; it then gets the value as all others do, or its error.
                logger.warning("a value that another worker sent could not be unpickled", exc_info=True)


class PostOffice:
    """The mailboxes of a process, by run and batch. They are made when either side first asks."""

    def __init__(self) -> None:
        self._boxes: dict[tuple[str, int], Mailbox] = {}

    def box(self, run_id: str, batch: int) -> Mailbox:
        """Return a batch's mailbox."""
        return self._boxes.setdefault((run_id, batch), Mailbox())

    def remove(self, run_id: str, batch: int | None = None) -> None:
        """Drop a batch's mailbox, or all of a run's."""
        for key in [(run_id, batch)] if batch is not None else [key for key in self._boxes.copy() if key[0] == run_id]:
            self._boxes.pop(key, None)

    def deliver(self, run_id: str, batch: int, sender: int, parcel: bytes, closed: bool) -> None:
        """Take in what another worker sent; called by Dask."""
        self.box(run_id, batch).put(sender, parcel, closed)


OFFICE = PostOffice()


class _Line:
    """Sends messages to one other worker, in order. Lives in the worker's event loop."""

    def __init__(self, worker: Any, address: str) -> None:
        self.worker = worker
        self.address = address
        self.waiting: deque[dict[str, Any]] = deque()
        self._sending: asyncio.Task[None] | None = None

    def send(self, message: dict[str, Any]) -> None:
        self.waiting.append(message)
        if self._sending is None or self._sending.done():
            self._sending = asyncio.ensure_future(self._send())

    async def _send(self) -> None:
        try:
            comm = await self.worker.rpc.connect(self.address)
            try:
                while self.waiting:
                    await comm.write(self.waiting.popleft())
            finally:
                self.worker.rpc.reuse(self.address, comm)
        except OSError as error:
            self.waiting.clear()
            logger.debug("worker %s does not take mail: %s", self.address, error)


class Outbox:
    """What one batch sends.

    Parameters
    ----------
    worker : distributed.Worker
        On which it runs.
    run_id : str
        Which run.
    batch : int
        Which batch.
    addresses : dict of int to str
        By batch of its gang: the address of the worker where it is expected to run.
    """

    def __init__(self, worker: Any, run_id: str, batch: int, addresses: dict[int, str]) -> None:
        self.worker = worker
        self.run_id = run_id
        self.batch = batch
        self.addresses = {other: address for other, address in addresses.items() if other != batch}
        self.flushed = perf_counter()
        self._letters: dict[int, Letters] = {}

    def add(self, node: int, readers: Iterable[int], state: State, value: Any) -> None:
        """Write a letter; it is sent with the next flush."""
        for reader in readers:
            self._letters.setdefault(reader, {})[node] = (state, value)

    @property
    def waiting(self) -> bool:
        """Whether letters were written and not sent."""
        return bool(self._letters)

    def flush(self, *, closed: bool = False) -> None:
        """Send what was written; with ``closed``, tell all others that nothing will follow."""
        letters, self._letters = self._letters, {}
        for reader in self.addresses if closed else letters:
            self._send(reader, letters.get(reader, {}), closed)
        self.flushed = perf_counter()

    def _send(self, reader: int, letters: Letters, closed: bool) -> None:
        address = self.addresses[reader]
        if address == self.worker.address:
            OFFICE.box(self.run_id, reader).put(self.batch, letters, closed)
            return
        message = {
            "op": MAIL, "reply": False, "run_id": self.run_id, "batch": reader, "sender": self.batch,
            "parcel": _packed(letters), "closed": closed,
        }  # fmt: skip
        _in_loop(self.worker, lambda: _line(self.worker, address).send(message))


def _packed(letters: Letters) -> bytes:
    """Pickle letters; instead of those that cannot be pickled, that they will not come."""
    try:
        return bytes(dumps(letters))
    except Exception:  # noqa: BLE001 - any type may refuse in any way
        passed: Letters = {}
        for node, letter in letters.items():
            try:
                dumps(letter)
            except Exception:  # noqa: BLE001 - as above; it goes by Dask then, with an error that names it
                letter = State.PENDING, None
            passed[node] = letter
        return bytes(dumps(passed))


def _in_loop(worker: Any, call: Callable[[], None]) -> None:
    worker.loop.asyncio_loop.call_soon_threadsafe(call)


def _line(worker: Any, address: str) -> _Line:
    lines: dict[str, _Line] = worker.__dict__.setdefault("_headrace_lines", {})
    line = lines.get(address)
    if line is None:
        line = lines[address] = _Line(worker, address)
    return line
