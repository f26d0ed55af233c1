"""Tasks: Python functions with a policy."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from typing import Any, Generic, ParamSpec, Protocol, TypeVar, cast, overload

from headrace.core.annotations import outputs_of
from headrace.core.drawing import current_drawing
from headrace.core.naming import check_run_name
from headrace.core.policy import OPTIONS, Delay, Policy, RetryOn, Trigger
from headrace.core.secret import Secret
from headrace.errors import FlowError

P = ParamSpec("P")
R = TypeVar("R")


class Task(Generic[P, R]):
    """A Python function with a policy.

    Called while a flow is drawn, it adds a node and returns it; called anywhere else, it is the plain function.

    Parameters
    ----------
    function : callable
        What to run: a function or an ``async def`` function, without parameters named ``upstream``.
    policy : Policy
        How to treat it.
    """

    def __init__(self, function: Callable[P, R], policy: Policy) -> None:
        if not callable(function):
            raise FlowError(f"@task needs a function, got {function!r}")
        self.function: Callable[..., Any] = function
        self.policy = policy
        functools.update_wrapper(self, function)
        self._taken: set[tuple[Any, ...]] = set()
        try:
            self.signature: inspect.Signature | None = inspect.signature(function)
        except (TypeError, ValueError):  # some builtins have none; then arguments are checked when it runs
            self.signature = None
        declared = self.signature.parameters if self.signature is not None else {}
        #: parameters whose default is a secret
        self.secrets = {name: each.default for name, each in declared.items() if isinstance(each.default, Secret)}
        if "upstream" in declared:
            raise FlowError(
                f"task {policy.name!r} has a parameter named 'upstream', which is the keyword that orders tasks "
                "without passing a value; rename the parameter"
            )
        check_run_name(policy, self.signature)
        #: whether calls give coroutines, which headrace awaits
        self.is_async = any(map(inspect.iscoroutinefunction, _forms(function)))
        #: whether there is nothing to do about calls but to make them
        self.bare = not (self.is_async or policy.wraps_calls)
        if any(map(inspect.isasyncgenfunction, _forms(function))):
            raise FlowError(
                f"task {policy.name!r} is an async generator, which has no one value; collect its items in an "
                "`async def` function that returns a list: [item async for item in ...]"
            )
        if self.is_async and (policy.isolated or policy.dynamic):
            option = "isolated" if policy.isolated else "dynamic"
            raise FlowError(
                f"task {policy.name!r} is `async def`, and {option}=True is for plain functions, because there is "
                "nobody that it could wait beside; leave the option out, or call asyncio.run(...) in a plain function"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        return Task, (self.function, self.policy)

    def __renew__(self, newer: Task[..., Any]) -> None:
        """Become what the edited source of the module says, wherever this task is held."""
        self.__dict__.update(newer.__dict__)

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

    @overload
    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R: ...
    @overload
    def __call__(self, *args: Any, upstream: Any, **kwargs: Any) -> R: ...
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a node to the flow that is being drawn, or, outside of any, call the function."""
        drawing = current_drawing()
        if drawing is None:
            if "upstream" in kwargs:
                raise FlowError(f"task {self.name!r} got upstream= outside of a flow; it orders nodes of a flow only")
            return self.function(*args, **kwargs)
        return drawing.add_call(self, args, kwargs, mapped=False)

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

    def secrets_left_out(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Secret]:
        """Return the parameters that a call leaves to their default, where that is a secret."""
        assert self.signature is not None
        given = self.signature.bind_partial(*args, **kwargs).arguments
        return {name: secret for name, secret in self.secrets.items() if name not in given}

    def map(self, *args: Any, upstream: Any = (), strict: bool | None = None, **kwargs: Any) -> list[R]:
        """Add a mapped node: one child per element.

        Parameters
        ----------
        *args, **kwargs
            Sequences, nodes of sequences, or mapped nodes. Several are zipped. What every child shall receive
            whole stands in ``hr.unmapped(...)``; ``hr.flatten(...)`` maps over the elements of the elements.
        upstream : node or list of nodes, optional
            Nodes that must be done first, without giving a value.
        strict : bool, default True
            Whether unequal lengths are an error. With ``strict=False``, the shortest one tells how many children there
            are, as for Python's ``zip``.

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
        if strict is not None:
            self._check_strict(strict)
            kwargs["strict"] = strict
        kwargs["upstream"] = upstream
        return cast("list[R]", drawing.add_call(self, args, kwargs, mapped=True))

    def _check_strict(self, strict: object) -> None:
        """Refuse what was meant for the function, and not for ``map``."""
        own = self.signature is not None and "strict" in self.signature.parameters
        if own or not isinstance(strict, bool):
            hint = "its function has a parameter of that name, too: give that by position, or rename it"
            raise FlowError(
                f"task {self.name!r}.map(...) got strict={strict!r}, a word of .map that says whether unequal lengths "
                f"are an error: {hint if own else 'give True or False'}"
            )

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

    def without_hooks(self) -> Task[P, R]:
        """The same task as it travels to workers: its hooks run where its run was started."""
        if self.policy.on_state is None and self.policy.on_failure is None:
            return self
        return self.with_options(on_state=None, on_failure=None)


def _forms(function: Callable[..., Any]) -> tuple[Callable[..., Any], ...]:
    """Where it may stand that a function is ``async def``: in itself, or in the ``__call__`` of its type."""
    while isinstance(function, functools.partial):
        function = function.func
    return function, getattr(type(function), "__call__", function)  # noqa: B004 - what it is, not whether it is there


def check_options(name: str, options: Mapping[str, Any]) -> None:
    """Refuse options that a task does not have."""
    for option in options:
        if option not in OPTIONS:
            raise FlowError(f"task {name!r}: unknown option {option!r}; known are {', '.join(OPTIONS)}")


class Decorator(Protocol):
    """What ``task`` with options returns. Checkers see of an ``async def`` function what awaiting it gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def task(function: Callable[P, Coroutine[Any, Any, R]], /) -> Task[P, R]: ...
