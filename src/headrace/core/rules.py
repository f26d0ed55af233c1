"""Triggers say whether a task run may start, given how its upstream task runs ended.

The same pure function decides on the worker (inside a batch) and in the machine (across batches), so both
agree by construction. It sees counts only, never values.

Order of questions, fixed and documented because users see it:

0. the *gates* (``core.control``): what must have succeeded in any case. If one was skipped, so is the task run; if one
   failed, the task run ends as TriggerFailed. Gates are not counted in what follows.
1. ``skip_on_upstream_skip``: if any upstream was skipped, the task run is skipped (default; a task with the
   trigger ``not_all_skipped`` asks its trigger instead).
2. the trigger: if it is not satisfied, the task run ends as TriggerFailed, which counts as a failure downstream.
3. otherwise it runs.

A task run without upstream always runs. What it waits for only in order (``core.plan``, AFTER edges) is no upstream:
it is not asked. The trigger ``cleanup`` is for what takes down what others set up: it runs if all upstream succeeded,
also in a run that was cancelled meanwhile, and else is skipped, because there is nothing to take down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

from headrace.core.state import GOOD, State
from headrace.errors import FlowError


class Upstream(NamedTuple):
    """How the upstream task runs of one task run ended."""

    successful: int
    failed: int
    skipped: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.successful + self.failed + self.skipped


class Decision(Enum):
    """What becomes of a task run whose upstream is final."""

    RUN = "run"
    SKIP = "skip"
    TRIGGER_FAIL = "trigger_fail"


#: The trigger of what takes down what its upstream set up.
CLEANUP = "cleanup"

#: name → is it satisfied? A skipped upstream counts as successful wherever it is allowed to reach a trigger.
TRIGGERS: dict[str, Callable[[Upstream], bool]] = {
    "all_successful": lambda up: up.failed == 0,
    "all_failed": lambda up: up.failed == up.total,
    "any_successful": lambda up: up.successful + up.skipped > 0,
    "any_failed": lambda up: up.failed > 0,
    "all_finished": lambda up: True,
    CLEANUP: lambda up: up.successful == up.total,
    "not_all_skipped": lambda up: up.skipped < up.total and up.failed == 0,
}


def decide(trigger: str | Callable[[Upstream], bool], skip_on_upstream_skip: bool, up: Upstream) -> Decision:
    """Decide whether a task run runs, is skipped, or fails by its trigger.

    Parameters
    ----------
    trigger : str or callable
        A key of ``TRIGGERS``, or a user's function; if that raises, the trigger is not satisfied.
    skip_on_upstream_skip : bool
        Whether one skipped upstream skips this task run.
    up : Upstream
        Counts of final upstream states.
    """
    if up.total == 0:
        return Decision.RUN
    if trigger == CLEANUP:
        return Decision.RUN if _satisfied(trigger, up) else Decision.SKIP
    if up.skipped and skip_on_upstream_skip and trigger != "not_all_skipped":
        return Decision.SKIP
    if trigger == "not_all_skipped" and up.skipped == up.total:
        return Decision.SKIP
    return Decision.RUN if _satisfied(trigger, up) else Decision.TRIGGER_FAIL


def _satisfied(trigger: str | Callable[[Upstream], bool], up: Upstream) -> bool:
    if isinstance(trigger, str):
        return TRIGGERS[trigger](up)
    try:
        return bool(trigger(up))
    except Exception:  # noqa: BLE001 - a user's function may raise anything
        return False


_AFTER_SUCCESS = frozenset(name for name, satisfied in TRIGGERS.items() if satisfied(Upstream(1, 0, 0)))


def runs_after_success(trigger: str | Callable[[Upstream], bool]) -> bool:
    """Whether a task with this trigger runs wherever all upstream succeeded, so that nobody need count."""
    return isinstance(trigger, str) and trigger in _AFTER_SUCCESS


def behind_gates(gates: Iterable[State]) -> Decision:
    """Decide what becomes of a task run by the states of its gates alone."""
    found = set(gates)
    if State.SKIPPED in found:
        return Decision.SKIP
    return Decision.RUN if found <= GOOD else Decision.TRIGGER_FAIL


def upstream_of(whole: Upstream, by_child: Iterable[State]) -> Upstream:
    """Add the child-by-child upstream of one task run to what it waits for as a whole.

    Parameters
    ----------
    whole : Upstream
        Counts over the nodes that it waits for as a whole.
    by_child : iterable of State
        Final states of the task runs of its own index.
    """
    successful, failed, skipped = whole
    for state in by_child:
        if state is State.SKIPPED:
            skipped += 1
        elif state in GOOD:
            successful += 1
        else:
            failed += 1
    return Upstream(successful, failed, skipped)


class Some:
    """A trigger that is satisfied by a number of upstream task runs that ended in one way.

    Made by ``hr.some_failed`` and ``hr.some_successful``. Its qualified name tells its limits, because that is what
    messages and digests of graphs show of a trigger.
    """

    def __init__(self, ended: str, at_least: float | None, at_most: float | None) -> None:
        given = {"at_least": at_least, "at_most": at_most}
        self.limits = {name: limit for name, limit in given.items() if limit is not None}
        if not self.limits:
            raise FlowError(f"some_{ended}() needs at_least= or at_most=, or both")
        for name, limit in self.limits.items():
            whole = isinstance(limit, int) and not isinstance(limit, bool) and limit >= 0
            if not whole and not (isinstance(limit, float) and 0 <= limit <= 1):
                raise FlowError(
                    f"some_{ended}: {name} must be a whole number of task runs, or a share of them from 0.0 to 1.0, "
                    f"got {limit!r}"
                )
        self.ended = ended
        self.__qualname__ = f"some_{ended}({', '.join(f'{name}={limit}' for name, limit in self.limits.items())})"

    def __repr__(self) -> str:
        return self.__qualname__

    def __call__(self, up: Upstream) -> bool:
        """Whether the counts are within the limits; of a share, what counts is the number of task runs."""
        number = up.failed if self.ended == "failed" else up.successful + up.skipped
        counts = {name: limit * up.total if isinstance(limit, float) else limit for name, limit in self.limits.items()}
        # A tenth of thirty is a little more than three in floating point.
        return counts.get("at_least", number) - 1e-6 <= number <= counts.get("at_most", number) + 1e-6


def some_failed(*, at_least: float | None = None, at_most: float | None = None) -> Some:
    """Return a trigger that asks how many upstream task runs failed.

    Parameters
    ----------
    at_least, at_most : int or float, optional
        Limits, of which one must be given: a whole number is a number of task runs, a float from 0.0 to 1.0 a share of
        all upstream task runs.

    Examples
    --------
    >>> some_failed(at_most=0.1)(Upstream(successful=95, failed=5, skipped=0))
    True
    """
    return Some("failed", at_least, at_most)


def some_successful(*, at_least: float | None = None, at_most: float | None = None) -> Some:
    """Return a trigger that asks how many upstream task runs succeeded; skipped ones that reach it count as such.

    Parameters
    ----------
    at_least, at_most : int or float, optional
        As for ``some_failed``.
    """
    return Some("successful", at_least, at_most)


def name_of(trigger: str | Callable[[Upstream], bool]) -> str:
    """Return a trigger's name, as messages show it."""
    return repr(trigger) if isinstance(trigger, str) else getattr(trigger, "__qualname__", repr(trigger))
