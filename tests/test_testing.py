"""The exam finds what it looks for: media with one fault each fail it."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
import uuid
from typing import Any

import pytest

from headrace.errors import AlreadyExists, HeadraceError, NotFound
from headrace.storage.files import Files
from headrace.testing import Place, StorageTests
from tests.servers import LookAtMemory


def _meanwhile() -> None:
    """Let other threads go on, as a slow medium does."""
    threading.Event().wait(0.001)


class Overwrites(Files):
    def create(self, key: str, data: bytes) -> None:
        self.replace(key, data)


class LooksFirst(Files):
    """Not exclusive: between the look and the write, another may come."""

    def create(self, key: str, data: bytes) -> None:
        if self.exists(key):
            raise AlreadyExists(f"{key!r} is there")
        _meanwhile()
        self.replace(key, data)


class WritesInTwo(Files):
    def replace(self, key: str, data: bytes) -> None:
        super().replace(key, data[: len(data) // 2])
        _meanwhile()
        super().replace(key, data)


class LeavesSomething(Files):
    def create(self, key: str, data: bytes) -> None:
        super().replace(f"{key}.tmp", data)
        super().create(key, data)


class Remembers(Files):
    def list(self, prefix: str = "") -> Any:
        return vars(self).setdefault(f"listed {prefix}", super().list(prefix))


class ListsByLetters(Files):
    def list(self, prefix: str = "") -> Any:
        return [key for key in super().list() if key.startswith(prefix)]


class DeletesFolders(Files):
    def delete(self, key: str) -> None:
        for found in [key, *self.list(key)]:
            super().delete(found)


class ForeignErrors(Files):
    def read(self, key: str) -> bytes:
        try:
            return super().read(key)
        except NotFound:
            raise KeyError(key) from None


class CutsEmpty(Files):
    def exists(self, key: str) -> bool:
        return super().exists(key) and self.read(key) != b""


class MixesKeys(Files):
    def _place(self, key: str) -> str:
        return super()._place(key.replace("%20", " "))


class ShortBatches(Files):
    def read_many(self, keys: Any) -> Any:
        return dict(list(super().read_many(keys).items())[:10])


class Tells(Files):
    def __init__(self, url: str, storage_options: Any) -> None:
        super().__init__(url, storage_options)
        self.told = storage_options

    def __repr__(self) -> str:
        return f"<Files {self.told}>"


FAULTS = [
    (Overwrites, "test_creation_keeps_the_first"),
    (Overwrites, "test_of_racing_creators_one_wins"),
    (LooksFirst, "test_of_racing_creators_one_wins"),
    (WritesInTwo, "test_a_reader_never_sees_half_of_a_replacement"),
    (LeavesSomething, "test_what_is_created_is_read"),
    (LeavesSomething, "test_of_racing_creators_of_large_objects_one_wins"),
    (Remembers, "test_what_others_do_is_seen_at_once"),
    (ListsByLetters, "test_lists_are_deep_sorted_and_by_whole_parts"),
    (DeletesFolders, "test_deleting_a_folder_takes_nothing_along"),
    (ForeignErrors, "test_what_is_missing"),
    (CutsEmpty, "test_empty_objects_are_objects"),
    (MixesKeys, "test_strange_keys_live_side_by_side"),
    (ShortBatches, "test_batches"),
    (Tells, "test_secrets_stay_here"),
]


def sit(cls: type[Files], test: str, refuses: frozenset[str] = frozenset()) -> None:
    """Let one medium sit one test."""
    url = f"memory://{uuid.uuid4().hex}"
    options = {"token": "sentinel-secret"}
    place = Place(url, options, LookAtMemory("/" + url.removeprefix("memory://")), refuses, shared=False)
    exam = StorageTests()
    exam.large, exam.races = 100_000, 100
    files = cls(url, options)
    given = {"place": place, "files": files, "put": files.create}
    method = getattr(exam, test)
    method(**{name: given[name] for name in inspect.signature(method).parameters})


@pytest.mark.parametrize(("cls", "test"), FAULTS)
def test_a_fault_is_found(cls, test):
    sit(Files, test)
    with pytest.raises((AssertionError, KeyError, HeadraceError, pytest.fail.Exception)):
        sit(cls, test)


@pytest.mark.parametrize("verb", ["create", "replace", "list", "delete"])
def test_what_should_be_refused_and_is_not(verb):
    with pytest.raises((pytest.fail.Exception, AssertionError)):
        sit(Files, "test_what_is_refused_is_explained", frozenset({verb}))


def test_without_pytest_it_is_said_what_to_install():
    code = "import sys; sys.modules['pytest'] = None\nimport headrace.testing"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "MissingPackage: headrace.testing needs pytest, which is not installed; pip install pytest" in done.stderr
