"""Exams that third-party storages inherit: they look at the medium itself, race processes and kill writers."""

from __future__ import annotations

from typing import Protocol


class Look(Protocol):
    """What lies at a place, seen without fsspec: what a person with other tools would see."""

    def keys(self) -> set[str]:
        """All keys below the place, temporary ones included."""
        ...

    def read(self, key: str) -> bytes:
        """The bytes under a key."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Put bytes under a key."""
        ...
