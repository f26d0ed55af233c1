"""Loops: a task or a flow that is repeated with its own last value, until a function of the value says that it is done.

How to think about it. What is repeated is drawn once, as a graph whose parameters stand for the value and for what
else each turn gets. The loop is one node. When it runs, it only says that it goes on; the machine then adds the nodes
of one turn to the run (``core.expansion``), and behind them a *step*, which receives the turn's value where it lies,
and says whether there is another turn. So no value travels to the driver, and no turn is nested in another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from headrace.core.drawing import current_drawing
from headrace.core.flow import FlowDefinition
from headrace.core.graph import Graph, GraphDrawing
from headrace.core.node import ParameterNode, flatten, unmapped
from headrace.core.policy import Policy
from headrace.core.slots import How, ParameterRef, Ref, Slot, contains_placeholder, replace
from headrace.core.task import Task
from headrace.errors import FlowError, LoopLimit

#: The parameter of a turn's graph that stands for the value.
VALUE = "0"


class Onward(BaseException):
    """A task run goes on after it: with another turn of its loop, or with the flow that it returned.

    Parameters
    ----------
    value : object
        The loop's value so far, or the flow.
    """

    def __init__(self, value: Any = None) -> None:
        super().__init__()
        self.value = value


class Step:
    """What follows a turn: passes its value on, and says whether the loop is done.

    Parameters
    ----------
    name : str
        Of the loop.
    until : callable
        Gets the value, and says whether it is done.
    most : int
        The most turns.
    return_last : bool
        Whether the value after the most turns is the loop's, though it is not done.
    """

    __slots__ = ("most", "name", "return_last", "until")

    def __init__(self, name: str, until: Callable[[Any], object], most: int, return_last: bool) -> None:
        self.name = name
        self.until = until
        self.most = most
        self.return_last = return_last

    def __call__(self, value: Any, turn: int) -> Any:
        """Return the value if the loop is done."""
        if self.until(value):
            return value
        if turn < self.most:
            raise Onward(value)
        if self.return_last:
            return value
        raise LoopLimit(
            f"loop {self.name!r} was to go on until {_name_of(self.until)}(value) holds, and it did not after "
            f"{self.most} turns; allow more turns by most=..., or take the last value as it is by return_last=True",
            loop=self.name,
            turns=self.most,
        )


class Loop:
    """The function of a loop's node.

    Parameters
    ----------
    turn : Graph
        One turn, whose parameters are named after the arguments of the loop's node.
    step : Task
        Follows each turn.
    """

    __slots__ = ("parts", "spread", "step", "turn")

    def __init__(self, turn: Graph, step: Task[..., Any]) -> None:
        self.turn = turn
        self.step = step
        self.spread: dict[str, list[tuple[tuple[Any, ...], bool]]] = {}  # paths that are mapped over, or flattened
        self.parts: set[str] = set()  # parameters of which a part is taken
        for ref in _parameters_of(turn):
            if ref.how in (How.EACH, How.FLAT):
                self.spread.setdefault(ref.name, []).append((ref.path, ref.how is How.FLAT))
            if ref.path:
                self.parts.add(ref.name)

    @property
    def tasks(self) -> list[Task[..., Any]]:
        """What it will call."""
        return [self.step, *(node.task for node in self.turn.nodes)]

    def __call__(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        """Go on with the first turn."""
        raise Onward


class LoopTask(Task[..., Any]):
    """The task of a loop's node; tells one loop from another in digests of graphs and in measured costs."""

    def __reduce__(self) -> tuple[Any, ...]:
        return LoopTask, (self.function, self.policy)

    @property
    def qualified_name(self) -> str:
        """What is repeated, and until when."""
        assert isinstance(self.function, Loop)
        turn, step = self.function.turn, self.function.step.function
        assert isinstance(step, Step)
        return f"loop:{turn.digest()} until {_name_of(step.until)}, {step.most}, {step.return_last}"


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", None) or getattr(function, "name", None) or function)


def _parameters_of(graph: Graph) -> list[ParameterRef]:
    found: list[ParameterRef] = []

    def note(ref: Ref | ParameterRef) -> Slot:
        if isinstance(ref, ParameterRef):
            found.append(ref)
        return ref

    for slot in (slot for node in graph.nodes for slot in node.slots()):
        replace(slot, note)
    replace(graph.result, note)
    return found


