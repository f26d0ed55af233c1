"""What the workers of a cluster offer, and whether that is what tasks ask for.

Dask would let a task wait for ever for a worker that there is not. So a run asks before it starts, unless workers may
come that nobody knows yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from headrace.core.policy import Placement, Policy
from headrace.core.task import Task
from headrace.errors import NoSuchWorker


class Offer(NamedTuple):
    """What one worker offers.

    Attributes
    ----------
    address : str
        Where it listens; empty for a worker that may come.
    name : str
        As the cluster, or whoever started it, calls it.
    resources : mapping of str to float
        As its ``--resources`` say.
    """

    address: str
    name: str
    resources: Mapping[str, float]

    @property
    def names(self) -> set[str]:
        """What a task may call it by: name, address or host."""
        return {self.name, self.address, urlsplit(self.address).hostname or ""}

    def __str__(self) -> str:
        told = ", ".join(f"{name}: {amount:g}" for name, amount in self.resources.items())
        return f"{self.name} at {self.address} with {told or 'no resources'}"


def asks(tasks: Iterable[Task[..., Any]]) -> list[Policy]:
    """Return the policies of those tasks that ask for certain workers."""
    return [task.policy for task in tasks if not task.policy.placement.is_free]


def offers_of(info: Mapping[str, Any]) -> list[Offer]:
    """Return what there is, of what a scheduler tells of itself."""
    found = [
        Offer(address, str(worker["name"]), worker.get("resources") or {})
        for address, worker in info["workers"].items()
    ]
    return sorted(found, key=lambda offer: offer.name)


def check(policies: Iterable[Policy], offers: list[Offer], coming: Sequence[Mapping[str, float] | None]) -> None:
    """Refuse a run with a task that no worker may execute.

    Parameters
    ----------
    policies : iterable of Policy
        Of tasks that ask for certain workers.
    offers : list of Offer
        The workers that there are.
    coming : sequence of mapping of str to float, or None
        Resources of workers that may come, one mapping for each kind; None: any.

    Raises
    ------
    NoSuchWorker
        Names the task, what it asks for, and what there is.
    """
    for policy in policies:
        wanted = policy.placement
        if takers(policy, offers):
            continue
        if not wanted.workers and any(has is None or _has(has, wanted) for has in coming):
            continue
        asked = [f"resources={dict(wanted.resources)}"] if wanted.resources else []
        asked += [f"workers={list(wanted.workers)}"] if wanted.workers else []
        there = ", ".join(map(str, offers[:10])) + (f", and {len(offers) - 10} more" if len(offers) > 10 else "")
        raise NoSuchWorker(
            f"task {policy.name!r} asks for {' and '.join(asked)}, which no worker of this cluster has (there are "
            f"{there or 'no workers'}); start workers that have it (`dask worker --resources`; on Kubernetes, "
            "resources= or gpus= of the environment), change the task, or, if such workers will come later, say so: "
            "DaskEnvironment(..., offers={...})",
            task=policy.name,
        )


def takers(policy: Policy, offers: Iterable[Offer]) -> list[Offer]:
    """Return those of the workers that may execute a task."""
    wanted = policy.placement
    named = [offer for offer in offers if not wanted.workers or offer.names.intersection(wanted.workers)]
    return [offer for offer in named if _has(offer.resources, wanted)]


def _has(resources: Mapping[str, float], wanted: Placement) -> bool:
    return all(resources.get(name, 0) >= amount for name, amount in wanted.resources)


def addresses(offers: Iterable[Offer]) -> dict[str, str]:
    """Return addresses by name, because Dask does not know a worker by the text of a number that is its name."""
    return {offer.name: offer.address for offer in offers}
