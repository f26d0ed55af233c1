"""Policies: how tasks and flows are treated, apart from what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

from headrace.core.rules import CLEANUP, TRIGGERS, Upstream
from headrace.errors import FlowError

#: How deep tasks that return flows may be nested, if nobody says: a recursion that finds no end is stopped.
DEEPEST = 50
#: Seconds before the next attempt: always the same, by attempt (the last one stays), or told by a function of the
#: number of attempts so far.
Delay = float | Sequence[float] | Callable[[int], float]
#: Which exceptions are worth another attempt: types, or a function that says so.
RetryOn = type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], bool]
#: When a task run may start: a name in ``core.rules.TRIGGERS``, or a function of how its upstream ended.
Trigger = str | Callable[[Upstream], bool]


#: More task runs than ever run at the same time.
NO_LIMIT = 1 << 30


class Placement(NamedTuple):
    """Where a task's runs may be executed, before which others, and beside how many.

    Attributes
    ----------
    resources : tuple of (str, float)
        What a worker must have free, as its ``--resources`` offer it.
    workers : tuple of str
        Names, addresses or hosts of the workers that may execute it; empty for all.
    priority : int
        Higher goes first.
    limits : tuple of (str or int, int)
        What may run at the same time only so often: tags, and numbers of tasks; see ``core.limits``.
    apart : bool
        Whether each is a batch of its own: what sets up or cleans up, so that it is known whether it was done, and
        is not stopped with others.
    """

    resources: tuple[tuple[str, float], ...] = ()
    workers: tuple[str, ...] = ()
    priority: int = 0
    limits: tuple[tuple[str | int, int], ...] = ()
    apart: bool = False

    @property
    def is_free(self) -> bool:
        """Whether any worker may execute it."""
        return not (self.resources or self.workers)

    @property
    def most(self) -> int:
        """How many may run at the same time, whatever else runs."""
        return min((most for _, most in self.limits), default=NO_LIMIT)

    @property
    def takers(self) -> int:
        """How many workers could be of use: of those that are named, each once, for more would have other names."""
        return min(self.most, len(self.workers) or NO_LIMIT)


ANYWHERE = Placement()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a task is treated. ``hr.task`` tells what each option means to its users.

    Attributes
    ----------
    name : str
        Shown to people; the base of its nodes' names.
    retries : int, default 0
        How many further attempts follow a failed one.
    retry_delay : float, sequence of float or callable, default 0.0
        Seconds between two attempts.
    retry_on : type, tuple of types or callable, optional
        Which exceptions are worth another attempt; default: all.
    timeout : float, optional
        Seconds that one attempt may take.
    isolated : bool, default False
        Whether each attempt runs in a process of its own.
    trigger : str or callable, default "all_successful"
        When it may run; see ``core.rules``.
    skip_on_upstream_skip : bool, default True
        Whether one skipped upstream skips it.
    nout : int, optional
        How many outputs the returned sequence has.
    resources : dict of str to float, optional
        What a worker must have free to execute it.
    workers : str or list of str, optional
        Which of Dask's workers may execute it.
    priority : int, default 0
        Among what is ready, higher goes first.
    tags : sequence of str, default ()
        Words that it is found and limited by.
    max_running : int, optional
        How many of its task runs may run at the same time, across the run.
    target : str, callable or Target, optional
        Where values are kept; see ``headrace.targets``.
    run_name : str or callable, optional
        Names each task run for people.
    log_prints : bool, default False
        Whether what it prints is logged.
    on_state, on_failure : callable, optional
        Told of the states of its task runs.
    dynamic : bool, default False
        Whether its function draws, when it runs, the flow that gives its value.
    """

    name: str
    retries: int = 0
    retry_delay: Delay = 0.0
    retry_on: RetryOn | None = None
    timeout: float | None = None
    isolated: bool = False
    trigger: Trigger = "all_successful"
    skip_on_upstream_skip: bool = True
    nout: int | None = None
    resources: Mapping[str, float] | None = None
    workers: str | Sequence[str] | None = None
    priority: int = 0
    tags: Sequence[str] = ()
    max_running: int | None = None
    target: Any = None
    run_name: str | Callable[..., str] | None = None
    log_prints: bool = False
    on_state: Callable[..., object] | None = None
    on_failure: Callable[..., object] | None = None
    dynamic: bool = False

    def __repr__(self) -> str:
        given = "".join(f", {option}={value!r}" for option, value in options_of(self).items())
        return f"Policy(name={self.name!r}{given})"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not isinstance(self.name, str) or not self.name:
            raise FlowError(f"a task needs a name, got {self.name!r}")
        if not callable(self.trigger) and self.trigger not in TRIGGERS:
            self._refuse("trigger", f"a function or one of {', '.join(name for name in TRIGGERS if name != CLEANUP)}")
        if not _is_whole(self.retries, 0):
            self._refuse("retries", "a whole number from 0 on")
        self._check_retries()
        if self.timeout is not None and not _is_seconds(self.timeout, above=0):
            self._refuse("timeout", "seconds > 0")
        if self.nout is not None and not _is_whole(self.nout, 1):
            self._refuse("nout", "a whole number from 1 on")
        if self.max_running is not None and not _is_whole(self.max_running, 1):
            self._refuse("max_running", "a whole number from 1 on")
        self._check_placement()
        if isinstance(self.tags, str) or not all(isinstance(tag, str) and tag for tag in self.tags):
            self._refuse("tags", "a list of words")
        if not (self.run_name is None or isinstance(self.run_name, str) or callable(self.run_name)):
            self._refuse("run_name", "a text such as 'load-{day}', or a function")
        for hook in ("on_state", "on_failure"):
            if getattr(self, hook) is not None and not callable(getattr(self, hook)):
                self._refuse(hook, "a function")
        if self.dynamic and (self.isolated or self.target is not None):
            option = "isolated" if self.isolated else "target"
            self._refuse(option, "left out of a dynamic task, which only draws; give it to the tasks that are drawn")

    def _refuse(self, option: str, allowed: str) -> None:
        raise FlowError(f"task {self.name!r}: {option} must be {allowed}, got {getattr(self, option)!r}")

    def _check_retries(self) -> None:
        delay = self.retry_delay
        if isinstance(delay, Sequence) and not isinstance(delay, str):
            if not delay or not all(map(_is_seconds, delay)):
                self._refuse("retry_delay", "a list of seconds >= 0, one per attempt, of which the last one stays")
        elif not callable(delay) and not _is_seconds(delay):
            self._refuse("retry_delay", "seconds >= 0, a list of them, or a function of the attempts so far")
        on = self.retry_on
        types = on if isinstance(on, tuple) else (on,) if isinstance(on, type) else ()
        if not all(isinstance(each, type) and issubclass(each, BaseException) for each in types) or not (
            on is None or types or (callable(on) and not isinstance(on, type))
        ):
            self._refuse("retry_on", "a type of exceptions, a tuple of them, or a function")

    def _check_placement(self) -> None:
        resources, workers = self.resources or {}, self.workers or ()
        if not isinstance(resources, Mapping) or not all(
            isinstance(name, str) and _is_seconds(amount, above=0) for name, amount in resources.items()
        ):
            self._refuse("resources", "amounts > 0 by name, such as {'GPU': 1}")
        if isinstance(workers, Mapping) or not all(isinstance(worker, str) and worker for worker in workers):
            self._refuse("workers", "names, addresses or hosts")
        if not isinstance(self.priority, int):
            self._refuse("priority", "a whole number")

    @property
    def wraps_calls(self) -> bool:
        """Whether a worker has more to do about a call than to make it."""
        asked = self.timeout, self.isolated, self.dynamic, self.log_prints, self.run_name, self.target
        return any(each is not None and each is not False for each in asked)

    @property
    def placement(self) -> Placement:
        """Where its runs may be executed, and before which others."""
        workers = (self.workers,) if isinstance(self.workers, str) else tuple(self.workers or ())
        apart = self.trigger == CLEANUP
        if not (self.resources or workers or self.priority or apart):
            return ANYWHERE
        return Placement(tuple(sorted((self.resources or {}).items())), workers, self.priority, apart=apart)


