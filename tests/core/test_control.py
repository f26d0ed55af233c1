"""What control flow draws, and what it refuses while it is drawn. What comes of it: ``tests/semantics``."""

from __future__ import annotations

import itertools
import pickle

import numpy
import pandas
import pytest

import headrace as hr
from headrace.core.graph import draw
from headrace.core.planning import make_plan
from headrace.core.rules import Decision, Some, Upstream, behind_gates, name_of, runs_after_success
from headrace.core.state import State
from headrace.errors import FlowError, NodeUsedAsValue


@hr.task
def one(*values):
    return 1


@hr.task
def other(*values):
    return 2


@hr.task
def picky(strict, x=0):
    return strict


@hr.task(trigger="all_finished", skip_on_upstream_skip=False)
def always(*values):
    return 3


def drawn(function):
    return draw("f", function, {})


def gates(function):
    graph = drawn(function)
    return {node.name: [graph.nodes[gate].name for gate in node.gates] for node in graph.nodes if node.gates}


def chain_in_a_case():
    before = one()
    with hr.case(before, 1):
        one(one(before))


def stubborn_in_a_case():
    with hr.case(one(), 1):
        always(other())


def nested():
    kind = one()
    with hr.case(kind):
        inside = other()
        with hr.case(kind, 2):
            other(inside)


def maps_in_a_case():
    with hr.case(one(), 1):
        one.map(other())


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (chain_in_a_case, {"one-2": ["case"]}),
        (stubborn_in_a_case, {"other": ["case"], "always": ["case"]}),
        (nested, {"other": ["case"], "case-2": ["case"], "other-2": ["case-2"]}),
        (maps_in_a_case, {"other": ["case"], "one-2": ["case"]}),
    ],
)
def test_what_gets_a_gate(function, expected):
    assert gates(function) == expected


def test_a_filter_has_for_gates_what_all_children_need():
    def function():
        session, urls = one(), other()
        pages = one.map(urls, hr.unmapped(session))
        hr.filter(other.map(pages, [1, 2], upstream=(after := always())))
        return after

    assert gates(function)["filter"] == ["one", "other", "always"]


def test_what_runs_after_anything_gives_a_filter_no_gate():
    assert gates(lambda: hr.filter(always.map([1], hr.unmapped(one())))) == {}


def test_digests_tell_gates_strictness_and_who_decides():
    def base(strict=True, case=False, decides=False):
        def function():
            before, found = one(), other()
            if case:
                with hr.case(before, 1):
                    one.map([1], [2], strict=strict)
            else:
                one(before, 1)
                one.map([1], [2], strict=strict)
            if decides:
                hr.decide_by(found)

        return drawn(function).digest()

    variants = itertools.product((True, False), repeat=3)
    assert len({base(*variant) for variant in variants}) == 8
    assert drawn(lambda: one.map([1], strict=True)).digest() == drawn(lambda: one.map([1])).digest()


def test_digests_tell_the_limits_of_triggers():
    digests = {
        drawn(lambda trigger=trigger: one.with_options(trigger=trigger)(other())).digest()
        for trigger in (hr.some_failed(at_least=1), hr.some_failed(at_least=2), hr.some_successful(at_least=1))
    }
    assert len(digests) == 3


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (hr.merge, r"hr.merge\(\) needs at least one branch"),
        (lambda: hr.merge([one()], one()), "hr.merge.*got a list with nodes inside"),
        (lambda: hr.switch(one(), {1: other()}), "the branch for 1 must be a function that draws it"),
        (lambda: hr.switch(one(), {1: other}, default=5), "the branch for 'default' must be a function"),
        (lambda: hr.switch(one(), {}), r"needs at least one branch"),
        (hr.decide_by, r"needs at least one node, or any run would succeed"),
        (lambda: hr.decide_by([one()]), "needs nodes of the flow that is being drawn, got"),
        (lambda: picky.map([1], strict=[2]), "got strict=.2., a word of .map.*give that by position, or rename it"),
        (lambda: picky.map(strict=True), "give that by position, or rename it"),
        (lambda: one.map([1], strict=[2]), "got strict=.2., a word of .map.*give True or False"),
        (lambda: one.map([1, 2], [3]), "different lengths: 2, 1; .*strict=False"),
        (lambda: one.map([1], itertools.count(), strict=False), "of type count: it never ends"),
        (lambda: one.map([1], itertools.repeat(5), strict=False), r"wrap what it repeats in hr.unmapped"),
        (lambda: one.map(hr.flatten(hr.flatten(["ab"]))), "cannot flatten a str"),
        (lambda: one.map(hr.flatten(hr.flatten(5))), "cannot flatten a int"),
    ],
)
def test_what_cannot_be_meant(use, told):
    with pytest.raises(FlowError, match=told):
        make_plan(drawn(use))


