"""The notebook works in a real kernel, from its first cell to its last."""

import json
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    """Execute the notebook once, with a kernel of this very interpreter."""
    share = tmp_path_factory.mktemp("jupyter")
    spec = share / "kernels" / "python3"
    spec.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (spec / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "Python 3", "language": "python"}))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("JUPYTER_PATH", str(share))
        # Nothing of the user's own Jupyter is read or written.
        environment.setenv("JUPYTER_DATA_DIR", str(share))
        environment.setenv("JUPYTER_RUNTIME_DIR", str(share / "runtime"))
        environment.setenv("IPYTHONDIR", str(share / "ipython"))
        environment.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
        NotebookClient(notebook, timeout=90, kernel_name="python3", cwd=str(share)).execute()
    return {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


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
