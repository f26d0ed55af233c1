from __future__ import annotations

import itertools

import pytest

from headrace.core.rules import TRIGGERS, Decision, Upstream, decide, runs_after_success, upstream_of
from headrace.core.state import State

RUN, SKIP, REFUSE = Decision.RUN, Decision.SKIP, Decision.TRIGGER_FAIL
COUNTS = [Upstream(*counts) for counts in itertools.product(range(3), repeat=3)]


def expected(trigger: str, skips: bool, up: Upstream) -> Decision:
    """The documentation's words, written once more and differently: over the states, one by one."""
    ended = ["good"] * up.successful + ["bad"] * up.failed + ["skipped"] * up.skipped
    if not ended:
        return RUN
    if trigger == "cleanup":
        return RUN if set(ended) == {"good"} else SKIP
    if trigger == "not_all_skipped":
        if set(ended) == {"skipped"}:
            return SKIP
        return REFUSE if "bad" in ended else RUN
    if skips and "skipped" in ended:
        return SKIP
    satisfied = {
        "all_successful": "bad" not in ended,
        "all_failed": set(ended) == {"bad"},
        "any_successful": set(ended) != {"bad"},
        "any_failed": "bad" in ended,
        "all_finished": True,
    }
    return RUN if satisfied[trigger] else REFUSE


@pytest.mark.parametrize("skips", [True, False])
@pytest.mark.parametrize("trigger", TRIGGERS)
def test_all_triggers_for_all_counts(trigger, skips):
    assert {up: decide(trigger, skips, up) for up in COUNTS} == {up: expected(trigger, skips, up) for up in COUNTS}


@pytest.mark.parametrize("trigger", TRIGGERS)
def test_the_short_cut_agrees_with_the_rule(trigger):
    for skips, successes in itertools.product((True, False), (1, 2, 9)):
        runs = decide(trigger, skips, Upstream(successes, 0, 0)) is RUN
        assert runs is runs_after_success(trigger)


def test_states_are_counted_on_top_of_what_is_waited_for_as_a_whole():
    states = [State.SUCCESS, State.SKIPPED, State.FAILED, State.TRIGGER_FAILED, State.CANCELLED, State.CRASHED]
    assert upstream_of(Upstream(1, 2, 3), states) == Upstream(2, 6, 4)
    assert upstream_of(Upstream(1, 2, 3), []).total == 6
