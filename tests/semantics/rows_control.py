"""Rows: case, switch, merge, which nodes decide, triggers that are functions."""

from __future__ import annotations

from typing import Any

import headrace as hr
from headrace.core.rules import Upstream
from headrace.errors import TriggerFailed
from tests.semantics.rows_basic import Broken, add, after_disaster, always, built, fail, odd_fails, rescue, same, total
from tests.semantics.rows_mapping import skip_odd, takes_skips
from tests.semantics.table import F, K, S, T, row

# -- tasks -------------------------------------------------------------------------------------------------------


@hr.task
def made(x: Any = "made") -> Any:
    return x


@hr.task
def none() -> None:
    return None


@hr.task(trigger="not_all_skipped")
def stubborn(*values: Any) -> int:
    return len(values)


@hr.task(trigger="all_finished", skip_on_upstream_skip=False)
def cleanup(*values: Any) -> str:
    return "cleaned"


@hr.task
def incomparable() -> Any:
    class Incomparable:
        def __eq__(self, other: object) -> bool:
            raise Broken("cannot be compared")

        __hash__ = None

    return Incomparable()


def most(up: Upstream) -> bool:
    return up.successful >= 2 * up.failed


def broken_trigger(up: Upstream) -> bool:
    raise KeyError("what")


class Exactly:
    """A trigger that is an object, without a hash."""

    def __init__(self, failed: int) -> None:
        self.failed = failed

    def __call__(self, up: Upstream) -> bool:
        return up.failed == self.failed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Exactly) and self.failed == other.failed

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Exactly({self.failed})"


def judging(trigger: Any, **options: Any) -> hr.Task[..., str]:
    @hr.task(name="judge", trigger=trigger, **options)
    def judge(*_: Any) -> str:
        return "ran"

    return judge


# -- case --------------------------------------------------------------------------------------------------------


@row(result="made", case=[S], made=[S])
def a_case_that_holds() -> Any:
    with hr.case(same("a"), "a"):
        return made()


@row(result=None, case=[K], made=[K])
def a_case_that_does_not_hold() -> Any:
    with hr.case(same("a"), "b"):
        return made()


@row(result=None, made=[K], add=[K])
def what_follows_a_case_outside_is_skipped() -> Any:
    with hr.case(same("a"), "b"):
        found = made()
    return add(found)


@row(result=2, made=[K], add=[S])
def what_is_drawn_after_a_block_runs() -> Any:
    with hr.case(same("a"), "b"):
        made()
    return add(1)


@row(result=2, made=[K], **{"same-2": [S]})
def what_is_drawn_before_a_block_runs() -> Any:
    before = same(2)
    with hr.case(before, 3):
        made(before)
    return same(before)


@row(result=3, case=[S], same=[S], **{"same-2": [S]})
def a_case_for_truth() -> Any:
    with hr.case(same([0])):
        return same(3)


@row(result=None, case=[K], made=[K])
def a_case_for_truth_that_does_not_hold() -> Any:
    with hr.case(same([])):
        return made()


@row(result="made", case=[S])
def a_case_for_a_function() -> Any:
    with hr.case(same(7), lambda x: x > 5):
        return made()


@row(result=None, case=[K])
def a_case_for_a_function_that_does_not_hold() -> Any:
    with hr.case(same(3), lambda x: x > 5):
        return made()


@row(result="made", case=[S])
def a_case_for_a_class_compares() -> Any:
    with hr.case(same(int), int):
        return made()


@row(result="made", case=[S])
def a_case_for_none() -> Any:
    with hr.case(none(), None):
        return made()


@row(result=None, case=[K])
def a_case_for_false() -> Any:
    with hr.case(none(), False):
        return made()


@row(result="made", case=[S])
def a_case_for_the_value_of_another_node() -> Any:
    with hr.case(same(3), add(2)):
        return made()


@row(result="made", case=[S])
def a_case_for_a_part_of_a_value() -> Any:
    with hr.case(same({"kind": "x"})["kind"], "x"):
        return made()


