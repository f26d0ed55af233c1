"""What ``Files`` needs of a medium, and how one is asked many things one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from headrace.errors import AlreadyExists, NotFound
from headrace.storage.trouble import meaning

#: seconds within which a store must answer; large objects get more, see `SLOWEST`.
DEADLINE = 15.0
#: bytes per second below which a transfer counts as stuck.
SLOWEST = 1_000_000
#: spelled out once, because inside the classes ``list`` is a method.
Keys = list[str]
Outcomes = list[Any]


@dataclass(frozen=True)
class Place:
    """What a medium is made of.

    Attributes
    ----------
    url : str
        As `headrace.storage.files.normal_url` returns it.
    options : mapping
        The user's storage options; never changed.
    deadline : float
        Seconds within which each verb must end, for small objects.
    filesystem : fsspec file system, optional
        Made by the user.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    deadline: float = DEADLINE
    filesystem: Any = None

    @property
    def protocol(self) -> str:
        """The part of the URL before ``://``."""
        return self.url.partition("://")[0]


class Medium(Protocol):
    """Objects by key, relative to one URL. Errors may be anyone's."""

    @property
    def writable(self) -> bool:
        """Whether it takes more than reading."""
        ...

    @property
    def lists(self) -> bool:
        """Whether it tells what lies below a key."""
        ...

    def read(self, key: str) -> bytes:
        """Return the bytes of an object."""
        ...

    def create(self, key: str, data: bytes) -> None:
        """Write an object that is not there yet, else raise ``FileExistsError``."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Write an object whether or not it is there."""
        ...

    def exists(self, key: str) -> bool:
        """Whether an object is there; may raise ``FileNotFoundError`` instead of returning False."""
        ...

    def list(self, key: str) -> Keys:
        """All objects below a key; below the empty one, all. None, or ``FileNotFoundError``, if there is nothing."""
        ...

    def children(self, key: str) -> Keys:
        """The next parts of all keys below a key."""
        ...

    def delete(self, key: str) -> None:
        """Remove an object; raise ``FileNotFoundError`` or do nothing if there is none."""
        ...

    def each(self, verb: str, calls: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Ask one verb many times.

        Returns
        -------
        list
            For each call what the verb returned or raised. An exception that says neither that an object is there nor
            that it is missing ends it: the calls that were not made by then have the outcome None.
        """
        ...


class OneByOne:
    """A medium that answers so quickly that nothing is won by asking it twice at a time."""

    writable = True
    lists = True

    def each(self, verb: str, calls: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Ask one verb many times."""
        ask = getattr(self, verb)
        outcomes: Outcomes = [None] * len(calls)
        for index, call in enumerate(calls):
            try:
                outcomes[index] = ask(*call)
            except Exception as error:  # noqa: BLE001 - the caller is given all of them
                outcomes[index] = error
                if not is_answer(error):
                    break
        return outcomes


def is_answer(error: Exception) -> bool:
    """Whether an exception says that an object is there, or that it is missing."""
    return meaning(error) in (AlreadyExists, NotFound)
