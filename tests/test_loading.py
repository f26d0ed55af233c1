"""Flows in files and modules, as a command line names them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest

from headrace import Storage
from headrace.errors import FlowError, MissingModule, NotFound
from headrace.loading import Target, load_file, load_flow, parse_target
from headrace.parameters import validate
from tests.cli_kit import loading_undone

FLOW = """
    import headrace as hr

    @hr.task
    def add(a, b):
        return a + b

    @hr.flow
    def etl(a: int = 1, b: int = 2):
        return add(a, b)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    with loading_undone(tmp_path):
        yield tmp_path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(dedent(text))
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flow.py:etl", Target("flow.py", "etl", True)),
        ("flow.py#etl", Target("flow.py", "etl", True)),
        ("a/b.py", Target("a/b.py", "", True)),
        ("/a#b/c.py:etl", Target("/a", "b/c.py:etl", False)),
        ("package.module:etl", Target("package.module", "etl", True)),
        ("json#etl", Target("json", "etl", True)),
        ("nowhere#etl", Target("nowhere", "etl", False)),
        ("here#etl", Target("here", "etl", False)),
        ("json", Target("json", "", True)),
        ("s3://bucket/flows#etl", Target("s3://bucket/flows", "etl", False)),
        ("s3://bucket/flows", Target("s3://bucket/flows", "", False)),
        ("s3://bucket/x.py#etl", Target("s3://bucket/x.py", "etl", False)),
        ("http://host:80/flows", Target("http://host:80/flows", "", False)),
        ("folder/flows#my flow", Target("folder/flows", "my flow", False)),
    ],
)
def test_targets_are_taken_apart(text: str, expected: Target, folder: Path) -> None:
    (folder / "here").mkdir()
    (folder / "a#b").mkdir()
    assert parse_target(text) == expected


@pytest.mark.parametrize("text", ["etl_file.py:etl", "etl_file.py#etl", "etl_file.py", "etl_file:etl", "etl_file#etl"])
def test_a_flow_is_found_and_runs(text: str, folder: Path) -> None:
    write(folder / "etl_file.py", FLOW)
    flow = load_flow(parse_target(text))
    assert flow.qualified_name == "etl_file:etl"
    assert flow.run(a=40).result() == 42


def test_a_flow_is_found_by_its_own_name(folder: Path) -> None:
    write(folder / "named.py", FLOW.replace("@hr.flow", "@hr.flow(name='nightly load')"))
    assert load_flow(parse_target("named.py#nightly load")).name == "nightly load"
    assert load_flow(Target("named.py", "etl", True)).name == "nightly load"


def test_the_main_block_does_not_run(folder: Path) -> None:
    write(folder / "script.py", FLOW + "\n    if __name__ == '__main__':\n        raise SystemExit('it ran')\n")
    assert load_flow(Target("script.py", "etl", True)).name == "etl"


def test_an_edit_within_the_same_second_is_seen(folder: Path) -> None:
    path = write(folder / "edited.py", "ANSWER = 1")
    assert load_file(str(path)).ANSWER == 1
    path.write_text("ANSWER = 2")
    assert load_file(str(path)).ANSWER == 2


def test_a_file_named_like_another_module_hides_nothing(folder: Path) -> None:
    module = load_file(str(write(folder / "json.py", FLOW)))
    assert module.__name__.startswith("json_")
    assert sys.modules["json"] is json
    first = load_file(str(write(folder / "one" / "same_stem.py", FLOW)))
    second = load_file(str(write(folder / "two" / "same_stem.py", FLOW)))
    assert first.__name__ == "same_stem"
    assert second.__name__ != first.__name__
    assert sys.modules["same_stem"] is first


def test_types_of_the_file_are_known_to_its_parameters(folder: Path) -> None:
    text = """
        from __future__ import annotations
        from dataclasses import dataclass
        import headrace as hr

        @dataclass
        class Point:
            x: int

        @hr.task
        def look(point):
            return point.x

        @hr.flow
        def etl(point: Point):
            return look(point)
    """
    write(folder / "typed_flow.py", text)
    flow = load_flow(Target("typed_flow.py", "etl", True))
    assert validate(flow, {"point": '{"x": 3}'}, strings=True)["point"].x == 3


