"""The kinds of cluster that ``DaskEnvironment`` takes: a table from what the user gave to how it is brought up.

A kind says how to make a cluster (or how to reach one) and whether it is ours to close. A new kind is one class here
or in a file of its own, and one row in ``KINDS``.
"""

from __future__ import annotations

import importlib
import multiprocessing
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any
from urllib.parse import urlsplit

from headrace.errors import MissingPackage, SetupError

#: From options and the seconds within which it must be up to a cluster.
Maker = Callable[[dict[str, Any], float], Any]

#: Seconds within which a connection to a scheduler must be taken.
CONNECT = 10.0
_IMPORTING = threading.Lock()


def local_cluster(options: dict[str, Any], deadline: float) -> Any:
    """Processes on this machine. Listens on the loopback interface only."""
    from distributed import LocalCluster

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SetupError(
            "this process is being started as a worker of a local cluster, and ran the script's main part again, which "
            'would start another cluster; put that part below `if __name__ == "__main__":`'
        )
    defaults: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    if options.get("processes", True):
        # Python tasks hold the GIL: a process for each core keeps all of them busy.
        defaults |= {"host": "127.0.0.1", "threads_per_worker": 1}
    with _IMPORTING, suppress(ImportError):  # two schedulers that import it at the same moment can find half of it
        importlib.import_module("distributed.dashboard.scheduler")
    with _interrupts_stay_here():
        try:
            return LocalCluster(**{**defaults, **options})
        except RuntimeError as error:
            if not options.get("processes", True):
                raise
            raise SetupError(
                f"the worker processes of a local cluster did not start ({error}); in a script, bring clusters up "
                'below `if __name__ == "__main__":`, because each worker process runs its main part again'
            ) from error


@contextmanager
def _interrupts_stay_here() -> Iterator[None]:
    """Start processes such that Ctrl-C, which a terminal sends to all of them, is for this one alone.

    They are started with it blocked, for masks are inherited, and unblock it once they have a handler that does
    nothing (``own_worker``). The cluster's own thread, which starts workers again that died, keeps it blocked. Here
    it takes effect at the end of the block.
    """
    import dask
    import distributed  # noqa: F401 - its defaults must be there before one is extended

    resource_tracker.ensure_running()  # or it would be started inside the block, and end the blocking
    preload = [*dask.config.get("distributed.worker.preload"), "headrace.environments.own_worker"]
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with dask.config.set({"distributed.worker.preload": preload}):
            yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def kubernetes_cluster(options: dict[str, Any], deadline: float) -> Any:
    """Pods, by Dask's operator."""
    from headrace.environments.kubernetes.cluster import KubernetesCluster
    from headrace.environments.kubernetes.spec import KubernetesSpec

    given = dict(options)
    n_workers = given.pop("n_workers", None)
    return KubernetesCluster(KubernetesSpec.of(**given), n_workers, deadline)


#: name → how to make a cluster of that kind.
KINDS: dict[str, Maker] = {"local": local_cluster, "kubernetes": kubernetes_cluster}
#: Seconds within which a cluster must be up, with its first worker: by kind, and of all others. On Kubernetes, a node
#: may have to come first.
DEADLINES, DEADLINE = {"kubernetes": 300.0}, 60.0


def is_address(text: str) -> bool:
    """Whether a text is the address of a scheduler."""
    return "://" in text


def check_answers(address: str) -> None:
    """Find out within seconds whether somebody listens at an address, of which Dask would make a minute.

    Parameters
    ----------
    address : str
        Like ``tcp://host:8786``.

    Raises
    ------
    SetupError
        If it is not an address, or the connection is refused.
    """
    protocol, _, rest = address.partition("://")
    if protocol not in ("tcp", "tls"):
        return
    parts = urlsplit(f"//{rest}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port:
        raise SetupError(f"{address!r} is not the address of a scheduler; give one like 'tcp://host:8786'")
    try:
        socket.create_connection((host, port), timeout=CONNECT).close()
    except OSError as error:
        raise SetupError(
            f"no Dask scheduler answers at {address} ({type(error).__name__}: {error}); check the address (the "
            "scheduler's, not the dashboard's), and that this machine may connect to it"
        ) from error


def maker_of(kind: str) -> Maker:
    """Return how to make a cluster of a kind: a name in ``KINDS``, or the import path of a class.

    Raises
    ------
    SetupError
        If there is no such kind or class; lists what there is.
    MissingPackage
        If its package is not installed.
    """
    if kind in KINDS:
        return KINDS[kind]
    module_name, dot, name = kind.replace(":", ".").rpartition(".")
    known = ", ".join(map(repr, KINDS))
    if not dot:
        raise SetupError(
            f"unknown cluster {kind!r}: give {known}, an address like 'tcp://host:8786', the import path of a Dask "
            "cluster class like 'dask_jobqueue.SLURMCluster', or a live Cluster or Client"
        )
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        package = (error.name or module_name).partition(".")[0].replace("_", "-")
        raise MissingPackage(
            f"the cluster class {kind!r} cannot be imported: {error}; install its package: pip install {package}"
        ) from error
    cls = getattr(module, name, None)
    if not callable(cls):
        raise SetupError(f"the module {module_name!r} has no cluster class {name!r}")
    return lambda options, deadline: cls(**options)
