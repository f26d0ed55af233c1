"""Control flow where the table of rows cannot tell: results that hold exceptions, and what is told of a refusal."""

from __future__ import annotations

import headrace as hr
from tests.semantics.rows_basic import Broken, add, fail, odd_fails


@hr.flow
def returns_what_failed() -> object:
    failed, found = fail(), add(1)
    hr.decide_by(found)
    return {"whole": failed, "part": failed["x"], "found": found}


def test_a_result_holds_exceptions_of_what_did_not_decide(place: hr.Environment) -> None:
    run = returns_what_failed.run(environment=place)
    assert run.state is hr.State.SUCCESS
    result = run.result()
    assert [type(result[name]) for name in ("whole", "part", "found")] == [Broken, Broken, int]


@hr.flow
def behind_a_gate() -> object:
    with hr.case(fail(), 1):
        return add(1)


def test_a_refusal_names_the_gate(place: hr.Environment) -> None:
    run = behind_a_gate.run(environment=place)
    assert str(run["add"][0].error) == "task 'add' did not run: 'case', on which it depends in any case, failed"


@hr.flow
def two_failed() -> object:
    return add.with_options(trigger=hr.some_failed(at_least=3))(odd_fails.map([1, 2, 3]))


def test_a_refusal_tells_how_the_upstream_ended(place: hr.Environment) -> None:
    run = two_failed.run(environment=place)
    assert str(run["add"][0].error) == (
        "task 'add' did not run: how its upstream ended (1 successful, 2 failed, 0 skipped) does not satisfy "
        "its trigger some_failed(at_least=3)"
    )
