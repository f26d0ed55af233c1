from headrace.core.events import Exceptional
from headrace.core.moves import Move, Teller
from headrace.core.state import State

P, R, T, S = State.PENDING, State.RUNNING, State.RETRYING, State.SUCCESS


def brief(moves):
    return [(move.low, move.high, move.old, move.new, move.attempts) for move in moves]


def test_a_range_is_one_move():
    moves = []
    Teller(7, "same", moves).tell(0, 1000, R)
    assert moves == [Move(7, "same", 0, 1000, P, R)]


def test_a_range_is_parted_where_its_past_differs():
    moves = []
    teller = Teller(0, "same", moves)
    teller.tell(2, 4, R)
    moves.clear()
    teller.tell(0, 6, S, 1, seconds=[0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert brief(moves) == [(0, 2, P, S, 1), (2, 4, R, S, 1), (4, 6, P, S, 1)]
    assert [list(move.seconds) for move in moves] == [[0.0, 0.1], [0.2, 0.3], [0.4, 0.5]]


def test_the_same_again_is_no_news():
    moves = []
    teller = Teller(0, "same", moves)
    teller.tell(0, 2, R)
    teller.tell(0, 4, R)
    assert brief(moves) == [(0, 2, P, R, 0), (2, 4, P, R, 0)]


def test_attempts_in_one_batch_are_told_one_by_one():
    moves = []
    teller = Teller(0, "same", moves)
    teller.tell(3, 4, R)
    teller.attempted(3, 0, Exceptional(0, S, 3))
    teller.tell(3, 4, S, 3)
    assert [(move.new, move.attempts) for move in moves] == [(R, 0), (T, 1), (R, 1), (T, 2), (R, 2), (S, 3)]


def test_a_retry_that_is_due_later_is_told_when_it_is_known():
    moves = []
    teller = Teller(0, "same", moves)
    teller.dispatched(0, 2, {})
    teller.attempted(1, 0, Exceptional(0, T, 1))
    teller.dispatched(1, 2, {1: 1})
    assert brief(moves) == [(0, 2, P, R, 0), (1, 2, R, T, 1), (1, 2, T, R, 1)]


def test_children_are_dispatched_with_the_attempts_that_they_have_behind_them():
    moves = []
    teller = Teller(0, "same", moves)
    teller.dispatched(0, 3, {1: 2})
    assert brief(moves) == [(0, 1, P, R, 0), (1, 2, P, R, 2), (2, 3, P, R, 0)]
