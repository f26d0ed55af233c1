"""The environment that is already there: the calling process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headrace.core.summary import Observer
from headrace.environments.base import Environment
from headrace.environments.callbacks import Callback, Callbacks
from headrace.execution.base import Executor
from headrace.execution.inline import InlineExecutor
from headrace.store import Storage


class LocalEnvironment(Environment):
    """Runs flows in this process and thread: no cluster, nothing to set up, easy to debug.

    Parameters
    ----------
    on_start : callable or str, optional
        Called with a ``Change`` before a run executes anything; if it raises, the run does not begin. A function, or
        where it is: ``"module:qualname"``.
    on_exit : callable or str, optional
        Called with a ``Change`` when a run is over, however it ended.

    Examples
    --------
    >>> LocalEnvironment().serialize()
    {'type': 'LocalEnvironment'}
    """

    def __init__(self, *, on_start: Callback | None = None, on_exit: Callback | None = None) -> None:
        self.callbacks = Callbacks(on_start, on_exit)

    def setup(self, storage: Storage | None = None) -> None:  # noqa: D102 - inherited
        pass

    def executor(self) -> Executor:  # noqa: D102 - inherited
        return InlineExecutor()

    def describe(self) -> dict[str, Any]:  # noqa: D102 - inherited
        return {"type": "LocalEnvironment"}

    def observers(self) -> Sequence[Observer]:  # noqa: D102 - inherited
        return self.callbacks.observers()

    def close(self) -> None:  # noqa: D102 - inherited
        pass

    def serialize(self) -> dict[str, Any]:  # noqa: D102 - inherited
        return {**self.describe(), **self.callbacks.serialize()}

    def __repr__(self) -> str:
        return "LocalEnvironment()"
