"""Where tasks run, as far as preflight asks: this process, or the workers of a cluster."""

from __future__ import annotations

import asyncio
import inspect
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property, partial
from typing import Any, NamedTuple

from headrace.core.policy import Policy
from headrace.environments.checks import facts
from headrace.errors import SetupError
from headrace.execution.offers import Offer, offers_of, takers
from headrace.storage.spec import StorageSpec

#: How the scheduler is called among those that tell of themselves.
SCHEDULER = "the scheduler"
#: How this process is called where it executes the tasks itself.
HERE = "this process"
#: Seconds within which scheduler and workers must answer, however long they may take to come up.
ANSWER = 30.0
#: The most workers that a finding names.
_NAMED = 3
#: Runs `facts`, which comes as text: an expression, because `eval` is there under each Python.
_ASKED = "(exec(source, told := {}), told['facts']())[1]"


class Told(NamedTuple):
    """What the processes of a cluster told of themselves, all at one time.

    Attributes
    ----------
    facts : dict of str to dict
        By address; see `facts`.
    silent : dict of str to str
        Why, by address of those that did not tell.
    asked, answered : float
        When, by the clock of this process.
    """

    facts: dict[str, dict[str, Any]]
    silent: dict[str, str]
    asked: float
    answered: float

    @property
    def workers(self) -> dict[str, dict[str, Any]]:
        """Those of them that execute tasks."""
        return {address: told for address, told in self.facts.items() if address != SCHEDULER}


class Site(ABC):
    """Where tasks run."""

    #: whether what lies in the memory of this process is there, too
    shares_memory = False

    @abstractmethod
    def able(self, policy: Policy) -> list[str]:
        """Return who may execute a task, by address; all, if nobody may."""

    @abstractmethod
    def everyone(self) -> list[str]:
        """Return the addresses of all workers that are not this process."""

    @abstractmethod
    def told(self) -> Told:
        """Have all processes tell of themselves."""

    def carrying(self, spec: StorageSpec) -> AbstractContextManager[None]:
        """While the credentials are there that a storage sends along with a run."""
        return nullcontext()

    @abstractmethod
    def ask(self, function: Callable[..., Any], *args: Any, of: Sequence[str] | None = None) -> dict[str, Any]:
        """Call a function there, and return what it returned, or the error, by address.

        Parameters
        ----------
        function : callable
            Of headrace; it may wait, for it has a thread of its own.
        *args
            For it.
        of : sequence of str, optional
            Which workers. Default: all.
        """


class Here(Site):
    """The process that asks."""

    shares_memory = True

    def able(self, policy: Policy) -> list[str]:  # noqa: D102 - inherited
        return [HERE]

    def everyone(self) -> list[str]:  # noqa: D102 - inherited
        return []

    def told(self) -> Told:  # noqa: D102 - inherited
        asked = time.time()
        return Told({HERE: facts.facts()}, {}, asked, time.time())

    def ask(self, function: Callable[..., Any], *args: Any, of: Sequence[str] | None = None) -> dict[str, Any]:  # noqa: D102
        return {HERE: function(*args)}


class Cluster(Site):
    """The workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    deadline : float
        Seconds within which the cluster must be up; it must answer at least as soon.
    """

    def __init__(self, client: Any, deadline: float) -> None:
        self.client = client
        self.deadline = min(deadline, ANSWER)

    @property
    def shares_memory(self) -> bool:  # type: ignore[override] # noqa: D102 - inherited
        return bool(self.client.scheduler.address.startswith("inproc://"))

    @cached_property
    def _offers(self) -> list[Offer]:
        return offers_of(self.client.scheduler_info(n_workers=-1))

    def refresh(self) -> None:
        """Look anew which workers there are."""
        self.__dict__.pop("_offers", None)

    def everyone(self) -> list[str]:  # noqa: D102 - inherited
        return [offer.address for offer in self._offers]

    def able(self, policy: Policy) -> list[str]:  # noqa: D102 - inherited
        # If nobody may, that is told; what else the task needs will be needed where somebody comes that may.
        return [offer.address for offer in takers(policy, self._offers)] or self.everyone()

    def carrying(self, spec: StorageSpec) -> AbstractContextManager[None]:  # noqa: D102 - inherited
        from headrace.execution.supplies import carried  # here, because it brings Dask along

        return carried(self.client, spec)

    def ask(self, function: Callable[..., Any], *args: Any, of: Sequence[str] | None = None) -> dict[str, Any]:  # noqa: D102
        call = partial(
            self.client.run, aside, function, *args, workers=None if of is None else list(of), on_error="return"
        )
        return dict(self._synced(call))

    def told(self) -> Told:
        """Have the scheduler and all workers tell of themselves, in one round trip."""
        source = {"source": inspect.getsource(facts)}

        async def all_at_once() -> tuple[dict[str, Any], Any]:
            workers = self.client.run(eval, _ASKED, source, on_error="return")
            scheduler = self.client.run_on_scheduler(eval, _ASKED, source)
            answers: tuple[dict[str, Any], Any] = await asyncio.gather(workers, scheduler)
            return answers

        asked = time.time()
        workers, scheduler = self._synced(all_at_once)
        answers = {SCHEDULER: scheduler, **workers}
        silent = {
            address: f"{type(answer).__name__}: {answer}"
            for address, answer in answers.items()
            if isinstance(answer, BaseException)
        }
        return Told(
            {address: answer for address, answer in answers.items() if address not in silent},
            silent,
            asked,
            time.time(),
        )

    def _synced(self, call: Callable[[], Any]) -> Any:
        try:
            return self.client.sync(call, callback_timeout=self.deadline)
        except TimeoutError:
            raise SetupError(
                f"the scheduler or a worker of {self.client!r} did not answer within {self.deadline:g} s; look whether "
                "they hang, and at their logs"
            ) from None


async def aside(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function on a worker, away from its event loop."""
    return await asyncio.to_thread(function, *args)


def who(addresses: Sequence[str], of: Iterable[str]) -> str:
    """Name processes for people: all, or a few, and how many of how many.

    Parameters
    ----------
    addresses : sequence of str
        Which.
    of : iterable of str
        All that there are.
    """
    if HERE in addresses:
        return HERE
    workers = [address for address in addresses if address != SCHEDULER]
    total = len([address for address in of if address != SCHEDULER])
    named = [SCHEDULER] if SCHEDULER in addresses else []
    if workers and len(workers) == total > 1:
        named.append(f"all {total} workers")
    elif len(workers) > _NAMED:
        named.append(f"{len(workers)} of {total} workers ({', '.join(workers[:_NAMED])}, …)")
    elif workers:
        named.append(f"{'worker' if len(workers) == 1 else 'workers'} {', '.join(workers)}")
    return " and ".join(named)
