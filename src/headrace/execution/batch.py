"""Executing one batch: the innermost loop. Knows the plan and a dictionary of values, not Dask.

How to think about it. A worker loads the plan once per run and turns each argument slot into a small function
(``loaded``), so that executing a task run is: claim the next position, fetch the arguments, call, store. Whatever is
not a plain success goes through the methods below ``run``, which cost nothing while there is none.

``Control`` is shared with the watchdog, which may lower ``stop`` at any time. A position is claimed under its lock,
so what was given back is never started, and what was started is never given back. A stopped batch may be interrupted
from the time at which a task begins until the next position is claimed, or until the end (``interrupt``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from types import CoroutineType, MappingProxyType
from typing import Any

from headrace.core.attempts import verdict
from headrace.core.bound import Bound
from headrace.core.events import NO_WIDTH, Dispatch, Ended, Exceptional, Failure, Size
from headrace.core.loops import Onward
from headrace.core.plan import EdgeKind, Plan, edge_children
from headrace.core.rules import Decision, Upstream, behind_gates, decide, name_of, upstream_of
from headrace.core.signals import Found, Signal
from headrace.core.slots import ConstSent, follow, length
from headrace.core.state import State
from headrace.core.strips import cut
from headrace.errors import FlowError, RunCancelled, TaskCrashed, TaskTimedOut, TriggerFailed
from headrace.execution import secrets, sound
from headrace.execution.bulk import BULKY, Bulk, inside, takers
from headrace.execution.dynamic import pack
from headrace.execution.failure import capture, restore
from headrace.execution.interrupt import Control
from headrace.execution.loaded import LoadedNode, LoadedPlan
from headrace.execution.sound import SOUND
from headrace.execution.values import PASSING, Values
from headrace.redaction import redact

#: Stands for the width of a node of which a batch takes single children only.
ANY = 1 << 62
#: A batch ends early when the values that others need from it have grown beyond this many bytes, so that large
#: values become Dask keys of their own and no consumer pulls what it does not need.
LARGE = 1 << 20
#: A batch ends early, too, when it holds more bytes than this of large values that only it needs itself.
TEMPORARY = 1 << 27
#: Values that nobody else needs are kept for people to look at while they are no larger than this together.
KEPT = 1 << 20


class Execution:
    """One execution of one batch.

    Parameters
    ----------
    plan : LoadedPlan
        The plan.
    order : Dispatch
        What to execute.
    values : dict of node to dict of child to value
        What it needs from outside; grows while it executes.
    control : Control
        Shared with the watchdog.
    size_of : callable, optional
        Bytes of a value; without it, no batch ends early for its size, and all values are kept.
    interrupts : tuple of exception types
        What is not a task's failure but meant for the caller.
    constants : mapping of int to object, optional
        Large constants that it needs, by number.
    refused : mapping of (node, child) to exception, optional
        Inputs that could not come along; what takes one of them fails with its exception.
    """

    def __init__(
        self,
        plan: LoadedPlan,
        order: Dispatch,
        values: Values,
        control: Control,
        size_of: Callable[[Any], int] | None = None,
        interrupts: tuple[type[BaseException], ...] = (),
        constants: Mapping[int, Any] = MappingProxyType({}),
        refused: Mapping[tuple[int, int], BaseException] | None = None,
    ) -> None:
        self.plan = plan
        self.order = order
        self.values = values
        self.control = control
        self.size_of = size_of
        self.interrupts = interrupts
        self.refused = refused
        self.watchful = bool(refused)  # whether each task run is looked at before it runs
        self.confided = False  # whether the task run was given a secret
        self.exceptional: list[Exceptional] = []
        self.sizes: list[Size] = []
        self.missing: list[tuple[int, int]] = []
        self.odd: dict[tuple[int, int], State] = {}
        self.expansions: dict[int, bytes | None] = {}
        self.onward: set[int] = set()  # steps behind turns of loops that another turn follows
        self.again = -1, 0  # a position, and which attempt it is at, once it is tried again here
        self.small = 0  # bytes of values that are not bulky
        self.bulk = Bulk(plan.plan, order.strips)
        self.constants = constants
        self.slices = {
            key: {
                child: constants[value.number] if type(value) is ConstSent else value
                for low, values in parts
                for child, value in enumerate(values, low)
            }
            for key, parts in order.slices.items()
        }
        self._flat: dict[tuple[int, str], list[Any]] = {}
        for node, child, state in order.outside:
            self.odd[node, child] = state
            if child not in values.setdefault(node, {}):
                failure = order.failures.get((node, child))
                stand_in = restore(failure) if failure is not None else _stand_in(plan.plan, node, state)
                values[node][child] = stand_in

    def run(self) -> Ended:
        """Execute the batch, and report."""
        control, lock, behind = self.control, self.control.lock, self.order.attempts
        seconds, weighs = control.seconds, self.size_of is not None and not self.order.whole
        for nodes, low, high in self.order.strips:
            column = self._column(nodes, high - low)
            for child in range(low, high):
                for number, node, mine in column:
                    with lock:
                        if control.position >= control.stop:
                            return self._report()
                        control.position += 1
                    if (self.watchful or self.odd or node.picky) and not self._may_run(number, node, child):
                        seconds.append(0.0)
                        continue
                    began, error = perf_counter(), None
                    control.running = began
                    try:
                        value = node.call(self, child)
                        if self.confided or type(value) not in SOUND:
                            value = self._checked(number, child, value)
                        mine[child] = value
                    except self.interrupts:
                        raise
                    except BaseException as caught:  # noqa: BLE001 - whatever a task raises is its own state
                        error = caught
                    if error is not None or behind:  # out here, so that no exception becomes the next one's context
                        self._attempted(number, node, child, error)
                    control.running = None
                    seconds.append(perf_counter() - began)
                    if node.measures:
                        self._measure(number, node, child)
                    if weighs:
                        self._weigh(number, child, mine)
        return self._report()

    def _column(self, nodes: Sequence[int], width: int) -> Iterable[tuple[int, LoadedNode, dict[int, Any]]]:
        """Nodes with where their values go; single ones one by one, so that the first need not wait for the last."""
        column = ((number, self.plan[number], self.values.setdefault(number, {})) for number in nodes)
        return column if width == 1 else list(column)

    # -- values --------------------------------------------------------------------------------------------------

    def children(self, node: int) -> list[Any]:
        """The list of all children's values of a mapped node."""
        values = self.values.get(node, {})
        width = abs(self.order.widths.get(node, len(values)))
        return [values[child] for child in range(width)]

    def state(self, node: int, child: int) -> State:
        """In which state a task run ended."""
        return self.odd.get((node, child), State.SUCCESS)

    def states(self, node: int) -> list[State] | State:
        """In which states the children of a mapped node ended; one state, if it could not be mapped."""
        width = self.order.widths.get(node, len(self.values.get(node, ())))
        return self.state(node, 0) if width == NO_WIDTH else [self.state(node, child) for child in range(width)]

    def item(self, node: int, child: int) -> Any:
        """One child's value of a mapped node."""
        values = self.values.get(node, {})
        if child not in values and child >= self._width(node):
            raise IndexError(
                f"{self.plan.name_of(node)}[{child}] was asked for, and its map has {self._width(node)} elements"
            )
        return values[child]

    def flat(self, node: int, path: tuple[Any, ...], mapped: bool) -> list[Any]:
        """The elements of the elements of a node's value; made once per batch."""
        key = node, repr(path)  # a path may hold a slice, which has no hash
        known = self._flat.get(key)
        if known is None:
            value = self.children(node) if mapped else follow(self.values[node][0], path)
            known = self._flat[key] = [element for part in value for element in part]
        return known

    def _checked(self, number: int, child: int, value: Any) -> Any:
        """Let an attempt fail whose value could not travel, if it had to, or must not; and go on as a returned flow."""
        if type(value) in PASSING:
            value = list(value)
        if type(value) is CoroutineType:
            value.close()
            raise not_awaited(self._label(number, child), value.__qualname__)
        if self.confided:
            self.confided = False
            if secrets.reveals(value):
                raise secrets.refusal(self._label(number, child))
        if type(value) is Bound:
            raise Onward(value)
        sound.check(value, f"the value of task {self._label(number, child)!r}")
        return value

    def _label(self, number: int, child: int) -> str:
        return self.plan.plan.nodes[number].label(child)

    def _measure(self, number: int, node: LoadedNode, child: int) -> None:
        if self.odd.get((number, child), State.SUCCESS) is not State.SUCCESS:
            return
        for measure, (path, flat) in enumerate(node.measures):
            try:
                size = length(follow(self.values[number][child], path), flat=flat)
            except Exception:  # noqa: BLE001 - a user's type may refuse in any way
                size = -1
            self.sizes.append(Size(self.at, measure, size))

    def _weigh(self, number: int, child: int, mine: dict[int, Any]) -> None:
        """Count a value's bytes, drop what it was made of, and end the batch if it holds too much."""
        assert self.size_of is not None
        bulk = self.bulk
        size = self.size_of(mine.get(child))
        if size >= BULKY:
            bulk.add(number, child, size)
        else:
            self.small += size
        if bulk and self.odd.get((number, child), State.SUCCESS).is_final:
            for node, index in bulk.spent(number, child):
                del self.values[node][index]
        if self.small + bulk.needed > LARGE or bulk.temporary > TEMPORARY:
            self._end_early()

    def _end_early(self) -> None:
        """Start nothing more, and let the machine have the rest back."""
        with self.control.lock:
            self.control.stop = min(self.control.stop, self.control.position)

    @property
    def at(self) -> int:
        """The position of the task run that is looked at."""
        return self.control.position - 1

    # -- what is not a plain success -----------------------------------------------------------------------------

    def _may_run(self, number: int, node: LoadedNode, child: int) -> bool:
        """Ask the rules, because something upstream was not a plain success; note the answer if it is no."""
        if self.refused and (refused := self._refused(node, child)) is not None:
            self._give_in(number, child, refused, 1)
            return False
        whole, by_child, gates = Upstream(0, 0, 0), [], node.spec.gates
        gate_states = [state for (source, _), state in self.odd.items() if source in gates] if gates else []
        for edge in node.inputs:
            if edge.source in gates or edge.kind is EdgeKind.AFTER:  # asked elsewhere, or only whether it is over
                by_child += [s for (source, _), s in self.odd.items() if source == edge.source and not s.is_final]
                continue
            total = self._width(edge.source)
            if edge.kind is not EdgeKind.NODE and (waited := edge_children(edge, child, total)):
                by_child.append(self.odd.get((edge.source, waited[0]), State.SUCCESS))
                continue
            states = [state for (source, _), state in self.odd.items() if source == edge.source]
            part = upstream_of(Upstream(total - len(states), 0, 0), states)
            whole = Upstream(*map(sum, zip(whole, part, strict=True)))
            by_child += [state for state in states if not state.is_final]
        if any(not state.is_final for state in by_child):
            self._note(number, child, State.PENDING)
            return False
        decision = behind_gates(gate_states)
        if decision is Decision.RUN:
            up = upstream_of(whole, by_child)
            decision = decide(node.policy.trigger, node.policy.skip_on_upstream_skip, up)
        if decision is Decision.RUN:
            return True
        state = State.SKIPPED if decision is Decision.SKIP else State.TRIGGER_FAILED
        self._note(number, child, state)
        self.values[number][child] = _stand_in(self.plan.plan, number, state)
        return False

    def _width(self, node: int) -> int:
        """Width of a node; of a mapped one, a large number where this batch does not need to know."""
        return abs(self.order.widths.get(node, ANY)) if self.plan.plan.nodes[node].mapped else 1

    def _note(self, number: int, child: int, state: State, attempts: int | None = None) -> None:
        if not state.is_good:
            self.odd[number, child] = state
        if attempts is None:
            attempts = self.order.attempts.get((number, child), 0)
        self.exceptional.append(Exceptional(self.at, state, attempts))

    def _missing(self, node: LoadedNode, child: int) -> list[tuple[int, int]]:
        """Values that a task run takes and that are not here, because they were lost on their way."""
        return [
            (edge.source, index)
            for edge in node.inputs
            if edge.data
            for index in edge_children(edge, child, self._width(edge.source))
            if index not in self.values.get(edge.source, {})
        ]

    def _attempted(self, number: int, node: LoadedNode, child: int, error: BaseException | None) -> None:
        """Deal with an attempt that failed, or that others went before: it may be made again at once."""
        attempts = self.order.attempts.get((number, child), 0) + 1
        while error is not None:
            if not self._again(number, node, child, error, attempts):
                return
            attempts, error = attempts + 1, None
            self.again = self.at, attempts
            try:
                self.values[number][child] = self._checked(number, child, node.call(self, child))
            except self.interrupts:
                raise
            except BaseException as caught:  # noqa: BLE001 - as above
                error = caught
        if attempts > 1:
            self._note(number, child, State.SUCCESS, attempts)

    def _again(self, number: int, node: LoadedNode, child: int, error: BaseException, attempts: int) -> bool:
        """Whether to try again at once; if not, what becomes of the task run is recorded."""
        if isinstance(error, Onward):
            stopped = self._go_on(number, node, child, error.value, attempts)
            if stopped is None:
                return False
            error = stopped
        if isinstance(error, KeyError) and (missing := self._missing(node, child)):
            self.missing += missing
            self._note(number, child, State.PENDING)
            return False
        judged = verdict(node.policy, attempts, error)
        if judged.state is State.RETRYING and (judged.delay <= 0 or self.order.whole) and not self.control.stopped:
            return True
        if judged.state is State.RETRYING:
            failure, _ = capture(judged.error)
            self.odd[number, child] = State.RETRYING
            self.exceptional.append(Exceptional(self.at, State.RETRYING, attempts, failure, judged.delay))
        else:
            self._give_in(number, child, judged.error, attempts, judged.state)
        return False

    def _go_on(self, number: int, node: LoadedNode, child: int, value: Any, attempts: int) -> BaseException | None:
        """Note that a task run goes on after its attempt; if it cannot, return why."""
        packed: Any = None
        if type(value) is Bound:
            try:
                packed = pack(value, f"task {self._label(number, child)!r}")
            except self.interrupts:
                raise
            except BaseException as error:  # noqa: BLE001 - a flow function is the user's, too
                return error
        elif not node.policy.dynamic:  # the step behind a turn of a loop: what follows takes its value
            self.onward.add(number)
        if isinstance(packed, tuple) or number in self.onward:
            self.values[number][child] = value if packed is None else packed[0]
            if attempts > 1:
                self._note(number, child, State.SUCCESS, attempts)
        else:
            self._note(number, child, State.RUNNING, attempts)
        if not isinstance(packed, tuple):
            self.expansions[self.at] = packed
        return None

    def _give_in(
        self, number: int, child: int, error: BaseException, attempts: int, state: State = State.FAILED
    ) -> None:
        """Record an end that is final, and not that of a call that returned."""
        if isinstance(error, Found):
            self.values[number][child] = error.value
            self._note(number, child, State.CACHED, attempts)
            return
        if isinstance(error, Signal):  # it skipped itself, or was cancelled: neither is an error
            value = _stand_in(self.plan.plan, number, state)
            failure = Failure(f"hr.{type(error).__name__}", redact(error.message)) if error.message else None
        else:
            failure, value = capture(error)
        self.values[number][child] = value
        self.odd[number, child] = state
        self.exceptional.append(Exceptional(self.at, state, attempts, failure))

    def _refused(self, node: LoadedNode, child: int) -> BaseException | None:
        """Why the first of a task run's inputs that could not come along could not."""
        assert self.refused is not None
        for (source, index), error in self.refused.items():
            for edge in node.inputs:
                if edge.data and edge.source == source and index in edge_children(edge, child, index + 1):
                    return error
        return None

    # -- the end -------------------------------------------------------------------------------------------------

    def cut_short(self) -> Ended:
        """Report what was done when a stop arrived outside of a task; that task run counts as stopped."""
        control = self.control
        last = max(control.position - 1, 0)
        if control.position:
            self.exceptional = [entry for entry in self.exceptional if entry.position < last]
            self.exceptional.append(Exceptional(last, State.CANCELLED))
            self.expansions.pop(last, None)
            del control.seconds[last:]
            control.seconds.extend([0.0] * (control.position - len(control.seconds)))
        return self._report()

    def _report(self) -> Ended:
        control = self.control
        heavy = sum(self.bulk.sizes.values()) > LARGE
        return Ended(
            control.batch, control.position, control.seconds, self.exceptional, self.sizes, self.missing, heavy=heavy,
            expansions=self.expansions,
        )  # fmt: skip

    def kept(self) -> Values:
        """The values that somebody outside needs, and small ones for people to look at."""
        done = list(cut(self.order.strips, 0, self.control.position))
        # What is to run again elsewhere will need its arguments there.
        everything = self.size_of is None or any(not state.is_final for state in self.odd.values())
        ranges, plan = inside(done), self.plan.plan
        kept: Values = {}
        room = KEPT
        for nodes, low, high in done:
            for number in nodes:
                mine = self.values.get(number)
                if not mine:
                    continue
                target = kept.setdefault(number, {})
                needed = everything or takers(plan, number, low, high, ranges) is None
                single = needed and high - low > 1 and _has_items(plan, number)
                for child in range(low, high):
                    if child not in mine:
                        continue
                    if everything or (takers(plan, number, child, child + 1, ranges) is None if single else needed):
                        target[child] = mine[child]
                    elif self.size_of is not None and (size := self.size_of(mine[child])) <= room:
                        room -= size
                        target[child] = mine[child]
        for number, (node, child) in self.plan.stand_for.items():
            if 0 in kept.get(number, {}) and (number not in self.onward or self.order.whole):
                value = kept[number].pop(0)
                if (number, 0) not in self.odd:
                    kept.setdefault(node, {})[child] = value
        return kept