@row({"kind": "b"}, result=None, case=[K])
def a_case_for_a_plain_value(kind: str) -> Any:
    with hr.case(kind, "a"):
        return made()


@row(result=None, case=[K])
def a_case_for_a_map() -> Any:
    with hr.case(same.map([0, 0]), any):
        return made()


@row(error=(Broken, "as ordered"), case=[T], made=[T])
def a_case_for_what_failed() -> Any:
    with hr.case(fail(), 1):
        return made()


@row(result=None, case=[K], made=[K])
def a_case_for_what_was_skipped() -> Any:
    with hr.case(skip_odd(1), 1):
        return made()


@row(error=(Broken, "cannot be compared"), case=[F], made=[T])
def a_case_that_cannot_be_told() -> Any:
    with hr.case(incomparable(), 1):
        return made()


@row(error=(Broken, "cannot be compared"), case=[F], cleanup=[T])
def where_a_case_cannot_be_told_nothing_runs() -> Any:
    with hr.case(incomparable(), 1):
        return cleanup()


@row(result=None, made=[K], add=[K], **{"add-2": [K]})
def a_chain_in_a_case() -> Any:
    with hr.case(same(1), 2):
        return add(add(made()))


@row(result=3, add=[S], **{"add-2": [S]})
def a_chain_in_a_case_that_holds() -> Any:
    with hr.case(same(1), 1):
        return add(add(1))


@row(result=None, made=[K], cleanup=[K])
def a_case_holds_back_what_runs_after_anything() -> Any:
    with hr.case(same(1), 2):
        return cleanup(made())


@row(result=None, made=[K], stubborn=[K])
def a_case_holds_back_what_does_not_mind_one_skip() -> Any:
    before = same(1)
    with hr.case(before, 2):
        return stubborn(made(), before)


@row(result="cleaned", made=[K], cleanup=[S])
def what_runs_after_anything_runs_after_a_block() -> Any:
    with hr.case(same(1), 2):
        found = made()
    return cleanup(found)


@row(result="all lost", fail=[F], after_disaster=[S])
def a_gate_is_nothing_that_a_trigger_counts() -> Any:
    failed = fail()
    with hr.case(same(1), 1):
        return after_disaster(failed)


@row(result=None, fail=[F], made=[K])
def a_case_that_does_not_hold_before_a_failure() -> Any:
    failed = fail()
    with hr.case(same(1), 2):
        return made(failed)


@row(error=(Broken, "as ordered"), fail=[F])
def a_failure_in_a_case() -> Any:
    with hr.case(same(1), 1):
        return add(fail())


@row(result=None, fail=[K], add=[K])
def a_failure_that_does_not_happen() -> Any:
    with hr.case(same(1), 2):
        return add(fail())


@row(result=[None, None], add=[K, K])
def a_map_in_a_case() -> Any:
    with hr.case(same(1), 2):
        return add.map([1, 2])


@row(result=[2, 3], add=[S, S])
def a_map_in_a_case_that_holds() -> Any:
    with hr.case(same(1), 1):
        return add.map([1, 2])


@row(result=[None], made=[K], add=[K])
def a_map_of_unknown_width_in_a_case() -> Any:
    with hr.case(same(1), 2):
        return add.map(made([1, 2]))


@row(result=[None, None], add=[S, S], **{"add-2": [K, K]})
def a_map_in_a_case_over_a_map_outside() -> Any:
    outside = add.map([1, 2])
    with hr.case(same(1), 2):
        return add.map(outside)


@row(result=[None], odd_fails=[S, F], add=[K])
def a_map_in_a_case_over_what_failed_outside() -> Any:
    outside = odd_fails.map([0, 1])
    with hr.case(same(1), 2):
        return add.map(hr.flatten(outside))


@row(result=[None], fail=[F], made=[K], add=[K])
def a_map_in_a_case_zipped_with_what_failed_outside() -> Any:
    outside = fail()
    with hr.case(same(1), 2):
        return add.map(outside, made([1]))


