from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import headrace as hr
from tests.semantics.table import ROWS, Row
from tests.semantics.witness import witness

for path in sorted(Path(__file__).parent.glob("rows_*.py")):
    importlib.import_module(f"tests.semantics.{path.stem}")


def test_rows_have_names_of_their_own() -> None:
    assert len({row.name for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, place: hr.Environment, tmp_path: Path) -> None:
    parameters = {
        name: str(tmp_path / "count") if isinstance(value, str) and value == "?" else value
        for name, value in row.parameters.items()
    }
    with witness() as seen:
        run = row.flow.run(environment=place, **parameters)
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
