from __future__ import annotations

import importlib
import re
import time
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from tests.semantics.table import ROWS, Row
from tests.semantics.witness import witness

for path in sorted(Path(__file__).parent.glob("rows_*.py")):
    importlib.import_module(f"tests.semantics.{path.stem}")


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


def begun(row: Row, place: hr.Environment, parameters: dict[str, Any]) -> hr.FlowRun:
    """Run a flow to its end; if the row says so, cancel it when a line is in its file."""
    if row.cancelled is None:
        return row.flow.run(environment=place, **parameters)
    run = row.flow.start(environment=place, **parameters)
    path, end = Path(parameters["path"]), time.monotonic() + 30
    while not (path.exists() and row.cancelled in path.read_text().splitlines()):
        assert not run.done, "it was over before it could be cancelled"
        assert time.monotonic() < end
        time.sleep(0.005)
    run.cancel()
    return run.wait()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, place: hr.Environment, tmp_path: Path) -> None:
    parameters = {
        name: str(tmp_path / "count") if isinstance(value, str) and value == "?" else value
        for name, value in row.parameters.items()
    }
    with witness() as seen:
        run = begun(row, place, parameters)
    if row.writes is not None:
        assert Path(parameters["path"]).read_text().splitlines() == row.writes
    if row.told is not None:
        assert seen.told == row.told
    if row.logged is not None:
        assert seen.logged == row.logged
    assert {name: [state.label for state in run[name].states] for name in row.states} == row.states
    assert {name: [one.attempts for one in run[name]] for name in row.attempts} == row.attempts
    for name, patterns in row.says.items():
        assert len(run[name]) == len(patterns)
        for one, pattern in zip(run[name], patterns, strict=True):
            assert re.search(pattern, one.message) if pattern else one.message == ""
    assert run.state.label == row.state
    if row.error is None:
        assert run.result() == row.result
        assert type(run.result()) is type(row.result)
        return
    kind, message = row.error
    with pytest.raises(kind) as caught:
        run.result()
    assert type(caught.value) is kind
    assert re.search(message, str(caught.value))