@row(result=[None], add=[K])
def an_empty_map_in_a_case() -> Any:
    with hr.case(same(1), 2):
        return add.map([])


@row(result=None, case=[S], made=[K], **{"case-2": [K]})
def nested_cases_the_inner_does_not_hold() -> Any:
    kind = same(1)
    with hr.case(kind, 1), hr.case(kind, 2):
        return made()


@row(result=None, case=[K], made=[K], **{"case-2": [K]})
def nested_cases_the_outer_does_not_hold() -> Any:
    kind = same(1)
    with hr.case(kind, 2), hr.case(kind, 1):
        return made()


@row(result="made", case=[S], **{"case-2": [S]})
def nested_cases_that_hold() -> Any:
    kind = same(1)
    with hr.case(kind, 1), hr.case(kind, 1):
        return made()


@row(result=None, case=[K], made=[K], cleanup=[K], **{"case-2": [K]})
def nested_cases_hold_back_what_runs_after_anything() -> Any:
    kind = same(1)
    with hr.case(kind, 2):
        inside = made()
        with hr.case(inside, "made"):
            return cleanup(inside, kind)


@row(result="x", made=[S], **{"made-2": [S]})
def a_case_for_what_a_case_made() -> Any:
    with hr.case(same(1), 1):
        inside = made()
    with hr.case(inside, "made"):
        return made("x")


@hr.flow
def inner_flow(x: Any) -> Any:
    return add(x)


@row(result=None, add=[K])
def a_flow_in_a_case() -> Any:
    with hr.case(same(1), 2):
        return inner_flow(1)


@row(result=[None, None], add=[K], **{"add-2": [K]})
def a_built_flow_in_a_case() -> Any:
    with hr.case(same(1), 2):
        found = built(start=1)
    return [found.first, found.second[0]]


with hr.Flow("a_case_in_a_built_flow") as with_case:
    chosen = hr.Parameter("chosen", str)
    with hr.case(chosen, "a"):
        left = made("left")
    with hr.case(chosen, "b"):
        right = made("right")
    with_case.returns(hr.merge(left, right, chosen))
row({"chosen": "b"}, result="right", made=[K], **{"made-2": [S]})(with_case)
with hr.Flow("a_parameter_is_a_default") as with_default:
    chosen = hr.Parameter("chosen", str)
    with hr.case(chosen, "a"):
        left = made("left")
    with_default.returns(hr.merge(left, chosen))
row({"chosen": "b"}, result="b", made=[K])(with_default)


@row(result=["right", 5])
def a_built_flow_with_a_case_in_a_flow() -> Any:
    return [with_case(chosen=same("b")), with_default(chosen=same(5))]


@row({"path": "?"}, result=2, made=[K])
def a_case_without_anything_inside(path: str) -> Any:
    with hr.case(same(1), 2):
        pass
    with hr.case(same(1), 3):
        made()
    return add(1)


# -- merge -------------------------------------------------------------------------------------------------------


def two_branches(value: Any, first: Any, second: Any) -> Any:
    kind = same(value)
    with hr.case(kind, 1):
        left = first()
    with hr.case(kind, 2):
        right = second()
    return hr.merge(left, right)


@row(result="left", merge=[S])
def merge_the_first_branch() -> Any:
    return two_branches(1, lambda: made("left"), lambda: made("right"))


@row(result="right", merge=[S])
def merge_the_second_branch() -> Any:
    return two_branches(2, lambda: made("left"), lambda: made("right"))


@row(result=None, merge=[K])
def merge_no_branch() -> Any:
    return two_branches(3, lambda: made("left"), lambda: made("right"))


@row(result=None, merge=[K], add=[K])
def what_follows_a_merge_of_no_branch() -> Any:
    return add(two_branches(3, lambda: made("left"), lambda: made("right")))


@row(result=None, none=[S], merge=[S])
def a_taken_branch_may_return_none() -> Any:
    return two_branches(1, none, lambda: made("right"))


