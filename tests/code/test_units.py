"""Which modules are first-party, what goes along with them, and what does not."""

import logging
import sys
import zipfile

import pytest

from headrace.code import units
from headrace.code.bundle import bundle_for, open_bundle
from headrace.code.imports import imported, imported_by_code
from headrace.code.places import place_of
from headrace.code.space import active, forget
from headrace.errors import DamagedObject, FlowError


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import a", {"a"}),
        ("import a.b as c, d  # e", {"a.b", "d"}),
        ("from a import b, c as d", {"a", "a.b", "a.c"}),
        ("from a import (\n    b,  # (one)\n    c,\n)", {"a", "a.b", "a.c"}),
        ("from a import b, \\\n    c", {"a", "a.b", "a.c"}),
        ("from . import b", {"p.q", "p.q.b"}),
        ("from .b import c", {"p.q.b", "p.q.b.c"}),
        ("from .. import b", {"p", "p.b"}),
        ("from .... import b", set()),
        ("def f():\n\tfrom a import b", {"a", "a.b"}),
        ("x = 1; import a", {"a"}),
        ("try: import a\nexcept ImportError: import b", {"a", "b"}),
        ("import importlib\nimportlib.import_module('a.b')", {"importlib", "a.b"}),
        ("importlib.import_module(\n    '.b', __package__)", {"p.q.b"}),
        ("from a import *", {"a"}),
        ("important = 1\nx.import_(a)", set()),
    ],
)
def test_imports_of_a_source(source, names):
    assert imported(source.encode(), "p.q") == names


def test_imports_of_code():
    def function():
        import a.b
        from c import d

        def inner():
            from .e import f

            return f

        return a, d, inner, __import__("g.h")

    assert imported_by_code(function.__code__, "p.q") >= {"a.b", "c", "c.d", "p.q.e", "p.q.e.f", "g.h"}


@pytest.mark.parametrize(
    "name", ["json", "sys", "numpy.linalg", "pytest", "headrace.core", "dask", "__main__", "nowhere_at_all", ""]
)
def test_what_is_not_first_party(name):
    assert place_of(name) is None


def test_a_package_goes_whole_without_what_is_hidden_or_made(project):
    for path in ["one.py", "data/x.csv", "sub/__init__.py", ".env", ".git/config", "__pycache__/a.pyc"]:
        project.write(f"unit_pkg/{path}", "")
    project.write("unit_pkg/__init__.py", "")
    project.write("unit_pkg/venv/pyvenv.cfg", "")
    project.write("unit_pkg/venv/lib.py", "")
    project.write("unit_pkg/node_modules/x.js", "")
    (unit,) = units.reached(["unit_pkg.one"]).values()
    assert set(unit.files) == {
        f"unit_pkg/{path}" for path in ["__init__.py", "one.py", "data/x.csv", "sub/__init__.py"]
    }


def test_what_modules_import_goes_along(project):
    project.write("unit_a.py", "import unit_b, numpy, nowhere_at_all")
    project.write("unit_b.py", "def f():\n    import unit_c.deep")
    project.write("unit_c/__init__.py", "import unit_a")
    project.write("unit_c/deep.py", "")
    assert list(units.reached(["unit_a"])) == ["unit_a", "unit_b", "unit_c"]
    assert units.imported_by(["unit_a"], units.reached(["unit_a"])) >= {"numpy", "unit_c.deep"}


def test_an_edit_is_seen_and_nothing_else_is_read_again(project, monkeypatch):
    path = project.write("unit_a.py", "X = 1")
    before = units.reached(["unit_a"])["unit_a"]
    monkeypatch.setattr(units, "_bytes_of", lambda path: pytest.fail(f"{path} was read again"))
    assert units.reached(["unit_a"])["unit_a"] is before
    monkeypatch.undo()
    sys.path.insert(0, str(project.folder))
    try:
        path.write_text("X = 2")
        assert units.reached(["unit_a"])["unit_a"].digest != before.digest
    finally:
        sys.path.remove(str(project.folder))


def test_compiled_code_is_left_to_be_installed(project, caplog):
    project.write("unit_native/__init__.py", "")
    project.write("unit_native/fast.cpython-311-x86_64-linux-gnu.so", "")
    caplog.set_level(logging.INFO, "headrace")
    assert units.reached(["unit_native"]) == {}
    assert "unit_native holds compiled code" in caplog.text


def test_what_is_too_large_is_named(project, monkeypatch):
    monkeypatch.setattr(units, "MOST", 1000)
    project.write("unit_big/__init__.py", "")
    project.write("unit_big/weights.bin", "x" * 2000)
    with pytest.raises(FlowError, match=r"unit_big cannot travel.*weights\.bin.*move data"):
        units.reached(["unit_big"])


def test_modules_in_a_zip(project, monkeypatch, tmp_path):
    archive = tmp_path / "unit_lib.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("unit_zipped/__init__.py", "")
        file.writestr("unit_zipped/deep.py", "def f(): return 5")
        file.writestr("unit_single.py", "from unit_zipped import deep\ndef f(): return deep.f()")
    monkeypatch.syspath_prepend(archive)
    bundle = bundle_for(["unit_single"])
    assert bundle.modules == ("unit_single", "unit_zipped")
    sys.path.remove(str(archive))
    try:
        with active(bundle):
            assert project.load("unit_single").f() == 5
    finally:
        forget(bundle.sha256)


def test_what_is_installed_to_be_edited(project, monkeypatch, tmp_path):
    """Both ways that editable installs take: a .pth file that adds a folder, and a finder that maps names."""
    from importlib.util import spec_from_file_location

    source = tmp_path / "checkout" / "unit_edited.py"
    source.parent.mkdir()
    source.write_text("")

    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            return spec_from_file_location(name, source) if name == "unit_edited" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert place_of("unit_edited").paths == (str(source),)


def test_a_damaged_bundle(project):
    project.write("unit_a.py", "X = 1")
    bundle = bundle_for(["unit_a"])
    assert open_bundle(bundle.data, bundle.sha256, bundle.modules, "key") == bundle
    with pytest.raises(DamagedObject, match="key is damaged"):
        open_bundle(bundle.data[:-1], bundle.sha256, bundle.modules, "key")