class Looper:
    """``hr.loop``: repeat a task or a flow with its own last value, until it is done."""

    def __call__(
        self,
        body: Any,
        initial: Any,
        /,
        *args: Any,
        until: Callable[[Any], object],
        most: int = 100,
        return_last: bool = False,
        name: str = "loop",
        **kwargs: Any,
    ) -> Any:
        """Add a loop to the flow that is being drawn.

        Parameters
        ----------
        body : Task or Flow
            What each turn does: it gets the last value first, then the further arguments, and what it returns is the
            next value. Its nodes are part of the run, ``loop/body``, ``loop/body-2``, …
        initial : object
            What the first turn gets: a value, a node, or a container of both.
        *args, **kwargs
            What each turn gets beside the value.
        until : callable
            Gets the value after each turn, on a worker, and says whether the loop is done.
        most : int, default 100
            The most turns.
        return_last : bool, default False
            Whether a loop that is not done after the most turns gives its last value. Otherwise it fails.
        name : str, default "loop"
            Names the node.

        Returns
        -------
        Node
            Stands for the last value.

        Raises
        ------
        FlowError
            If an argument cannot be.
        """
        step = _step(body, until, most, return_last, name)
        return _add(body, step, (initial, *args), kwargs, mapped=False)

    def map(
        self,
        body: Any,
        initial: Any,
        /,
        *args: Any,
        until: Callable[[Any], object],
        most: int = 100,
        return_last: bool = False,
        name: str = "loop",
        **kwargs: Any,
    ) -> Any:
        """Add a loop per element, as ``task.map`` adds a task run per element.

        Parameters
        ----------
        body, initial, *args, until, most, return_last, name, **kwargs
            As for ``hr.loop``; ``initial`` and what each turn gets are sequences, nodes of sequences, or mapped
            nodes, unless they stand in ``hr.unmapped(...)``.

        Returns
        -------
        Node
            Stands for the list of all last values.
        """
        step = _step(body, until, most, return_last, name)
        return _add(body, step, (initial, *args), kwargs, mapped=True)


#: See `Looper.__call__`.
loop = Looper()


def _step(body: Any, until: Any, most: Any, return_last: bool, name: str) -> Step:
    """Check what can be checked of a loop before it is drawn."""
    if current_drawing() is None:
        raise FlowError("hr.loop(...) was called outside of a flow; call it inside a function decorated with @hr.flow")
    if not isinstance(body, (Task, FlowDefinition)):
        raise FlowError(f"hr.loop(...) repeats a task or a flow, got {body!r}; decorate the function with @hr.task")
    if not callable(until):
        raise FlowError(f"loop {name!r}: until must be a function of the value, got {until!r}")
    if not isinstance(most, int) or isinstance(most, bool) or most < 1:
        raise FlowError(f"loop {name!r}: most must be a whole number from 1 on, got {most!r}")
    return Step(name, until, most, bool(return_last))


def _add(body: Any, step: Step, args: Iterable[Any], kwargs: dict[str, Any], *, mapped: bool) -> Any:
    """Draw one turn, and add the loop's node. Constants go into the turn; nodes, and what is mapped over, become
    arguments of the loop's node and parameters of the turn.
    """
    turn, upstream = GraphDrawing(), kwargs.pop("upstream", None)
    own: list[Any] = []
    named: dict[str, Any] = {}
    positional: list[Any] = []
    for value in args:
        if own and _is_constant(value, mapped):
            positional.append(value.value if isinstance(value, unmapped) else value)
        else:
            positional.append(ParameterNode(turn, str(len(own))))
            own.append(_checked(step, value))
    keywords: dict[str, Any] = {}
    for key, value in kwargs.items():
        if _is_constant(value, mapped):
            keywords[key] = value.value if isinstance(value, unmapped) else value
        else:
            keywords[key] = ParameterNode(turn, key)
            named[key] = _checked(step, value)
    with turn.active():
        result = body(*positional, **keywords)
    graph = turn.finish(step.name, result)
    policy = Policy(name=step.name, dynamic=True)
    task = LoopTask(Loop(graph, Task(step, Policy(name=step.name))), policy)
    drawing = current_drawing()
    assert drawing is not None
    return drawing.add_call(task, tuple(own), {**named, "upstream": upstream}, mapped=mapped)


def _is_constant(value: Any, mapped: bool) -> bool:
    if mapped:
        return isinstance(value, unmapped) and not contains_placeholder(value.value)
    return not contains_placeholder(value)


def _checked(step: Step, value: Any) -> Any:
    if isinstance(value, flatten):
        raise FlowError(f"loop {step.name!r} cannot map over flatten(...); flatten in a task, and map over its value")
    return value