@row(result="None", merge=[S])
def a_taken_branch_that_returns_none_wins() -> Any:
    return takes_skips(hr.merge(none(), same("later")))


@row(result="first", merge=[S])
def merge_takes_the_first_of_several() -> Any:
    return hr.merge(same("first"), same("second"))


@row(result=2, merge=[S], skip_odd=[K], **{"skip_odd-2": [S]})
def merge_after_a_task_that_skips_itself() -> Any:
    return hr.merge(skip_odd(1), skip_odd(2))


@row(error=(Broken, "as ordered"), fail=[F], merge=[T])
def merge_a_branch_that_failed() -> Any:
    return two_branches(2, lambda: made("left"), fail)


@row(error=(Broken, "as ordered"), fail=[F], merge=[T])
def merge_does_not_go_on_to_the_next_after_a_failure() -> Any:
    return hr.merge(fail(), same(1))


@row(result=[2, 3], merge=[S])
def merge_maps() -> Any:
    return two_branches(1, lambda: add.map([1, 2]), lambda: add.map([3]))


@row(result=[4], add=[K, K], merge=[S])
def merge_a_map_whose_children_were_skipped() -> Any:
    return two_branches(2, lambda: add.map([1, 2]), lambda: add.map([3]))


@row(result=[4], add=[K], merge=[S])
def merge_an_empty_map_that_was_skipped() -> Any:
    return two_branches(2, lambda: add.map([]), lambda: add.map([3]))


@row(result=[], add=[], **{"add-2": [K]}, merge=[S])
def merge_an_empty_map_that_was_taken() -> Any:
    return two_branches(1, lambda: add.map([]), lambda: add.map([3]))


@row(result=[4], merge=[S])
def merge_a_map_of_unknown_width_that_was_skipped() -> Any:
    return two_branches(2, lambda: add.map(made([1, 2])), lambda: add.map(made([3])))


@row(result=[0, None], skip_odd=[S, K], merge=[S])
def merge_a_map_of_which_a_child_was_skipped() -> Any:
    return hr.merge(skip_odd.map([0, 1]), same(1))


@row(result=1, skip_odd=[K, K], merge=[S])
def merge_a_map_of_which_all_children_skipped_themselves() -> Any:
    return hr.merge(skip_odd.map([1, 3]), same(1))


@row(result=2, skip_odd=[K, S], merge=[S])
def merge_children() -> Any:
    children = skip_odd.map([1, 2])
    return hr.merge(children[0], children[1])


@row(result="b", merge=[S])
def merge_parts_of_values() -> Any:
    return two_branches(2, lambda: made({"x": "a"})["x"], lambda: made({"x": "b"})["x"])


@row(result=["filtered"], filter=[K], **{"filter-2": [S]}, merge=[S])
def merge_what_was_filtered() -> Any:
    kind = same(2)
    with hr.case(kind, 1):
        left = made.map([None])
    with hr.case(kind, 2):
        right = made.map(["filtered", None])
    return hr.merge(hr.filter(left), hr.filter(right))


@row(result="otherwise", merge=[S])
def merge_with_a_constant_as_default() -> Any:
    with hr.case(same(1), 2):
        left = made("left")
    return hr.merge(left, "otherwise")


@row(result="inner", merge=[S], **{"merge-2": [S]})
def merge_merges() -> Any:
    kind = same(1)
    with hr.case(kind, 1):
        with hr.case(kind, 5):
            no = made("no")
        inside = hr.merge(no, made("inner"))
    with hr.case(kind, 2):
        other = made("other")
    return hr.merge(inside, other)


@row(result=None, merge=[K], made=[K])
def a_merge_in_a_case() -> Any:
    before = same(1)
    with hr.case(before, 2):
        return hr.merge(made(), before)


# -- switch ------------------------------------------------------------------------------------------------------


@row({"kind": "b"}, result="took b", case=[K], **{"case-2": [S]}, merge=[S])
def a_switch(kind: str) -> Any:
    return hr.switch(same(kind), {"a": lambda: made("took a"), "b": lambda: made("took b")})


