from __future__ import annotations

import itertools
import re

import pytest

from headrace.core.state import FAILURES, FINAL, LABELS, MOVES, RUN_MOVES, State, move, move_run
from headrace.errors import IllegalMove

PAIRS = list(itertools.product(State, State))


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda state: state.label)
def test_every_move_of_a_task_run(source, target):
    states = bytearray([source, source])
    if target in MOVES[source]:
        move(states, 1, 2, target)
        assert list(states) == [source, target]
        return
    with pytest.raises(IllegalMove, match=f"task run 1 cannot move from {source} to {target}"):
        move(states, 1, 2, target)
    assert list(states) == [source, source]


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=lambda state: state.label)
def test_every_move_of_a_run(source, target):
    if target in RUN_MOVES.get(source, ()):
        assert move_run(source, target) is target
        return
    with pytest.raises(IllegalMove, match=f"a run cannot move from {source} to {target}"):
        move_run(source, target)


def test_a_range_moves_whole_or_not_at_all():
    states = bytearray([State.READY, State.READY, State.SUCCESS, State.PENDING])
    with pytest.raises(IllegalMove, match="task run 2 cannot move from Success to Running") as caught:
        move(states, 0, 4, State.RUNNING)
    assert (caught.value.child, caught.value.source, caught.value.target) == (2, State.SUCCESS, State.RUNNING)
    assert list(states) == [State.READY, State.READY, State.SUCCESS, State.PENDING]
    move(states, 0, 2, State.RUNNING)
    assert list(states[:2]) == [State.RUNNING] * 2


def test_final_states_are_those_without_a_way_out():
    assert {state for state in State if not MOVES[state]} == FINAL
    assert {state for state in State if state.is_final} == FINAL
    assert {State.SUCCESS, State.CACHED, State.SKIPPED} == FINAL - FAILURES


@pytest.mark.parametrize("table", [MOVES, RUN_MOVES], ids=["task run", "run"])
def test_every_state_can_be_reached(table):
    reached, queue = {State.PENDING}, [State.PENDING]
    for state in queue:
        queue += table[state] - reached
        reached |= table[state]
    assert reached == set(table)
    assert set(MOVES) == set(State)


def test_every_state_has_a_word_and_a_colour():
    assert len({word for word, _ in LABELS.values()}) == len(State)
    assert all(re.fullmatch("#[0-9a-f]{6}", state.tone) for state in State)
