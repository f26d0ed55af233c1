from __future__ import annotations

from importlib.metadata import version

import numpy as np
import yaml

import headrace as hr
from headrace import pickling
from headrace.storage import imports
from headrace.storage.imports import packages_of


@hr.task
def load(path):
    import pandas.io.parsers  # imported when it runs
    from PIL import Image

    return yaml.safe_load(path), pandas, Image


@hr.task
def total(values):
    return np.sum(values)


@hr.flow
def rows(path: str = "x"):
    return total(load(path))


def test_a_manifest_names_the_packages_that_the_flow_imports():
    assert rows.serialize()["imports"] == {name: version(name) for name in ("PyYAML", "numpy", "pandas", "pillow")}


def test_the_same_whatever_is_loaded_already():
    def load():
        import pandas.io.parsers

        return pandas

    met = pickling.Met()
    pickling.dumps(load, "function", met=met)
    assert {name for name in met.modules if name.split(".")[0] == "pandas"} == {"pandas.io.parsers"}
    assert rows.serialize()["imports"] == rows.serialize()["imports"]


def test_what_belongs_to_no_package_is_left_out():
    assert packages_of({"os.path", "__main__", "no_such_module_anywhere.deep", "headrace.core", "json"}) == {}


def test_packages_that_were_installed_or_removed_in_part_are_left_out(tmp_path, monkeypatch):
    for info, files in {
        "pk_torn-1.0.dist-info": "pk_torn/__init__.py,,\n",  # nothing says what it is
        "pk_left-1.0.dist-info": "pk_whole/__init__.py,,\n",  # what an upgrade left behind
        "other_name-2.0.dist-info": "pk_whole/__init__.py,,\n",
    }.items():
        (tmp_path / info).mkdir()
        (tmp_path / info / "RECORD").write_text(files)
    (tmp_path / "other_name-2.0.dist-info" / "METADATA").write_text("Name: other-name\nVersion: 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    for cached in (imports._package_of, imports._installed):
        cached.cache_clear()
    assert packages_of({"pk_torn", "pk_whole", "yaml"}) == {"PyYAML": version("PyYAML"), "other-name": "2.0"}
    for cached in (imports._package_of, imports._installed):
        cached.cache_clear()