@pytest.mark.parametrize(
    "use", [lambda: hr.merge(1), lambda: hr.filter([1]), lambda: hr.decide_by(1), lambda: hr.switch(1, {1: one})]
)
def test_outside_of_a_flow(use):
    with pytest.raises(FlowError, match="has a meaning while a flow is drawn only"):
        use()


def test_a_case_outside_of_a_flow():
    with pytest.raises(FlowError, match=r"hr.case\(...\) has a meaning"), hr.case(1):
        pass


def test_a_parameter_named_strict_is_given_by_position():
    assert drawn(lambda: picky.map([1, 2])).nodes[0].mapped


def test_arrays_and_tables_as_constants():
    with pytest.raises(FlowError, match="cannot map over argument 1 of task 'one' of type ndarray: give a list"):
        drawn(lambda: one.map(numpy.array(7)))
    with pytest.raises(FlowError, match="of type DataFrame"):
        drawn(lambda: one.map(pandas.DataFrame({"a": [1]})))


def test_queries():
    tagged = other.with_options(tags=["io"])

    def function():
        first = one()
        return tagged(first), other(first), one.with_options(name="third")()

    graph = drawn(function)
    assert graph.roots() == [0, 3]
    assert graph.terminal() == [1, 2, 3]
    assert graph.order().index(0) < graph.order().index(1)
    assert graph.find(name="other") == [1, 2]
    assert graph.find(name="other-2") == [2]
    assert graph.find(tag="io") == [1]
    assert graph.find(name="other-2", tag="io") == []
    assert graph.find() == [0, 1, 2, 3]


def test_a_case_in_the_tree():
    @hr.flow
    def choosing():
        return hr.switch(one(), {"a": other}, default=always)

    assert str(choosing.graph()).splitlines() == [
        "one",
        "├─ case",
        "│  └─ other",
        "│     └─ merge",
        "└─ default",
        "   └─ always",
        "      └─ merge (above)",
    ]


def test_a_comparison_points_to_case():
    with pytest.raises(NodeUsedAsValue, match=r"with hr.case\(node, value\):"):
        drawn(lambda: one() == 1)


# -- rules -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "decision"),
    [
        ([], Decision.RUN),
        ([State.SUCCESS], Decision.RUN),
        ([State.SKIPPED, State.SUCCESS], Decision.SKIP),
        ([State.FAILED, State.SKIPPED], Decision.SKIP),
        ([State.SUCCESS, State.TIMED_OUT], Decision.TRIGGER_FAIL),
        ([State.TRIGGER_FAILED], Decision.TRIGGER_FAIL),
    ],
)
def test_gates(states, decision):
    assert behind_gates(states) is decision


@pytest.mark.parametrize(
    ("trigger", "failed", "successful"),
    [
        (hr.some_failed(at_least=2), {2, 3, 4}, set()),
        (hr.some_failed(at_most=1), {0, 1}, set()),
        (hr.some_failed(at_least=1, at_most=2), {1, 2}, set()),
        (hr.some_failed(at_least=0.5), {2, 3, 4}, set()),
        (hr.some_failed(at_most=0.0), {0}, set()),
        (hr.some_failed(at_least=1.0), {4}, set()),
        (hr.some_successful(at_least=1), {0, 1, 2, 3}, set()),
        (hr.some_successful(at_most=0.5), {2, 3, 4}, set()),
    ],
)
def test_counting_triggers_of_four(trigger, failed, successful):
    assert {number for number in range(5) if trigger(Upstream(4 - number, number, 0))} == failed
    assert pickle.loads(pickle.dumps(trigger)).limits == trigger.limits


def test_a_share_is_not_missed_by_rounding():
    assert hr.some_failed(at_least=0.1)(Upstream(27, 3, 0))
    assert not hr.some_failed(at_least=0.1)(Upstream(28, 2, 0))


def test_skips_that_reach_a_trigger_count_as_successful():
    assert hr.some_successful(at_least=2)(Upstream(1, 0, 1))


@pytest.mark.parametrize("limits", [{}, {"at_least": -1}, {"at_most": 1.5}, {"at_least": True}, {"at_most": "1"}])
def test_limits_that_cannot_be(limits):
    with pytest.raises(FlowError, match=r"some_failed.*(needs at_least|must be a whole number)"):
        hr.some_failed(**limits)


def test_names_of_triggers():
    assert name_of("all_failed") == "'all_failed'"
    assert name_of(hr.some_failed(at_least=0.5)) == "some_failed(at_least=0.5)"
    assert name_of(one.function) == "one"


def test_a_trigger_without_a_hash_is_no_trouble():
    class Odd(Some):
        __hash__ = None

    assert runs_after_success(Odd("failed", 1, None)) is False
