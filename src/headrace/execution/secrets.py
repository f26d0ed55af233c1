"""Secrets where tasks run: looked up by name, remembered in memory, and kept from what tasks return.

What was looked up in a process is known to it from then on, and nothing that it says shall hold it: ``redaction``
strikes it out of texts and finds it in bytes, ``reveals`` goes over what a task returned.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePath
from typing import Any, Protocol

from headrace.core.bound import Bound
from headrace.core.secret import Secret, look_up_by
from headrace.core.slots import parts
from headrace.errors import SecretNotFound, SecretReturned
from headrace.redaction import SHORTEST, know

__all__ = ["Secret"]

#: Names the folder that holds a file per secret, and where that is if nothing else is said.
FOLDER_VARIABLE, FOLDER = "HEADRACE_SECRETS", "/run/secrets"
#: Entry points of this group are functions that take a name and return a text, or None.
GROUP = "headrace.secrets"
#: A text of at least so many characters is found inside of others that a task returns, a shorter one only alone.
UNMISTAKABLE = 8
#: Seconds for which a provider's answer is used again: it may cost a request.
FRESH = 60.0
#: How deep into what a task returned is looked.
DEEPEST = 20


class Confidant(Protocol):
    """Who is told that a task run was given a secret: the execution of its batch."""

    confided: bool


_CONFIDANT: ContextVar[Confidant | None] = ContextVar("headrace_confidant", default=None)


@contextmanager
def confiding(in_whom: Confidant) -> Iterator[None]:
    """Say whose task runs look secrets up within the block."""
    token = _CONFIDANT.set(in_whom)
    try:
        yield
    finally:
        _CONFIDANT.reset(token)


class _Known:
    """The secrets that tasks of this process have looked up."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.values: tuple[str, ...] = ()
        self.answers: dict[str, tuple[float, str]] = {}  # of providers, with the time

    def add(self, value: str) -> None:
        if len(value) < SHORTEST or value in self.values:
            return
        with self.lock:
            self.values = (*self.values, value)
        know(value)


_KNOWN = _Known()


def remember(value: str) -> None:
    """Know a text as a secret from now on; the task run that this thread executes was given it."""
    confidant = _CONFIDANT.get()
    if confidant is not None:
        confidant.confided = True
    _KNOWN.add(value)


def known() -> tuple[str, ...]:
    """The secrets that tasks of this process have looked up, for a child process."""
    return _KNOWN.values


def resolve(name: str) -> str:
    """Look a secret up.

    Parameters
    ----------
    name : str
        Of the secret.

    Raises
    ------
    SecretNotFound
        If it is nowhere; says where was looked.
    """
    looked: list[str] = []
    for source in (_from_environment, _from_file, _from_providers):
        value = source(name, looked)
        if value is not None:
            remember(value)
            return value
    raise SecretNotFound(
        f"there is no secret {name!r} where this task runs (process {os.getpid()}): looked for {', '.join(looked)}; "
        "set one of them where the workers run",
        name=name,
    )


look_up_by(resolve)


def lacking(names: Iterable[str]) -> dict[str, SecretNotFound]:
    """Return, of secrets that are not known in this process, where was looked, by name.

    Parameters
    ----------
    names : iterable of str
        Of the secrets.
    """
    found = {}
    for name in names:
        try:
            resolve(name)
        except SecretNotFound as error:
            found[name] = error
    return found


def _from_environment(name: str, looked: list[str]) -> str | None:
    value = os.environ.get(name)
    looked.append(f"the environment variable {name}{' (which is empty)' if value == '' else ''}")
    return value or None


def _from_file(name: str, looked: list[str]) -> str | None:
    if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        return None
    file = Path(os.environ.get(FOLDER_VARIABLE) or FOLDER) / name
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        looked.append(f"the file {file}")
        return None
    except (OSError, ValueError) as error:
        looked.append(f"the file {file} (which cannot be read: {type(error).__name__})")
        return None
    value = text.removesuffix("\n").removesuffix("\r")
    looked.append(f"the file {file}{'' if value else ' (which is empty)'}")
    return value or None


def _from_providers(name: str, looked: list[str]) -> str | None:
    with _KNOWN.lock:
        at, answer = _KNOWN.answers.get(name, (0.0, ""))
    if answer and time.monotonic() - at < FRESH:
        return answer
    for label, provide in _providers():
        try:
            found = provide(name)
        except Exception as error:  # noqa: BLE001 - a provider may raise anything; others may still know the secret
            looked.append(f"the provider {label!r} (which failed: {type(error).__name__}: {error})")
            continue
        if isinstance(found, str) and found:
            with _KNOWN.lock:
                _KNOWN.answers[name] = time.monotonic(), found
            return found
        odd = "" if found is None else f" (which gave a {type(found).__name__}, not a text)"
        looked.append(f"the provider {label!r}{odd}")
    return None


@functools.cache
def _providers() -> list[tuple[str, Callable[[str], object]]]:
    from importlib.metadata import entry_points

    return [(point.name, point.load()) for point in entry_points(group=GROUP)]


def reveals(value: Any, depth: int = DEEPEST) -> bool:
    """Whether a value is, or is a plain container of, a text with a secret in it; or a flow with such a parameter.

    Parameters
    ----------
    value : object
        What a task returned.
    depth : int
        For recursion.
    """
    if type(value) is Bound:
        value = value.parameters
    if isinstance(value, (bytes, bytearray)):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        return any(value == known or (len(known) >= UNMISTAKABLE and known in value) for known in _KNOWN.values)
    return depth > 0 and any(reveals(part, depth - 1) for part in parts(value))


def refusal(label: str) -> SecretReturned:
    """Return the error for a task that returned a secret.

    Parameters
    ----------
    label : str
        Of the task run.
    """
    return SecretReturned(
        f"task {label} returned the text of a secret, alone or inside of other values, and what tasks return is stored "
        "and sent; give hr.Secret(...) to each task that needs it, and return only what was made with it",
        task=label,
    )
