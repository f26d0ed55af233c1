"""Values on their way between workers: what cannot be pickled arrives as an error that says so.

A result could be pickled when it was made (``sound``), but may have changed since: some objects open files or make
locks when they are first used, in a task that takes them in the same process. Dask would try again for ever to send
such a value. So a batch's result has a type of its own, for which Dask asks here: it is pickled as it is, and only if
that fails, value by value.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cloudpickle
from dask.sizeof import sizeof
from distributed.protocol.serialize import dask_deserialize, dask_serialize, pickle_dumps, pickle_loads

from headrace.errors import NotPicklable
from headrace.execution.constants import Constant
from headrace.execution.values import Values
from headrace.redaction import redact


class BatchValues(dict[int, dict[int, Any]]):
    """A batch's values.

    Attributes
    ----------
    refused : dict of (node, child) to NotPicklable
        Values that could not come along.
    """

    def __init__(
        self,
        values: Values,
        name_of: Callable[[int], str] | None = None,
        refused: dict[tuple[int, int], NotPicklable] | None = None,
    ) -> None:
        super().__init__(values)
        self.name_of = name_of or str
        self.refused = refused or {}

    def travelling(self) -> BatchValues:
        """Return what of it can be pickled, with an error for each of the rest."""
        refused = dict(self.refused)
        passed: Values = {}
        for node, children in self.items():
            for child, value in children.items():
                error = why_not(value)
                if error is None:
                    passed.setdefault(node, {})[child] = value
                else:
                    refused[node, child] = refusal(f"{self.name_of(node)}[{child}]", value, error)
        return BatchValues(passed, None, refused)


def why_not(value: Any) -> Exception | None:
    """Why a value cannot be pickled; None if it can."""
    try:
        cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001 - any type may refuse in any way
        return error
    return None


def refusal(label: str, value: Any, error: Exception) -> NotPicklable:
    """Return the error for a task's value that cannot travel."""
    told = redact(f"{type(error).__name__}: {error}")
    return NotPicklable(
        f"the value of task {label}, a {type(value).__qualname__}, is needed in another process and cannot be pickled "
        f"({told}); return plain data, or make the object in the task that uses it",
        task=label,
    )


@dask_serialize.register(BatchValues)  # type: ignore[untyped-decorator]
def _dump(values: BatchValues) -> tuple[dict[str, Any], list[Any]]:
    try:
        header, frames = pickle_dumps((dict(values), values.refused))
    except Exception:  # noqa: BLE001 - as above
        passed = values.travelling()
        header, frames = pickle_dumps((dict(passed), passed.refused))
    return {"pickled": header}, frames


@dask_deserialize.register(BatchValues)  # type: ignore[untyped-decorator]
def _load(header: dict[str, Any], frames: list[Any]) -> BatchValues:
    values, refused = pickle_loads(header["pickled"], frames)
    return BatchValues(values, None, refused)


@dask_serialize.register(Constant)  # type: ignore[untyped-decorator]
def _dump_constant(constant: Constant) -> tuple[dict[str, Any], list[Any]]:
    flags, frames = constant.pack()
    return {"writeable": list(flags)}, list(frames)


@dask_deserialize.register(Constant)  # type: ignore[untyped-decorator]
def _load_constant(header: dict[str, Any], frames: list[Any]) -> Constant:
    return Constant(packed=(header["writeable"], frames))


@sizeof.register(Constant)  # type: ignore[untyped-decorator]
def _size_of_constant(constant: Constant) -> int:
    return constant.nbytes or int(sizeof(constant.value))
