"""Identities of classes that travel by value, derived from content.

cloudpickle gives each such class a random identity, by which a process that meets it again, or meets its instances
when they come back, knows it. Random, it would make the pickles of equal flows differ.
"""

from __future__ import annotations

import hashlib
from typing import Any


def identified(data: bytes, tracked: list[tuple[Any, str]], code: str = "") -> bytes:
    """Return a pickle in which classes have identities that depend on nothing but the pickle and its code.

    This process knows its own classes by the new identities, too, and by those that they had before.

    Parameters
    ----------
    data : bytes
        A pickle.
    tracked : list of (class, str)
        The classes in it, with their identities, in order.
    code : str, optional
        Names the modules that they refer to: over another version of these, a class is another one.
    """
    if not tracked:
        return data
    # Identities are as long as digests, and nothing else in the pickle looks like one, so they can be exchanged.
    for position, (_, identity) in enumerate(tracked):
        data = data.replace(identity.encode(), f"{position:032d}".encode())
    whole = hashlib.sha256(data + code.encode()).hexdigest()
    for position, (cls, _) in enumerate(tracked):
        identity = hashlib.sha256(f"{whole} {position}".encode()).hexdigest()[:32]
        data = data.replace(f"{position:032d}".encode(), identity.encode())
        _know(cls, identity)
    return data


def _know(cls: Any, identity: str) -> None:
    from cloudpickle import cloudpickle

    with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = identity
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[identity] = cls
