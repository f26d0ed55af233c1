"""How many workers there should be, of each group of a cluster: a pure rule, with time as an argument.

**Up at once.** Work deserves as many threads as get it done within a target of seconds, but no more than could take
part. It goes to the groups that offer what it asks for, and among them to those that offer the least beside: nothing
but a task that asks for a GPU brings a worker that has one, where there are workers without. Workers that were ordered
and are on their way count as if they were there.

**Down late.** A worker goes when it has had nothing to do for a while, and the work deserves fewer than there are. The
while is Dask's, but at least as long as workers of its group take to come: to bring one back costs that much. So a
worker that is busy never goes, nor one that is busy again and again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from headrace.core.ready import Work
from headrace.errors import SetupError

#: The name of the group that all workers are in, and of the first of several.
DEFAULT = "default"
#: Seconds after which workers that do not come are ordered again: one may have died before it was known.
RENEW = 10.0
#: Most seconds for which a worker is kept idle because its like are slow to come.
LONGEST = 300.0
#: So little of a worker, left over when fractions are summed, is none.
CRUMB = 1e-9


def bounds_of(adapt: Any, where: str) -> tuple[int, int]:
    """Check what a user gave as the least and the largest number of workers.

    Raises
    ------
    SetupError
        If it is not that; says ``where`` it was given.
    """
    try:
        least, most = adapt
        fits = isinstance(least, int) and isinstance(most, int) and 0 <= least <= most and most >= 1
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise SetupError(f"{where} must be (least, largest) with 0 <= least <= largest and largest > 0, got {adapt!r}")
    return least, most


class Group(NamedTuple):
    """Workers of one kind.

    Attributes
    ----------
    name : str
        Unique within the cluster.
    threads : int
        Of each worker.
    resources : mapping of str to float, or None
        What each worker offers. None: it is not known, so it may be anything.
    least, most : int
        Bounds of how many there may be.
    """

    name: str
    threads: int
    resources: Mapping[str, float] | None
    least: int
    most: int

    def slots(self, resources: Iterable[tuple[str, float]]) -> int:
        """How many task runs that ask for this a worker can execute at the same time."""
        if self.resources is None:
            return self.threads
        return min([self.threads, *(int(self.resources.get(name, 0) / amount) for name, amount in resources)])

    @property
    def kinds(self) -> int:
        """How many kinds of resources each worker offers, as far as is known."""
        return len(self.resources or ())


class Present(NamedTuple):
    """A worker that is there and takes tasks.

    Attributes
    ----------
    address : str
        Where it listens.
    group : str
        Which group it belongs to.
    unit : str
        What it can only go together with: processes of one batch job. Its own address, if it can go alone.
    idle : bool
        Whether it has nothing to do just now.
    """

    address: str
    group: str
    unit: str
    idle: bool


class Orders(NamedTuple):
    """What to do now.

    Attributes
    ----------
    up : dict of str to int
        By group: how many workers to have in all, those that are leaving included.
    down : list of list of str
        Addresses of workers to let go; each list together or not at all.
    """

    up: dict[str, int]
    down: list[list[str]]


def deserved(works: Iterable[Work], groups: Sequence[Group], within: float) -> dict[str, int]:
    """Return how many workers of each group the work deserves, within their bounds.

    Parameters
    ----------
    works : iterable of Work
        All that waits or is being done.
    groups : sequence of Group
        Those that come first are filled first, if they are alike.
    within : float
        Seconds within which all shall be done.
    """
    shares = dict.fromkeys((group.name for group in groups), 0.0)
    for work in sorted(works, key=lambda work: -len(work.resources)):
        threads = float(work.threads(within))
        able = [group for group in groups if group.most and group.slots(work.resources) > 0]
        least = min((group.kinds for group in able), default=0)
        for group in able:
            if group.kinds == least:
                slots = group.slots(work.resources)
                share = max(min(threads / slots, group.most - shares[group.name]), 0.0)
                shares[group.name] += share
                threads -= share * slots
    return {group.name: min(max(math.ceil(shares[group.name] - CRUMB), group.least), group.most) for group in groups}


class Scaling:
    """Decides, and remembers what was decided.

    Parameters
    ----------
    groups : sequence of Group
        Of which the least number of workers was ordered already.
    within : float
        Seconds within which all work shall be done.
    patience : float
        Least seconds without anything to do, after which a worker may go.
    """

    def __init__(self, groups: Sequence[Group], *, within: float, patience: float) -> None:
        self.within = within
        self.patience = patience
        self.groups: Sequence[Group] = ()
        self.asked: dict[str, int] = {}  # without those that leave
        self.leaving: dict[str, str] = {}  # address → group
        self._idle: dict[str, float] = {}  # address → since when
        self._ordered: dict[str, float] = {}  # group → when more were last ordered
        self._began: dict[str, float] = {}  # group → since when it waits for workers
        self._took: dict[str, float] = {}  # group → seconds until those that were ordered last had come
        self.bound(groups)

    def bound(self, groups: Sequence[Group]) -> None:
        """Take in what is known of the groups now."""
        self.groups = groups
        for group in groups:
            self.asked.setdefault(group.name, group.least)

    def decide(self, now: float, works: Sequence[Work], workers: Sequence[Present]) -> Orders:
        """Return what to do.

        Parameters
        ----------
        now : float
            Seconds on a clock that never goes back.
        works : sequence of Work
            All that waits or is being done on the cluster.
        workers : sequence of Present
            Those that take tasks.
        """
        idle = {worker.address for worker in workers if worker.idle}
        self._idle = {address: self._idle.get(address, now) for address in idle}
        wanted = deserved(works, self.groups, self.within)
        orders = Orders({}, [])
        for group in self.groups:
            staying = [w for w in workers if w.group == group.name and w.address not in self.leaving]
            self._follow(now, group.name, len(staying))
            if wanted[group.name] > len(staying):
                self._up(now, group.name, wanted[group.name], orders)
            else:
                orders.down.extend(self._down(now, group.name, staying, len(staying) - wanted[group.name]))
        return orders

    def _follow(self, now: float, group: str, there: int) -> None:
        """See whether workers that were ordered have come."""
        if there >= self.asked[group] and group in self._began:
            self._took[group] = now - self._began.pop(group)

    def _up(self, now: float, group: str, wanted: int, orders: Orders) -> None:
        if wanted > self.asked[group]:
            self.asked[group] = wanted
        elif now - self._ordered.get(group, -math.inf) < RENEW:
            return
        self._ordered[group] = now
        self._began.setdefault(group, now)
        orders.up[group] = self.counted(group)

    def counted(self, group: str) -> int:
        """How many workers the cluster shall count: those that were asked for, and those that have not left yet."""
        return self.asked[group] + sum(leaves == group for leaves in self.leaving.values())

    def _down(self, now: float, group: str, staying: list[Present], surplus: int) -> Iterable[list[str]]:
        """Yield those that may go; whole units only."""
        patience = max(self.patience, min(self._took.get(group, 0.0), LONGEST))
        units: dict[str, list[str]] = {}
        for worker in staying:
            units.setdefault(worker.unit, []).append(worker.address)
        for members in units.values():
            free = all(address in self._idle and now - self._idle[address] >= patience for address in members)
            if free and len(members) <= surplus:
                surplus -= len(members)
                self.asked[group] = max(self.asked[group], len(staying)) - len(members)
                staying = staying[len(members) :]
                self.leaving.update(dict.fromkeys(members, group))
                yield members

    def left(self, addresses: Iterable[str]) -> None:
        """Take in that workers are gone that were let go."""
        for address in addresses:
            self.leaving.pop(address, None)

    def stayed(self, addresses: Iterable[str]) -> None:
        """Take in that workers were not let go after all; they are not asked again before they have been idle anew."""
        for address in addresses:
            group = self.leaving.pop(address, None)
            if group is not None:
                self.asked[group] += 1
                self._idle.pop(address, None)
