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
