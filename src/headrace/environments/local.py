"""The environment that is already there: the calling process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headrace.core.summary import Observer
from headrace.environments.base import Environment
from headrace.execution.flowrun import FlowRun
from headrace.execution.inline import InlineExecutor
from headrace.store import Storage


class LocalEnvironment(Environment):
    """Runs flows in this process and thread: no cluster, nothing to set up, easy to debug.

    Examples
    --------
    >>> LocalEnvironment().serialize()
    {'type': 'LocalEnvironment'}
    """

    def setup(self, storage: Storage | None = None) -> None:  # noqa: D102 - inherited
        pass

    def execute(  # noqa: D102 - inherited
        self,
        storage: Storage,
        location: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        observers: Sequence[Observer] = (),
        strings: bool = False,
        run_id: str | None = None,
    ) -> FlowRun:
        return storage.get_runner(location).run(
            parameters,
            executor=InlineExecutor(),
            environment=self.serialize(),
            observers=observers,
            strings=strings,
            run_id=run_id,
        )

    def close(self) -> None:  # noqa: D102 - inherited
        pass

    def serialize(self) -> dict[str, Any]:  # noqa: D102 - inherited
        return {"type": "LocalEnvironment"}

    def __repr__(self) -> str:
        return "LocalEnvironment()"
