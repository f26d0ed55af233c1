from __future__ import annotations

import datetime
import enum
import json
import math
import subprocess
import sys
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from pydantic import Field

from headrace.core.flow import FlowDefinition, parameter
from headrace.core.secret import Secret
from headrace.core.task import task
from headrace.errors import ParameterError
from headrace.parameters import describe, example_values, from_json, portable, to_json, validate

if TYPE_CHECKING:
    from decimal import Decimal


class Opaque:
    pass


class Colour(enum.Enum):
    RED = "red"


@dataclass
class Box:
    width: int
    label: str = "?"


@task
def show(value):
    return value


def flow_of(annotation: Any, **default: Any) -> FlowDefinition:
    def function(x):
        return show(x)

    function.__annotations__ = {"x": annotation}
    if default:
        function.__defaults__ = (default["default"],)
    return FlowDefinition("f", function)


def etl(day: datetime.date, urls: list[str], n: int = 3, anything=None, *, ratio: float = 0.5):
    return show(day)


ETL = FlowDefinition("etl", etl)


def refused(flow, given, **options):
    with pytest.raises(ParameterError) as caught:
        validate(flow, given, **options)
    return str(caught.value)


def test_values_are_converted_and_defaults_applied():
    assert validate(ETL, {"day": "2026-11-01", "urls": ("a", "b"), "n": "7"}) == {
        "day": datetime.date(2026, 11, 1),
        "urls": ["a", "b"],
        "n": 7,
        "anything": None,
        "ratio": 0.5,
    }


def test_order_is_that_of_the_signature():
    assert list(validate(ETL, {"ratio": 1, "urls": [], "day": "2026-11-01"})) == list(ETL.signature.parameters)


def test_unknown_is_named_with_a_suggestion():
    text = refused(ETL, {"day": "2026-11-01", "urls": [], "rato": 1})
    assert text.startswith("flow 'etl': unknown parameter 'rato' (did you mean 'ratio'?); known are 'day', 'urls'")


def test_missing_names_what_is_expected():
    assert refused(ETL, {"day": "2026-11-01"}) == "flow 'etl': parameter 'urls' (list[str]) is missing"


def test_wrong_names_what_was_given_and_expected():
    text = refused(ETL, {"day": "2026-11-01", "urls": [], "n": "many"})
    assert "parameter 'n' was given 'many' of type str, expected int" in text


def test_wrong_inside_a_container_names_the_place():
    assert "at [1]: " in refused(ETL, {"day": "2026-11-01", "urls": ["a", 2]})


def test_all_that_is_wrong_is_said_at_once():
    text = refused(ETL, {"n": [], "nn": 1, "day": "tomorrow"})
    for part in ("unknown parameter 'nn'", "'n' was given", "'day' was given", "'urls' (list[str]) is missing"):
        assert part in text


def test_long_values_are_shortened():
    assert len(refused(flow_of(int), {"x": "9" * 10_000 + "x"})) < 400


def test_no_parameters():
    assert "takes no parameters" in refused(FlowDefinition("f", lambda: show(1)), {"x": 1})


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "3", 3),
        (float, "1e3", 1000.0),
        (bool, "true", True),
        (bool, "no", False),
        (str, "3", "3"),
        (str, '"quoted"', '"quoted"'),
        (str | None, "3", "3"),
        (int | None, "null", None),
        (int | str, "3", 3),
        (int | str, "three", "three"),
        (list[int], "[1, 2]", [1, 2]),
        (list[str], '["a"]', ["a"]),
        (dict[str, int], '{"a": 1}', {"a": 1}),
        (tuple[int, str], '[1, "a"]', (1, "a")),
        (Any, "[1]", [1]),
        (Any, "word", "word"),
        (datetime.date, "2026-11-01", datetime.date(2026, 11, 1)),
        (datetime.timedelta, "30", datetime.timedelta(seconds=30)),
        (Path, "3", Path("3")),
        (Literal["3", "4"], "3", "3"),
        (Colour, "red", Colour.RED),
        (Box, '{"width": "2"}', Box(2)),
        (Annotated[int, Field(gt=0)], "5", 5),
        ("list[int]", "[1]", [1]),
    ],
)
def test_texts_of_a_command_line(annotation, text, value):
    converted = validate(flow_of(annotation), {"x": text}, strings=True)["x"]
    assert converted == value
    assert type(converted) is type(value)


def test_texts_that_do_not_fit():
    assert "expected list[int]" in refused(flow_of(list[int]), {"x": "1,2"}, strings=True)
    assert "at [0]" in refused(flow_of(list[int]), {"x": '["a"]'}, strings=True)
    assert "greater than 0" in refused(flow_of(Annotated[int, Field(gt=0)]), {"x": "-1"}, strings=True)


def test_arbitrary_types_are_checked_by_class():
    opaque = Opaque()
    assert validate(flow_of(Opaque), {"x": opaque})["x"] is opaque
    assert "expected Opaque" in refused(flow_of(Opaque), {"x": 3})
    assert validate(flow_of(list[Opaque]), {"x": [opaque]})["x"] == [opaque]


