"""``hr.context()``: what a task can learn about its own run.

How to think about it. A thread that executes a batch notes so once, in a context variable: its ``Post``. Which task
run it is in is worked out only when somebody asks, so that those who never ask pay nothing. Code whose task runs do
not follow one another in a thread (coroutines, child processes) pins the context instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol

from headrace.core.events import Dispatch
from headrace.core.naming import label, name_run
from headrace.core.signals import Signal
from headrace.core.strips import locate
from headrace.core.task import Task
from headrace.errors import NotInTask
from headrace.execution.secrets import confiding
from headrace.redaction import redact

#: What fetches the arguments of a task run and calls the function.
Call = Callable[[Any, int], Any]
_RAISE: Any = object()


class Parameters(Mapping[str, Any]):
    """A run's parameters, to be read only.

    Parameters
    ----------
    values : mapping
        By name.
    withheld : tuple of str
        Names of those that did not travel.
    """

    def __init__(self, values: Mapping[str, Any], withheld: tuple[str, ...] = ()) -> None:
        self._values = dict(values)
        self._withheld = withheld

    def __getitem__(self, name: str) -> Any:
        if name in self._withheld:
            raise KeyError(
                f"parameter {name!r} did not travel with the context, because it is large or cannot be pickled; give "
                "it to the task as an argument"
            )
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Parameters({self._values!r})"


@dataclass(frozen=True, slots=True)
class Context:
    """Where a task is being executed.

    Attributes
    ----------
    run_id : str
        Of the run.
    flow_name : str
        Which flow.
    task_name : str
        The node's name in the flow.
    index : int or None
        Which child of a mapped node; None if it is not mapped.
    attempt : int
        1 at the first one.
    parameters : mapping
        The run's parameters, validated. Those that are too large to travel to each worker, or cannot, are left out.
    run_name : str
        As the task's ``run_name`` says; default: ``"task"`` or ``"task[3]"``.
    worker : str
        Address of the Dask worker, or ``"inline"``.
    """

    run_id: str
    flow_name: str
    task_name: str
    index: int | None
    attempt: int
    parameters: Mapping[str, Any]
    run_name: str
    worker: str


class Position(Protocol):
    """How far a batch is."""

    position: int


class Executing(Protocol):
    """The execution of a batch, as far as a context needs it."""

    plan: Any  # a LoadedPlan; its module stands above this one
    order: Dispatch
    again: tuple[int, int]
    confided: bool

    @property
    def control(self) -> Position:
        """Tells the position."""


class Post:
    """A thread that executes a batch.

    Parameters
    ----------
    batch : Executing
        Its execution.
    run_id, worker : str
        Of which run, and where.
    outer : Post or None
        Where the thread was before: a task may run a flow itself.
    """

    __slots__ = ("_known", "batch", "outer", "run_id", "worker")

    def __init__(self, batch: Executing, run_id: str, worker: str, outer: Post | Pinned | None) -> None:
        self.batch = batch
        self.run_id = run_id
        self.worker = worker
        self.outer = outer
        self._known: tuple[tuple[int, int], Context] | None = None

    def context(self) -> Context:
        """Of the task run that is being executed."""
        position = self.batch.control.position - 1
        again = self.batch.again[1] if self.batch.again[0] == position else 0
        known = self._known
        if known is None or known[0] != (position, again):
            node, child = locate(self.batch.order.strips, max(position, 0))
            known = self._known = (position, again), self.context_of(node, child, again)
        return known[1]

    def context_of(self, node: int, child: int, attempt: int = 0) -> Context:
        """Of any task run of the batch.

        Parameters
        ----------
        node, child : int
            Which.
        attempt : int, default 0
            From 1 on; 0 for the first that this batch makes.
        """
        plan = self.batch.plan.plan
        spec = plan.nodes[node]
        index = child if spec.mapped else None
        return Context(
            self.run_id,
            plan.flow,
            spec.name,
            index,
            attempt or self.batch.order.attempts.get((node, child), 0) + 1,
            plan.parameters,
            self._run_name(node, child, label(spec.name, index)),
            self.worker,
        )

    def _run_name(self, node: int, child: int, plain: str) -> str:
        """A name that cannot be made is no reason for a task to fail; who reads the name reads why."""
        loaded = self.batch.plan[node]
        if loaded.policy.run_name is None:
            return plain
        try:
            args, kwargs = loaded.arguments(self.batch, child)
            return redact(name_run(loaded.policy.run_name, loaded.function, args, kwargs))
        except Exception as error:  # noqa: BLE001 - a user's function may raise anything
            return f"{plain} (run_name raised {type(error).__name__}: {error})"


class Pinned:
    """A context that is given, wherever the thread is.

    Parameters
    ----------
    context : Context
        Which.
    outer : Post, Pinned or None
        Where the thread was before.
    """

    __slots__ = ("_context", "outer", "run_id")

    def __init__(self, context: Context, outer: Post | Pinned | None = None) -> None:
        self._context = context
        self.run_id = context.run_id
        self.outer = outer

    def context(self) -> Context:
        """The one that was given."""
        return self._context


#: Where this thread, or coroutine, is; None outside of tasks.
POST: ContextVar[Post | Pinned | None] = ContextVar("headrace_post", default=None)


@contextmanager
def at_post(batch: Executing, run_id: str, worker: str) -> Iterator[None]:
    """Note that this thread executes a batch."""
    token = POST.set(Post(batch, run_id, worker, POST.get()))
    try:
        with confiding(batch):
            yield
    finally:
        POST.reset(token)


@contextmanager
def pinned(context: Context) -> Iterator[None]:
    """Give a context to what runs inside: a coroutine, or a child process that was sent it.

    Contexts can be pickled. ``Post.context_of`` makes those of task runs that run at the same time.
    """
    token = POST.set(Pinned(context, POST.get()))
    try:
        yield
    finally:
        POST.reset(token)


def named(task: Task[..., Any], call: Call) -> Call:
    """Let the exceptions of a task whose task runs have names tell the name. A guard (``execution.loaded``)."""
    if task.policy.run_name is None:
        return call

    def named_call(source: Any, child: int) -> Any:
        with _naming():
            return call(source, child)

    async def named_coroutine(source: Any, child: int) -> Any:
        with _naming():
            return await call(source, child)

    return named_coroutine if task.is_async else named_call


@contextmanager
def _naming() -> Iterator[None]:
    try:
        yield
    except (Exception, Signal) as error:
        note = f"run name: {context().run_name}"
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        raise


def context(default: Any = _RAISE) -> Context:
    """Return what the task that is being executed can know of its run.

    Parameters
    ----------
    default : object, optional
        What to return outside of a task.

    Returns
    -------
    Context
        Frozen: ``run_id``, ``flow_name``, ``task_name``, ``index``, ``attempt``, ``parameters``, ``run_name``,
        ``worker``.

    Raises
    ------
    NotInTask
        Outside of a task that a run executes, if no default is given.
    """
    post = POST.get()
    if post is not None:
        return post.context()
    if default is not _RAISE:
        return default  # type: ignore[no-any-return]
    raise NotInTask(
        "hr.context() was called where no run executes a task: while a flow is drawn, in a plain call of the function, "
        "or in a thread that the task started (start it by contextvars.copy_context().run). Give a default, "
        "hr.context(None), to code that runs in other places, too"
    )
