"""Resources: what is refused when they are made, and when they are drawn."""

import pytest

import headrace as hr
from headrace.errors import FlowError


@hr.resource
def table(name):
    return name


@table.cleanup
def drop(name):
    pass


@hr.task
def use(name):
    return name


@pytest.mark.parametrize("option", [{"target": "x"}, {"dynamic": True}])
@pytest.mark.parametrize(
    "make",
    [
        lambda **option: hr.resource(**option)(lambda: 1),
        lambda **option: table.with_options(**option),
        lambda **option: hr.resource(lambda: 1).cleanup(**option)(lambda value: None),
    ],
    ids=["setup", "with_options", "cleanup"],
)
def test_what_must_be_done_is_neither_read_nor_drawn(make, option):
    with pytest.raises(FlowError, match=f"takes no {next(iter(option))}, because it must be done"):
        make(**option)


@pytest.mark.parametrize(
    "take",
    [use, lambda block: use([block]), use.map, lambda block: block, hr.filter],
    ids=["argument", "inside", "mapped", "result", "filter"],
)
def test_a_block_is_no_value(take):
    with pytest.raises(FlowError, match="write `with table"):
        hr.flow(name="drawn")(lambda: (use(1), take(table("x")))[1]).draw({})
