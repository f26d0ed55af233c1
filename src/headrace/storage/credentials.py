"""Credentials by reference: a named provider, asked for them in each process that needs some.

The name travels and is stored, what it gives is not. A provider is a function without arguments that returns storage
options: ``"package.module:function"``, or the name of an entry point of the group ``headrace.credentials``.
"""

from __future__ import annotations

import pkgutil
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import entry_points
from typing import Any, TypeVar

from headrace.errors import AccessDenied, AlreadyExists, HeadraceError, StorageError
from headrace.redaction import redact
from headrace.storage.media import Keys, Medium
from headrace.storage.media.medium import Outcomes, is_answer
from headrace.storage.trouble import meaning

#: Entry points of this group are functions without arguments that return storage options.
GROUP = "headrace.credentials"
_T = TypeVar("_T")
_NAME = re.compile(r"(?P<module>[^\W\d]\w*(?:\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*(?:\.[^\W\d]\w*)*)")


def provider_name(given: str | Callable[[], Mapping[str, Any]] | None) -> str:
    """Return the name of a provider; empty if none was given.

    Parameters
    ----------
    given : str, callable or None
        A name, or a function that can be imported.

    Raises
    ------
    StorageError
        If a function cannot be found by name in other processes.
    """
    if given is None or isinstance(given, str):
        return given or ""
    module, name = getattr(given, "__module__", None), getattr(given, "__qualname__", "")
    if not module or module == "__main__" or not _NAME.fullmatch(f"{module}:{name}"):
        raise StorageError(
            f"credentials={given!r:.80} cannot be found by other processes, because it is no function of a module; "
            "define it in a module that is installed where the workers run, and give 'package.module:function'"
        )
    return f"{module}:{name}"


def ask(name: str) -> dict[str, Any]:
    """Return the storage options that a provider gives now.

    Parameters
    ----------
    name : str
        Of the provider.

    Raises
    ------
    StorageError
        If it is not here, fails, or gives something else.
    """
    provide = _find(name)
    try:
        found = provide()
    except HeadraceError:
        raise
    except Exception as error:
        told = redact(f"{type(error).__name__}: {error}")
        raise StorageError(f"the provider {name!r} of credentials failed ({told}); mend it, or what it asks") from error
    if not isinstance(found, Mapping):
        raise StorageError(
            f"the provider {name!r} of credentials must return storage options as a dict, and returned a "
            f"{type(found).__name__}"
        )
    return dict(found)


def _find(name: str) -> Callable[[], object]:
    match = _NAME.fullmatch(name)
    if match is None:
        for point in entry_points(group=GROUP, name=name):
            return point.load()  # type: ignore[no-any-return]
        known = ", ".join(repr(point.name) for point in entry_points(group=GROUP)) or "none"
        raise StorageError(
            f"there is no provider {name!r} of credentials here: entry points of the group {GROUP!r} are {known}; "
            "install the package that has it, or give 'package.module:function'"
        )
    try:
        found = pkgutil.resolve_name(f"{match['module']}:{match['function']}")
    except (ImportError, AttributeError) as error:
        raise StorageError(
            f"the provider {name!r} of credentials is not here ({error}); install its module wherever the storage is "
            "used: where the workers run, too"
        ) from error
    return found  # type: ignore[no-any-return]


class Renewing:
    """A medium that is opened when it is first used, and anew when the store refuses the credentials that it has.

    Parameters
    ----------
    options : callable
        Returns the storage options as they are now.
    open_medium : callable
        Makes a medium of them.
    """

    def __init__(self, options: Callable[[], dict[str, Any]], open_medium: Callable[[dict[str, Any]], Medium]) -> None:
        self._options = options
        self._open = open_medium
        self._lock = threading.Lock()
        self._current: tuple[dict[str, Any], Medium] | None = None

    @property
    def writable(self) -> bool:
        """Whether it takes more than reading."""
        return self._medium(other_than=None).writable

    @property
    def lists(self) -> bool:
        """Whether it tells what lies below a key."""
        return self._medium(other_than=None).lists

    def read(self, key: str) -> bytes:
        """Return the bytes of an object."""
        return self._ask(lambda medium: medium.read(key))

    def create(self, key: str, data: bytes) -> None:
        """Write an object that is not there yet."""
        self._ask(lambda medium: medium.create(key, data))

    def replace(self, key: str, data: bytes) -> None:
        """Write an object whether or not it is there."""
        self._ask(lambda medium: medium.replace(key, data))

    def exists(self, key: str) -> bool:
        """Whether an object is there."""
        return self._ask(lambda medium: medium.exists(key))

    def list(self, key: str) -> Keys:
        """All objects below a key."""
        return self._ask(lambda medium: medium.list(key))

    def children(self, key: str) -> Keys:
        """The next parts of all keys below a key."""
        return self._ask(lambda medium: medium.children(key))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._ask(lambda medium: medium.delete(key))

    def each(self, verb: str, calls: Sequence[tuple[Any, ...]]) -> Outcomes:
        """Ask one verb many times; once one was refused, those that may not have been made one by one."""
        medium = self._medium(other_than=None)
        outcomes = medium.each(verb, calls)
        if not any(map(_is_denied, outcomes)) or self._medium(other_than=medium) is medium:
            return outcomes
        for index, outcome in enumerate(outcomes):
            if outcome is None or _is_denied(outcome):
                try:
                    outcomes[index] = self._once_more(verb, *calls[index])
                except Exception as error:  # noqa: BLE001 - the caller is given all of them
                    outcomes[index] = error
                    if not is_answer(error):
                        break
        return outcomes

    def _once_more(self, verb: str, *call: Any) -> Any:
        try:
            return getattr(self, verb)(*call)
        except Exception as error:
            if verb == "create" and meaning(error) is AlreadyExists and self.read(call[0]) == call[1]:
                return None  # it was made before: nothing tells that from what was not
            raise

    def _ask(self, verb: Callable[[Medium], _T]) -> _T:
        medium = self._medium(other_than=None)
        try:
            return verb(medium)
        except Exception as error:
            if not _is_denied(error):
                raise
            renewed = self._medium(other_than=medium)
            if renewed is medium:
                raise
        return verb(renewed)

    def _medium(self, other_than: Medium | None) -> Medium:
        """The current medium; if it is the one that was refused, one with new credentials, should there be any."""
        with self._lock:
            if self._current is None or self._current[1] is other_than:
                options = self._options()
                if self._current is None or options != self._current[0]:
                    self._current = options, self._open(options)
            return self._current[1]


def _is_denied(outcome: object) -> bool:
    return isinstance(outcome, Exception) and meaning(outcome) is AccessDenied