@dataclass(frozen=True, kw_only=True)
class FlowPolicy:
    """How a flow's runs are treated. ``hr.flow`` tells what each option means to its users.

    Attributes
    ----------
    timeout : float, optional
        Seconds that a run may take.
    max_running : dict of str to int, optional
        By tag: how many task runs with it may run at the same time.
    max_depth : int, default 50
        How deep tasks that return flows may be nested.
    on_state, on_failure : callable, optional
        Told of the states of its runs.
    """

    timeout: float | None = None
    max_running: Mapping[str, int] | None = None
    max_depth: int = DEEPEST
    on_state: Callable[..., object] | None = None
    on_failure: Callable[..., object] | None = None

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.timeout is not None and not _is_seconds(self.timeout, above=0):
            raise FlowError(f"a flow's timeout must be seconds > 0, got {self.timeout!r}")
        limits = self.max_running or {}
        if not isinstance(limits, Mapping) or not all(
            isinstance(tag, str) and _is_whole(number, 1) for tag, number in limits.items()
        ):
            raise FlowError(f"a flow's max_running must be whole numbers from 1 on by tag, got {self.max_running!r}")
        if not _is_whole(self.max_depth, 0):
            raise FlowError(f"a flow's max_depth must be a whole number from 0 on, got {self.max_depth!r}")
        for hook in ("on_state", "on_failure"):
            if getattr(self, hook) is not None and not callable(getattr(self, hook)):
                raise FlowError(f"a flow's {hook} must be a function, got {getattr(self, hook)!r}")


OPTIONS = tuple(field.name for field in fields(Policy))


def options_of(policy: Policy | FlowPolicy) -> dict[str, Any]:
    """Return the options that somebody gave, as JSON data; functions and types by the name of where they are.

    Parameters
    ----------
    policy : Policy or FlowPolicy
        Any.
    """
    given = ((each.name, getattr(policy, each.name), each.default) for each in fields(policy))
    return {name: _plain(value) for name, value, default in given if name != "name" and value != default}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    kind = value if hasattr(value, "__qualname__") else type(value)
    return f"{kind.__module__}:{kind.__qualname__}"


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_seconds(value: object, above: float | None = None) -> bool:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < math.inf:
        return False
    return value > above if above is not None else value >= 0
