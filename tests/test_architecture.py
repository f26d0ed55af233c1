"""The house rules that a machine can check: direction of imports, size, a light face."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import headrace

ROOT = Path(headrace.__file__).parent

#: room → the rooms that it may import from; itself is always allowed. The same table stands in docs/design.md.
ALLOWED = {
    "errors": set(),
    "_version": set(),
    "redaction": set(),
    "entrusted": set(),
    "plugins": set(),
    "drivers": {"errors", "plugins"},
    "advice": set(),
    "core": {"errors"},
    "code": {"errors"},
    "pickling": {"errors", "advice", "core", "code"},
    "parameters": {"errors", "core"},
    "report": {"errors", "core"},
    "storage": {"errors", "_version", "redaction", "entrusted", "drivers", "core", "code", "pickling", "parameters"},
    "targets": {"errors", "pickling", "storage"},
    "execution": {
        "errors", "_version", "redaction", "entrusted", "core", "code", "pickling", "parameters", "report", "targets",
    },
    "stored": {"errors", "core", "report", "storage", "execution"},
    "store": {"errors", "drivers", "core", "code", "storage", "execution", "stored"},
    "environments": {"errors", "_version", "plugins", "drivers", "core", "storage", "execution", "store"},
    "flows": {"errors", "core", "parameters", "report", "storage", "store", "execution", "environments"},
    "loading": {"errors", "core", "code", "storage", "flows"},
    "cli_support": {
        "errors", "_version", "core", "parameters", "report", "storage", "store", "execution", "environments",
        "flows", "loading",
    },
    "cli_arguments": {"environments", "loading", "cli_support"},
    "cli_runs": {
        "errors", "core", "parameters", "report", "storage", "execution", "environments", "store", "cli_support",
    },
    "cli_clusters": {"errors", "report", "storage", "environments", "cli_support", "cli_arguments"},
    "cli_storages": {"errors", "report", "storage", "store", "loading", "cli_support"},
    "cli": {
        "errors", "_version", "drivers", "core", "storage", "store", "environments", "flows", "loading", "cli_support",
        "cli_arguments", "cli_runs", "cli_clusters", "cli_storages", "report", "parameters",
    },
    "__main__": {"cli"},
    "testing": {"errors", "core", "storage", "store", "execution", "environments", "flows"},
}  # fmt: skip

#: what the pure core may import beside itself and `errors`
STANDARD_LIBRARY = sys.stdlib_module_names
IMPURE = {
    "time",
    "random",
    "os",
    "io",
    "socket",
    "threading",
    "asyncio",
    "logging",
    "subprocess",
    "datetime",
    "pathlib",
}


def modules() -> dict[str, Path]:
    """Module name → file, of the whole package but its root."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def imports_of(path: Path, known: set[str]) -> tuple[set[str], set[str]]:
    """Our modules and foreign packages that a file imports, lazily and for types included."""
    ours, foreign = set(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they lead"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top != "headrace":
                foreign.add(top)
            elif rest in known:
                ours.add(rest)
            elif rest.rpartition(".")[0] in known:
                ours.add(rest.rpartition(".")[0])
    return ours, foreign


MODULES = modules()
IMPORTS = {name: imports_of(path, set(MODULES)) for name, path in MODULES.items()}


def room(module: str) -> str:
    return module.partition(".")[0]


def test_each_room_is_in_the_table():
    assert {room(name) for name in MODULES} == set(ALLOWED)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_imports_run_one_way(name):
    reached = {room(target) for target in IMPORTS[name][0]} - {room(name)}
    assert reached <= ALLOWED[room(name)], f"{name} reaches {reached - ALLOWED[room(name)]}"


def test_no_cycle_even_with_lazy_and_type_imports():
    order = list(TopologicalSorter({name: ours - {name} for name, (ours, _) in IMPORTS.items()}).static_order())
    assert set(order) >= set(MODULES)


@pytest.mark.parametrize("name", sorted(name for name in MODULES if room(name) == "core"))
def test_the_core_is_pure(name):
    foreign = IMPORTS[name][1]
    assert foreign <= STANDARD_LIBRARY
    assert not foreign & IMPURE


def test_only_one_package_touches_fsspec_and_what_stands_on_it():
    packages = {"fsspec", "s3fs", "botocore", "aiobotocore", "gcsfs", "adlfs", "azure", "asyncssh", "aiohttp"}
    users = {name for name, (_, foreign) in IMPORTS.items() if foreign & packages}
    assert {name.rpartition(".")[0] for name in users} == {"storage.media"}


@pytest.mark.parametrize("name", sorted(MODULES))
def test_files_and_functions_stay_small(name):
    text = MODULES[name].read_text()
    assert text.count("\n") <= 520
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            body = [line for line in node.body if not _is_docstring(line)]
            length = body[-1].end_lineno - body[0].lineno + 1 if body else 0
            assert length <= 60, f"{name}.{node.name} has {length} lines"


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def test_importing_headrace_is_light():
    heavy = ["distributed", "dask", "fsspec", "s3fs", "kubernetes", "rich", "pydantic", "cloudpickle", "typer"]
    code = f"import sys, headrace; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_authoring_needs_neither_cluster_nor_cloud_nor_terminal():
    heavy = ["distributed", "s3fs", "kubernetes", "rich", "typer"]
    code = f"""
import sys, headrace as hr
@hr.task
def double(x): return 2 * x
@hr.flow
def twice(n: int = 3): return double.map(range(n))
assert twice.run().result() == [0, 2, 4]
print([name for name in {heavy!r} if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_writing_and_storing_flows_needs_nothing_of_what_runs_them():
    """A build's clean interpreter, `headrace ls` and `headrace show` would wait for half of all modules."""
    code = """
import sys, headrace as hr
@hr.task
def double(x): return 2 * x
@hr.flow
def twice(n: int = 3): return double.map(range(n))
storage = hr.Storage("memory://s")
storage.manifest(storage.add_flow(twice))
rooms = ("headrace.execution", "headrace.environments", "headrace.core.machine", "tblib")
print([name for name in sys.modules if name.startswith(rooms)])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_face_is_what_it_says():
    assert sorted(headrace.__all__) == headrace.__dir__()
    for name in headrace.__all__:
        assert getattr(headrace, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'tsak'"):
        _ = headrace.tsak