@row(result="made")
def a_switch_over_tasks() -> Any:
    return hr.switch(same(1), {1: made, 2: none})


@row(result=None, merge=[K])
def a_switch_without_a_branch_for_the_value() -> Any:
    return hr.switch(same(9), {1: made, 2: none})


@row(result="neither", default=[S])
def a_switch_with_a_default() -> Any:
    return hr.switch(same(9), {1: made, 2: none}, default=lambda: made("neither"))


@row(result="made", default=[K], **{"made-2": [K]})
def a_switch_that_does_not_need_its_default() -> Any:
    return hr.switch(same(1), {1: made, 2: none}, default=lambda: made("neither"))


@row(result=None, none=[S], default=[K], merge=[S])
def a_switch_whose_branch_returns_none() -> Any:
    return hr.switch(same(2), {1: made, 2: none}, default=lambda: made("neither"))


@row(result=0, branch=[S])
def a_switch_with_constants() -> Any:
    return hr.switch(same(1), {1: lambda: 0, 2: lambda: 5})


@row(result=7, branch=[K], **{"branch-2": [S]})
def a_switch_whose_branches_return_what_was_drawn_before() -> Any:
    five, seven = same(5), same(7)
    return hr.switch(same(2), {1: lambda: five, 2: lambda: seven})


@row(result=[2, {"x": 3}], branch=[S])
def a_switch_whose_branch_returns_several_nodes() -> Any:
    return hr.switch(same(1), {1: lambda: [add(1), {"x": add(2)}], 2: made})


@row(error=(Broken, "as ordered"), merge=[T])
def a_switch_whose_branch_fails() -> Any:
    return hr.switch(same(1), {1: fail, 2: made})


@row(error=(Broken, "as ordered"), case=[T], merge=[T])
def a_switch_over_what_failed() -> Any:
    return hr.switch(fail(), {1: made, 2: none}, default=made)


@row(result=None, case=[K], default=[K], merge=[K])
def a_switch_over_what_was_skipped() -> Any:
    return hr.switch(skip_odd(1), {1: made}, default=made)


@row(result="deep", merge=[S])
def a_switch_in_a_switch() -> Any:
    kind = same("a")
    return hr.switch(
        kind, {"a": lambda: hr.switch(kind, {"b": made}, default=lambda: made("deep")), "b": lambda: made("flat")}
    )


# -- who decides -------------------------------------------------------------------------------------------------


@row(result=2, fail=[F], add=[S])
def one_node_decides() -> Any:
    fail()
    found = add(1)
    hr.decide_by(found)
    return found


@row(error=(Broken, "as ordered"), fail=[F], cleanup=[S])
def a_node_decides_whose_failure_was_dealt_with() -> Any:
    failed = fail()
    hr.decide_by(failed)
    return cleanup(failed)


@row(error=(Broken, "1 is odd"), odd_fails=[S, F], total=[T])
def a_map_decides() -> Any:
    children = odd_fails.map([0, 1])
    hr.decide_by(children)
    return total(children)


@row(error=(Broken, "as ordered"), fail=[F])
def several_nodes_decide() -> Any:
    hr.decide_by(add(1))
    hr.decide_by(fail())


@hr.flow
def decides_for_itself() -> Any:
    fail()
    found = add(1)
    hr.decide_by(found)
    return found


@row(error=(Broken, "as ordered"), add=[S])
def a_flow_does_not_decide_for_the_one_that_calls_it() -> Any:
    return decides_for_itself()


@row(result=2, add=[S], fail=[F])
def who_calls_a_flow_decides() -> Any:
    found = decides_for_itself()
    hr.decide_by(found)
    return found


with hr.Flow("one_node_of_a_built_flow_decides") as deciding:
    fail()
    hr.decide_by(add(1))
    deciding.returns(None)
row(result=None, fail=[F], add=[S])(deciding)


# -- triggers ----------------------------------------------------------------------------------------------------


