"""Mail: values that batches of one gang send each other while they run, from worker to worker.

A batch puts letters into its ``Outbox``; they go over a connection between the two processes; on the other side they
lie in the ``Mailbox`` of the batch that will ask for them, whether it runs already or not. A letter that does not
arrive is no error: the batch that waits for it gives back what it has not done.

The connections are not Dask's, because a worker's event loop shares Python's interpreter lock with the tasks: a letter
that had to pass two event loops took 0.4 to 0.8 ms, where a thread that writes to a socket itself, and one that waits
for nothing but letters, take 0.15 ms. Each process tells others where it listens, and the key that it asks for, over
Dask's own connections; whoever does not know the key is not listened to. What is written is not encrypted, so
there are no gangs on clusters that talk by TLS (``DaskExecutor.start``).
"""

from __future__ import annotations

import asyncio
import logging
import os
import pickle
import secrets
import socket
import struct
import threading
from collections.abc import Iterable
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener, answer_challenge, deliver_challenge
from threading import Thread
from time import perf_counter
from typing import Any

from distributed.comm.addressing import get_address_host
from distributed.protocol.pickle import dumps

from headrace.core.state import State

logger = logging.getLogger(__name__)

#: What a worker is asked for by others that want to send mail to its process; the name among Dask's own requests.
MAIL = "headrace_mail"
#: Seconds to wait for an answer, or for a letter to be taken off one's hands.
PATIENT = 2.0
#: Seconds for which nobody tries to reach again who could not be reached.
REST = 60.0

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

    def has(self, node: int) -> bool:
        """Whether the letter about a node is there."""
        if node not in self._letters and self._parcels:
            with self._arrival:
                self._open_parcels()
        return node in self._letters

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
        self._lock = threading.Lock()
        self._runs: dict[str, dict[int, Mailbox | None]] = {}  # None: the batch is over

    def open(self, run_id: str) -> None:
        """Begin to take in mail of a run."""
        with self._lock:
            self._runs.setdefault(run_id, {})

    def box(self, run_id: str, batch: int) -> Mailbox:
        """Return a batch's mailbox; of a run that is over, or a batch that was here before, an empty one."""
        with self._lock:
            boxes = self._runs.get(run_id, {})
            box = boxes.get(batch)
            if box is None:
                box = boxes[batch] = Mailbox()
            return box

    def remove(self, run_id: str, batch: int | None = None) -> None:
        """Take in no more mail for a batch, or for a run."""
        with self._lock:
            if batch is None:
                self._runs.pop(run_id, None)
            elif run_id in self._runs:
                self._runs[run_id][batch] = None

    def deliver(self, run_id: str, batch: int, sender: int, parcel: bytes | Letters, closed: bool) -> None:
        """Take in what was sent, unless it comes too late."""
        with self._lock:
            boxes = self._runs.get(run_id)
            box = boxes.setdefault(batch, Mailbox()) if boxes is not None else None
        if box is not None:
            box.put(sender, parcel, closed)

    def __len__(self) -> int:
        """How many mailboxes there are."""
        return sum(box is not None for boxes in self._runs.values() for box in boxes.values())


OFFICE = PostOffice()


