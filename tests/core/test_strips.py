from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from headrace.core.strips import Strip, count, cut, locate, runs


def strip(nodes: list[int], low: int, size: int) -> Strip:
    return Strip(tuple(nodes), low, low + size)


strips = st.lists(
    st.builds(
        strip, st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True), st.integers(0, 5), st.integers(0, 6)
    ),
    max_size=4,
)
quick = settings(max_examples=200)


@quick
@given(strips)
def test_runs_are_the_flat_enumeration(order):
    assert list(runs(order)) == [(node, child) for s in order for child in range(s.low, s.high) for node in s.nodes]
    assert count(order) == len(list(runs(order))) == sum(s.size for s in order)


@quick
@given(strips, st.integers(0, 40), st.integers(0, 40))
def test_a_cut_holds_exactly_its_positions(order, start, stop):
    part = list(cut(order, start, stop))
    assert list(runs(part)) == list(runs(order))[start:stop]
    assert all(s.size > 0 for s in part)


@quick
@given(strips, st.integers(0, 40))
def test_locate_finds_what_the_enumeration_has_there(order, position):
    flat = list(runs(order))
    if position < len(flat):
        assert locate(order, position) == flat[position]
    else:
        with pytest.raises(IndexError):
            locate(order, position)


def test_a_cut_through_a_column_keeps_whole_rows_together():
    assert list(cut([Strip((1, 2), 0, 100)], 1, 199)) == [
        Strip((2,), 0, 1),
        Strip((1, 2), 1, 99),
        Strip((1,), 99, 100),
    ]
