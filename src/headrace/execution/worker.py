"""What runs on a Dask worker: a plugin that brings the plan, and the one function that batches are.

The plan reaches each worker once per run, also workers that join later. A batch message holds integers only, so
neither the scheduler nor the message ever sees a user's function.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from functools import partial
from typing import Any

import cloudpickle
from dask.sizeof import sizeof
from distributed import WorkerPlugin, get_worker

from headrace import pickling
from headrace.core.events import Dispatch, Ended, Event
from headrace.core.plan import plain
from headrace.core.slots import elements
from headrace.errors import NotPicklable, RunError
from headrace.execution.asynchronous import execution_of
from headrace.execution.batch import Execution
from headrace.execution.constants import Constant
from headrace.execution.context import at_post
from headrace.execution.dynamic import joined
from headrace.execution.gang import GangExecution
from headrace.execution.inside import executing
from headrace.execution.interrupt import Control
from headrace.execution.loaded import LoadedPlan
from headrace.execution.logs import LOGS, Logged, LogSettings, Outlet
from headrace.execution.mail import OFFICE, Outbox, serve
from headrace.execution.scheduler import topic
from headrace.execution.shelf import Shelf
from headrace.execution.stopping import RUNNING, place_of_this_thread
from headrace.execution.transfer import BatchValues, refusal, why_not
from headrace.execution.values import Part, Values, add_values
from headrace.execution.watchdog import watched

#: Largest pickled value that travels with the report of the batch that made it.
SMALL = 1 << 14

_PLAIN = frozenset({int, float, bool, complex, type(None)})


def size_of(value: Any) -> int:
    """Bytes of a value in memory, roughly; quick for numbers."""
    if type(value) in _PLAIN:
        return 32
    return int(sizeof(value))


class _Process:
    """What this process holds of runs. Several workers may share it, so each plan counts those that brought it."""

    def __init__(self) -> None:
        self.plans: dict[str, LoadedPlan] = {}
        self.users: dict[str, int] = {}
        self.kept = Shelf(size_of)


PROCESS = _Process()


class PlanPlugin(WorkerPlugin):
    """Brings one run's plan to a worker.

    Parameters
    ----------
    run_id : str
        Which run.
    plan : bytes
        The pickled plan.
    logs : LogSettings
        How the driver logs.
    """

    #: Dask would take a second attempt to bring it for done.
    idempotent = False

    def __init__(self, run_id: str, plan: bytes, logs: LogSettings) -> None:
        self.name = topic(run_id)
        self.run_id = run_id
        self.plan = plan
        self.logs = logs

    async def setup(self, worker: Any) -> None:
        """Load the plan, away from the event loop, because importing what it needs may take seconds."""
        serve(worker)
        OFFICE.open(self.run_id)
        RUNNING.open(self.run_id)
        outlet = Outlet(partial(_send, worker, self.name), worker.address, self.logs.lines)
        LOGS.open(self.run_id, self.logs, outlet)
        PROCESS.users[self.run_id] = PROCESS.users.get(self.run_id, 0) + 1
        if self.run_id not in PROCESS.plans:
            plan = await asyncio.to_thread(pickling.loads, self.plan, f"the plan of run {self.run_id}")
            if self.run_id in PROCESS.users:  # else it was taken away meanwhile
                PROCESS.plans.setdefault(self.run_id, LoadedPlan(plan))
                LOGS.mute(self.logs)  # only now is all imported that sets up logging

    def teardown(self, worker: Any) -> None:
        """Drop the plan."""
        LOGS.close_run(self.run_id)
        PROCESS.users[self.run_id] = PROCESS.users.get(self.run_id, 0) - 1
        if PROCESS.users[self.run_id] <= 0:
            PROCESS.users.pop(self.run_id, None)
            plan = PROCESS.plans.pop(self.run_id, None)
            PROCESS.kept.clear(self.run_id)
            OFFICE.remove(self.run_id)
            RUNNING.close(self.run_id)
            if plan is not None:
                plan.children.close()


def run_batch(run_id: str, order_bytes: bytes, *inputs: BatchValues | Constant) -> BatchValues:
    """Execute a batch; this is what a Dask task of headrace is.

    Parameters
    ----------
    run_id : str
        Which run.
    order_bytes : bytes
        The pickled ``Dispatch``, the address of each batch of its gang, if it has one, and what it must know of nodes
        that are newer than the plan, if it touches some.
    *inputs : BatchValues or Constant
        Results of the batches that it needs, then the large constants.

    Returns
    -------
    BatchValues
        The values that others need.
    """
    plan = PROCESS.plans.get(run_id)
    if plan is None:
        raise RunError(f"run {run_id} is over, so its batches are not executed again")
    order: Dispatch
    order, addresses, grown = pickle.loads(order_bytes)
    plan = joined(plan, grown)
    values: Values = {}
    refused: dict[tuple[int, int], NotPicklable] = {}
    constants: dict[int, Any] = {}
    for number, constant in zip(order.constants, inputs[len(order.inputs) :], strict=True):
        assert isinstance(constant, Constant)
        constants[number] = constant.value
    for part in inputs[: len(order.inputs)]:
        assert isinstance(part, BatchValues)
        refused.update(part.refused)
        add_values(values, part)
    worker = get_worker()
    send = partial(_send, worker, topic(run_id))
    control = Control(order, send)
    control.leave = place_of_this_thread(worker)
    if order.links is None:
        execution = execution_of(plan, order)(
            plan, order, values, control, size_of=size_of, constants=constants, refused=refused
        )
        ended = _watched(run_id, execution, worker.address)
    else:
        box, outbox = OFFICE.box(run_id, order.batch), Outbox(worker, run_id, order.batch, addresses)
        execution = GangExecution(
            plan,
            order,
            values,
            control,
            size_of=size_of,
            constants=constants,
            refused=refused,
            mailbox=box,
            outbox=outbox,
        )
        try:
            ended = _watched(run_id, execution, worker.address)
        finally:
            outbox.flush(closed=not execution.complete)
            OFFICE.remove(run_id, order.batch)
    kept = execution.kept()
    if run_id in PROCESS.plans:  # else its run ended meanwhile, and was let go of
        PROCESS.kept.put((run_id, order.batch), kept)
    _add_returned(plan, kept, ended)
    send(ended)
    return BatchValues(kept, plan.name_of)


def cut(node: int, low: int, high: int, values: BatchValues) -> BatchValues:
    """Take a part of a list that a batch made; a Dask task that runs where the list is.

    Parameters
    ----------
    node : int
        Whose value is the list.
    low, high : int
        Which elements.
    values : BatchValues
        The batch's result.
    """
    if 0 not in values.get(node, {}):
        return BatchValues({}, values.name_of, values.refused)
    whole = values[node][0]
    try:
        part = Part(low, elements(whole, low, high))
    except Exception:  # noqa: BLE001 - a user's type may refuse in any way; then each task run tells by itself
        return values
    return BatchValues({node: {0: part}}, values.name_of)


def _watched(run_id: str, execution: Execution, worker: str) -> Ended:
    control = execution.control
    try:
        with RUNNING.noted(run_id, control), executing(control), at_post(execution, run_id, worker):
            return watched(execution)
    finally:
        LOGS.flush_run(run_id)  # before the end is reported, so that it is read before it


def _send(worker: Any, name: str, event: Event | Logged) -> None:
    worker.log_event(name, pickle.dumps(event, protocol=5))


def _add_returned(plan: LoadedPlan, kept: Values, ended: Ended) -> None:
    """Let small values that the flow returns travel with the report."""
    for node, children in kept.items():
        if (short := plain(plan.plan.nodes, node)) is not None and not short.returned:
            continue
        spec = plan.plan.nodes[node]
        if spec.returned and not spec.mapped and 0 in children and size_of(children[0]) <= SMALL:
            try:
                data = cloudpickle.dumps(children[0])
            except Exception:  # noqa: BLE001 - any type may refuse; then the value stays here until it is asked for
                continue
            if len(data) <= SMALL:
                ended.returned[node] = data


def pick(run_id: str, wanted: Sequence[Sequence[tuple[int, int]]], most: int | None, *parts: Values) -> bytes | None:
    """Collect values out of batch results, pickled; None if they are larger than ``most`` bytes.

    Parameters
    ----------
    run_id : str
        Which run.
    wanted : sequence of sequence of (node, child)
        For each part, which.
    most : int or None
        Largest number of bytes.
    *parts : dict of node to dict of child to value
        Batch results.
    """
    found: dict[tuple[int, int], Any] = {}
    for keys, part in zip(wanted, parts, strict=True):
        for node, child in keys:
            children = part.get(node, {})
            if child in children:
                found[node, child] = children[child]
    if most is not None and sum(map(size_of, found.values())) > 4 * most:
        return None
    try:
        data: bytes = cloudpickle.dumps(found)
    except Exception:  # of whatever kind: the value that refuses is looked for, and named
        if most is not None:
            return None
        for (node, child), value in found.items():
            if (error := why_not(value)) is not None:
                raise refusal(f"{PROCESS.plans[run_id].name_of(node)}[{child}]", value, error) from None
        raise
    return None if most is not None and len(data) > most else data


def pick_kept(run_id: str, wanted: dict[int, Sequence[tuple[int, int]]], most: int | None) -> bytes | None:
    """Collect values off this process's shelf; as ``pick``.

    Parameters
    ----------
    run_id : str
        Which run.
    wanted : dict of batch to sequence of (node, child)
        Which values.
    most : int or None
        Largest number of bytes.
    """
    parts = [PROCESS.kept.get((run_id, batch)) or {} for batch in wanted]
    return pick(run_id, list(wanted.values()), most, *parts)