@overload
def task(function: Callable[P, R], /) -> Task[P, R]: ...
@overload
def task(
    *,
    name: str | None = None,
    retries: int = 0,
    retry_delay: Delay = 0.0,
    retry_on: RetryOn | None = None,
    timeout: float | None = None,
    isolated: bool = False,
    trigger: Trigger = "all_successful",
    skip_on_upstream_skip: bool = True,
    nout: int | None = None,
    resources: Mapping[str, float] | None = None,
    workers: str | Sequence[str] | None = None,
    priority: int = 0,
    tags: Sequence[str] = (),
    max_running: int | None = None,
    target: Any = None,
    run_name: str | Callable[..., str] | None = None,
    log_prints: bool = False,
    on_state: Callable[..., object] | None = None,
    on_failure: Callable[..., object] | None = None,
    dynamic: bool = False,
) -> Decorator: ...


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
    retry_delay : float, sequence of float or callable, default 0.0
        Seconds between two attempts: always the same, one per attempt (the last one stays), or told by a function of
        the number of attempts so far, such as ``hr.exponential(1.0)``. A waiting retry holds no worker.
    retry_on : type, tuple of types or callable, optional
        Which exceptions are worth another attempt: types, or a function that takes the exception and says so.
        Default: all.
    timeout : float, optional
        Seconds that one attempt may take. Then it is told to end, by an exception in its thread, and fails as
        TimedOut. What waits inside a C function hears of that when the function returns; ``isolated=True`` ends that,
        too.
    isolated : bool, default False
        Whether each attempt runs in a child process of the worker, which is killed when it takes too long or when the
        run is cancelled.
    trigger : str or callable, default "all_successful"
        When it may run: ``all_successful``, ``all_failed``, ``any_successful``, ``any_failed``, ``all_finished``,
        ``not_all_skipped``, or a function that takes the counts of how its upstream ended (``core.rules.Upstream``)
        and says so. A task that runs although an upstream failed receives the exception in place of the value; in
        place of a skipped one's, ``None``.
    skip_on_upstream_skip : bool, default True
        Whether one skipped upstream skips it.
    nout : int, optional
        How many outputs the returned sequence has, so that ``a, b = task(...)`` works in a flow. Default: as the
        annotation of what the function returns tells, if it is a tuple of known length.
    resources : dict of str to float, optional
        What a Dask worker must have free to execute it: ``{"GPU": 1}``. It matters on a Dask cluster only.
    workers : str or list of str, optional
        Which Dask workers may execute it: names, addresses or hosts. It matters on a Dask cluster only.
    priority : int, default 0
        Among what is ready, higher goes first.
    tags : sequence of str, default ()
        Words that it is found and limited by.
    max_running : int, optional
        How many of its task runs may run at the same time, across the run. For limits by tag, see ``hr.flow``.
    target : str, callable or Target, optional
        Where the value is kept beyond the run: a path or URL such as ``"rows/{day}.json"``, see ``hr.Target``. If it
        is there already, the task is not executed, and the task run ends as Cached.
    run_name : str or callable, optional
        Names each task run in logs and errors: a text with the names of parameters, ``"load-{day}"``, or a function
        of the task's arguments.
    log_prints : bool, default False
        Whether what it prints is logged, so that it arrives where the run was started.
    on_state : callable, optional
        Called with what changed, the old state and the new one, where the run was started. It cannot change values.
    on_failure : callable, optional
        Called with what failed and its exception, when no attempt is left.
    dynamic : bool, default False
        Whether its function draws a flow when it runs: tasks that are called in it add nodes to the run, and what it
        returns is made of their values.

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
        nout = options["nout"] if "nout" in options else outputs_of(function)
        return Task(function, Policy(**{**options, "name": name, "nout": nout}))

    return decorate if function is None else decorate(function)
