"""Tasks: Python functions with a policy."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, NamedTuple, ParamSpec, TypeVar, cast, overload

from headrace.core.drawing import current_drawing
from headrace.core.rules import TRIGGERS
from headrace.errors import FlowError

P = ParamSpec("P")
R = TypeVar("R")


class Placement(NamedTuple):
    """Where a task's runs may be executed, and before which others.

    Attributes
    ----------
    resources : tuple of (str, float)
        What a worker must have free, as its ``--resources`` offer it.
    workers : tuple of str
        Names, addresses or hosts of the workers that may execute it; empty for all.
    priority : int
        Higher goes first.
    """

    resources: tuple[tuple[str, float], ...] = ()
    workers: tuple[str, ...] = ()
    priority: int = 0


ANYWHERE = Placement()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a task is treated, apart from what it computes.

    Attributes
    ----------
    name : str
        Shown to people; the base of its nodes' names.
    retries : int, default 0
        How many further attempts follow a failed one.
    retry_delay : float, default 0.0
        Seconds between two attempts. A waiting retry holds no worker.
    trigger : str, default "all_successful"
        When it may run; see ``core.rules``.
    skip_on_upstream_skip : bool, default True
        Whether one skipped upstream skips it.
    nout : int, optional
        How many outputs the returned sequence has, so that ``a, b = task(...)`` works while drawing.
    resources : dict of str to float, optional
        What a worker must have free to execute it, in Dask's words: ``{"GPU": 1}``.
    workers : str or list of str, optional
        Which of Dask's workers may execute it: names, addresses or hosts.
    priority : int, default 0
        Among what is ready, higher goes first.
    """

    name: str
    retries: int = 0
    retry_delay: float = 0.0
    trigger: str = "all_successful"
    skip_on_upstream_skip: bool = True
    nout: int | None = None
    resources: Mapping[str, float] | None = None
    workers: str | Sequence[str] | None = None
    priority: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if not isinstance(self.name, str) or not self.name:
            raise FlowError(f"a task needs a name, got {self.name!r}")
        if self.trigger not in TRIGGERS:
            raise FlowError(f"task {self.name!r}: unknown trigger {self.trigger!r}; known are {', '.join(TRIGGERS)}")
        if not isinstance(self.retries, int) or self.retries < 0:
            raise FlowError(f"task {self.name!r}: retries must be a whole number from 0 on, got {self.retries!r}")
        if not isinstance(self.retry_delay, (int, float)) or not 0 <= self.retry_delay < math.inf:
            raise FlowError(f"task {self.name!r}: retry_delay must be seconds >= 0, got {self.retry_delay!r}")
        if self.nout is not None and (not isinstance(self.nout, int) or self.nout < 1):
            raise FlowError(f"task {self.name!r}: nout must be a whole number from 1 on, got {self.nout!r}")
        self._check_placement()

    def _check_placement(self) -> None:
        resources, workers = self.resources or {}, self.workers or ()
        if not isinstance(resources, Mapping) or not all(
            isinstance(name, str) and isinstance(amount, (int, float)) and 0 < amount < math.inf
            for name, amount in resources.items()
        ):
            raise FlowError(
                f"task {self.name!r}: resources must be amounts > 0 by name, such as {{'GPU': 1}}, got {resources!r}"
            )
        if isinstance(workers, Mapping) or not all(isinstance(worker, str) and worker for worker in workers):
            raise FlowError(f"task {self.name!r}: workers must be names, addresses or hosts, got {workers!r}")
        if not isinstance(self.priority, int):
            raise FlowError(f"task {self.name!r}: priority must be a whole number, got {self.priority!r}")

    @property
    def placement(self) -> Placement:
        """Where its runs may be executed, and before which others."""
        workers = (self.workers,) if isinstance(self.workers, str) else tuple(self.workers or ())
        if not (self.resources or workers or self.priority):
            return ANYWHERE
        return Placement(tuple(sorted((self.resources or {}).items())), workers, self.priority)


OPTIONS = tuple(field.name for field in fields(Policy))