def not_awaited(label: str, coroutine: str) -> FlowError:
    """Return the error for a task that returned a coroutine."""
    return FlowError(
        f"task {label} returned a coroutine of {coroutine}, which nothing awaits, because its own function is not "
        f"`async def`; write `async def` and `return await {coroutine}(...)`, and headrace awaits it"
    )


def _has_items(plan: Plan, number: int) -> bool:
    return any(edge.kind is EdgeKind.ITEM for edge in plan.nodes[number].outputs)


def _stand_in(plan: Plan, number: int, state: State) -> Any:
    """What a task receives in the place of the value of one that did not run to its end."""
    name = plan.nodes[number].name
    match state:
        case State.SKIPPED:
            return None
        case State.CRASHED:
            return TaskCrashed(f"task {name!r} was lost with the process that ran it", task=name)
        case State.TIMED_OUT:
            return TaskTimedOut(f"task {name!r} took longer than its timeout", task=name)
        case State.CANCELLED:
            return RunCancelled(f"task {name!r} was cancelled", task=name)
        case State.FAILED:
            return FlowError(f"node {name!r} could not be mapped: what it maps over has no common length")
        case _:
            trigger = name_of(plan.policy(number).trigger)
            text = f"task {name!r} did not run: its upstream did not satisfy its trigger {trigger}"
            return TriggerFailed(text, task=name)