@row(result="ran", judge=[S])
def a_function_as_trigger() -> Any:
    return judging(most)(fail(), add(1), add(2))


@row(error=(TriggerFailed, r"'judge' did not run: .*\(1 successful, 0 failed, 0 skipped\).*its trigger Exactly\(1\)$"))
def an_object_as_trigger() -> Any:
    return judging(Exactly(1))(add(1))


@row(result="ran", judge=[S])
def an_object_as_trigger_that_is_satisfied() -> Any:
    return judging(Exactly(1))(fail())


@row(result=["TriggerFailed"], judge=[T])
def a_function_that_refuses() -> Any:
    return always(judging(most)(fail(), add(1)))


@row(error=(TriggerFailed, "its trigger broken_trigger, which raised KeyError: 'what'"), judge=[T])
def a_function_that_breaks() -> Any:
    return judging(broken_trigger)(add(1))


@row(result="ran", judge=[S])
def a_function_is_not_asked_where_there_is_no_upstream() -> Any:
    return judging(broken_trigger)()


@row(result=None, judge=[K])
def a_skip_comes_before_a_trigger() -> Any:
    return judging(broken_trigger)(skip_odd(1), add(1))


@row(result="ran", judge=[S])
def a_trigger_that_is_asked_about_skips() -> Any:
    return judging(lambda up: up == Upstream(1, 0, 1), skip_on_upstream_skip=False)(skip_odd(1), add(1))


@row(result="ran", judge=[S])
def a_trigger_that_counts_children() -> Any:
    return judging(lambda up: up == Upstream(2, 1, 0))(odd_fails.map([0, 1, 2]))


@row(result="ran", judge=[S])
def some_failed_at_least() -> Any:
    return judging(hr.some_failed(at_least=2))(odd_fails.map([1, 2, 3]))


@row(error=(Broken, "1 is odd"), judge=[T])
def some_failed_too_few() -> Any:
    return judging(hr.some_failed(at_least=2))(odd_fails.map([1, 2, 4]))


@row(error=(TriggerFailed, r"its trigger some_failed\(at_least=1\)$"), judge=[T])
def some_failed_none_did() -> Any:
    return judging(hr.some_failed(at_least=1))(odd_fails.map([2, 4]))


@row(result="ran", judge=[S])
def some_failed_at_most() -> Any:
    return judging(hr.some_failed(at_most=1))(odd_fails.map([1, 2, 4]))


@row(error=(Broken, "1 is odd"), judge=[T])
def some_failed_too_many() -> Any:
    return judging(hr.some_failed(at_most=1))(odd_fails.map([1, 2, 3]))


@row(result="ran", judge=[S])
def some_failed_a_share() -> Any:
    return judging(hr.some_failed(at_most=0.25))(odd_fails.map([1, 2, 4, 6]))


@row(error=(Broken, "1 is odd"), judge=[T])
def some_failed_more_than_a_share() -> Any:
    return judging(hr.some_failed(at_most=0.25))(odd_fails.map([1, 2, 4]))


@row(result="ran", judge=[S])
def some_successful_at_least() -> Any:
    return judging(hr.some_successful(at_least=2))(odd_fails.map([1, 2, 4]))


@row(error=(Broken, "1 is odd"), judge=[T])
def some_successful_a_share() -> Any:
    return judging(hr.some_successful(at_least=0.5))(odd_fails.map([1, 2, 3]))


@row(result="ran", judge=[S])
def some_successful_between() -> Any:
    return judging(hr.some_successful(at_least=1, at_most=2))(odd_fails.map([1, 2, 4]))


@row(result=["ran"], judge=[S])
def a_trigger_with_limits_child_by_child() -> Any:
    return judging(hr.some_failed(at_least=0.5)).map(odd_fails.map([1]), [7])


@row(result=["as ordered"], rescue=[S], case=[K])
def a_failure_dealt_with_and_a_case() -> Any:
    failed = fail()
    with hr.case(same(1), 2):
        made(failed)
    return rescue(failed)
