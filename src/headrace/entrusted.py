"""Credentials that a user lets travel: in memory only, with a run, into the memory of the workers that need them.

A storage that says ``ship_credentials=True`` is pickled with a *reference* in place of its credentials. Who sends a run
finds the references in what is sent, and brings what they stand for along, if nobody else can listen.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from typing import Any


class _Kept:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.own: dict[str, Mapping[str, Any]] = {}  # of storages that were made here
        self.brought: dict[str, dict[str, Mapping[str, Any]]] = {}  # by whom → by reference


_KEPT = _Kept()


def entrust(url: str, name: str, options: Mapping[str, Any]) -> None:
    """Let the credentials of a storage travel with the runs of this process.

    Parameters
    ----------
    url, name : str
        Of the storage.
    options : mapping
        Its secret options.
    """
    with _KEPT.lock:
        _KEPT.own[reference_of(url, name)] = options


def reference_of(url: str, name: str) -> str:
    """Return what stands for the credentials of a storage: the same in each process."""
    return "entrusted-" + hashlib.sha256(f"{url}\n{name}".encode()).hexdigest()[:32]


def options_of(reference: str) -> Mapping[str, Any] | None:
    """Return what a reference stands for in this process; None if nobody has brought it."""
    with _KEPT.lock:
        for kept in (_KEPT.own, *_KEPT.brought.values()):
            if reference in kept:
                return kept[reference]
    return None


def needed_by(data: bytes) -> dict[str, Mapping[str, Any]]:
    """Return what the references in bytes stand for, by reference.

    Parameters
    ----------
    data : bytes
        The plan of a run.
    """
    with _KEPT.lock:
        return {each: options for each, options in _KEPT.own.items() if each.encode() in data}


def all_here() -> dict[str, Mapping[str, Any]]:
    """Return all that references stand for in this process, for a child process of it."""
    with _KEPT.lock:
        return {each: options for kept in (*_KEPT.brought.values(), _KEPT.own) for each, options in kept.items()}


def bring(sender: str, parcel: Mapping[str, Mapping[str, Any]]) -> None:
    """Take over what a run brings along.

    Parameters
    ----------
    sender : str
        Which run; see `forget`.
    parcel : mapping
        As `needed_by` returned it there.
    """
    with _KEPT.lock:
        _KEPT.brought[sender] = dict(parcel)


def forget(sender: str) -> None:
    """Forget what a run has brought."""
    with _KEPT.lock:
        _KEPT.brought.pop(sender, None)
