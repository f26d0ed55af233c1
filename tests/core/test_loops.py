"""Loops while they are drawn."""

from __future__ import annotations

import pickle

import pytest

from headrace import pickling
from headrace.core.flow import FlowDefinition
from headrace.core.graph import GraphDrawing
from headrace.core.loops import Onward, Step, loop
from headrace.core.node import flatten, unmapped
from headrace.core.planning import make_plan
from headrace.core.task import task
from headrace.errors import FlowError, LoopLimit


@task
def inc(x, by=1):
    return x + by


def done(x):
    return x > 2


def drawn(function):
    drawing = GraphDrawing()
    with drawing.active():
        result = function()
    return drawing.finish("test", result)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (lambda: loop(done, 0, until=done), "repeats a task or a flow"),
        (lambda: loop(inc, 0, until=3), "until must be a function"),
        (lambda: loop(inc, 0, until=done, most=0), "most must be a whole number from 1 on"),
        (lambda: loop(inc, 0, until=done, most=True), "most must be a whole number from 1 on"),
        (lambda: loop.map(inc, flatten([[1]]), until=done), "cannot map over flatten"),
        (lambda: loop(inc, 0, wrong=3, until=done), "arguments that it does not take"),
        (lambda: loop.map(inc, unmapped(0), until=done), "nothing to map over"),
        (lambda: loop(FlowDefinition("empty", lambda x: x), 0, until=done), "drew no node"),
    ],
)
def test_what_cannot_be_a_loop_is_refused_while_it_is_drawn(draw, message):
    with pytest.raises(FlowError, match=message):
        drawn(draw)


def test_outside_of_a_flow_there_is_no_loop():
    with pytest.raises(FlowError, match="outside of a flow"):
        loop(inc, 0, until=done)


def test_the_digest_tells_loops_apart():
    digests = {
        drawn(lambda: loop(inc, 0, until=done)).digest(),
        drawn(lambda: loop(inc, 0, until=done, most=5)).digest(),
        drawn(lambda: loop(inc, 0, until=done, return_last=True)).digest(),
        drawn(lambda: loop(inc, 0, 2, until=done)).digest(),
        drawn(lambda: loop(inc.with_options(name="other"), 0, until=done)).digest(),
    }
    assert len(digests) == 5
    assert drawn(lambda: loop(inc, 0, until=done)).digest() in digests


def test_a_plan_takes_along_what_its_loops_will_call():
    plan = make_plan(drawn(lambda: loop(inc, 0, until=done)))
    assert [each.name for each in plan.tasks] == ["loop", "loop", "inc"]
    again = pickle.loads(pickling.dumps(plan, "a plan"))
    assert again.tasks[0].function.step is again.tasks[1]
    assert again.tasks[0].qualified_name == plan.tasks[0].qualified_name


def test_a_step_says_whether_there_is_another_turn():
    step = Step("up", done, 3, return_last=False)
    assert step(3, 1) == 3
    with pytest.raises(Onward) as onward:
        step(2, 1)
    assert onward.value.value == 2
    with pytest.raises(LoopLimit, match=r"loop .up. was to go on until done\(value\) holds") as limit:
        step(2, 3)
    assert limit.value.turns == 3
    assert Step("up", done, 3, return_last=True)(2, 3) == 2
