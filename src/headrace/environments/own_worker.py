"""Preloaded by the workers of a local cluster: Ctrl-C is for the process that owns it, which then takes them down.

A terminal sends Ctrl-C to all processes in its foreground, and a notebook to the kernel's whole group. Workers would
die of it with a traceback each, while their owner still talks to them.
"""

from __future__ import annotations

import signal
import threading


def dask_setup(worker: object) -> None:
    """Do nothing at Ctrl-C; programs that tasks start still end at it, because a handler is not inherited.

    Parameters
    ----------
    worker : distributed.Worker
        Given by Dask.
    """
    if threading.current_thread() is threading.main_thread():  # not so for a worker inside the command's own process
        signal.signal(signal.SIGINT, lambda number, frame: None)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