class Task(Generic[P, R]):
    """A Python function with a policy.

    Called while a flow is drawn, it adds a node and returns it; called anywhere else, it is the plain function.

    Parameters
    ----------
    function : callable
        What to run. Not a coroutine function, and without parameters named ``upstream``.
    policy : Policy
        How to treat it.
    """

    def __init__(self, function: Callable[P, R], policy: Policy) -> None:
        if not callable(function):
            raise FlowError(f"@task needs a function, got {function!r}")
        self.function = function
        self.policy = policy
        functools.update_wrapper(self, function)
        self._taken: set[tuple[Any, ...]] = set()
        try:
            self.signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # some builtins have none; then arguments are checked when it runs
            self.signature = None
        if self.signature is not None and "upstream" in self.signature.parameters:
            raise FlowError(
                f"task {policy.name!r} has a parameter named 'upstream', which is the keyword that orders tasks "
                "without passing a value; rename the parameter"
            )
        if inspect.iscoroutinefunction(function):
            raise FlowError(
                f"task {policy.name!r} is an async function, which tasks cannot be yet: call asyncio.run(...) inside it"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Task, (self.function, self.policy)

    def __repr__(self) -> str:
        return f"<Task {self.policy.name}>"

    @property
    def name(self) -> str:
        """The task's name."""
        return self.policy.name

    @property
    def qualified_name(self) -> str:
        """Where the function is defined, as ``module:qualname``."""
        function = self.function
        return f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', self.policy.name)}"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Add a node to the flow that is being drawn, or, outside of any, call the function."""
        drawing = current_drawing()
        if drawing is None:
            if "upstream" in kwargs:
                raise FlowError(f"task {self.name!r} got upstream= outside of a flow; it orders nodes of a flow only")
            return self.function(*args, **kwargs)
        return cast(R, drawing.add_call(self, args, kwargs, mapped=False))

    def check_call(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Refuse arguments that the function's signature does not take.

        That depends only on how many there are and on their keywords, so each such form of a call is looked at once.

        Parameters
        ----------
        args, kwargs : tuple and mapping
            Of a call.

        Raises
        ------
        FlowError
            If they do not fit.
        """
        form = (len(args), *kwargs)
        if form in self._taken or self.signature is None:
            return
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise FlowError(
                f"task {self.name!r} was called with arguments that it does not take: {error}; "
                f"its signature is {self.name}{self.signature}"
            ) from None
        self._taken.add(form)

    def map(self, *args: Any, upstream: Any = (), **kwargs: Any) -> list[R]:
        """Add a mapped node: one child per element.

        Parameters
        ----------
        *args, **kwargs
            Sequences, nodes of sequences, or mapped nodes. Several are zipped. What every child shall receive
            whole stands in ``hr.unmapped(...)``; ``hr.flatten(...)`` maps over the elements of the elements.
        upstream : node or list of nodes, optional
            Nodes that must be done first, without giving a value.

        Returns
        -------
        Node
            Stands for the list of all children's values.
        """
        drawing = current_drawing()
        if drawing is None:
            raise FlowError(
                f"task {self.name!r}.map(...) was called outside of a flow; call it inside a function decorated "
                "with @hr.flow, or use a list comprehension"
            )
        kwargs["upstream"] = upstream
        return cast("list[R]", drawing.add_call(self, args, kwargs, mapped=True))

    def with_options(self, **options: Any) -> Task[P, R]:
        """Return the same task with another policy.

        Parameters
        ----------
        **options
            Any option of ``hr.task``.

        Raises
        ------
        FlowError
            If an option is unknown or its value is not allowed.
        """
        check_options(self.policy.name, options)
        return Task(self.function, replace(self.policy, **options))


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a task does not have."""
    for option in options:
        if option not in OPTIONS:
            raise FlowError(f"task {name!r}: unknown option {option!r}; known are {', '.join(OPTIONS)}")


@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay: float = 0.0,
    trigger: str = "all_successful",
    skip_on_upstream_skip: bool = True,
    nout: int | None = None,
    resources: Mapping[str, float] | None = None,
    workers: str | Sequence[str] | None = None,
    priority: int = 0,
) -> Callable[[Callable[P, R]], Task[P, R]]: ...


def task(function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
    """Make a task of a function; with or without options.

    Parameters
    ----------
    function : callable, optional
        What to run. Given by the decorator syntax.
    name : str, default the function's name
        Shown to people; the base of its nodes' names.
    retries : int, default 0
        How many further attempts follow a failed one.
    retry_delay : float, default 0.0
        Seconds between two attempts. A waiting retry holds no worker.
    trigger : str, default "all_successful"
        When it may run: ``all_successful``, ``all_failed``, ``any_successful``, ``any_failed``,
        ``all_finished`` or ``not_all_skipped``. A task that runs although an upstream failed receives the
        exception in place of the value; in place of a skipped one's, ``None``.
    skip_on_upstream_skip : bool, default True
        Whether one skipped upstream skips it.
    nout : int, optional
        How many outputs the returned sequence has, so that ``a, b = task(...)`` works in a flow.
    resources : dict of str to float, optional
        What a Dask worker must have free to execute it: ``{"GPU": 1}``. It matters on a Dask cluster only.
    workers : str or list of str, optional
        Which Dask workers may execute it: names, addresses or hosts. It matters on a Dask cluster only.
    priority : int, default 0
        Among what is ready, higher goes first.

    Raises
    ------
    FlowError
        If an option is unknown or its value is not allowed.

    Examples
    --------
    >>> @task(retries=2)
    ... def double(x: int) -> int:
    ...     return 2 * x
    >>> double(21)
    42
    """

    def decorate(function: Callable[..., Any]) -> Task[..., Any]:
        if isinstance(function, Task):
            return function.with_options(**options)
        name = options.get("name") or getattr(function, "__name__", type(function).__name__).strip("<>")
        check_options(name, options)
        return Task(function, Policy(**{**options, "name": name}))

    return decorate if function is None else decorate(function)
