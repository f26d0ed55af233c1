from __future__ import annotations

from array import array
from collections.abc import Iterator

import pytest

import headrace as hr
from headrace import pickling
from headrace.core.events import Dispatch, Ended, Stop
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.strips import Strip
from headrace.execution.inline import InlineExecutor


@hr.task
def add(x, y=1):
    return x + y


@pytest.fixture
def executor() -> Iterator[InlineExecutor]:
    made = InlineExecutor()
    plan = make_plan(draw("f", lambda: add.map(add.map([1, 2])), {}))
    assert made.start("run", pickling.dumps(plan, "it"), plan) == 1
    yield made
    made.finish()


def test_batches_run_in_order_and_see_each_others_values(executor):
    executor.send([Dispatch(0, (Strip((0,), 0, 2),)), Dispatch(1, (Strip((1,), 0, 2),), inputs=(0,))])
    for batch in (0, 1):
        (event,) = executor.wait(None)
        assert isinstance(event, Ended)
        assert event.batch == batch
    assert executor.fetch({0: [(0, 1)], 1: [(1, 0), (1, 1)]}) == {(0, 1): 3, (1, 0): 3, (1, 1): 4}
    assert executor.wait(0.0) == []


def test_what_is_stopped_does_not_start(executor):
    executor.send([Dispatch(0, (Strip((0,), 0, 2),)), Stop((0,))])
    assert executor.wait(0.0) == [Ended(0, 0, array("f"))]
    assert executor.fetch({0: [(0, 0)]}) == {}


def test_after_the_release_nothing_is_held(executor):
    executor.send([Dispatch(0, (Strip((0,), 0, 2),))])
    executor.wait(None)
    executor.finish()
    assert executor.fetch({0: [(0, 0)]}) == {(0, 0): 2}
    executor.release()
    executor.release()
    assert executor.fetch({0: [(0, 0)]}) == {}
