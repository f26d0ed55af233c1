"""Triggers say whether a task run may start, given how its upstream task runs ended.

The same pure function decides on the worker (inside a batch) and in the machine (across batches), so both
agree by construction. It sees counts only, never values.

Order of questions, fixed and documented because users see it:

1. ``skip_on_upstream_skip``: if any upstream was skipped, the task run is skipped (default; a task with the
   trigger ``not_all_skipped`` asks its trigger instead).
2. the trigger: if it is not satisfied, the task run ends as TriggerFailed, which counts as a failure downstream.
3. otherwise it runs.

A task run without upstream always runs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from enum import Enum
from typing import NamedTuple

from headrace.core.state import GOOD, State


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


#: name → is it satisfied? A skipped upstream counts as successful wherever it is allowed to reach a trigger.
TRIGGERS: dict[str, Callable[[Upstream], bool]] = {
    "all_successful": lambda up: up.failed == 0,
    "all_failed": lambda up: up.failed == up.total,
    "any_successful": lambda up: up.successful + up.skipped > 0,
    "any_failed": lambda up: up.failed > 0,
    "all_finished": lambda up: True,
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


@functools.cache
def runs_after_success(trigger: str | Callable[[Upstream], bool]) -> bool:
    """Whether a task with this trigger runs wherever all upstream succeeded, so that nobody need count."""
    return isinstance(trigger, str) and TRIGGERS[trigger](Upstream(1, 0, 0))


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
