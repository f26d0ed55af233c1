"""Media at the other end of a network: deadlines, retries, and many requests at a time.

A medium says in coroutines how it is asked once. Here is what they have in common:

* **A deadline.** Each verb ends within the deadline, an object of many megabytes within one second per megabyte more,
  whatever timeouts and retries the back end has of its own. A listing must bring its next page in time. The clock
  starts when the first request can go out: on a busy machine, what comes before may take longer than any store.
* **Retries.** What may pass by itself (a connection that breaks, a store that is busy, silence) is asked again, a few
  times, after pauses that grow and are not all the same. Silence is waited for twice: the first time it may be a
  connection that died while it was idle.
* **Lost answers.** If a creation is asked again and the object is there now, a mark that each creation leaves beside
  its object tells whether the first request had done it; where there are no marks, the bytes do.
* **Many at a time**, on the event loop of the back end, in one thread.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import wait
from functools import partial
from math import inf
from typing import Any, TypeVar

from headrace.errors import AlreadyExists, StorageError, Unreachable
from headrace.storage.media.medium import SLOWEST, Keys, Outcomes, is_answer
from headrace.storage.trouble import meaning

#: how often one thing is asked at most, if the failures come quickly.
MOST_ATTEMPTS = 5
#: seconds before the second attempt; twice as much before each further one, less up to a half at random.
FIRST_PAUSE = 0.2
#: part of the deadline after which an attempt counts as lost: silence is waited for twice.
SHARE = 0.45

T = TypeVar("T")


class Remote:
    """Objects behind an event loop that runs in another thread.

    Parameters
    ----------
    loop : asyncio event loop
        Of the back end.
    url : str
        For messages.
    deadline : float
        Seconds.
    """

    writable = True
    lists = True
    #: requests that are under way at a time.
    concurrency = 64
    #: whether what is below asks again by itself if a connection breaks
    resends = False

    def __init__(self, loop: Any, url: str, deadline: float) -> None:
        self.url = url
        self.deadline = deadline
        self._loop = loop
        self._process = os.getpid()
        self._readying = threading.Lock()
        self._is_ready = False

    # -- what a medium says: one attempt of each verb ---------------------------------------------------------

    async def _read(self, key: str) -> bytes:
        raise NotImplementedError

    async def _create(self, key: str, data: bytes, mark: str) -> None:
        """Leave the mark beside the object, if the store keeps such."""
        raise NotImplementedError

    async def _is_own(self, key: str, data: bytes, mark: str) -> bool:
        """Whether it was the creation with this mark that put the object there, so far as one can tell."""
        return await self._read(key) == data

    async def _replace(self, key: str, data: bytes) -> None:
        raise NotImplementedError

    async def _size(self, key: str) -> int:
        """Bytes of an object; ``FileNotFoundError`` if there is none."""
        raise NotImplementedError

    def _pages(self, key: str, *, deep: bool) -> AsyncIterator[Keys]:
        """Yield keys below a key: all, or the next part of each. May hold too many, but not too few."""
        raise NotImplementedError

    async def _delete(self, key: str) -> None:
        raise NotImplementedError

    def _get_ready(self) -> None:
        """Do, once and before the clock starts, what takes this process its time and is not the store's to answer for.

        It speaks with nobody: what waits for somebody else is done within the deadline.
        """

    async def _recover(self) -> None:
        """Get ready for the next attempt, after one that got no answer."""

    # -- the verbs -------------------------------------------------------------------------------------------

    def read(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return self._wait(self._reading(key))

    def create(self, key: str, data: bytes) -> None:
        """Write an object that is not there yet."""
        self._wait(self._creating(key, data))

    def replace(self, key: str, data: bytes) -> None:
        """Write an object whether or not it is there."""
        self._wait(self._surely(partial(self._replace, key, data), len(data)))

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return self._wait(self._existing(key))

    def list(self, key: str) -> Keys:
        """All objects below a key."""
        return self._wait(self._listing(key, deep=True))

    def children(self, key: str) -> Keys:
        """The next parts of all keys below a key."""
        return self._wait(self._listing(key, deep=False))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._wait(self._deleting(key))

    def each(self, verb: str, calls: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Ask one verb many times, some at a time."""
        asks: dict[str, Callable[..., Awaitable[Any]]] = {
            "read": self._reading,
            "create": self._creating,
            "exists": self._existing,
            "delete": self._deleting,
        }
        ask = asks[verb]
        # Those under way share the line.
        if verb == "create":
            ask = partial(ask, size=sum(len(data) for _, data in calls))
        elif verb == "read":
            ask = partial(ask, sharers=min(self.concurrency, len(calls)))
        return self._wait(self._each(ask, calls)) if calls else []

    async def _each(self, ask: Callable[..., Awaitable[Any]], calls: Sequence[tuple[Any, ...]]) -> Outcomes:
        outcomes: Outcomes = [None] * len(calls)
        todo = iter(enumerate(calls))

        async def work() -> None:
            for index, call in todo:
                try:
                    outcomes[index] = await ask(*call)
                except Exception as error:
                    outcomes[index] = error
                    if not is_answer(error):
                        raise  # ends the others, too

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.concurrency, len(calls))):
                    group.create_task(work())
        except* Exception:  # noqa: BLE001 - it stands among the outcomes
            pass
        return outcomes

    # -- each with its deadline ------------------------------------------------------------------------------

    async def _reading(self, key: str, *, sharers: int = 1) -> bytes:
        ask = partial(self._read, key)
        try:
            return await self._surely(ask, once=True)
        except TimeoutError:  # too large for the time, or is nobody there?
            size = await self._surely(partial(self._size, key), once=True) * sharers
            if size < SLOWEST:
                raise
        return await self._surely(ask, size)

    async def _creating(self, key: str, data: bytes, *, size: int | None = None) -> None:
        mark, attempts = secrets.token_hex(8), 0
        taken: Exception | None = None

        async def ask() -> None:
            nonlocal attempts, taken
            attempts += 1
            if taken is None:
                try:
                    await self._create(key, data, mark)
                    return
                except Exception as error:
                    if meaning(error) is not AlreadyExists or (attempts == 1 and not self.resends):
                        raise
                    taken = error
            if not await self._is_own(key, data, mark):
                raise taken

        await self._surely(ask, len(data) if size is None else size)

    async def _existing(self, key: str) -> bool:
        await self._surely(partial(self._size, key))
        return True

    async def _deleting(self, key: str) -> None:
        await self._surely(partial(self._delete, key))

    async def _listing(self, key: str, *, deep: bool) -> Keys:
        clock = asyncio.get_running_loop().time
        patience = SHARE * self.deadline

        async def ask() -> Keys:
            found: Keys = []
            async with asyncio.timeout(patience) as limit:
                async for page in self._pages(key, deep=deep):
                    found += page
                    limit.reschedule(clock() + patience)
            return found

        return await self._surely(ask, inf)

    async def _surely(self, ask: Callable[[], Awaitable[T]], size: float = 0, *, once: bool = False) -> T:
        """Ask until there is an answer, the time is over, or it is in vain.

        Parameters
        ----------
        ask : callable
            One attempt.
        size : float
            Bytes that are to be moved; infinite if the attempts end by themselves.
        once : bool
            Whether silence is waited for once only.
        """
        clock = asyncio.get_running_loop().time
        patience = SHARE * self.deadline + size / SLOWEST
        end = clock() + (patience if once else 0.95 * self.deadline + size / SLOWEST)
        silences = 0
        for attempt in range(1, MOST_ATTEMPTS + 1):
            try:
                async with asyncio.timeout_at(min(clock() + patience, end)):
                    return await ask()
            except Exception as error:
                silences += isinstance(error, TimeoutError)
                pause = FIRST_PAUSE * 2 ** (attempt - 1) * random.uniform(0.5, 1)
                vain = meaning(error) is not Unreachable or attempt == MOST_ATTEMPTS
                if vain or silences == 2 or clock() + pause >= end:
                    raise
            await self._recover()
            await asyncio.sleep(pause)
        raise AssertionError("the last attempt returns or raises")

    # -- from the caller's thread to the loop's ---------------------------------------------------------------

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Have a coroutine run by the loop, and wait for it."""
        try:
            self._check_caller()
            with self._readying:
                if not self._is_ready:
                    self._get_ready()
                    self._is_ready = True
        except BaseException:
            work.close()
            raise
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        heard = time.monotonic()

        def beat() -> None:
            nonlocal heard
            heard = time.monotonic()

        try:
            # In short turns, so that this thread can be interrupted, and notices if the loop's thread is stuck: some
            # back ends ask for credentials there, and wait.
            while not wait([future], timeout=1).done:
                if time.monotonic() - heard > self.deadline:
                    raise TimeoutError("the thread that speaks with the store is stuck")
                self._loop.call_soon_threadsafe(beat)
            return future.result()
        finally:
            future.cancel()  # whoever was interrupted leaves nothing going on

    def _check_caller(self) -> None:
        if os.getpid() != self._process:
            raise StorageError(
                f"{self.url} was opened before this process was forked, and its connections do not survive that; "
                "make a new Storage in the child, or start processes by 'spawn'"
            )
        try:
            running = asyncio.get_running_loop()
        except RuntimeError:
            return
        if running is self._loop:
            raise StorageError(
                f"{self.url} was used on the event loop that its own requests run on, where waiting for them would "
                "never end; use it in another thread: await asyncio.to_thread(...)"
            )
