"""What runs on a Dask worker: a plugin that brings the plan, and the one function that batches are.

The plan reaches each worker once per run, also workers that join later. A batch message holds integers only, so
neither the scheduler nor the message ever sees a user's function.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

from dask.sizeof import sizeof
from distributed import Reschedule, WorkerPlugin, get_worker

from headrace import pickling
from headrace.code.space import Space, space_of
from headrace.core.events import Dispatch, Ended, Event
from headrace.core.plan import plain
from headrace.core.slots import elements
from headrace.errors import FlowError, HeadraceError, NotPicklable, RunError
from headrace.execution.arrival import CODES
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
from headrace.execution.shelf import Shelf
from headrace.execution.stopping import RUNNING, place_of_this_thread
from headrace.execution.switchboard import topic
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
        self.late: dict[str, bytes] = {}  # plans that wait for their code to be free
        self.spaces: dict[str, Space] = {}  # of runs that brought code
        self.users: dict[str, int] = {}
        self.kept = Shelf(size_of)

    def add_plan(self, run_id: str, plan: bytes) -> None:
        """Load a plan; if another version of its code is in use, its first batch will."""
        space = self.spaces.get(run_id)
        code = CODES.bundle(space.sha256) if space is not None else None
        try:
            with self.turn(run_id):
                loaded = LoadedPlan(pickling.loads(plan, f"the plan of run {run_id}"), code=code)
        except Reschedule:
            self.late[run_id] = plan
            return
        except HeadraceError:
            raise
        except Exception as error:  # not as it is: to the driver, an OSError is of the network
            raise FlowError(
                f"the code of run {run_id} cannot be loaded where its tasks run: {type(error).__name__}: {error}; "
                "modules are imported there, and files that they read then must be in a package of theirs, or at a URL"
            ) from error
        if run_id in self.users:  # else it was taken away meanwhile
            self.plans.setdefault(run_id, loaded)

    def plan(self, run_id: str) -> LoadedPlan:
        """Return a run's plan; its space is active."""
        plan = self.late.get(run_id)
        if plan is not None:
            self.add_plan(run_id, plan)
            self.late.pop(run_id, None)
        found = self.plans.get(run_id)
        if found is None:
            raise RunError(f"run {run_id} is over, so its batches are not executed again")
        return found

    def turn(self, run_id: str) -> AbstractContextManager[None]:
        """While its code is active; most runs have none."""
        space = self.spaces.get(run_id)
        return nullcontext() if space is None else CODES.turn(space, f"run {run_id}")


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
    code : str, optional
        sha256 of the bundle that it needs, which `CodePlugin` brings.
    """

    #: Dask would take a second attempt to bring it for done.
    idempotent = False

    def __init__(self, run_id: str, plan: bytes, logs: LogSettings, code: str | None = None) -> None:
        self.name = topic(run_id)
        self.run_id = run_id
        self.plan = plan
        self.logs = logs
        self.code = code

    async def setup(self, worker: Any) -> None:
        """Load the plan, away from the event loop, because importing what it needs may take seconds."""
        serve(worker)
        OFFICE.open(self.run_id)
        RUNNING.open(self.run_id)
        outlet = Outlet(partial(_send, worker, self.name), worker.address, self.logs.lines)
        LOGS.open(self.run_id, self.logs, outlet)
        PROCESS.users[self.run_id] = PROCESS.users.get(self.run_id, 0) + 1
        if self.run_id not in PROCESS.plans:
            if self.code is not None:
                PROCESS.spaces[self.run_id] = space_of(await CODES.arrived(self.code))
            await asyncio.to_thread(PROCESS.add_plan, self.run_id, self.plan)
            if self.run_id in PROCESS.users:
                LOGS.mute(self.logs)  # only now is all imported that sets up logging

    def teardown(self, worker: Any) -> None:
        """Drop the plan."""
        LOGS.close_run(self.run_id)
        PROCESS.users[self.run_id] = PROCESS.users.get(self.run_id, 0) - 1
        if PROCESS.users[self.run_id] <= 0:
            PROCESS.users.pop(self.run_id, None)
            plan = PROCESS.plans.pop(self.run_id, None)
            PROCESS.late.pop(self.run_id, None)
            PROCESS.spaces.pop(self.run_id, None)
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
    space = PROCESS.spaces.get(run_id)
    if space is None:
        return _run_batch(run_id, order_bytes, inputs)
    with CODES.turn(space, f"run {run_id}"):
        values = _run_batch(run_id, order_bytes, inputs, space)
        CODES.keep(values, space)
        return values


def _run_batch(
    run_id: str, order_bytes: bytes, inputs: Sequence[BatchValues | Constant], space: Space | None = None
) -> BatchValues:
    plan = PROCESS.plan(run_id)
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
        part.opened()
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
    return BatchValues(kept, plan.name_of, space=space)


def cut(run_id: str, node: int, low: int, high: int, values: BatchValues) -> BatchValues:
    """Take a part of a list that a batch made; a Dask task that runs where the list is.

    Parameters
    ----------
    run_id : str
        Which run.
    node : int
        Whose value is the list.
    low, high : int
        Which elements.
    values : BatchValues
        The batch's result.
    """
    with PROCESS.turn(run_id):
        part = _cut(node, low, high, values.opened())
        if (space := PROCESS.spaces.get(run_id)) is not None:
            part.space, part.code = space, space.sha256
            CODES.keep(part, space)
        return part


def _cut(node: int, low: int, high: int, values: BatchValues) -> BatchValues:
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
                data = pickling.dumps(children[0], "a value")
            except NotPicklable:  # then it stays here until it is asked for
                continue
            if len(data) <= SMALL:
                ended.returned[node] = data


def pick(
    run_id: str, wanted: Sequence[Sequence[tuple[int, int]]], most: int | None, *parts: BatchValues
) -> bytes | None:
    """Collect values out of batch results, pickled; None if they are larger than ``most`` bytes.

    Parameters
    ----------
    run_id : str
        Which run.
    wanted : sequence of sequence of (node, child)
        For each part, which.
    most : int or None
        Largest number of bytes.
    *parts : BatchValues
        Batch results.
    """
    with PROCESS.turn(run_id):
        return _pick(run_id, wanted, most, [part.opened() for part in parts])


def _pick(
    run_id: str, wanted: Iterable[Sequence[tuple[int, int]]], most: int | None, parts: Sequence[Values]
) -> bytes | None:
    found: dict[tuple[int, int], Any] = {}
    for keys, part in zip(wanted, parts, strict=True):
        for node, child in keys:
            children = part.get(node, {})
            if child in children:
                found[node, child] = children[child]
    if most is not None and sum(map(size_of, found.values())) > 4 * most:
        return None
    try:
        data = pickling.dumps(found, "values of a run")
    except NotPicklable:  # the value that refuses is looked for, and named
        if most is not None:
            return None
        for (node, child), value in found.items():
            if (error := why_not(value)) is not None:
                raise refusal(f"{PROCESS.plans[run_id].name_of(node)}[{child}]", value, error) from None
        raise
    return None if most is not None and len(data) > most else data


async def pick_kept(run_id: str, wanted: dict[int, Sequence[tuple[int, int]]], most: int | None) -> bytes | None:
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
    if run_id not in PROCESS.spaces:
        return _pick(run_id, wanted.values(), most, parts)

    def wait_and_pick() -> bytes | None:
        with CODES.asked(PROCESS.spaces[run_id], f"values of run {run_id}"):
            return _pick(run_id, wanted.values(), most, parts)

    return await asyncio.to_thread(wait_and_pick)  # not on the event loop: another version may be in use
