"""First-party code where batches execute: brought to each worker once, and active while a batch of its run executes.

The values of a run may be objects of its code. Only in its space can they be pickled and unpickled. Where two versions
of one module are known, the space of a value's code may be taken when somebody asks for the value; so there, values are
pickled while their batch still holds the space, and else not before somebody asks.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakValueDictionary

from distributed import Reschedule, WorkerPlugin

from headrace.code.bundle import Bundle
from headrace.code.space import Space, forget, space_of
from headrace.errors import MissingModule, RunError
from headrace.execution.transfer import BatchValues

_LOGGER = logging.getLogger(__name__)
#: Seconds that a batch waits for another version to be done, before Dask may place it elsewhere.
PATIENCE = 1.0
#: Seconds that somebody waits who asks for values that no batch needs.
ASKED = 30.0
#: Seconds after which, and then again, it is told that batches wait.
TOLD = 60.0
#: Seconds that a plan waits for its code, on a worker that joins while both are brought.
COMING = 60.0
#: Seconds that code is kept after it was taken away, because it may be brought again at once.
LINGERING = 10.0


class Codes:
    """The code that this process holds, and the values that are of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spaces: dict[str, Space] = {}
        self._bundles: dict[str, Bundle] = {}
        self._users: Counter[str] = Counter()  # workers of this process, by what they brought
        self._contested: frozenset[str] = frozenset()
        self._values: dict[str, WeakValueDictionary[int, BatchValues]] = {}
        self._waiting: dict[str, float] = {}

    def add(self, bundle: Bundle) -> None:
        """Take code in; a worker brought it."""
        space = space_of(bundle)
        with self._lock:
            self._users[bundle.sha256] += 1
            self._bundles[bundle.sha256] = bundle
            self._spaces[bundle.sha256] = space
            new = self._find_contested()
            made = [(self._spaces[sha256], list(self._values.get(sha256, {}).values())) for sha256 in new]
        for other, values in made:
            with other.active():
                for each in values:
                    each.pack()

    def _find_contested(self) -> frozenset[str]:
        """Note of which code another version is here, too; return what is new. The caller holds the lock."""
        spaces = self._spaces
        found = {
            one
            for one, space in spaces.items()
            if any(space.conflicts(other) for two, other in spaces.items() if one != two)
        }
        before, self._contested = self._contested, frozenset(found)
        return self._contested - before

    def remove(self, sha256: str) -> bool:
        """A worker lets code go; return whether nobody in this process has it any more."""
        with self._lock:
            self._users[sha256] -= 1
            return self._users[sha256] <= 0

    def forget(self, sha256: str) -> None:
        """Forget code that nobody has brought again."""
        with self._lock:
            if self._users[sha256] > 0 or self._spaces.pop(sha256, None) is None:
                return
            del self._users[sha256], self._bundles[sha256]
            self._values.pop(sha256, None)
            self._find_contested()
        forget(sha256)

    def bundle(self, sha256: str) -> Bundle | None:
        """Return code that was brought."""
        return self._bundles.get(sha256)

    async def arrived(self, sha256: str) -> Bundle:
        """Wait for code that is on its way: a worker that joins gets all that there is at the same time.

        Raises
        ------
        MissingModule
            If it does not come.
        """
        end = time.monotonic() + COMING
        while (bundle := self._bundles.get(sha256)) is None:
            if time.monotonic() > end:
                raise MissingModule(
                    f"the code of a flow (bundle {sha256[:12]}) did not arrive within {COMING:g} s; look whether the "
                    "scheduler and the workers answer, and run the flow again"
                )
            await asyncio.sleep(0.01)
        return bundle

    def keep(self, values: BatchValues, space: Space) -> None:
        """Look after the values of a batch, which holds the space."""
        with self._lock:
            self._values.setdefault(space.sha256, WeakValueDictionary())[id(values)] = values
            contested = space.sha256 in self._contested
        if contested:
            values.pack()

    @contextmanager
    def turn(self, space: Space, what: str) -> Iterator[None]:
        """Make a space active for a Dask task; if another version is in use for long, let Dask place it anew.

        Parameters
        ----------
        space : Space
            Of the run's code.
        what : str
            Who waits, for messages.

        Raises
        ------
        Reschedule
            If the task was not begun.
        """
        try:
            space.enter(PATIENCE)
        except TimeoutError as error:
            self._tell(what, str(error))
            raise Reschedule from None
        try:
            self._waiting.pop(what, None)
            yield
        finally:
            space.leave()

    @contextmanager
    def asked(self, space: Space, what: str) -> Iterator[None]:
        """Make a space active for somebody who asks for values, and can wait no longer than people do.

        Raises
        ------
        RunError
            If another version is in use for long.
        """
        try:
            space.enter(ASKED)
        except TimeoutError as error:
            raise RunError(
                f"{what} cannot be brought now: {error}; ask again later, or let the flow return them"
            ) from None
        try:
            yield
        finally:
            space.leave()

    def _tell(self, what: str, why: str) -> None:
        """Say, now and then, that somebody waits."""
        now = time.monotonic()
        since = self._waiting.setdefault(what, now)
        if now - since > TOLD:
            self._waiting[what] = now
            _LOGGER.warning("%s waits to execute here: %s, and goes first", what, why)


CODES = Codes()


class CodePlugin(WorkerPlugin):
    """Brings a bundle to a worker, for all runs that need it.

    Parameters
    ----------
    bundle : Bundle
        The code.
    """

    #: Dask would take a second attempt to bring it for done.
    idempotent = False

    def __init__(self, bundle: Bundle) -> None:
        self.name = plugin_name(bundle.sha256)
        self.bundle = bundle

    async def setup(self, worker: Any) -> None:
        """Take it in, away from the event loop: it is read, and compared with what the process has."""
        await asyncio.to_thread(CODES.add, self.bundle)

    def teardown(self, worker: Any) -> None:
        """Let it go, unless it is brought again; a process that is also the driver's keeps what that uses."""
        if CODES.remove(self.bundle.sha256) and not worker.address.startswith("inproc://"):
            worker.loop.call_later(LINGERING, CODES.forget, self.bundle.sha256)


def plugin_name(sha256: str) -> str:
    """The name of the plugin that brings a bundle."""
    return f"headrace-code-{sha256}"
