"""Values without pickles: as JSON, if they come back from it as what they were."""

from __future__ import annotations

import json
from typing import Any

from headrace.errors import PickleRefused


def plain_bytes(value: Any) -> bytes:
    """Return a value as JSON.

    Parameters
    ----------
    value : object
        Lists, texts, numbers, truth values, None, and dicts with texts for keys.

    Raises
    ------
    TypeError, ValueError
        If it has no JSON form, or would come back as another value.
    """
    data = json.dumps(value, allow_nan=False)
    if json.loads(data) != value:
        raise ValueError("it would come back as another value")
    return data.encode()


def refusal(what: str, remedy: str) -> PickleRefused:
    """Return the error for a pickle in a storage that holds none.

    Parameters
    ----------
    what : str
        What is, or would be, a pickle, with its verb: ``"the result of run 7 is"``.
    remedy : str
        What to do.
    """
    return PickleRefused(f"{what} a pickle, and the storage is used with pickle=False; {remedy}")
