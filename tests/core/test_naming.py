import pytest

import headrace as hr
from headrace.core.naming import label, name_run
from headrace.errors import FlowError


def load(day, *paths, width=3, **more):
    pass


def test_labels():
    assert label("load", None) == "load"
    assert label("load", 0) == "load[0]"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("load {day}", "load Mon"),
        ("{width:03d}", "003"),
        ("{paths[1]}", "b"),
        ("{other} {day!r}", "x 'Mon'"),
        ("plain", "plain"),
        (lambda day, *paths, other: f"{day}{len(paths)}{other}", "Mon2x"),
    ],
)
def test_names_of_arguments(name, expected):
    assert name_run(name, load, ["Mon", "a", "b"], {"other": "x"}) == expected


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("load {dya}", r"names 'dya', which the task does not take; it takes day, width"),
        ("load {dya.year:%Y}", "names 'dya'"),
        ("load {}", "names ''"),
        ("load {day", "is not a template"),
    ],
)
def test_a_name_that_can_never_be_is_refused_at_once(name, said):
    with pytest.raises(FlowError, match=said):

        @hr.task(run_name=name)
        def task(day, width=3):
            pass


def test_more_keywords_may_be_named():
    task = hr.task(run_name="{anything}")(load)
    assert task.policy.run_name == "{anything}"


@pytest.mark.parametrize("target", ["x", "{width}/{run_id}", "x{{index}}", hr.Target("{width}")])
def test_a_target_that_all_children_of_a_map_share(target):
    task = hr.task(target=target)(load)
    with pytest.raises(
        FlowError, match=r"the same for all its children.*name what differs: {day} or {index} or {paths}"
    ):
        hr.flow(name="drawn")(lambda: task.map([1, 2], [3, 4])).draw({})
    with pytest.raises(FlowError, match="the same for all its children"):
        hr.flow(name="drawn")(lambda days: task.map(days)).draw({"days": [1, 2]})


@pytest.mark.parametrize(
    "target", ["{index}", "{day.year}", "{day:{width}}", "{width:{day}}", "{paths[0]}", "{", lambda **names: "x"]
)
def test_a_target_in_which_children_may_differ(target):
    hr.flow(name="drawn")(lambda: hr.task(target=target)(load).map([1, 2], [3, 4])).draw({})


def test_a_target_of_a_map_over_a_keyword():
    task = hr.task(target="{other}")(load)
    hr.flow(name="drawn")(lambda: task.map(hr.unmapped(1), other=[1, 2])).draw({})
    with pytest.raises(FlowError, match=r"name what differs: {day} or {index}"):
        hr.flow(name="drawn")(lambda: task.map([1, 2], other=hr.unmapped(1))).draw({})


def test_a_target_that_names_the_rest_of_the_positions():
    hr.flow(name="drawn")(lambda: hr.task(target="{paths}")(load).map(hr.unmapped(1), hr.unmapped(2), [3, 4])).draw({})