def test_what_is_no_type_at_all_takes_anything():
    marker = object()
    assert validate(flow_of(3), {"x": marker})["x"] is marker


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        ("some words", "the annotation some words of parameter 'x' tells no type (SyntaxError"),
        ("NotThere", "the annotation NotThere of parameter 'x' tells no type (NameError: name 'NotThere'"),
        ("list[NotThere]", "at the top level of the flow's module"),
        (list["NotThere"], "refers to types that cannot be found here"),  # noqa: F821
        (typing.TypedDict("Plain", {"a": int}), "values cannot be checked by the annotation Plain"),
    ],
)
def test_annotations_that_mean_nothing_are_refused(annotation, told):
    if annotation.__class__ not in (str, types.GenericAlias) and sys.version_info >= (3, 12):
        pytest.skip("pydantic takes the typed dicts of `typing` from Python 3.12 on")
    text = refused(flow_of(annotation), {"x": {"a": 1}})
    assert told in text
    assert "leave the annotation out" in text


def test_an_annotation_for_type_checkers_is_named():
    def function(a: Decimal, b: int):
        return show(a)

    flow = FlowDefinition("f", function)
    assert str(flow.signature) == "(a: 'Decimal', b: int)"
    text = refused(flow, {"a": "x", "b": "3"})
    assert "the annotation Decimal of parameter 'a'" in text
    assert "TYPE_CHECKING" in text
    assert "'b'" not in text


def test_what_a_flow_returns_need_not_be_known():
    def function(b: int) -> Decimal:
        return show(b)

    assert validate(FlowDefinition("f", function), {"b": "3"}) == {"b": 3}


def test_annotations_are_types_in_the_signature():
    assert str(ETL.signature).startswith("(day: datetime.date, urls: list[str], n: int = 3")


def test_annotations_local_to_a_function():
    @dataclass
    class Local:
        n: int

    def function(a: Local):
        return Local, show(a)

    assert validate(FlowDefinition("f", function), {"a": {"n": "1"}})["a"] == Local(1)


def test_built_by_hand():
    with FlowDefinition("hand") as flow:
        show(parameter("n", int, default=3))
        show(parameter("who", str))
    assert validate(flow, {"who": "me", "n": "4"}) == {"n": 4, "who": "me"}
    assert "'who' (str) is missing" in refused(flow, {})


def test_describe_is_json():
    described = json.loads(json.dumps(describe(ETL)))
    assert [row["name"] for row in described] == ["day", "urls", "n", "anything", "ratio"]
    assert described[1]["schema"] == {"type": "array", "items": {"type": "string"}}
    assert described[1]["required"] is True
    assert described[2] == {
        "name": "n",
        "annotation": "int",
        "required": False,
        "default": 3,
        "schema": {"type": "integer"},
    }
    assert describe(flow_of(Opaque, default=Opaque()))[0]["schema"] is None
    default = describe(flow_of(Opaque, default=Opaque()))[0]["default"]
    assert "Opaque" in default
    assert "0x" not in default  # an address would differ each time


def test_to_json_holds_only_json():
    values = {
        "day": datetime.date(2026, 11, 1),
        "nan": float("nan"),
        "set": {1},
        "box": Box(1),
        "opaque": [Opaque()],
        "bytes": b"\xff\xfe",
        "type": int,
    }
    plain = json.loads(json.dumps(to_json(values), allow_nan=False))
    assert plain["day"] == "2026-11-01"
    assert plain["set"] == [1]
    assert plain["box"] == {"width": 1, "label": "?"}
    assert "Opaque" in plain["opaque"][0]


def test_example_values():
    assert example_values(ETL) is None
    assert example_values(ETL, {"n": 1}) is None
    assert example_values(ETL, {"day": "2026-11-01", "urls": []})["n"] == 3
    assert example_values(FlowDefinition("f", lambda: show(1))) == {}
    with pytest.raises(ParameterError, match="nope"):
        example_values(ETL, {"nope": 1})


def test_pydantic_is_not_imported_before_it_is_needed():
    code = "import sys, headrace.parameters, headrace.storage.flows; print([m for m in sys.modules if m in "
    code += "('pydantic', 'fsspec', 's3fs', 'cloudpickle', 'dask', 'distributed')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- for another process -----------------------------------------------------------------------------------------


KEPT = Opaque()


class TestPortable:
    def test_values_that_can_be_made_again(self):
        def etl(day: datetime.date, ratio: float, names: tuple[str, ...], free=None, token: str = "", kept=KEPT):
            return None

        etl = FlowDefinition("etl", etl)
        given = {"day": datetime.date(2026, 11, 25), "ratio": float("nan"), "names": ("a",), "token": Secret("t")}
        data = portable(etl, {**given, "free": {"a": [1, None]}})
        assert json.loads(json.dumps(data)) == data
        assert "kept" not in data  # a default is there, too
        there = validate(etl, from_json(data))
        assert there["day"] == given["day"]
        assert math.isnan(there["ratio"])
        assert there["names"] == ("a",)
        assert there["token"] == Secret("t")
        assert portable(etl, {"day": "2026-11-25", "ratio": "2", "names": '["x"]'}, strings=True)["ratio"] == 2.0

    @pytest.mark.parametrize(
        "value", [datetime.date(2026, 11, 25), (1, 2), {1: 2}, object(), [float("nan")], b"\x80", {1, 2}]
    )
    def test_what_would_be_another_value_there(self, value):
        def etl(free=None):
            return None

        etl = FlowDefinition("etl", etl)
        with pytest.raises(ParameterError, match=f"'free' cannot be given.*{type(value).__name__} has no JSON form"):
            portable(etl, {"free": value})
