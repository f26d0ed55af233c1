"""Helpers of a notebook are edited between runs, in a real kernel, with and without autoreload."""

import nbformat
import pytest

from tests.test_notebooks import execute  # noqa: F401 - a fixture

BEGIN = """
import pathlib, sys, tempfile
folder = pathlib.Path(tempfile.mkdtemp(dir="{folder}"))
sys.path.insert(0, str(folder))

def edit(factor):
    (folder / "nb_rows_{mode}.py").write_text(f'''
import dataclasses
FACTOR = {{factor}}
@dataclasses.dataclass
class Row:
    x: int
''')

edit(2)
(folder / "nb_helpers_{mode}.py").write_text('''
import headrace as hr
import nb_rows_{mode} as rows
@hr.task
def row(x):
    return rows.Row(rows.FACTOR * x)
''')
"""
FLOW = """
import headrace as hr
import nb_rows_{mode} as rows
from nb_helpers_{mode} import row
from nb_rows_{mode} import Row

@hr.task
def checked(row):
    from nb_rows_{mode} import FACTOR
    return row, isinstance(row, Row), FACTOR

@hr.flow
def whole(x: int = 1):
    return checked(row(x))
"""
RUN = """
environment = {environment}
value, here, factor = whole.run(environment=environment).result()
print(value.x, here, isinstance(value, Row), factor)
"""
CLUSTER = 'hr.DaskEnvironment("local", processes=False, n_workers=1)'


@pytest.mark.parametrize("mode", ["plain", "autoreload"])
def test_edits_between_runs(execute, mode, tmp_path):  # noqa: F811 - the fixture
    cells = [BEGIN, FLOW, RUN.format(environment="None"), "edit(3)", RUN.format(environment="None")]
    cells += ["edit(4)", RUN.format(environment=CLUSTER), "edit(5)", RUN.format(environment="environment")]
    cells.append("environment.close()")
    if mode == "autoreload":
        cells.insert(0, "%load_ext autoreload\n%autoreload 2")
    notebook = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_code_cell(f"# {index}\n" + cell.replace("{mode}", mode).replace("{folder}", str(tmp_path)))
            for index, cell in enumerate(cells)
        ]
    )
    for cell in notebook.cells:
        cell.source = cell.source.replace("{{", "{").replace("}}", "}")
    outputs = execute(notebook)
    printed = [
        "".join(each.text for each in some if each.output_type == "stream" and each.name == "stdout")
        for source, some in outputs.items()
        if "whole.run" in source
    ]
    assert printed == [f"{factor} True True {factor}\n" for factor in (2, 3, 4, 5)]
