"""Task runs that go on as flows, between workers and the driver: graphs come, and rows of new nodes go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from operator import attrgetter
from typing import Any
from weakref import WeakKeyDictionary

from headrace import pickling
from headrace.code.bundle import Bundle
from headrace.code.space import active
from headrace.core.bound import Bound
from headrace.core.events import Dispatch, Ended, Event, Failure
from headrace.core.graph import Graph, NodeSpec
from headrace.core.grown import grown, join
from headrace.core.plan import Plan
from headrace.core.slices import split_graph
from headrace.core.task import Task
from headrace.execution.failure import capture
from headrace.execution.loaded import LoadedPlan

#: Bytes of a graph beyond which its long lists travel in slices, with the batches that need them.
LONG = 1 << 16

#: what a node is besides its task
_NAMES = tuple(field.name for field in fields(NodeSpec) if field.name != "task")
_FIELDS = attrgetter(*_NAMES)
#: by task of this process: its pickle, so that flows that share a task share it on the driver, too
_PICKLED: WeakKeyDictionary[Task[..., Any], bytes] = WeakKeyDictionary()


# -- from the worker to the driver -----------------------------------------------------------------------------------


def pack(bound: Bound, what: str) -> bytes | Any:
    """Draw a flow that a task returned, and pickle its graph.

    Parameters
    ----------
    bound : Bound
        The flow.
    what : str
        Which task returned it.

    Returns
    -------
    bytes, or (object,)
        The value in a tuple, if the flow has no node, so that it is known already.

    Raises
    ------
    NotPicklable
        If it cannot travel.
    """
    graph = bound.graph()
    if not graph.nodes:
        return (graph.result.value,)  # type: ignore[union-attr]
    tasks = list({id(node.task): node.task for node in graph.nodes}.values())
    numbers = {id(task): number for number, task in enumerate(tasks)}
    rows = [(numbers[id(node.task)], *_FIELDS(node)) for node in graph.nodes]
    packed = list(map(_pickled, tasks)), rows, graph.result, graph.deciding
    return pickling.dumps(packed, f"the flow that {what} returned")


def _pickled(task: Task[..., Any]) -> bytes:
    data = _PICKLED.get(task)
    if data is None:
        data = _PICKLED[task] = pickling.dumps(task, f"task {task.name!r}")
    return data


class Unpacker:
    """Unpacks graphs on the driver; tasks with the same pickle are one task.

    Parameters
    ----------
    code : Bundle, optional
        The first-party code of the flow.
    """

    def __init__(self, code: Bundle | None = None) -> None:
        self._code = code
        self._tasks: dict[bytes, Task[..., Any]] = {}

    def unpack(self, events: Sequence[Event], check: Callable[[Iterable[Task[..., Any]]], None]) -> None:
        """Put graphs where reports have their bytes; a failure, where one cannot be unpacked, or not be executed.

        Parameters
        ----------
        events : sequence of Event
            Some of them are changed.
        check : callable
            Refuses tasks that the executor cannot execute.
        """
        for event in events:
            if type(event) is Ended and event.expansions:
                for position, data in event.expansions.items():
                    if type(data) is bytes:
                        with active(self._code):
                            event.expansions[position] = self._graph(data, check)

    def _graph(self, data: bytes, check: Callable[[Iterable[Task[..., Any]]], None]) -> Graph | Failure:
        what = "a flow that a task returned"
        try:
            tasks, rows, result, deciding = pickling.loads(data, what)
            known = [self._task(task) for task in tasks]
            check(known)
        except Exception as error:  # noqa: BLE001 - whatever a user's type does when it is unpickled
            return capture(error)[0]
        nodes = [NodeSpec(task=known[task], **dict(zip(_NAMES, row, strict=True))) for task, *row in rows]
        graph = Graph(nodes, result, deciding)
        if len(data) > LONG:
            split_graph(graph, lambda values: len(pickling.dumps(values, "a list")), LONG // 16)
        return graph

    def _task(self, data: bytes) -> Task[..., Any]:
        task = self._tasks.get(data)
        if task is None:
            task = self._tasks[data] = pickling.loads(data, "a task of a flow that a task returned")
        return task


# -- from the driver to the worker -----------------------------------------------------------------------------------


class Packer:
    """Writes down what batches must know of nodes that are newer than the workers' plan.

    Parameters
    ----------
    plan : Plan
        The driver's; it grows.
    code : Bundle, optional
        The first-party code of the flow.
    """

    def __init__(self, plan: Plan, code: Bundle | None = None) -> None:
        self._code = code
        self._plan = plan
        self._base = len(plan.nodes)
        self._known = len(plan.tasks)
        self._tasks: dict[int, bytes] = {}

    def pack(self, order: Dispatch) -> bytes | None:
        """Return the rows and tasks of newer nodes that a batch needs; None if it needs none."""
        if len(self._plan.nodes) == self._base:
            return None
        found = grown(self._plan, self._base, order.strips, [node for node, _, _ in order.outside])
        if found is None:
            return None
        with active(self._code):
            tasks = {number: self._task(number) for number in found.tasks if number >= self._known}
            return pickling.dumps((found.rows, tasks, found.stand_for), "nodes of a flow that a task returned")

    def _task(self, number: int) -> bytes:
        data = self._tasks.get(number)
        if data is None:
            task = self._plan.tasks[number].without_hooks()
            data = self._tasks[number] = pickling.dumps(task, f"task {task.name!r}")
        return data


def joined(loaded: LoadedPlan, data: bytes | None) -> LoadedPlan:
    """Return a worker's plan with what a batch brought.

    Parameters
    ----------
    loaded : LoadedPlan
        The plan.
    data : bytes or None
        As ``Packer.pack`` returned it.
    """
    if data is None:
        return loaded
    what = "nodes of a flow that a task returned"
    rows, tasks, stand_for = pickling.loads(data, what)
    for number, pickled in tasks.items():
        if number not in loaded.more:
            loaded.more[number] = pickling.loads(pickled, what)
    return LoadedPlan(join(loaded.plan, rows, loaded.more), loaded, stand_for)
