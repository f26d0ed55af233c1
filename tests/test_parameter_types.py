"""Types of parameters that are defined in a script: they travel by value, and convert where they arrive."""

from __future__ import annotations

import dataclasses
import pickle
import subprocess
import sys
import textwrap

import cloudpickle
import pytest

from headrace import pickling

SCRIPT = """
import dataclasses, datetime, enum, sys, typing
from dataclasses import dataclass, field

import pydantic
import typing_extensions
from headrace import pickling
from headrace.core.flow import FlowDefinition
from headrace.core.task import task

class Colour(enum.Enum):
    RED = "red"

class Perm(enum.Flag):
    READ = 1
    WRITE = 2

@dataclass
class Plain:
    width: int
    label: str = "?"
    _: dataclasses.KW_ONLY
    deep: bool = False
    many: list[int] = field(default_factory=list)
    constant: typing.ClassVar[int] = 3

@dataclass(frozen=True, slots=True)
class Slotted:
    width: int
    label: str = "?"

class Model(pydantic.BaseModel):
    width: int
    many: list[int] = pydantic.Field(default_factory=list)

class Tuple(typing.NamedTuple):
    width: int
    label: str = "?"

class Dict(typing_extensions.TypedDict, total=False):
    width: int
    label: str

@task
def show(value):
    return value

def draw(
    plain: Plain, slotted: Slotted, model: Model, many: list[Plain], tuple: Tuple, dict: Dict, colour: Colour,
    perm: Perm, day: datetime.date, maybe: Plain | None = None,
) -> Plain:
    return show(plain)
"""
NESTED = """
@dataclass
class Outer:
    inner: Plain
    colours: dict[Colour, list[Slotted]] = field(default_factory=dict)

def nested(outer: Outer):
    return show(outer)
"""
STORE = """
with open({path!r}, "wb") as file:
    file.write(pickling.dumps(FlowDefinition("f", {function}), "it"))
"""
LOAD = """
import sys
from headrace import parameters, pickling
flow = pickling.loads(open({path!r}, "rb").read(), "it")
values = parameters.validate(flow, {given})
print(*map(repr, values.values()), sep="\\n")
"""
GIVEN = {
    "plain": {"width": "1", "deep": "yes", "many": ["2"]},
    "slotted": {"width": "1"},
    "model": {"width": "1"},
    "many": [{"width": "1"}],
    "tuple": {"width": "1"},
    "dict": {"width": "1"},
    "colour": "red",
    "perm": 2,
    "day": "2026-11-01",
}
ARRIVED = [
    "Plain(width=1, label='?', deep=True, many=[2])",
    "Slotted(width=1, label='?')",
    "Model(width=1, many=[])",
    "[Plain(width=1, label='?', deep=False, many=[])]",
    "Tuple(width=1, label='?')",
    "{'width': 1}",
    "<Colour.RED: 'red'>",
    "<Perm.WRITE: 2>",
    "datetime.date(2026, 11, 1)",
    "None",
]


def python(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def arrived(tmp_path, script, function, given):
    path = str(tmp_path / "flow")
    stored = python(script + STORE.format(path=path, function=function))
    assert stored.returncode == 0, stored.stderr
    return python(LOAD.format(path=path, given=given))


@pytest.mark.parametrize("names", ["objects", "texts"])
def test_types_of_a_script_convert_in_another_process(tmp_path, names):
    script = SCRIPT if names == "objects" else f"from __future__ import annotations\n{SCRIPT}"
    loaded = arrived(tmp_path, script, "draw", GIVEN)
    assert loaded.stdout.splitlines() == ARRIVED, loaded.stderr


def test_types_inside_types(tmp_path):
    given = {"outer": {"inner": {"width": "1"}, "colours": {"red": [{"width": "2"}]}}}
    loaded = arrived(tmp_path, SCRIPT + NESTED, "nested", given)
    assert loaded.stdout.strip() == (
        "Outer(inner=Plain(width=1, label='?', deep=False, many=[]), "
        "colours={<Colour.RED: 'red'>: [Slotted(width=2, label='?')]})"
    ), loaded.stderr
    # Fields whose types are texts cannot find them any more: said, not passed over.
    loaded = arrived(tmp_path, f"from __future__ import annotations\n{SCRIPT}{NESTED}", "nested", given)
    assert "ParameterError" in loaded.stderr
    assert "refers to types that cannot be found here" in loaded.stderr


def test_a_class_is_whole_after_its_values_came_back():
    """Dask's pickles carry the class of a value along, into the process where the class is at home."""
    namespace = {"__name__": "__main__"}
    exec(
        textwrap.dedent(
            """
            from dataclasses import dataclass

            @dataclass
            class Box:
                width: int
            """
        ),
        namespace,
    )
    box = namespace["Box"](1)
    assert pickle.loads(cloudpickle.dumps(box)) == box
    assert dataclasses.fields(namespace["Box"])[0].default is dataclasses.MISSING


def test_missing_is_itself_after_any_pickle():
    assert pickling.loads(pickling.dumps(dataclasses.MISSING, "it"), "it") is dataclasses.MISSING
    assert pickle.loads(pickle.dumps(dataclasses.MISSING)) is dataclasses.MISSING
