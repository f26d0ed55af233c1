"""The three media on which the storage tests run unchanged."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MEDIA = ("file", "memory", "s3")


@dataclass
class Medium:
    name: str
    url: str
    options: dict[str, Any] = field(default_factory=dict)


@pytest.fixture(params=MEDIA)
def medium(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Medium]:
    if request.param == "file":
        yield Medium("file", f"file://{tmp_path / 'store'}")
    elif request.param == "memory":
        yield Medium("memory", f"memory://store-{uuid.uuid4().hex}")
    else:
        server = request.getfixturevalue("s3")
        yield Medium("s3", f"{server.new_bucket()}/deep/store", server.storage_options)
