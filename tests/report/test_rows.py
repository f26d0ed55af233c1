import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.core.state import State
from headrace.core.summary import NodeSummary
from headrace.report.rows import WAITING, duration, fit, grouped, progress, share_out, totals

ACTIVE = [state for state in State if state not in WAITING]


def node(name="a", width=1, seconds=0.0, mapped=False, **counts):
    return NodeSummary(name, mapped, width, {State[key.upper()]: n for key, n in counts.items()}, seconds)


def test_totals_count_what_is_known():
    whole = totals(
        [
            node(success=1, seconds=2.0),
            node(width=None, mapped=True),
            node(width=10, running=3, failed=2, skipped=1, pending=4),
        ]
    )
    assert whole == (4, 11, False, 3, 2, 2.0)


def test_repeated_calls_of_a_task_become_one_row():
    rows = grouped([node("add", success=1), node("load", success=1), node("add-2", failed=1), node("add-3")])
    assert [row.name for row in rows] == ["add \u00d73", "load"]
    assert rows[0].width == 3
    assert rows[0].counts == {State.SUCCESS: 1, State.FAILED: 1}


def test_nodes_of_flows_that_children_went_on_as_become_one_row():
    names = ["plan", "plan[0]/add", "plan[17]/add-2", "plan-2[3]/add", "plan[0]/load", "v-2x"]
    rows = grouped([node(name) for name in names])
    assert [row.name for row in rows] == ["plan", "plan/add \u00d73", "plan[0]/load", "v-2x"]


def test_a_group_with_an_unknown_width_has_an_unknown_width():
    assert grouped([node("a", width=None), node("a-2")])[0].width is None


def test_all_nodes_are_shown_if_they_fit():
    nodes = [node("add"), node("add-2")]
    assert fit(nodes, 2) == (nodes, "")
    assert [row.name for row in fit(nodes, 1)[0]] == ["add \u00d72"]


def test_the_urgent_are_kept_in_the_order_of_the_flow():
    nodes = [node(f"done{i}x", success=1) for i in range(5)]
    nodes += [node("slow", running=1), node("late", pending=1), node("bad", failed=1)]
    rows, rest = fit(nodes, 3)
    assert [row.name for row in rows] == ["slow", "late", "bad"]
    assert rest == "and 5 more: 5 finished"


@given(
    st.dictionaries(st.sampled_from(list(State)), st.integers(1, 10_000)),
    st.integers(0, 10_000) | st.none(),
    st.integers(1, 200),
)
def test_a_bar_is_never_longer_than_its_room_and_hides_no_failure(counts, pending, cells):
    width = None if pending is None else sum(counts.values()) + pending
    shares = dict(share_out(counts, width, cells))
    assert sum(shares.values()) <= cells
    assert all(share > 0 for share in shares.values())
    if any(state.is_failure for state in counts):
        assert any(state.is_failure for state in shares)


@given(st.dictionaries(st.sampled_from(ACTIVE), st.integers(1, 500), min_size=1), st.integers(1, 100))
def test_a_bar_with_nothing_pending_is_full(counts, cells):
    assert sum(share for _, share in share_out(counts, sum(counts.values()), cells)) == cells


def test_nothing_known_draws_nothing():
    assert share_out({}, None, 10) == []
    assert share_out({}, 0, 10) == []


def test_progress():
    assert progress(node(width=12_000, success=1_500)) == "1,500/12,000"
    assert progress(node(width=None)) == "0/?"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.0001, "< 1 ms"),
        (0.056, "56 ms"),
        (0.9996, "1.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min 00 s"),
        (185, "3 min 05 s"),
        (7_450, "2 h 04 min"),
    ],
)
def test_duration(seconds, words):
    assert duration(seconds) == words
