"""States, and the one table of legal moves between them.

How to think about it. A *task run* (one node, or one child of a mapped node, within one run) and a *run* each
stand in exactly one state. States are small integers, because a run of a million task runs keeps one byte for
each; what belongs to a state (an error, a duration) is kept beside it, never in it. The integers are ordered:
everything from ``SUCCESS`` on is final, so "is it final" is one comparison.

``MOVES`` is the whole law. A move that is not in it raises ``IllegalMove`` and changes nothing. The
documentation's diagram (``docs/states.md``) is generated from it, and the tests go through all pairs.

A task run's usual life is PENDING (it waits for others) → READY (it waits for a thread) → RUNNING → SUCCESS.
RUNNING means *dispatched to an executor in a batch*: which member of a batch a worker executes right now is known
to that worker alone. A batch may take a task run straight from PENDING if all that it waits for is in the same
batch. A hand-back, or the loss of a worker, leads from RUNNING back to PENDING.
"""

from __future__ import annotations

from enum import IntEnum

from headrace.errors import IllegalMove


class State(IntEnum):
    """Where a task run or a run stands."""

    PENDING = 0
    READY = 1
    RUNNING = 2
    RETRYING = 3
    SUCCESS = 4
    FAILED = 5
    TRIGGER_FAILED = 6
    SKIPPED = 7
    CANCELLED = 8
    CRASHED = 9
    TIMED_OUT = 10
    CACHED = 11

    @property
    def is_final(self) -> bool:
        """Whether nothing can happen any more."""
        return self >= State.SUCCESS

    @property
    def is_good(self) -> bool:
        """Whether it ended with a value."""
        return self in GOOD

    @property
    def is_failure(self) -> bool:
        """Whether it ended, and neither well nor by being skipped."""
        return self in FAILURES

    @property
    def label(self) -> str:
        """Its name in records and tables of states: one word."""
        return LABELS[self][0]

    @property
    def words(self) -> str:
        """What people read: ``"Trigger failed"``."""
        return self.name.replace("_", " ").capitalize()

    @property
    def tone(self) -> str:
        """The colour that reports give it."""
        return LABELS[self][1]

    def __str__(self) -> str:
        return self.label


#: label and colour of each state; reports take both from here.
LABELS: dict[State, tuple[str, str]] = {
    State.PENDING: ("Pending", "#9aa5b1"),
    State.READY: ("Ready", "#6fa8dc"),
    State.RUNNING: ("Running", "#2f80ed"),
    State.RETRYING: ("Retrying", "#b07d12"),
    State.SUCCESS: ("Success", "#1a9c5b"),
    State.FAILED: ("Failed", "#d64545"),
    State.TRIGGER_FAILED: ("TriggerFailed", "#b8577a"),
    State.SKIPPED: ("Skipped", "#7b8794"),
    State.CANCELLED: ("Cancelled", "#8e6bbf"),
    State.CRASHED: ("Crashed", "#8b1e1e"),
    State.TIMED_OUT: ("TimedOut", "#c2571a"),
    State.CACHED: ("Cached", "#2a9d8f"),
}

FINAL: frozenset[State] = frozenset(state for state in State if state >= State.SUCCESS)
#: those that leave a value for others
GOOD: frozenset[State] = frozenset({State.SUCCESS, State.CACHED})
FAILURES: frozenset[State] = FINAL - GOOD - {State.SKIPPED}

_P, _Y, _R, _T = State.PENDING, State.READY, State.RUNNING, State.RETRYING
_S, _F, _G, _K, _C, _X, _O, _H = (
    State.SUCCESS,
    State.FAILED,
    State.TRIGGER_FAILED,
    State.SKIPPED,
    State.CANCELLED,
    State.CRASHED,
    State.TIMED_OUT,
    State.CACHED,
)

#: from each state, the states that may follow. For task runs.
MOVES: dict[State, frozenset[State]] = {
    _P: frozenset({_Y, _R, _F, _G, _K, _C}),  # FAILED without running: e.g. a map over unequal lengths
    _Y: frozenset({_R, _C}),
    _R: frozenset({_P, _T, _S, _F, _G, _K, _C, _X, _O, _H}),  # PENDING: handed back, or its worker was lost
    _T: frozenset({_Y, _C}),  # READY: the retry is due
    _S: frozenset(),
    _F: frozenset(),
    _G: frozenset(),
    _K: frozenset(),
    _C: frozenset(),
    _X: frozenset(),
    _O: frozenset(),
    _H: frozenset(),
}

#: the same for a whole run, which is never skipped, cached, retried or refused by a trigger.
RUN_MOVES: dict[State, frozenset[State]] = {
    _P: frozenset({_R, _C}),
    _R: frozenset({_S, _F, _C, _X, _O}),
    _S: frozenset(),
    _F: frozenset(),
    _C: frozenset(),
    _X: frozenset(),
    _O: frozenset(),
}

#: for each target state, the set of states (as bytes) from which a task run may come.
SOURCES: dict[State, bytes] = {
    target: bytes(sorted(source for source, targets in MOVES.items() if target in targets)) for target in State
}


def move(states: bytearray, low: int, high: int, to: State) -> None:
    """Move the task runs ``[low, high)`` to another state, all or none.

    Parameters
    ----------
    states : bytearray
        One byte per task run of a node.
    low, high : int
        The range.
    to : State
        The target.

    Raises
    ------
    IllegalMove
        If one of them stands where this move is not legal; nothing has changed then.
    """
    if high - low == 1 and states[low] in SOURCES[to]:  # what most moves of flows that are drawn node by node are
        states[low] = to
        return
    part = states[low:high]
    wrong = part.translate(None, SOURCES[to])
    if wrong:
        at = low + part.index(wrong[0])
        raise IllegalMove(
            f"task run {at} cannot move from {State(wrong[0])} to {to}: the table of moves does not hold it",
            child=at,
            source=wrong[0],
            target=int(to),
        )
    states[low:high] = bytes((to,)) * (high - low)


def move_run(source: State, to: State) -> State:
    """Return ``to`` if a run may move there from ``source``.

    Raises
    ------
    IllegalMove
        If the table does not hold the move.
    """
    if to not in RUN_MOVES.get(source, ()):
        raise IllegalMove(f"a run cannot move from {source} to {to}", source=int(source), target=int(to))
    return to
