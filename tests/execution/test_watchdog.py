from __future__ import annotations

import queue

import pytest

from headrace.core.batching import GRAIN, PATIENCE, TRIAL
from headrace.core.events import Dispatch, HandedBack, Progressed
from headrace.core.strips import Strip
from headrace.execution.batch import Control
from headrace.execution.watchdog import LOOK, NOTE, Watchdog, give_back, looks_per_note


def control(limit: float, send, position: int = 1) -> Control:
    made = Control(Dispatch(7, (Strip((0,), 0, 10),), limit=limit), send)
    made.position = position
    return made


def test_a_batch_over_its_limit_is_given_back_once():
    events: queue.Queue = queue.Queue()
    watchdog, slow = Watchdog(), control(0.0, events.put)
    watchdog.watch(slow)
    event = events.get(timeout=60)
    assert isinstance(event, HandedBack)
    assert (event.batch, event.stop, slow.stop) == (7, 1, 1)
    assert isinstance(events.get(timeout=60), Progressed)  # looks went on, and nothing was given back again
    watchdog.unwatch(slow)


def test_a_batch_within_its_limit_tells_how_far_it_is():
    events: queue.Queue = queue.Queue()
    watchdog, quick = Watchdog(), control(float("inf"), events.put, position=4)
    watchdog.watch(quick)
    assert events.get(timeout=60) == Progressed(7, 4)
    quick.position = 5
    assert events.get(timeout=60) == Progressed(7, 5)
    watchdog.unwatch(quick)
    assert quick.stop == 10


def test_batches_with_usual_limits_tell_ten_times_a_second_and_long_ones_less_often():
    assert [looks_per_note(limit) for limit in (TRIAL, PATIENCE * GRAIN, float("inf"))] == [NOTE] * 3
    assert looks_per_note(4.0) * LOOK == 2.0


@pytest.mark.parametrize("position", [10, 11])
def test_a_batch_that_is_done_has_nothing_to_give_back(position):
    events = []
    give_back(control(0.0, events.append, position))
    assert events == []
