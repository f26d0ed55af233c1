"""The notebook works in a real kernel, from its first cell to its last."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def execute(tmp_path_factory):
    """Execute notebooks with a kernel of this very interpreter; return the outputs of their cells of code."""
    share = tmp_path_factory.mktemp("jupyter")
    spec = share / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))

    def run(notebook):
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("JUPYTER_PATH", str(share))
            # Nothing of the user's own Jupyter is read or written.
            environment.setenv("JUPYTER_DATA_DIR", str(share))
            environment.setenv("JUPYTER_RUNTIME_DIR", str(share / "runtime"))
            environment.setenv("IPYTHONDIR", str(share / "ipython"))
            environment.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
            NotebookClient(notebook, timeout=90, kernel_name="python3", cwd=str(share)).execute()
        return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}

    return run


@pytest.fixture(scope="module")
def cells(execute):
    """Execute the notebook once."""
    return execute(nbformat.read(NOTEBOOK, as_version=4))


def outputs_of(cells, beginning):
    """All outputs of the first cell that contains a text, by their type."""
    found = next(outputs for source, outputs in cells.items() if beginning in source)
    shown = {}
    for output in found:
        if output.output_type == "stream":
            shown["printed"] = shown.get("printed", "") + output.text
        else:
            shown.update(output.data)
    return shown


def test_graphs_and_runs_are_shown_as_html(cells):
    graph = outputs_of(cells, "words.graph(texts=TEXTS)")["text/html"]
    assert "<svg" in graph
    assert "merge" in graph
    run = outputs_of(cells, "run = words.run(")["text/html"]
    assert "Success" in run
    assert "count" in run


def test_a_printed_graph_is_a_tree(cells):
    printed = outputs_of(cells, "print(words.graph")["printed"]
    assert printed.splitlines() == ["count [map]", "└─ merge", "   └─ longest"]


def test_the_flow_runs_here(cells):
    shown = outputs_of(cells, "most_common(2)")["text/plain"]
    assert shown == "([('the', 6), ('water', 4)], [\"yesterday's\", 'headrace', 'tailrace'])"
    assert outputs_of(cells, 'count("To be')["text/plain"] == "2"


def test_the_flow_is_stored_and_executed_on_a_cluster(cells):
    assert outputs_of(cells, "storage.build()")["text/plain"] == "['words']"
    assert "60 of 60" in outputs_of(cells, "TEXTS * 20")["text/html"].replace("60/60", "60 of 60")
    shown = outputs_of(cells, 'run["count"].states[:3]')["text/plain"]
    assert shown.count("SUCCESS") == 4
    assert "".join(shown.split()).endswith("""1,["yesterday's"])""")


def test_a_failed_task_is_told_with_its_own_error(cells):
    html = outputs_of(cells, "failed = inverses.run(")["text/html"]
    assert "Trigger failed" in html
    assert "ZeroDivisionError" in html
    states = outputs_of(cells, 'failed["invert"].states')["text/plain"]
    assert [word in states for word in ("FAILED", "SUCCESS")] == [True, True]
    assert "division by zero" in outputs_of(cells, 'failed["invert"][2].error')["text/plain"]
    assert "the task's own: float division by zero" in outputs_of(cells, "failed.result()")["printed"]
    assert "numbers" in outputs_of(cells, 'numbers=["four"]')["printed"]


def test_the_notebook_is_stored_without_outputs():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)


RUNS = (
    """
import asyncio, signal
import headrace as hr

@hr.task
def double(x):
    return 2 * x

@hr.task
def interrupted(x):
    signal.raise_signal(signal.SIGINT)

@hr.resource
def place():
    return "here"

@place.cleanup
def leave(place):
    return f"left {place}"

@hr.flow
def doubled(n: int):
    return double.map(list(range(n)))

@hr.flow
def stopped():
    with place() as here:
        interrupted(here)
""",
    """
run = await doubled.run_async(n=3)
print(run.result())
""",
    """
environment = hr.DaskEnvironment("local", processes=False, n_workers=1)
runs = await asyncio.gather(*(doubled.run_async(n=n, environment=environment) for n in (1, 2)))
print([run.result() for run in runs])
environment.close()
""",
    """
try:
    stopped.run()
except KeyboardInterrupt as error:
    print(error.run.state, error.run["leave"].result())
""",
)


def test_runs_are_awaited_and_interrupted_in_a_kernel(execute):
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in RUNS])
    _, *outputs = execute(notebook).values()
    printed = ["".join(output.text for output in some if output.output_type == "stream") for some in outputs]
    assert printed == ["[0, 2, 4]\n", "[[0], [0, 2]]\n", "Cancelled left here\n"]
