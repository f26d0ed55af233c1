"""How much memory processes have, looked at while something runs."""

from __future__ import annotations

import os
import threading
from types import TracebackType
from typing import Any

MIB = 1 << 20
#: Seconds between two looks.
PERIOD = 0.02


class Peaks:
    """The largest resident memory of groups of processes while the ``with`` block runs.

    Parameters
    ----------
    groups : dict of str to list of int
        Process ids by a name of ours. The memory of a group is the sum of its processes'.

    Attributes
    ----------
    start, peak : dict of str to float
        MiB when the block began, and the largest.
    """

    def __init__(self, groups: dict[str, list[int]]) -> None:
        import psutil

        self._groups = {name: [psutil.Process(pid) for pid in pids] for name, pids in groups.items()}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _look(self) -> dict[str, float]:
        return {name: sum(one.memory_info().rss for one in group) / MIB for name, group in self._groups.items()}

    def _watch(self) -> None:
        while not self._over.wait(PERIOD):
            self._note()

    def _note(self) -> None:
        now = self._look()
        self.peak = {name: max(now[name], peak) for name, peak in self.peak.items()}

    def __enter__(self) -> Peaks:
        self.start = self.peak = self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        if error is None:
            self._note()


def processes(client: Any) -> dict[str, list[int]]:
    """Return the processes of a cluster: driver, scheduler and workers."""
    return {
        "driver": [os.getpid()],
        "scheduler": [client.run_on_scheduler(os.getpid)],
        "workers": list(client.run(os.getpid).values()),
    }
