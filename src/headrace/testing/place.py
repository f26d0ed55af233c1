"""Where an exam takes place, and how to see what really lies there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.storage.files import DEADLINE


class Look(Protocol):
    """What lies at a place, seen with other eyes than those that are examined: a folder, the store's own client."""

    def keys(self) -> set[str]:
        """All keys below the place, temporary ones included."""
        ...

    def read(self, key: str) -> bytes:
        """The bytes under a key."""
        ...

    def write(self, key: str, data: bytes) -> None:
        """Put bytes under a key, in place of what is there."""
        ...


@dataclass(frozen=True)
class Place:
    """An empty place in a storage, which nobody else uses.

    Attributes
    ----------
    url : str
        As for ``Storage``.
    storage_options : mapping
        As for ``Storage``.
    look : Look, optional
        Without one, what lies there is seen through ``url`` only. A place that refuses ``create`` needs one, because
        something must fill it.
    refuses : set of str
        Verbs that the protocol cannot keep its promise for, and that must be refused: ``"create"``, ``"replace"``,
        ``"list"``, ``"delete"``.
    shared : bool, default True
        Whether other processes see the same place. If not, threads take their part.
    deadline : float, default 15
        As for ``Storage``; more for a slow emulator on a busy machine.
    """

    url: str
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    look: Look | None = None
    refuses: frozenset[str] = frozenset()
    shared: bool = True
    deadline: float = DEADLINE
