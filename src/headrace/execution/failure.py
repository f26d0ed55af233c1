"""Exceptions on their way from a worker to a user: type, message and traceback survive.

Pickle drops an exception's traceback, so it travels beside it, by ``tblib``, which Dask uses for the same purpose.
An exception that cannot be pickled, or not be unpickled again, arrives as ``TaskFailed`` with its type's name, its
message and the text of its traceback; so does one that holds a secret, with ``***`` in its place. Many exceptions
cannot be unpickled only because their constructor takes other arguments than their ``args``; these are put together
again without calling it.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any

import cloudpickle
import tblib

from headrace.core.events import Failure
from headrace.errors import TaskFailed
from headrace.redaction import exposes, redact

_HERE = os.path.dirname(os.path.abspath(__file__))


def capture(error: BaseException, *, leaves: bool = True) -> tuple[Failure, BaseException]:
    """Describe an exception that a task raised.

    Parameters
    ----------
    error : BaseException
        With its traceback.
    leaves : bool, default True
        Whether it leaves this process for others than its parent, which strikes secrets out itself, and until then
        wants the exception as it is: it may be a signal, or one that is worth another attempt.

    Returns
    -------
    failure : Failure
        What travels to the driver; also holds the live exception for this process.
    value : BaseException
        What a task that runs in spite of the failure receives: the exception, or ``TaskFailed`` if it cannot travel.
    """
    error.with_traceback(_users_frames(error.__traceback__))  # some types forbid to set attributes
    name = type(error).__qualname__
    module = type(error).__module__
    type_name = name if module == "builtins" else f"{module}.{name}"
    try:
        message = str(error)
    except Exception as broken:  # noqa: BLE001 - a user's __str__ may raise anything
        message = f"<its text could not be made: {type(broken).__name__}>"
    text = "".join(traceback.format_exception(error))
    frames = tblib.Traceback(error.__traceback__).to_dict() if error.__traceback__ is not None else None
    pickled, travels = _pickled(_Reduced(error), message, frames), True
    if pickled is None:
        pickled, travels = _pickled(_Parts(error), message, frames), False
    told = redact(message), redact(text)
    if leaves and (told != (message, text) or (pickled is not None and exposes(pickled))):
        failure = Failure(type_name, *told)
        return failure, TaskFailed(str(failure), type_name=type_name, traceback=failure.traceback)
    failure = Failure(type_name, message, text, pickled, error)
    return failure, error if travels else TaskFailed(str(failure), type_name=type_name, traceback=text)


def restore(failure: Failure) -> BaseException:
    """Return the exception that a failure describes, with its traceback."""
    if failure.exception is not None:
        return failure.exception
    if failure.pickled is not None:
        try:
            error, frames = pickle.loads(failure.pickled)
        except Exception:  # noqa: BLE001 - e.g. a class that only the worker has; the text says all that is known
            pass
        else:
            known = tblib.Traceback.from_dict(frames).as_traceback() if frames else None
            failure.exception = error.with_traceback(known)
            return failure.exception
    note = f"{failure}\n\n{failure.traceback}" if failure.traceback else str(failure)
    failure.exception = TaskFailed(note, type_name=failure.type_name, traceback=failure.traceback)
    return failure.exception


def _users_frames(frames: TracebackType | None) -> TracebackType | None:
    """Leave out the frames of this package, which say nothing to a user."""
    first = frames
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_HERE):
        frames = frames.tb_next
    return frames if frames is not None else first


class _Packed:
    """An exception to be pickled."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Reduced(_Packed):
    """By its own ``__reduce__``, whatever others have registered for exceptions in this process: tblib does."""

    def __reduce__(self) -> tuple[Any, ...]:
        reduced = tuple(self.error.__reduce__())
        return _again, (*reduced[:2], reduced[2] if len(reduced) > 2 else None)


def _again(function: Callable[..., BaseException], args: tuple[Any, ...], state: Any) -> BaseException:
    error = function(*args)
    if state:
        error.__setstate__(state)
    return error


class _Parts(_Packed):
    """Taken apart, to be put together without its constructor."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _together, (type(self.error), self.error.args, self.error.__dict__)


def _together(kind: type[BaseException], args: tuple[Any, ...], attributes: dict[str, Any]) -> BaseException:
    error = kind.__new__(kind, *args)
    error.__dict__.update(attributes)
    return error


def _pickled(packed: _Packed, message: str, frames: dict[str, Any] | None) -> bytes | None:
    """An exception with its frames, if it arrives as what it was."""
    try:
        data: bytes = cloudpickle.dumps((packed, frames))
        arrived, _ = pickle.loads(data)
        kind = type(packed.error)
        return data if type(arrived).__qualname__ == kind.__qualname__ and str(arrived) == message else None
    except Exception:  # noqa: BLE001 - a user's exception may refuse in any way; then its text travels
        return None