def test_others_need_neither_the_file_nor_what_lies_beside_it(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    write(folder / "beside_it.py", "from inner_pkg.deep import ONE\ndef more(x): return x + ONE\n")
    write(folder / "inner_pkg" / "__init__.py", "")
    write(folder / "inner_pkg" / "deep.py", "ONE = 1\n")
    write(
        folder / "by_value.py",
        """
        import headrace as hr
        import beside_it
        from inner_pkg import deep

        @hr.task
        def add(a):
            return beside_it.more(a) + deep.ONE

        @hr.flow
        def etl(a: int = 1):
            return add(a)
        """,
    )
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    storage = Storage(folder / "store")
    location = storage.add_flow(load_flow(Target("by_value.py", "etl", True)))
    sys.path.remove(str(folder))  # the check's fresh interpreter must not find it either
    storage.build()
    open_it = f"hr.Storage({str(folder / 'store')!r}).get_runner({location!r})"
    code = f"import headrace as hr; print({open_it}.run().result())"
    done = subprocess.run([sys.executable, "-c", code], cwd=elsewhere, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "3"


def test_what_is_installed_stays_where_it_is(folder: Path) -> None:
    write(folder / "uses_installed.py", "import fsspec.implementations.zip\n" + dedent(FLOW))
    storage = Storage("memory://uses_installed")
    location = storage.add_flow(load_flow(Target("uses_installed.py", "etl", True)))
    assert storage.manifest(location)["code"]["modules"] == ["uses_installed"]


@pytest.mark.parametrize(
    ("content", "flow", "error", "words"),
    [
        (FLOW, "elt", NotFound, ["'elt'", "did you mean 'etl'", "bad_one.py"]),
        (FLOW + "\n    other = hr.flow(name='b')(lambda: add(1, 2))\n", "", NotFound, ["'etl'", "'other'", ":FLOW"]),
        ("x = 1", "etl", NotFound, ["there is no flow in", "@hr.flow"]),
        ("x = \n", "etl", FlowError, ["SyntaxError", "line 1"]),
        ("\n\nx = 1 / 0", "etl", FlowError, ["ZeroDivisionError", "line 3 of bad_one.py"]),
        ("raise SystemExit('no')", "etl", FlowError, ["SystemExit", "no"]),
        ("import not_there_at_all", "etl", MissingModule, ["not_there_at_all", "line 1 of bad_one.py"]),
        ("from . import x", "etl", FlowError, ["part of a package", "package.module:FLOW"]),
        ("import headrace as hr\nhr.flow(name='a/b')(print)", "etl", FlowError, ["'a/b'"]),
    ],
)
def test_errors_name_file_line_and_way_out(
    content: str, flow: str, error: type[Exception], words: list[str], folder: Path
) -> None:
    write(folder / "bad_one.py", content)
    with pytest.raises(error) as told:
        load_flow(Target("bad_one.py", flow, True))
    for word in words:
        assert word in str(told.value)
    assert "\n" not in str(told.value)


def test_a_file_that_failed_leaves_no_module(folder: Path) -> None:
    write(folder / "half_loaded.py", "x = 1 / 0")
    with pytest.raises(FlowError):
        load_file("half_loaded.py")
    assert "half_loaded" not in sys.modules


@pytest.mark.parametrize(
    ("target", "error", "words"),
    [
        (Target("nowhere.py", "etl", True), NotFound, "no Python file nowhere.py"),
        (Target("no_such_module_here", "etl", True), MissingModule, "there is no module 'no_such_module_here'"),
        (Target("json.no_such_part", "etl", True), MissingModule, "there is no module 'json.no_such_part'"),
        (Target("not a module", "etl", True), NotFound, "neither a Python file"),
    ],
)
def test_places_that_are_not_there(target: Target, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        load_flow(target)


def test_a_folder_is_no_module(folder: Path) -> None:
    (folder / "only_stored").mkdir()
    with pytest.raises(NotFound, match=r"only_stored is a folder, not a module.*: only_stored#etl"):
        load_flow(Target("only_stored", "etl", True))
