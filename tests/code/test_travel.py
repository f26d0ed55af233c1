"""A project's flow, stored from one process and run by others that have another folder and another path."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import headrace
from headrace import Storage
from headrace.code import units
from headrace.errors import FlowError

FILES = {
    "pkg/__init__.py": "from .rows import Row\n",
    "pkg/rows.py": "import dataclasses\n@dataclasses.dataclass\nclass Row:\n    x: 'int'\n",
    "pkg/tasks.py": """
import functools
from importlib import resources

import headrace as hr
from . import rows
from .rows import Row

CALLS = []

@functools.lru_cache
def cached(x):
    CALLS.append(x)
    return x

@hr.task(retries=1)
def make(x):
    import lazy_mod
    add = int(resources.files(__package__).joinpath("data/one.txt").read_text())
    return Row(cached(x % 2) + add + lazy_mod.TEN)

@hr.task
def calls(rows):
    return len(CALLS)
""",
    "pkg/data/one.txt": "1",
    "lazy_mod.py": "TEN = 10\n",
    "script.py": """
import dataclasses, json, os, typing
import headrace as hr
from pkg import tasks

T = typing.TypeVar("T")

@dataclasses.dataclass
class Local(typing.Generic[T]):
    row: tasks.Row

class Kind(__import__("enum").Enum):
    GOOD = 1

@hr.task
def wrap(rows):
    kinds = {Kind.GOOD if row.x in {"a", "b", "c", 11, 12} else None for row in rows}
    return [Local(row) for row in rows], kinds

@hr.flow
def whole(n: int = 4):
    rows = tasks.make.map(list(range(n)))
    return wrap(rows), tasks.calls(rows)

if __name__ == "__main__":
    (wrapped, kinds), calls = whole.run().result()
    assert [type(each) for each in wrapped] == [Local] * 4
    assert [type(each.row) for each in wrapped] == [tasks.Row] * 4
    assert kinds == {Kind.GOOD}
    assert calls == 2
    assert tasks.CALLS == [0, 1]  # of this very module
    storage = hr.Storage("store")
    location = storage.add_flow(whole)
    assert storage.add_flow(whole) == location
    assert not os.path.exists(os.environ["HEADRACE_CACHE"])  # this process uses the modules that it has
    storage.build()
    print(json.dumps([location, storage.manifest(location)]))
""",
}
READER = """
import sys
import headrace as hr
storage = hr.Storage(sys.argv[1])
(wrapped, kinds), calls = storage.get_runner("whole").run({"n": 3}).result()
print([each.row.x for each in wrapped], sorted(kind.name for kind in kinds), calls)
print(wrapped[0], sys.modules[type(wrapped[0].row).__module__].__file__)
"""


def python(*arguments, cwd, **environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COVERAGE"))}
    root = str(Path(headrace.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**kept, "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A project that was stored by two processes with different hash seeds: its folder, and what they said."""
    folder = tmp_path_factory.mktemp("project")
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    said = [
        python("script.py", cwd=folder, PYTHONHASHSEED=seed, HEADRACE_CACHE=str(folder / f"cache{seed}"))[-1]
        for seed in ("1", "2")
    ]
    return folder, [json.loads(each) for each in said]


def test_the_same_content_has_the_same_location_whoever_stores_it(stored):
    _, ((location, manifest), (again, _)) = stored
    assert manifest["code"]["modules"] == ["lazy_mod", "pkg"]
    assert location == again


def test_it_runs_where_nothing_of_it_is(stored, tmp_path):
    folder, _ = stored
    (tmp_path / "reader.py").write_text(READER)
    cache = tmp_path / "cache"
    for _ in range(2):
        answer, told = python(tmp_path / "reader.py", folder / "store", cwd=tmp_path, HEADRACE_CACHE=str(cache))
        assert answer == "[11, 12, 11] ['GOOD'] 2"
        assert told.startswith("Local(row=Row(x=11))")
        assert str(cache) in told


def test_it_runs_where_another_version_of_it_is(stored, tmp_path):
    folder, _ = stored
    run = (
        'runner = storage.get_runner("whole")\nwith active(runner.flow.bundle): value = runner.run({"n": 3}).result()\n'
    )
    text = READER.replace('storage.get_runner("whole").run({"n": 3}).result()', "value")
    begin, _, end = text.partition("(wrapped")
    end = end[: end.index("print(wrapped[0]")] + "import lazy_mod\nprint(lazy_mod.TEN)"
    (tmp_path / "reader.py").write_text(f"from headrace.code.space import active\n{begin}{run}(wrapped{end}")
    (tmp_path / "lazy_mod.py").write_text("TEN = 20\n")
    (tmp_path / "pkg.py").write_text("own = True\n")
    said = python(tmp_path / "reader.py", folder / "store", cwd=tmp_path, HEADRACE_CACHE=str(tmp_path / "cache"))
    assert said[0] == "[11, 12, 11] ['GOOD'] 2"
    assert said[-1] == "20"


def test_a_package_that_is_too_large_is_refused_where_it_must_travel_only(project, monkeypatch):
    monkeypatch.setattr(units, "MOST", 1000)
    project.write("travel_big/__init__.py", "def weigh(): return len(open(__file__[:-11] + 'weights.bin').read())")
    project.write("travel_big/weights.bin", "x" * 2000)
    project.write(
        "travel_flow.py",
        """
        import headrace as hr
        import travel_big

        @hr.task
        def weigh():
            return travel_big.weigh()

        @hr.flow
        def weighing():
            return weigh()
    """,
    )
    flow = project.load("travel_flow").weighing
    assert flow.run().result() == 2000
    with pytest.raises(FlowError, match="travel_big cannot travel"):
        Storage("memory://travel-big").add_flow(flow)
