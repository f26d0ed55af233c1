"""The parts alone, without a cluster: ``python -m pytest benchmarks/micro.py``, or ``make bench-micro``.

CPU time (not wall time, so that a busy machine matters less) of the machine, of a worker's loop, and of what is done
once per run with each node; bytes of messages. Each benchmark times a whole run of one plan, and notes of how many
task runs, events, nodes and bytes it consisted. ``python -m benchmarks.report FILE`` divides, where FILE was written
with ``--benchmark-json FILE``.
"""

from __future__ import annotations

import gc
import pickle
import time
from array import array
from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.montage import montage_shapes
from benchmarks.shapes import Shape, shapes
from headrace import pickling
from headrace.core.events import Dispatch, Ended
from headrace.core.machine import RunMachine
from headrace.core.plan import Plan
from headrace.core.planning import make_plan
from headrace.core.strips import count
from headrace.execution.batch import Control, Execution
from headrace.execution.loaded import LoadedPlan
from headrace.execution.values import Values, add_values
from headrace.execution.worker import size_of

THREADS = 8
#: Seconds that a task run is said to take: batches of some hundred.
SECONDS = 3e-4

pytestmark = pytest.mark.benchmark(timer=time.process_time, warmup=False)

#: wide, chain, tree, layered and Montage, as in ``hot_path``
SHAPES = {shape.name.split()[0]: shape for shape in shapes()} | {"Montage": montage_shapes()[0]}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    """One graph."""
    return SHAPES[request.param]


@pytest.fixture(autouse=True)
def tidy() -> None:
    """Let nobody pay for another's rubbish."""
    gc.collect()


def plan_of(shape: Shape) -> Plan:
    return make_plan(shape.flow.graph(**shape.parameters))


def orders(commands: list[Any]) -> list[Dispatch]:
    return [command for command in commands if isinstance(command, Dispatch)]


def ended(order: Dispatch) -> Ended:
    """All of a batch succeeded."""
    stop = count(order.strips)
    return Ended(order.batch, stop, array("f", (SECONDS,)) * stop)


def steer(plan: Plan, answer: Callable[[Dispatch], Ended]) -> int:
    """Run a plan, one event at a time, as from an executor that executes in turn; return how many events it took."""
    machine = RunMachine(plan, THREADS)
    queue = deque(orders(machine.start(0.0)))
    events = 0
    while not machine.finished:
        order = queue.popleft()
        event = answer(order)
        events += 1
        queue.extend(orders(machine.handle(SECONDS * events, [event])))
    return events


def note(benchmark: Any, **facts: int) -> None:
    """Say of how many of what one round consisted."""
    benchmark.extra_info.update(facts)


def test_machine(benchmark: Any, shape: Shape) -> None:
    plan = plan_of(shape)
    events = benchmark(steer, plan, ended)
    note(benchmark, task_runs=shape.tasks, events=events)


def test_worker(benchmark: Any, shape: Shape) -> None:
    """All batches of a run, as the machine makes them, by the real loop."""
    plan = plan_of(shape)
    loaded = LoadedPlan(pickling.loads(pickling.dumps(plan, "the plan"), "the plan"))
    held: dict[int, Values] = {}
    batches: list[Dispatch] = []

    def execute(order: Dispatch) -> Ended:
        values: Values = {}
        for batch in order.inputs:
            add_values(values, held[batch])
        execution = Execution(loaded, order, values, Control(order, id), size_of=size_of)
        event = execution.run()
        held[order.batch] = execution.kept()
        return event

    def first(order: Dispatch) -> Ended:
        batches.append(order)
        return ended(order)

    steer(plan, first)
    benchmark(lambda: [execute(order) for order in batches])
    (answer,) = held[batches[-1].batch][plan.result.node].values()
    assert answer == shape.expected()
    note(benchmark, task_runs=shape.tasks, batches=len(batches))


def test_draw(benchmark: Any, shape: Shape) -> None:
    graph = benchmark(lambda: shape.flow.graph(**shape.parameters))
    note(benchmark, nodes=len(graph.nodes))


def test_make_plan(benchmark: Any, shape: Shape) -> None:
    graph = shape.flow.graph(**shape.parameters)
    plan = benchmark(make_plan, graph)
    note(benchmark, nodes=len(plan.nodes))


def test_pickle_plan(benchmark: Any, shape: Shape) -> None:
    plan = plan_of(shape)
    data = benchmark(pickling.dumps, plan, "the plan")
    note(benchmark, nodes=len(plan.nodes), bytes=len(data))


def test_load_plan(benchmark: Any, shape: Shape) -> None:
    plan = plan_of(shape)
    data = pickling.dumps(plan, "the plan")
    benchmark(lambda: LoadedPlan(pickling.loads(data, "the plan")))
    note(benchmark, nodes=len(plan.nodes), bytes=len(data))


def test_messages(benchmark: Any, shape: Shape) -> None:
    """The orders and reports of a run: pickled, and loaded again."""
    messages: list[Dispatch | Ended] = []

    def answer(order: Dispatch) -> Ended:
        event = ended(order)
        messages.extend((order, event))
        return event

    steer(plan_of(shape), answer)

    def travel() -> int:
        data = [pickle.dumps(message, protocol=5) for message in messages]
        for message in data:
            pickle.loads(message)
        return sum(map(len, data))

    size = benchmark(travel)
    note(benchmark, task_runs=shape.tasks, batches=len(messages) // 2, bytes=size)
