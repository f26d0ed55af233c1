"""The end of a cluster: all that was made for it goes, also without the operator, and when the interpreter ends."""

from __future__ import annotations

import atexit
import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from headrace.environments.kubernetes.api import Api
from headrace.environments.kubernetes.watching import CLUSTER_LABEL
from headrace.errors import KubernetesError

#: Seconds within which the operator must let a cluster go that was deleted, and then for it to be gone.
LET_GO, GONE = 10.0, 20.0
#: Seconds between two looks.
LOOK = 0.1

_LOGGER = logging.getLogger("headrace.kubernetes")
_closers: list[Callable[[], None]] = []


def remove(api: Api, name: str, uid: str | None = None) -> None:
    """Remove a cluster with all that belongs to it, and wait until it is gone.

    Parameters
    ----------
    api : Api
        Where.
    name : str
        Of the cluster.
    uid : str, optional
        Only this very one, and not another one of the same name.
    """
    api.delete("DaskCluster", name, uid=uid)
    end, forced = time.monotonic() + LET_GO, False
    while (left := api.get("DaskCluster", name)) is not None:
        if uid not in (None, left["metadata"]["uid"]):
            return
        if time.monotonic() > end:
            if forced:
                _LOGGER.warning("the cluster %s was deleted, but is not gone yet; look at it later", name)
                return
            # The operator, which should let it go, does not run; and what it owns goes only with it.
            api.patch("DaskCluster", name, {"metadata": {"finalizers": None}})
            end, forced = time.monotonic() + GONE, True
        time.sleep(LOOK)
    # Of a cluster that goes while the operator is still at it, the operator makes a group that nobody owns.
    for group in api.list("DaskWorkerGroup", f"{CLUSTER_LABEL}={name}"):
        api.delete("DaskWorkerGroup", group["metadata"]["name"])


def at_exit(close: Callable[[], None]) -> None:
    """Have something closed at the end of the interpreter, the newest first, unless it was closed before.

    At ``atexit`` no thread can be started any more, and so no host name be looked up. What Python's own thread pools
    use comes before.

    Parameters
    ----------
    close : callable
        Called once.
    """
    if not _closers:
        atexit.unregister(_close_all)
        getattr(threading, "_register_atexit", atexit.register)(_close_all)
    _closers.append(close)


def not_at_exit(close: Callable[[], None]) -> None:
    """It was closed.

    Parameters
    ----------
    close : callable
        As it was given to ``at_exit``.
    """
    if close in _closers:
        _closers.remove(close)


def _close_all() -> None:
    for close in reversed(_closers.copy()):
        with suppress(KubernetesError, OSError):  # the operator removes it when it has been idle for long enough
            close()
