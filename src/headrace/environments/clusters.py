"""The kinds of cluster that ``DaskEnvironment`` takes: a table from what the user gave to how it is brought up.

A kind says how to make a cluster (or how to reach one) and whether it is ours to close. A new kind is one class here
or in a file of its own, and one row in ``KINDS``.
"""

from __future__ import annotations

import importlib
import multiprocessing
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any

from headrace.environments.encryption import made
from headrace.environments.options import check_names, names_of
from headrace.errors import MissingPackage, SetupError
from headrace.store import EnvRunner

#: From options and the seconds within which it must be up to a cluster.
Maker = Callable[[dict[str, Any], float], Any]

_IMPORTING = threading.Lock()
#: An address without its protocol, which must not be taken for a package that is missing.
_HOST_AND_PORT = re.compile(r".*:\d+")


def local_cluster(options: dict[str, Any], deadline: float) -> Any:
    """Processes on this machine. Listens on the loopback interface only."""
    from distributed import LocalCluster

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SetupError(
            "this process is being started as a worker of a local cluster, and ran the script's main part again, which "
            'would start another cluster; put that part below `if __name__ == "__main__":`'
        )
    if "worker_class" not in options:  # whose options it knows itself
        check_names(options, option_names("local"), "DaskEnvironment('local')")
    defaults: dict[str, Any] = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    if options.get("processes", True):
        # Python tasks hold the GIL: a process for each core keeps all of them busy.
        defaults |= {"host": "127.0.0.1", "threads_per_worker": 1}
    with _IMPORTING, suppress(ImportError):  # two schedulers that import it at the same moment can find half of it
        importlib.import_module("distributed.dashboard.scheduler")
    with _interrupts_stay_here():
        try:
            return made(LocalCluster, {**defaults, **options})
        except RuntimeError as error:
            if isinstance(error, SetupError) or not options.get("processes", True):
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


def option_names(kind: str) -> list[str]:
    """Return the names of the options of a kind of cluster, as far as they are known, beside those that all have."""
    if kind == "kubernetes":
        from headrace.environments.kubernetes.spec import KubernetesSpec

        return names_of(KubernetesSpec)
    if kind == "local":
        from distributed import LocalCluster, Nanny, Worker
        from distributed.core import Server

        return names_of(LocalCluster, Nanny, Worker, Server)  # its class hands on what it does not know
    return []


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Import something such that Ctrl-C still does what it did: dask_jobqueue has it end the process, from then on."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():  # in others, an import cannot set one
            for number, handler in before.items():
                if handler is not None and signal.getsignal(number) is not handler:
                    signal.signal(number, handler)


def kubernetes_job(
    environment: dict[str, Any], runner: EnvRunner, parameters: Mapping[str, Any], run_id: str
) -> dict[str, Any]:
    """A Job, whose pod makes the cluster."""
    from headrace.environments.kubernetes.jobs import launch

    return launch(environment, runner, parameters, run_id)


def kubernetes_options(options: dict[str, Any]) -> dict[str, Any]:
    """References to Secrets as Kubernetes writes them, and a manifest in the place of its path."""
    from headrace.environments.kubernetes.spec import KubernetesSpec

    return KubernetesSpec.of(**options).to_json()


#: kind → how its options are written down, if not as they are.
PLAIN = {"kubernetes": kubernetes_options}
#: kind → options that say where it is, for the record of a run.
PLACES = {"kubernetes": ("name", "namespace", "context")}
#: Kinds that tell people what they wait for, while they come up.
TELLING = {"kubernetes"}
#: kind → how to start a driver that outlives this process, for an environment as data. Of all others, it is a process.
LAUNCHERS = {"kubernetes": kubernetes_job}


def maker_of(kind: str | type) -> Maker:
    """Return how to make a cluster of a kind: a name in ``KINDS``, a class, or its import path.

    Raises
    ------
    SetupError
        If there is no such kind or class; lists what there is.
    MissingPackage
        If its package is not installed.
    """
    if isinstance(kind, type):
        return lambda options, deadline: _sized(kind, options)
    if kind in KINDS:
        return KINDS[kind]
    module_name, dot, name = kind.replace(":", ".").rpartition(".")
    known = ", ".join(map(repr, KINDS))
    if not dot or _HOST_AND_PORT.fullmatch(kind):
        raise SetupError(
            f"unknown cluster {kind!r}: give {known}, an address like 'tcp://host:8786', the import path of a Dask "
            "cluster class like 'dask_jobqueue.SLURMCluster', or a live Cluster or Client"
        )
    try:
        with _handlers_kept():
            module = importlib.import_module(module_name)
    except ImportError as error:
        package = (error.name or module_name).partition(".")[0].replace("_", "-")
        raise MissingPackage(
            f"the cluster class {kind!r} cannot be imported: {error}; install its package: pip install {package}"
        ) from error
    cls = getattr(module, name, None)
    if not callable(cls):
        raise SetupError(f"the module {module_name!r} has no cluster class {name!r}")
    return lambda options, deadline: _sized(cls, options)


def _sized(cls: Callable[..., Any], options: dict[str, Any]) -> Any:
    """Make a cluster of any class; one that does not take ``n_workers`` is scaled to it.

    A class that takes any option may hand it on to one of its bases, or to a server, as options of dask-gateway are.
    """
    makers = [cls, *(base.__init__ for base in getattr(cls, "__mro__", ()) if base is not object)]
    if "n_workers" in names_of(*makers):
        return made(cls, options)
    wanted = options.pop("n_workers", None)
    cluster = made(cls, options)
    try:
        if wanted is not None:
            cluster.scale(wanted)
    except BaseException:  # nobody else knows of it yet
        cluster.close()
        raise
    return cluster
