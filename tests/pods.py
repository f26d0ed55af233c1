"""Dask schedulers and workers as processes that are started again when they end, as pods are."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.servers import free_port

CHECKOUT = Path(__file__).parent.parent


class Pod:
    """One process, and those that come after it.

    Parameters
    ----------
    arguments : list of str
        After ``dask``.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.arguments = arguments
        self.starts = 0
        self.process = self._start()
        self._over = threading.Event()
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()

    def _start(self) -> subprocess.Popen[bytes]:
        self.starts += 1
        paths = os.pathsep.join([str(CHECKOUT / "src"), str(CHECKOUT)])
        return subprocess.Popen(
            [sys.executable, "-m", "dask", *self.arguments],
            cwd=CHECKOUT,
            env={**os.environ, "PYTHONPATH": paths},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _keep(self) -> None:
        while not self._over.wait(0.05):
            if self.process.poll() is not None:
                self.process = self._start()

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Have it end, and be started again."""
        self.process.send_signal(number)

    def close(self) -> None:
        """End it for good."""
        self._over.set()
        self._keeper.join()
        self.process.kill()
        self.process.wait()


@contextmanager
def pods(workers: int) -> Iterator[tuple[str, Pod, list[Pod]]]:
    """A scheduler and workers: their address, the scheduler's pod, and the workers'."""
    port = free_port()  # the same one each time that the scheduler starts
    address = f"tcp://127.0.0.1:{port}"
    quiet = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    scheduler = Pod(["scheduler", "--port", str(port), *quiet])
    worker = ["worker", address, "--nthreads", "1", "--no-nanny", *quiet]
    others = [Pod(worker) for _ in range(workers)]
    try:
        end = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert time.monotonic() < end, "the scheduler did not come"
                time.sleep(0.05)
        yield address, scheduler, others
    finally:
        for pod in (*others, scheduler):
            pod.close()
