"""Dask inside tasks: a task may hand work of its own to the cluster that it runs on, and wait for it.

A task that waits holds a thread, which what it waits for may need: with one thread, for ever. So ``get_client`` lets
the thread leave its worker's pool, which starts another one in its place. And it gives back what the batch has not
started: the batch ends with this task run, so the thread need not return, which could take as long as whatever took
its place. A batch that must not give anything back goes on in the thread that has left.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from headrace.errors import RunError
from headrace.execution.interrupt import Control
from headrace.execution.watchdog import give_back

if TYPE_CHECKING:
    from distributed import Client


class _Here(threading.local):
    """What the thread executes.

    Attributes
    ----------
    control : Control or None
        Of its batch.
    left : bool
        Whether it has left the pool.
    """

    control: Control | None = None
    left = False


_HERE = _Here()


@contextmanager
def executing(control: Control) -> Iterator[None]:
    """Say which batch the thread executes."""
    _HERE.control, _HERE.left = control, False
    try:
        yield
    finally:
        _HERE.control = None


def get_client() -> Client:
    """Return the ``distributed.Client`` of the cluster that a task runs on.

    To be called in a task. From then on the task does not hold one of its worker's threads, so it can wait for what
    it hands to the cluster, also on a cluster of one thread. It works for ``client.submit``, ``client.map`` and
    ``client.gather`` as for Dask collections, whose ``compute`` finds the client by itself.

    Returns
    -------
    distributed.Client
        Connected to the scheduler that the run uses. Not to be closed.

    Raises
    ------
    RunError
        If there is no cluster: the flow runs in this process, the task is isolated, or the caller is not the task's own
        thread.

    Examples
    --------
    >>> @task
    ... def total(numbers):
    ...     client = get_client()
    ...     return sum(client.gather(client.map(abs, numbers)))
    """
    from distributed import get_client as client_of_worker
    from distributed import get_worker, secede

    try:
        get_worker()
    except ValueError:
        raise RunError(
            "hr.get_client() was called where there is no Dask worker: the flow runs in the process that started it, "
            "the task is isolated in a process of its own, or the caller is a thread that the task started. Run the "
            "flow in a DaskEnvironment, and call it in the task itself, without isolated=True"
        ) from None
    if _HERE.control is not None and not _HERE.left:
        _HERE.left = True
        if not math.isinf(_HERE.control.limit):
            give_back(_HERE.control)
        secede()
    return client_of_worker()
