"""The media on which the storage tests run unchanged."""

from __future__ import annotations

import pickle
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from headrace import pickling
from tests.servers import CLOUDS, Server

MEDIA = ("file", "memory", "s3", "gs", *(("abfs", "sftp") if CLOUDS else ()))


@dataclass
class Medium:
    name: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(params=MEDIA)
def medium(request: pytest.FixtureRequest, tmp_path: Path, server_of: Callable[[str], Server]) -> Medium:
    if request.param == "file":
        return Medium("file", f"file://{tmp_path / 'store'}")
    if request.param == "memory":
        return Medium("memory", f"memory://store-{uuid.uuid4().hex}")
    server = server_of(request.param)
    return Medium(request.param, server.new_url(), dict(server.storage_options))


@pytest.fixture
def no_unpickling(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever unpickles now fails the test, whatever is made of the error."""
    seen = []

    def loads(*args: Any, **kwargs: Any) -> Any:
        seen.append(args)
        raise AssertionError("something was unpickled")

    monkeypatch.setattr(pickle, "loads", loads)
    monkeypatch.setattr(pickling, "loads", loads)
    yield
    assert seen == []
