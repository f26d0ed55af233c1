"""Large constants as they travel: pickled as a plan is, with the buffers of arrays beside the pickle, uncopied.

One that has arrived is unpickled when a task first takes it. So a worker may pass it on without loading it, and what
is missing there to load it is an error of the batch that needs it.
"""

from __future__ import annotations

import hashlib
import pickle
import threading
from collections.abc import Sequence
from typing import Any

from headrace import pickling

_LOADING = threading.Lock()

#: For each buffer of a pickle, whether it may be written to; and the pickle with its buffers.
Packed = tuple[Sequence[bool], Sequence[Any]]


class Constant:
    """A large constant, or its pickle.

    Parameters
    ----------
    value : object
        Its value, where there is no pickle.
    packed : (sequence of bool, sequence of buffer), optional
        For each buffer of the pickle, whether it may be written to; and the pickle with its buffers.
    lasting : bool, default False
        Whether the pickle is kept, because whoever asks for it later could not make it: see ``execution.arrival``.
    """

    __slots__ = ("_loaded", "_packed", "_value", "lasting", "nbytes")

    def __init__(self, value: Any = None, packed: Packed | None = None, *, lasting: bool = False) -> None:
        self._value = value
        self._packed = packed
        self._loaded = False
        self.lasting = lasting
        self.nbytes = size_of_packed(packed) if packed is not None else 0

    @property
    def value(self) -> Any:
        """The value; one object for all that ask in this process."""
        with _LOADING:
            if self._packed is not None and not self._loaded:
                self._value = unpack(self._packed, "a constant of the flow")
                self._loaded = True
                if not self.lasting:
                    self._packed = None
            return self._value

    def pack(self) -> Packed:
        """Return flags, and the pickle with its buffers; as the constructor takes them."""
        packed = self._packed
        return packed if packed is not None else pack(self._value, "a constant of the flow")


def pack(value: Any, what: str) -> Packed:
    """Pickle a value, with the buffers of arrays beside the pickle.

    Parameters
    ----------
    value : object
        Anything.
    what : str
        What it is, for the message.

    Returns
    -------
    (sequence of bool, sequence of buffer)
        For each buffer, whether it may be written to; and the pickle with its buffers.
    """
    buffers: list[memoryview] = []
    data = pickling.dumps(value, what, lambda buffer: buffers.append(buffer.raw()))
    return [not view.readonly for view in buffers], [data, *buffers]


def unpack(packed: Packed, what: str) -> Any:
    """Return what was packed.

    Parameters
    ----------
    packed : (sequence of bool, sequence of buffer)
        As ``pack`` returned it.
    what : str
        What it is, for the message.
    """
    flags, (data, *buffers) = packed
    views = [_as_it_was(view, flag) for view, flag in zip(buffers, flags, strict=True)]
    return pickling.loads(bytes(data), what, views)


def size_of_packed(packed: Packed) -> int:
    """Return how many bytes that is."""
    return sum(memoryview(frame).nbytes for frame in packed[1])


def _as_it_was(buffer: Any, writeable: bool) -> Any:
    view = memoryview(buffer)
    if writeable:
        return bytearray(view) if view.readonly else view
    return view.toreadonly()


class _Meter:
    """A file that keeps nothing but how much was written, and a digest of it."""

    def __init__(self) -> None:
        self.size = 0
        self.digest = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> int:
        self.size += len(data)
        self.digest.update(data)
        return len(data)

    def buffer(self, data: pickle.PickleBuffer) -> None:
        self.write(data.raw())


def measure(value: Any) -> tuple[int, bytes]:
    """Return how many bytes a value is when it is pickled, and a digest of them; ``core.constants.Measure``."""
    meter = _Meter()
    try:
        pickle.Pickler(meter, protocol=pickling.PROTOCOL, buffer_callback=meter.buffer).dump(value)
    except Exception:  # noqa: BLE001 - any type may refuse in any way; what pickle cannot, cloudpickle can
        meter = _Meter()
        meter.write(pickling.dumps(value, "a constant of the flow"))
    return meter.size, meter.digest.digest()


def copy(value: Any) -> Any:
    """Return the value as it arrives in another process, so that a task cannot change what its caller holds."""
    return pickling.loads(pickling.dumps(value, "a constant of the flow"), "a constant of the flow")
