"""Scaling a cluster from what its runs have to do; ``core.scaling`` decides, and this looks and acts.

A cluster says what it can be asked for:

* a *grouped* cluster has ``groups`` (name → something with ``resources`` and ``nthreads`` of each worker, ``least`` and
  ``most``, which are equal if it does not scale), ``scale(n, group)``, ``group_of(name of a worker)`` (None for none
  of its own), and ``let_go(names, group)``, which ends workers that hold nothing any more, and wants that many fewer
  from then on;
* any other is one group, with Dask's ``scale(n)`` and, where there is one, ``scale_down(names)``.

One thread per environment looks at the scheduler four times a second, and at once when a driver has told what waits.
Letting workers go takes as long as their values take to move, so another thread waits for that.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from inspect import isawaitable
from typing import Any

from headrace.core.ready import Work
from headrace.core.scaling import DEFAULT, Group, Present, Scaling
from headrace.errors import SetupError
from headrace.execution.demand import RETIRE, WORKERS, Seen
from headrace.execution.scheduler import RunsPlugin

#: Seconds between two looks, while there is anything to do and else.
OFTEN, SELDOM = 0.25, 1.0
#: Seconds within which the scheduler must answer, and those for which values may be on the move.
ANSWER, MOVE = 10.0, 600.0
#: Seconds until workers are ended again that could not be.
RETRY = 1.0
#: Seconds to wait at the end for an action that is going on.
PATIENT = 10.0
#: By group: least and largest number of workers.
Bounds = Mapping[str, tuple[int, int]]

_LOGGER = logging.getLogger("headrace.scaling")


class Crew(ABC):
    """The workers of a cluster, as something that can be scaled."""

    #: whether workers end by themselves when they are let go; else something would start them again before they are
    #: struck off the cluster's list
    closes: bool

    @abstractmethod
    def groups(self, adapt: Bounds, seen: Sequence[Seen]) -> list[Group]:
        """Return its groups within bounds; workers that were seen tell what is not known otherwise."""

    @abstractmethod
    def present(self, seen: Seen) -> Present | None:
        """Return a worker as one of a group; None if it belongs to none."""

    @abstractmethod
    def raise_to(self, group: str, number: int) -> None:
        """Have so many workers."""

    @abstractmethod
    def let_go(self, group: str, names: Sequence[Any], rest: int) -> None:
        """Do without workers that hold nothing and take nothing any more; ``rest`` remain."""


class One(Crew):
    """Any cluster object of Dask's: all workers are alike."""

    closes = True

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster
        self._ending: set[asyncio.Future[Any]] = set()
        self._known: tuple[int, Mapping[str, float]] | None = None  # threads and resources of those that were seen

    def groups(self, adapt: Bounds, seen: Sequence[Seen]) -> list[Group]:  # noqa: D102 - inherited
        _check_names(adapt, [DEFAULT])
        options = (getattr(self.cluster, "new_spec", None) or {}).get("options", {})
        threads = options.get("nthreads") or options.get("cores", 1) // options.get("processes", 1) or 1
        # Where a worker's own options are known, what is not among them is not there.
        resources = options.get("resources") or ({} if "nthreads" in options else None)
        if seen:
            self._known = max(worker.threads for worker in seen), seen[0].resources
        if self._known is not None:
            threads, resources = self._known
        return [Group(DEFAULT, threads, resources, *adapt[DEFAULT])]

    def present(self, seen: Seen) -> Present:  # noqa: D102 - inherited
        unit = seen.address
        for job, spec in dict(getattr(self.cluster, "worker_spec", {})).items():
            if any(f"{job}{suffix}" == seen.name for suffix in spec.get("group", ())):
                unit = str(job)
        return Present(seen.address, DEFAULT, unit, seen.idle)

    def raise_to(self, group: str, number: int) -> None:  # noqa: D102 - inherited
        self.cluster.scale(number)

    def let_go(self, group: str, names: Sequence[Any], rest: int) -> None:  # noqa: D102 - inherited
        async def begin() -> None:
            """Strike them off the cluster's list, which is the first that happens, and do not wait for their end."""
            ending = self.cluster.scale_down(list(names))
            if isawaitable(ending):
                self._ending.add(task := asyncio.ensure_future(ending))
                task.add_done_callback(self._ending.discard)
                await asyncio.sleep(0)

        if hasattr(self.cluster, "scale_down"):
            self.cluster.sync(begin)
        else:
            self.cluster.scale(rest)


class Grouped(Crew):
    """A cluster with worker groups."""

    closes = False

    def __init__(self, cluster: Any) -> None:
        self.cluster = cluster

    def groups(self, adapt: Bounds, seen: Sequence[Seen]) -> list[Group]:  # noqa: D102 - inherited
        there = self.cluster.groups
        _check_names(adapt, there)
        return [
            Group(name, group.nthreads, dict(group.resources), *adapt.get(name, (group.least, group.most)))
            for name, group in there.items()
        ]

    def present(self, seen: Seen) -> Present | None:  # noqa: D102 - inherited
        group = self.cluster.group_of(str(seen.name))
        return None if group is None else Present(seen.address, group, seen.address, seen.idle)

    def raise_to(self, group: str, number: int) -> None:  # noqa: D102 - inherited
        self.cluster.scale(number, group)

    def let_go(self, group: str, names: Sequence[Any], rest: int) -> None:  # noqa: D102 - inherited
        self.cluster.let_go([str(name) for name in names], group)


def _check_names(adapt: Bounds, groups: Collection[str]) -> None:
    if unknown := sorted(set(adapt) - set(groups)):
        raise SetupError(f"there is no worker group {unknown[0]!r} in this cluster; it has {', '.join(groups)}")


