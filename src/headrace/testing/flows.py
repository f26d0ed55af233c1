"""``FlowStorageTests``: flows go into a storage, and come out and run, whoever asks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from headrace.core.flow import FlowDefinition
from headrace.core.task import task
from headrace.errors import NotFound
from headrace.flows import Flow, flow
from headrace.store import STORAGE_OPTIONS_VARIABLE, Storage
from headrace.testing.place import Place


class FlowStorageTests:
    """An exam with a whole flow, for pytest.

    Inherit, and define a fixture ``place``, as for `StorageTests`.
    """

    @pytest.fixture
    def storage(self, place: Place) -> Storage:
        """A fresh object on the same URL."""
        return Storage(place.url, place.storage_options)

    def test_a_flow_goes_in_and_is_run_from_there(self, place: Place, storage: Storage, tmp_path: Path) -> None:
        """By others than who stored it: fresh objects, another process."""
        writable = "create" not in place.refuses
        source = Storage(place.url, place.storage_options) if writable else Storage(tmp_path)
        older, newer = source.add_flow(_example(1)), source.add_flow(_example(10))
        source.build()
        if not writable:  # it is brought from a folder
            assert place.look is not None, "a place that refuses 'create' needs a look, so that something can fill it"
            for key in source.files.list():
                place.look.write(key, source.files.read(key))
        assert storage.manifest(older)["name"] == storage.manifest(newer)["name"] == "example"
        assert _result(storage.load(older)) == [3]
        if "list" not in place.refuses:
            assert storage.flows == {"example": newer}
            assert "example" in storage
            assert _result(storage.load("example")) == [30]
        if writable:
            self._is_run(place, storage, newer)

    def _is_run(self, place: Place, storage: Storage, location: str) -> None:
        run = storage.get_runner(location).run({"numbers": [1, 2]})
        assert run.result() == [10, 20]
        record = Storage(place.url, place.storage_options).get_run(run.run_id)
        assert (record.state, record.result()) == ("Success", [10, 20])
        if place.shared:
            options = {STORAGE_OPTIONS_VARIABLE: json.dumps(dict(place.storage_options))}
            record = storage.get_env_runner(location).run(options, parameters={"numbers": [4]})
            assert (record.state, record.result()) == ("Success", [40])

    def test_what_is_not_there(self, place: Place, storage: Storage) -> None:
        """Is told as such."""
        with pytest.raises(NotFound):
            storage.load(f"flows/example/{'0' * 64}.flow")
        if "list" not in place.refuses:
            assert storage.flows == {}
            with pytest.raises(NotFound):
                storage.load("example")


def _result(stored: FlowDefinition) -> Any:
    assert isinstance(stored, Flow)
    return stored.run(numbers=[3]).result()


def _example(factor: int) -> Flow:
    @task
    def scale(number: int) -> Any:
        return factor * number

    @flow
    def example(numbers: list[int] | None = None) -> Any:
        return scale.map(numbers or [1])

    return example
