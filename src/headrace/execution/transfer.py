"""Values on their way between workers: what cannot be pickled arrives as an error that says so.

A result could be pickled when it was made (``sound``), but may have changed since: some objects open files or make
locks when they are first used, in a task that takes them in the same process. Dask would try again for ever to send
such a value. So a batch's result has a type of its own, for which Dask asks here: it is pickled as it is, and only if
that fails, value by value.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import cloudpickle
from dask.sizeof import sizeof
from distributed.protocol.serialize import dask_deserialize, dask_serialize, pickle_dumps, pickle_loads

from headrace.code.space import Space
from headrace.errors import NotPicklable
from headrace.execution.constants import Constant, Packed, pack, size_of_packed, unpack
from headrace.execution.values import Values
from headrace.redaction import redact

#: Seconds that whoever asks for values waits for their code to be free.
PATIENCE = 5.0
_OPENING = threading.Lock()
_WHAT = "values of a run"
_size_of_dict = sizeof.dispatch(dict)


class BatchValues(dict[int, dict[int, Any]]):
    """A batch's values.

    Attributes
    ----------
    refused : dict of (node, child) to NotPicklable
        Values that could not come along.
    space : Space or None
        Of the run's code, in which its values can be pickled and unpickled; where the values were made.
    code : str
        sha256 of the run's code; empty if it has none.
    packed : (sequence of bool, sequence of buffer) or None
        Its pickle, if it has code, and comes from elsewhere or was asked for.
    """

    def __init__(
        self,
        values: Values,
        name_of: Callable[[int], str] | None = None,
        refused: dict[tuple[int, int], NotPicklable] | None = None,
        *,
        space: Space | None = None,
        code: str = "",
        packed: Packed | None = None,
    ) -> None:
        super().__init__(values)
        self.name_of = name_of or str
        self.refused = refused or {}
        self.space = space
        self.code = code if space is None else space.sha256
        self.packed = packed
        self._opened = packed is None

    def pack(self) -> None:
        """Pickle it now, while the space is active, for whoever asks for it later."""
        if self.packed is None:
            self.packed = self.pickled()

    def pickled(self) -> Packed:
        """Return its pickle; the space is active."""
        try:
            return pack((dict(self), self.refused), _WHAT)
        except NotPicklable:
            passed = self.travelling()
            return pack((dict(passed), passed.refused), _WHAT)

    def opened(self) -> BatchValues:
        """Return it with its values, which are unpickled now if they came from elsewhere; the space is active."""
        with _OPENING:
            if not self._opened:
                assert self.packed is not None
                values, self.refused = unpack(self.packed, _WHAT)
                self.update(values)
                self._opened = True
        return self

    @property
    def nbytes(self) -> int:
        """How much of it is pickled, and nothing else yet."""
        return 0 if self._opened or self.packed is None else size_of_packed(self.packed)

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
    if values.code:
        flags, parts = values.packed or _pickled_in_space(values)
        return {"writeable": list(flags), "code": values.code}, list(parts)
    try:
        header, frames = pickle_dumps((dict(values), values.refused))
    except Exception:  # noqa: BLE001 - as above
        passed = values.travelling()
        header, frames = pickle_dumps((dict(passed), passed.refused))
    return {"pickled": header}, frames


@dask_deserialize.register(BatchValues)  # type: ignore[untyped-decorator]
def _load(header: dict[str, Any], frames: list[Any]) -> BatchValues:
    if "code" in header:  # to be unpickled where its code is active: by the batch that takes it
        return BatchValues({}, code=header["code"], packed=(header["writeable"], frames))
    values, refused = pickle_loads(header["pickled"], frames)
    return BatchValues(values, None, refused)


def _pickled_in_space(values: BatchValues) -> Packed:
    """Pickle values when they are asked for; nobody else uses their names here, see ``execution.arrival``."""
    assert values.space is not None
    with values.space.active(PATIENCE):
        return values.pickled()


@sizeof.register(BatchValues)  # type: ignore[untyped-decorator]
def _size_of_values(values: BatchValues) -> int:
    return values.nbytes or int(_size_of_dict(values))


@dask_serialize.register(Constant)  # type: ignore[untyped-decorator]
def _dump_constant(constant: Constant) -> tuple[dict[str, Any], list[Any]]:
    flags, frames = constant.pack()
    return {"writeable": list(flags), "lasting": constant.lasting}, list(frames)


@dask_deserialize.register(Constant)  # type: ignore[untyped-decorator]
def _load_constant(header: dict[str, Any], frames: list[Any]) -> Constant:
    return Constant(packed=(header["writeable"], frames), lasting=header["lasting"])


@sizeof.register(Constant)  # type: ignore[untyped-decorator]
def _size_of_constant(constant: Constant) -> int:
    return constant.nbytes or int(sizeof(constant.value))