def crew_of(cluster: Any) -> Crew:
    """Return a cluster as something that can be scaled.

    Raises
    ------
    SetupError
        If it cannot be, or already does so by itself.
    """
    if getattr(cluster, "_adaptive", None) is not None:
        raise SetupError(
            f"this {type(cluster).__name__} adapts by itself already, because its adapt() was called; leave adapt= out"
        )
    if hasattr(cluster, "groups"):
        return Grouped(cluster)
    if not hasattr(cluster, "scale"):
        raise SetupError(f"a {type(cluster).__name__} cannot be scaled, because it has no method scale(n)")
    return One(cluster)


class Scaler:
    """Scales a cluster until it is closed.

    Parameters
    ----------
    client : distributed.Client
        Connected to the cluster's scheduler.
    cluster : Cluster
        What is scaled.
    adapt : mapping of str to (int, int)
        By group: least and largest number of workers. Others keep to the bounds that the cluster tells.
    """

    def __init__(self, client: Any, cluster: Any, adapt: Bounds) -> None:
        import dask
        from dask.utils import parse_timedelta

        def told(name: str) -> Any:
            return dask.config.get(f"distributed.adaptive.{name}")

        self.client = client
        self.crew = crew_of(cluster)
        self.adapt = adapt
        self.scaling = Scaling(
            self.crew.groups(adapt, ()),
            within=parse_timedelta(told("target-duration")),
            patience=parse_timedelta(told("interval")) * told("wait-count"),
        )
        self._busy = False
        self._prepared: Any = None  # the connection to a scheduler that has our plugin
        self._lock = threading.Lock()
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._complained = ""
        self._thread = threading.Thread(target=self._run, name="headrace-scaling", daemon=True)
        self._thread.start()

    def wanted(self) -> int:
        """Return how many workers there shall be."""
        return sum(self.scaling.asked.values())

    @property
    def offers(self) -> list[Mapping[str, float] | None]:
        """What workers offer that may come; None: anything."""
        return [group.resources for group in self.scaling.groups if group.most]

    def poke(self) -> None:
        """Look at once; from any thread."""
        self._wake.set()

    def keep(self, number: int, group: str) -> None:
        """Have so many workers of a group from now on, whatever there is to do."""
        with self._lock:
            adapt = {**self.adapt, group: (number, number)}
            self.scaling.bound(self.crew.groups(adapt, ()))
            self.adapt = adapt
        self.poke()

    def close(self) -> None:
        """Scale no more."""
        self._stopping.set()
        self.poke()
        self._thread.join(PATIENT)

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._attempt(self._look)
            self._wake.wait(OFTEN if self._busy else SELDOM)
            self._wake.clear()

    def _attempt(self, action: Callable[..., None], *args: Any) -> bool:
        """Act; if it fails, it is tried again at the next look, by when the scheduler or the cluster may be back."""
        try:
            action(*args)
        except Exception as error:  # whatever a cluster class raises
            if not self._stopping.is_set() and repr(error) != self._complained:
                self._complained = repr(error)
                _LOGGER.warning("the cluster could not be scaled just now", exc_info=True)
            return False
        return True

    def _look(self) -> None:
        told, there = self._ask(ANSWER, WORKERS)
        works = [Work.of(each) for each in told]
        seen = [Seen(*worker) for worker in there]
        with self._lock:
            self.scaling.bound(self.crew.groups(self.adapt, seen))
            present = [one for worker in seen if (one := self.crew.present(worker)) is not None]
            orders = self.scaling.decide(time.monotonic(), works, present)
            groups = dict(self.scaling.leaving)
            self._busy = bool(works or orders.up or orders.down)
            if orders.down:  # first: more workers may be refused, and these count as leaving from now on
                going = {w.address: (w.name, groups[w.address]) for w in seen if w.address in groups}
                threading.Thread(
                    target=self._let_go, args=(orders.down, going), name="headrace-letting-go", daemon=True
                ).start()
            for group, number in orders.up.items():
                self.crew.raise_to(group, number)

    def _ask(self, seconds: float, what: str, **about: Any) -> Any:
        """Have the scheduler's answer, by its plugin of ours, which one that we connect to anew may not have yet."""
        connection = self.client.scheduler_comm
        if connection is not self._prepared:
            self.client.sync(self.client.register_plugin, RunsPlugin(), callback_timeout=ANSWER)
            self._prepared = connection
        return self.client.sync(getattr(self.client.scheduler, what), callback_timeout=seconds, **about)

    def _let_go(self, units: list[list[str]], going: Mapping[str, tuple[Any, str]]) -> None:
        """Let idle workers go, once others have taken over what they hold."""
        gone: list[str] = []
        self._attempt(lambda: gone.extend(self._ask(MOVE, RETIRE, units=units, ends=self.crew.closes)))
        with self._lock:
            self.scaling.stayed(address for unit in units for address in unit if address not in gone)
        by_group: dict[str, list[str]] = {}
        for address in gone:
            by_group.setdefault(going[address][1], []).append(address)
        for group, addresses in by_group.items():
            # They take nothing any more, so somebody has to end them; until then, they count.
            while not self._attempt(self._end, group, addresses, going) and not self._stopping.wait(RETRY):
                pass

    def _end(self, group: str, addresses: list[str], going: Mapping[str, tuple[Any, str]]) -> None:
        with self._lock:
            rest = self.scaling.counted(group) - len(addresses)
            self.crew.let_go(group, [going[address][0] for address in addresses], rest)
            self.scaling.left(addresses)
