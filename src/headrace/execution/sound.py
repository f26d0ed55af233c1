"""Whether a result can travel: asked where it is made, so that the answer does not depend on who needs it where.

A result may be needed in another process, or not, depending on how task runs were batched and placed. So each is
looked at when it is made, also on the inline executor. That costs next to nothing for what most tasks return: plain
values and containers of them are told by their types, arrays of numbers by their ``dtype``. All else is pickled once,
into nothing: buffers are not copied (protocol 5), and no bytes are kept. What that costs is in proportion to the
Python objects in a value, as sending it would be: a tenth of a millisecond for a frame of numbers, of whichever length,
a tenth of a second for a million strings.
"""

from __future__ import annotations

import copyreg
import pickle
from functools import partial
from typing import Any, NoReturn

from headrace import pickling
from headrace.core.bound import Bound
from headrace.errors import FlowError

#: Types whose values can be pickled, whatever they are.
SOUND = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
_SEQUENCES = frozenset({list, tuple, set, frozenset})
#: So many elements of containers in a container are looked at one by one; beyond, pickling is quicker.
_FEW = 10


class _Nowhere:
    """A file that keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def check(value: Any, what: str) -> None:
    """Refuse a result that cannot be pickled, or that holds a flow.

    Parameters
    ----------
    value : object
        A task's result.
    what : str
        What it is, for the message.

    Raises
    ------
    NotPicklable
        Names the path to the part that cannot.
    FlowError
        If a bound flow is inside, as which nothing would go on.
    """
    if _is_sound(value):
        return
    try:
        pickler = pickle.Pickler(_Nowhere(), protocol=pickling.PROTOCOL, buffer_callback=_drop)
        pickler.dispatch_table = {**copyreg.dispatch_table, Bound: partial(_refuse, what)}
        pickler.dump(value)
    except FlowError:
        raise
    except Exception:  # noqa: BLE001 - any type may refuse in any way; what pickle cannot, cloudpickle perhaps can
        pickling.dumps(value, what)


def _refuse(what: str, bound: Bound) -> NoReturn:
    raise FlowError(
        f"{what} has a bound flow inside, {bound.name!r}, and a task goes on only as a flow that it returns alone; "
        "return one flow that calls all that are wanted, or call them in a task with dynamic=True"
    )


def _drop(_: pickle.PickleBuffer) -> None:
    """Take a buffer out of the pickle: bytes always travel."""


def _is_sound(value: Any) -> bool:
    """Whether a value can be pickled for sure, as far as that can be told quickly."""
    kind = type(value)
    if kind in SOUND:
        return True
    if kind in _SEQUENCES:
        return _all_sound(value)
    if kind is dict:
        return _all_sound(value) and _all_sound(value.values())
    return kind.__module__ == "numpy" and getattr(getattr(value, "dtype", None), "hasobject", True) is False


def _all_sound(values: Any) -> bool:
    kinds = set(map(type, values))
    return SOUND.issuperset(kinds) or (len(values) <= _FEW and all(map(_is_sound, values)))