class _Wire:
    """A connection to another process, on which one thread at a time sends."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.lock = threading.Lock()

    def send(self, message: bytes) -> None:
        with self.lock:
            self.connection.send_bytes(message)


class Wires:
    """The connections of this process with others: one to send to each, and one to receive from each.

    Nothing here waits for long: who does not answer within `PATIENT` seconds is left alone for `REST` seconds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._key = secrets.token_bytes(32)
        self._out: dict[str, _Wire] = {}
        self._silent: dict[str, float] = {}  # who could not be reached, and until when nobody tries

    def listen(self, host: str) -> tuple[Any, bytes]:
        """Return where this process listens, and the key that it asks for; begin, if need be.

        Parameters
        ----------
        host : str
            The address at which this process's workers are reached.
        """
        with self._lock:
            if self._listener is None:
                self._listener = Listener((host, 0), family="AF_INET6" if ":" in host else "AF_INET", backlog=128)
                Thread(target=self._accept, args=(self._listener,), name="headrace-mail", daemon=True).start()
            return self._listener.address[:2], self._key

    def _accept(self, listener: Listener) -> None:
        while True:
            try:
                connection = listener.accept()
            except OSError as error:
                logger.debug("a connection came to nothing: %s", error)
                continue
            Thread(target=self._receive, args=(connection,), name="headrace-mail", daemon=True).start()

    def _receive(self, connection: Connection) -> None:
        """Take in what another process sends, until it ends."""
        with connection:
            try:
                _set_patience(connection, PATIENT)
                deliver_challenge(connection, self._key)
                answer_challenge(connection, self._key)
                _set_patience(connection, 0)
                while True:
                    OFFICE.deliver(*pickle.loads(connection.recv_bytes()))
            except (OSError, EOFError):
                return
            except AuthenticationError as error:
                logger.warning("somebody knocked who does not know the key, and was not let in: %s", error)

    def send(self, worker: Any, address: str, message: bytes) -> None:
        """Send to the process of another worker; if it cannot be reached, do nothing.

        Parameters
        ----------
        worker : distributed.Worker
            The one that sends.
        address : str
            Dask's address of the other.
        message : bytes
            A pickle of the arguments of `PostOffice.deliver`.
        """
        with self._lock:
            wire = self._out.get(address)
            if wire is None and perf_counter() < self._silent.get(address, 0.0):
                return
        try:
            if wire is None:
                wire = self._connect(worker, address)
            wire.send(message)
        except Exception as error:  # noqa: BLE001 - whatever it is, the batch goes on without mail
            logger.warning("worker %s cannot be reached for mail, so flows may run more slowly: %s", address, error)
            with self._lock:
                self._silent[address] = perf_counter() + REST
                gone = self._out.pop(address, None)
            if gone is not None:
                gone.connection.close()

    def _connect(self, worker: Any, address: str) -> _Wire:
        if not address.startswith("tcp://"):
            raise OSError("it does not talk by TCP without encryption")
        asked = asyncio.run_coroutine_threadsafe(_ask(worker, address), worker.loop.asyncio_loop)
        where, key = asked.result(PATIENT)
        with socket.create_connection(tuple(where), timeout=PATIENT) as plug:
            plug.settimeout(None)
            plug.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection = Connection(plug.detach())
        _set_patience(connection, PATIENT)
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        with self._lock:
            return self._out.setdefault(address, _Wire(connection))


def _set_patience(connection: Connection, seconds: float) -> None:
    """Let a blocking call on a connection fail after so many seconds; 0 is never."""
    span = struct.pack("ll", int(seconds), int(seconds % 1 * 1e6))
    with socket.socket(fileno=os.dup(connection.fileno())) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, span)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, span)


async def _ask(worker: Any, address: str) -> Any:
    async with worker.rpc(address) as other:
        return await getattr(other, MAIL)()


WIRES = Wires()


def serve(worker: Any) -> None:
    """Have a worker answer others that ask where its process listens."""

    def tell() -> tuple[Any, bytes]:
        return WIRES.listen(get_address_host(worker.address))

    worker.handlers.setdefault(MAIL, tell)


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
        """Send what was written; with ``closed``, tell all others that nothing will follow, so they need not wait."""
        letters, self._letters = self._letters, {}
        for reader in self.addresses if closed else letters:
            self._send(reader, letters.get(reader, {}), closed)
        self.flushed = perf_counter()

    def _send(self, reader: int, letters: Letters, closed: bool) -> None:
        address = self.addresses[reader]
        if address == self.worker.address or address.startswith("inproc://"):
            OFFICE.deliver(self.run_id, reader, self.batch, letters, closed)
        else:
            parcel = _packed(letters)
            WIRES.send(self.worker, address, pickle.dumps((self.run_id, reader, self.batch, parcel, closed)))


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
