from __future__ import annotations

from headrace.core.events import Loss
from headrace.core.recovery import MOST_DEATHS, Recovery


def die(recovery: Recovery, *whole: tuple[int, int]) -> bool:
    hopeless = recovery.hopeless(Loss.KILLED, whole)
    if not hopeless:
        recovery.suspect(whole)
    return hopeless


def test_the_third_death_of_a_task_run_that_was_alone_is_its_own():
    recovery = Recovery()
    assert [die(recovery, (0, 1)) for _ in range(MOST_DEATHS)] == [False] * (MOST_DEATHS - 1) + [True]
    recovery.cleared(0, 1, 2)  # it is final, as what crashed
    assert [die(recovery, (0, 2)) for _ in range(MOST_DEATHS)] == [False] * (MOST_DEATHS - 1) + [True]


def test_who_is_alone_at_a_death_and_succeeds_later_speaks_for_all_others():
    recovery = Recovery()
    for child in range(4):
        die(recovery, (0, child))
        recovery.cleared(0, child, child + 1)
    assert [die(recovery, (0, 9)) for _ in range(MOST_DEATHS + 4)] == [False] * (MOST_DEATHS + 3) + [True]


def test_who_was_not_alone_says_nothing():
    recovery = Recovery()
    die(recovery, (0, 0), (0, 1))
    recovery.cleared(0, 0, 2)
    assert [die(recovery, (0, 9)) for _ in range(MOST_DEATHS)] == [False] * (MOST_DEATHS - 1) + [True]


def test_what_was_held_against_those_that_succeeded_counts_no_more():
    recovery = Recovery()
    assert [die(recovery, (0, 1)) for _ in range(MOST_DEATHS - 1)] == [False] * (MOST_DEATHS - 1)
    recovery.cleared(0, 1, 2)  # and is worth one more attempt for all
    assert [die(recovery, (0, 1)) for _ in range(MOST_DEATHS + 1)] == [False] * MOST_DEATHS + [True]
