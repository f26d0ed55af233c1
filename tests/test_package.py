"""What a wheel holds: all that an installation needs, and nothing else."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(wheel).namelist())


def test_every_module_is_in_it(names):
    source = ROOT / "src"
    assert {str(path.relative_to(source)) for path in source.rglob("*.py")} <= names
    assert "headrace/py.typed" in names


def test_the_demo_is_in_it(names):
    assert "headrace/_demo/digits.py" in names


def test_nothing_else_is_in_it(names):
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"headrace"}
    assert not [name for name in names if "__pycache__" in name]
