"""Resources: what is set up before some tasks of a flow and cleaned up after them, whatever becomes of them.

How to think about it. A resource is two tasks, because values travel between workers: one sets up, and its value is
what the ``with`` block gets; the other receives that value, and cleans up. Between them lie the nodes that are drawn
inside the block. They begin after the set-up. The clean-up comes after them all, without asking how they ended
(``NodeSpec.after``), and runs if the set-up succeeded (the trigger ``cleanup``).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar, cast, overload

from headrace.core.drawing import Drawing, current_drawing
from headrace.core.rules import CLEANUP
from headrace.core.slots import How, Placeholder
from headrace.core.task import Task, task
from headrace.errors import FlowError

P = ParamSpec("P")
R = TypeVar("R")
F = TypeVar("F", bound=Callable[..., Any])


class Resource(Generic[P, R]):
    """What is set up before some tasks and cleaned up after them.

    Called while a flow is drawn, in a ``with`` statement, it adds the node of its set-up at the beginning of the block
    and that of its clean-up at the end. Anywhere else it is a plain context manager.

    Parameters
    ----------
    setup : Task
        Sets up, and returns what the clean-up, and who uses it, needs to know.
    cleanup : Task, optional
        Receives that, and takes down. It can be given later: ``@resource.cleanup``.
    again : bool, default False
        Whether the clean-up receives the arguments of the set-up, too.
    """

    def __init__(self, setup: Task[P, R], cleanup: Task[..., Any] | None = None, *, again: bool = False) -> None:
        _check_value(setup, "set-up")
        self._setup = setup
        self._cleanup = cleanup
        self._again = again

    @property
    def name(self) -> str:
        """The name of its set-up."""
        return self._setup.name

    def __repr__(self) -> str:
        return f"<Resource {self.name}>"

    @overload
    def cleanup(self, function: F, /) -> F: ...
    @overload
    def cleanup(self, /, **options: Any) -> Callable[[F], F]: ...
    def cleanup(self, function: Callable[..., Any] | None = None, /, **options: Any) -> Any:
        """Make a function the clean-up: a decorator, with or without options.

        Parameters
        ----------
        function : callable, optional
            Receives the value of the set-up.
        **options
            As for ``hr.task``, but for ``target``, ``dynamic`` and ``trigger``: it runs if the set-up succeeded.
        """

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self._cleanup = _cleanup_task(self.name, function, options)
            return function

        return decorate if function is None else decorate(function)

    def with_options(self, **options: Any) -> Resource[P, R]:
        """Return the same resource with another policy of its set-up.

        Parameters
        ----------
        **options
            As for ``hr.resource``.
        """
        return Resource(self._setup.with_options(**options), self._cleanup, again=self._again)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> AbstractContextManager[R]:
        """Return the context manager of one set-up and its clean-up."""
        if self._cleanup is None:
            raise FlowError(
                f"resource {self.name!r} has no clean-up; give it one with a function below it: @{self.name}.cleanup. "
                "If there is nothing to clean up, a task is enough"
            )
        drawing = current_drawing()
        if drawing is None:
            return cast("AbstractContextManager[R]", self._held(args, kwargs))
        return cast("AbstractContextManager[R]", _Block(self.name, self._drawn(drawing, args, kwargs)))

    @contextmanager
    def _held(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        """Outside of any flow: set up and clean up here and now."""
        assert self._cleanup is not None
        value = self._setup.function(*args, **kwargs)
        try:
            yield value
        finally:
            self._cleanup.function(value, *self._more(args), **self._more(kwargs))

    @contextmanager
    def _drawn(self, drawing: Drawing, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        assert self._cleanup is not None
        node = drawing.add_call(self._setup, args, dict(kwargs), mapped=False)
        block = drawing.begin_block(node)
        try:
            yield node
        finally:
            kwargs.pop("upstream", None)
            end = drawing.add_call(self._cleanup, (node, *self._more(args)), dict(self._more(kwargs)), mapped=False)
            drawing.end_block(block, end)

    def _more(self, arguments: Any) -> Any:
        return arguments if self._again else type(arguments)()


class _Block(Placeholder, AbstractContextManager[Any]):
    """The ``with`` block of a resource in a flow; whoever takes it for the value is told to use ``with``."""

    def __init__(self, name: str, drawn: AbstractContextManager[Any]) -> None:
        self._name = name
        self._drawn = drawn

    def __enter__(self) -> Any:
        return self._drawn.__enter__()

    def __exit__(self, *error: Any) -> bool | None:
        return self._drawn.__exit__(*error)

    def __repr__(self) -> str:
        return f"{self._name}(...)"

    def _slot(self, how: How) -> NoReturn:
        raise FlowError(
            f"resource {self._name!r} was called without `with`, so it has no set-up to take a value from; write "
            f"`with {self._name}(...) as value:`, and give that value to tasks in the block below"
        )


def _check_value(made: Task[..., Any], what: str) -> None:
    """Refuse what would let a task run succeed without doing, here and now, what it is for."""
    policy = made.policy
    option = "target" if policy.target is not None else "dynamic" if policy.dynamic else None
    if option is not None:
        raise FlowError(
            f"{what} {policy.name!r} of a resource takes no {option}, because it must be done in each run, by itself; "
            f"give {option} to a task in the with block"
        )


def _cleanup_task(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> Task[..., Any]:
    if "trigger" in options:
        raise FlowError(
            f"resource {name!r}: a clean-up takes no trigger, because it runs if, and only if, its set-up succeeded"
        )
    made: Task[..., Any] = task(**{**options, "trigger": CLEANUP})(function)
    _check_value(made, "clean-up")
    return made


def _of_class(cls: type, options: dict[str, Any], cleanup: Mapping[str, Any]) -> Resource[..., Any]:
    """Make a resource of a class; its clean-up makes the object anew, because it may run in another process."""
    for method in ("setup", "cleanup"):
        if not callable(getattr(cls, method, None)):
            raise FlowError(
                f"resource {cls.__name__!r} needs the methods setup(self), whose value the with block gets, and "
                f"cleanup(self, value); it has no {method}"
            )

    def set_up(*args: Any, **kwargs: Any) -> Any:
        return cls(*args, **kwargs).setup()

    def clean_up(value: Any, /, *args: Any, **kwargs: Any) -> Any:
        return cls(*args, **kwargs).cleanup(value)

    set_up.__signature__ = inspect.signature(cls)  # type: ignore[attr-defined]
    for function, name in ((set_up, cls.__name__), (clean_up, f"{cls.__name__}_cleanup")):
        function.__name__, function.__module__, function.__doc__ = name, cls.__module__, cls.__doc__
        function.__qualname__ = cls.__qualname__ + name.removeprefix(cls.__name__)
    return Resource(task(**options)(set_up), _cleanup_task(cls.__name__, clean_up, cleanup), again=True)


@overload
def resource(function: type, /) -> Resource[..., Any]: ...
@overload
def resource(function: Callable[P, R], /) -> Resource[P, R]: ...
@overload
def resource(*, cleanup: Mapping[str, Any] = ..., **options: Any) -> Callable[[Callable[P, R]], Resource[P, R]]: ...


def resource(
    function: Callable[..., Any] | None = None, /, *, cleanup: Mapping[str, Any] | None = None, **options: Any
) -> Any:
    """Make a resource of a function that sets up, or of a class; with or without options.

    In a flow, what is drawn inside its ``with`` block begins after the set-up, and the clean-up runs when all of that
    is over, whatever became of it, as soon as the set-up has succeeded: after failures, after skips, and when the run
    is cancelled or out of time.

    Parameters
    ----------
    function : callable or type, optional
        Given by the decorator syntax. A function sets up; what it returns is what the ``with`` block gets and what the
        clean-up receives, which is given by ``@name.cleanup``. A class has ``__init__(self, ...)`` with the arguments,
        ``setup(self)``, which returns that value, and ``cleanup(self, value)``, which is called on an object that was
        made anew with the same arguments, because it may run in another process.
    cleanup : mapping, optional
        Of a class: options of its clean-up.
    **options
        Of the set-up, as for ``hr.task``, but for ``target`` and ``dynamic``.

    Raises
    ------
    FlowError
        If an option is unknown or its value is not allowed, or if a class lacks a method.

    Examples
    --------
    >>> @resource
    ... def table(name: str) -> str:
    ...     print("create", name)
    ...     return name
    >>> @table.cleanup
    ... def drop(name: str) -> None:
    ...     print("drop", name)
    >>> with table("tmp") as name:
    ...     print("use", name)
    create tmp
    use tmp
    drop tmp
    """

    def decorate(function: Callable[..., Any]) -> Resource[..., Any]:
        if isinstance(function, type):
            return _of_class(function, options, cleanup or {})
        if cleanup is not None:
            raise FlowError(
                f"resource {function.__name__!r}: cleanup= is for classes; give the clean-up's options where it is "
                f"defined: @{function.__name__}.cleanup(timeout=5)"
            )
        return Resource(task(**options)(function))

    return decorate if function is None else decorate(function)
