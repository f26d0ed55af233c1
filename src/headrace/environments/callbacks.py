"""What an environment calls when a run starts on it and when it is over."""

from __future__ import annotations

import importlib
import logging
import operator
from collections.abc import Callable, Sequence
from typing import Any

from headrace.core.state import State
from headrace.core.summary import NodeSummary, Observer
from headrace.errors import SetupError
from headrace.execution.hooks import Change

#: A function, or where it is: ``"module:qualname"``.
Callback = Callable[[Change], object] | str

_LOGGER = logging.getLogger("headrace.hooks")


class Callbacks:
    """An environment's ``on_start`` and ``on_exit``.

    Parameters
    ----------
    on_start, on_exit : callable or str, optional
        Functions of a ``Change`` of the run, or where they are, as ``"module:qualname"``.
    """

    def __init__(self, on_start: Callback | None, on_exit: Callback | None) -> None:
        for name, callback in (("on_start", on_start), ("on_exit", on_exit)):
            if not (callback is None or callable(callback) or isinstance(callback, str)):
                raise SetupError(f"{name} must be a function or its 'module:qualname', got {callback!r}")
        self.given = {"on_start": on_start, "on_exit": on_exit}

    def observers(self) -> list[Observer]:
        """Return what calls them during a run.

        Raises
        ------
        SetupError
            If one of them cannot be found.
        """
        if not any(self.given.values()):
            return []
        return [_Calling(**{name: _found(name, callback) for name, callback in self.given.items()})]

    def serialize(self) -> dict[str, str]:
        """Return those that were given by where they are.

        Raises
        ------
        SetupError
            If one of them could not be found again by its name.
        """
        return {name: _written(name, callback) for name, callback in self.given.items() if callback is not None}


class _Calling(Observer):
    def __init__(self, on_start: Callable[[Change], object] | None, on_exit: Callable[[Change], object] | None) -> None:
        self._start = on_start
        self._exit = on_exit
        self._run = "", ""

    def on_start(self, run_id: str, flow_name: str, nodes: Sequence[NodeSummary]) -> None:
        """The run begins; it does not, if this raises."""
        self._run = run_id, flow_name
        if self._start is not None:
            self._start(Change(run_id, flow_name, None, None, State.RUNNING))

    def on_end(self, nodes: Sequence[NodeSummary], state: State, elapsed: float) -> None:
        """The run is over; nothing changes that any more."""
        if self._exit is None:
            return
        try:
            self._exit(Change(*self._run, None, None, state, seconds=elapsed))
        except Exception:  # a user's function may raise anything
            _LOGGER.exception("on_exit of the environment raised, told of run %s", self._run[0])


def _found(name: str, callback: Callback | None) -> Callable[[Change], object] | None:
    if not isinstance(callback, str):
        return callback
    module, _, path = callback.partition(":")
    try:
        found = operator.attrgetter(path)(importlib.import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(
            f"{name}={callback!r} of the environment cannot be found here ({type(error).__name__}: {error}); give "
            "'module:qualname' of a function that can be imported on this machine"
        ) from error
    if not callable(found):
        raise SetupError(f"{name}={callback!r} of the environment is no function, but {found!r}")
    return found  # type: ignore[no-any-return]


def _written(name: str, callback: Any) -> str:
    if isinstance(callback, str):
        return callback
    where = f"{getattr(callback, '__module__', '?')}:{getattr(callback, '__qualname__', '?')}"
    try:
        same = not where.startswith("__main__:") and _found(name, where) is callback
    except SetupError:
        same = False
    if not same:
        raise SetupError(
            f"{name}={callback!r} cannot be written down, because it could not be found again by name; define it in a "
            "module, not in a script, a function or a notebook"
        )
    return where
