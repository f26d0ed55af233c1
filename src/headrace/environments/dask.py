"""Any Dask cluster."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Self

from headrace.core.scaling import DEFAULT, bounds_of
from headrace.core.summary import Observer
from headrace.environments.addresses import client_of, connected, disconnect, is_address
from headrace.environments.base import Environment
from headrace.environments.callbacks import Callback, Callbacks
from headrace.environments.checks.inspection import Inspection
from headrace.environments.checks.sites import Cluster, Site
from headrace.environments.clusters import DEADLINE, DEADLINES, LAUNCHERS, PLACES, PLAIN, TELLING, maker_of
from headrace.environments.encryption import as_data
from headrace.errors import SetupError
from headrace.execution.base import Executor
from headrace.execution.runner import PreparedRun
from headrace.storage.confidential import secret_paths
from headrace.storage.findings import Finding, warn
from headrace.store import EnvRunner, Storage

if TYPE_CHECKING:
    from headrace.environments.scaling import Scaler

_LOGGER = logging.getLogger("headrace.environments")
#: Seconds for which a run waits for a scheduler that is out of reach.
RECONNECT = 60.0
#: Seconds between two questions whether there is a worker, and those that the scheduler has at least for its answer.
ASK, LEAST = 0.1, 1.0


class DaskEnvironment(Environment):
    """Runs flows on a Dask cluster.

    Parameters
    ----------
    cluster : str, type, Cluster or Client, default "local"
        ``"local"``: processes on this machine, brought up by ``setup`` and taken down by ``close``. An address
        (``"tcp://host:8786"``, ``"tls://…"``): a cluster that is there already. ``"kubernetes"``: pods, made by
        ``setup`` through Dask's operator and removed by ``close``; with ``name=``, a DaskCluster that is there
        already, joined and never removed. The import path or the class of a
        Dask cluster manager (``"dask_jobqueue.SLURMCluster"``): made by ``setup``. A live ``Cluster`` or ``Client``:
        used, never closed.
    n_workers : int, optional
        How many workers; of a local cluster, by default one for each core.
    adapt : (int, int), optional
        Least and largest number of workers, between which there are as many as the work that is ready deserves. Of a
        cluster with worker groups, those of the group "default"; the others have an ``adapt`` of their own.
    offers : dict of str to float, optional
        Resources of workers that may come while a run goes on, ``{"GPU": 1}``, so that a task may ask for what no
        worker has yet. Not needed for a cluster that adapts by itself.
    deadline : float, optional
        Seconds within which the cluster must be up, with its first worker. Default: 300 on Kubernetes, else 60.
    reconnect : float, optional
        Seconds for which the scheduler may be out of reach while a run goes on: a connection that breaks, or a
        scheduler that is started anew, is a pause, and no more. Default: 60.
    on_start : callable or str, optional
        Called with a ``Change`` before a run executes anything; if it raises, the run does not begin. A function, or
        where it is: ``"module:qualname"``.
    on_exit : callable or str, optional
        Called with a ``Change`` when a run is over, however it ended.
    **options
        Go to the cluster class as they are; for an address, to ``distributed.Client``; for ``"kubernetes"``, they are
        those of ``KubernetesSpec``. But ``security=True`` makes certificates for the cluster, and a dict of paths,
        ``{"tls_ca_file": "ca.pem", …}``, names those to use: the arguments of ``distributed.Security``. All
        connections are encrypted then; on Kubernetes they are anyway.

    Examples
    --------
    >>> with DaskEnvironment("local", n_workers=4) as env:  # doctest: +SKIP
    ...     run = env.execute(storage, location)
    """

    def __init__(
        self,
        cluster: Any = "local",
        *,
        n_workers: int | None = None,
        adapt: tuple[int, int] | None = None,
        offers: Mapping[str, float] | None = None,
        deadline: float | None = None,
        reconnect: float | None = None,
        on_start: Callback | None = None,
        on_exit: Callback | None = None,
        **options: Any,
    ) -> None:
        if n_workers is not None and adapt is not None:
            raise SetupError("give either n_workers= or adapt=(least, largest), not both")
        if (n_workers or adapt) and isinstance(cluster, str) and is_address(cluster):
            raise SetupError(
                f"{'adapt' if adapt else 'n_workers'}= needs a cluster that can be scaled from here; who brought up "
                "this one scales it"
            )
        if n_workers is not None and (not isinstance(n_workers, int) or n_workers < 1):
            raise SetupError(f"n_workers must be a whole number from 1 on, got {n_workers!r}")
        for name, seconds in (("deadline", deadline), ("reconnect", reconnect)):
            if seconds is not None and not (isinstance(seconds, (int, float)) and seconds >= 0):  # nor not-a-number
                raise SetupError(f"{name} must be a number of seconds, got {seconds!r}")
        if offers is not None and not _are_amounts(offers):
            raise SetupError(f"offers must be amounts > 0 by name of a resource, such as {{'GPU': 1}}, got {offers!r}")
        self.cluster = cluster
        self.n_workers = n_workers
        self.adapt = bounds_of(adapt, "adapt") if adapt is not None else None
        self.offers = dict(offers) if offers is not None else None
        if deadline is None:
            deadline = DEADLINES.get(cluster, DEADLINE) if isinstance(cluster, str) else DEADLINE
        self.deadline = deadline
        self.reconnect = RECONNECT if reconnect is None else reconnect
        self.callbacks = Callbacks(on_start, on_exit)
        self.options = options
        self.tells_setup = isinstance(cluster, str) and cluster in TELLING
        self._cluster: Any = None  # made by setup, so ours to close
        self._client: Any = None
        self._scaler: Scaler | None = None
        self._owns_client = False
        self._closes = 0  # how often it was closed: perhaps while another thread sets it up
        self._setting_up = threading.RLock()
        self._inspection: Inspection | None = None
        self._warned: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"DaskEnvironment({self._kind()!r})"

    @property
    def client(self) -> Any:
        """The connected ``distributed.Client``; None before ``setup``."""
        return self._client

    @property
    def dashboard_link(self) -> str | None:
        """Address of Dask's dashboard, if there is one."""
        return getattr(self._client, "dashboard_link", None) or None

    # -- life ----------------------------------------------------------------------------------------------------

    def setup(self, storage: Storage | None = None) -> None:  # noqa: D102 - inherited
        with self._setting_up:  # two runs may begin at the same time
            if self._client is not None and self._is_lost():
                self._drop()  # what is left of it must not outlive what takes its place
            if self._client is None:
                self._bring_up()

    def _is_lost(self) -> bool:
        if self._client.status == "connecting":  # runs wait for that, but not for a cluster that is known to be gone
            return bool(getattr(self._cluster, "was_deleted", lambda: False)())
        return bool(self._client.status != "running")

    def _bring_up(self) -> None:
        closes = self._closes
        try:
            self._connect()
            self._scale()
            if self.adapt is None or self.adapt[0] > 0 or hasattr(self._cluster, "await_workers"):
                self._await_worker()
            self._inspect()
        except BaseException as error:
            told = self._told(error, closed=self._closes != closes)
            self._drop()
            if told is error:
                raise
            raise told from error
        if self._closes != closes:
            self._drop()
            raise self._closed()

    def _closed(self) -> SetupError:
        return SetupError(f"{self!r} was closed while it was set up; set it up again, if it is still needed")

    def _told(self, error: BaseException, *, closed: bool) -> BaseException:
        """What a set-up raises that came to this."""
        if closed and isinstance(error, Exception):  # whatever misses then what was taken from under it
            return self._closed()
        if isinstance(error, TimeoutError):
            return SetupError(
                f"the cluster {self._kind()!r} was not up within {self.deadline:g} s ({_root(error)}); give deadline= "
                "if it needs longer"
            )
        if isinstance(error, (OSError, ValueError, TypeError, RuntimeError)) and not isinstance(error, SetupError):
            return SetupError(f"the cluster {self._kind()!r} could not be brought up: {_root(error)}")
        return error

    def _drop(self) -> None:
        """Close what can be closed of a cluster that was lost, or did not come up."""
        try:
            self.close()
        except Exception as error:  # noqa: BLE001 - of any cluster class; what went wrong first is what counts
            _LOGGER.warning("the cluster %r could not be closed: %s", self._kind(), _root(error))

    def _connect(self) -> None:
        from distributed import Client

        given = self.cluster
        if isinstance(given, Client):
            if given.status not in ("running", "connecting"):
                raise SetupError(f"the Client that was given is {given.status}; give one that is connected")
            self._client = given
            return
        if isinstance(given, str) and is_address(given):
            self._owns_client = True
            self._client = connected(given, timeout=self.deadline, **self.options)
            return
        cluster = given
        if isinstance(given, (str, type)):
            options = dict(self.options)
            if self.n_workers is not None:
                options["n_workers"] = self.n_workers
            elif self.adapt is not None:
                options["n_workers"] = self.adapt[0]
            cluster = self._cluster = maker_of(given)(options, self.deadline)
        self._owns_client = True
        self._client = client_of(cluster, self.deadline)

    def _await_worker(self) -> None:
        if hasattr(self._cluster, "await_workers"):
            self._cluster.await_workers(self._client)
            return
        # A cluster that adapts by itself brings its first worker when there is something to do.
        something = self._client.submit(int, pure=False)
        end = time.monotonic() + self.deadline
        try:
            # Dask's own wait_for_workers has no limit for a scheduler that falls silent.
            while not Cluster(self._client, max(LEAST, end - time.monotonic())).everyone():
                if time.monotonic() > end:
                    raise SetupError(
                        f"the cluster {self._kind()!r} has no worker after {self.deadline:g} s; start workers, or give "
                        "deadline= if they need longer"
                    )
                time.sleep(ASK)
        finally:
            something.release()

    # -- preflight -----------------------------------------------------------------------------------------------

    def _inspect(self) -> None:
        """Make sure that the workers can load what this process sends."""
        self._inspection = Inspection(Cluster(self._client, self.deadline), self._kind())
        found = self._look()
        self._inspection.refuse(found)
        self._warn(found)

    def _look(self) -> list[Finding]:
        """Return what is wrong with the cluster's processes, and with how it was made."""
        assert self._inspection is not None
        return [*self._inspection.look(), *getattr(self._cluster, "findings", ())]

    def _warn(self, found: Iterable[Finding]) -> None:
        """Warn once of each finding, however often this environment is set up."""
        new = [each for each in found if (each.subject, each.remedy) not in self._warned]
        self._warned.update((each.subject, each.remedy) for each in new)
        warn(new, stacklevel=4)

    def _ready(self) -> Sequence[Finding]:
        self.setup()
        self._await_worker()
        return self._look()

    def _site(self) -> Site:
        return Cluster(self._client, self.deadline)

    def _admit(self, prepared: PreparedRun) -> None:
        if (inspection := self._inspection) is None:
            raise SetupError(f"{self!r} was closed before the run could begin; close it when its runs are over")
        self._warn(inspection.admit(prepared))

    def _scale(self) -> None:
        """Begin to scale the cluster, if that was asked for."""
        groups = getattr(self._cluster, "groups", {}).values()
        if self.adapt is not None or any(group.least != group.most for group in groups):
            from headrace.environments.scaling import Scaler

            self._scaler = Scaler(self._client, self._client.cluster, {DEFAULT: self.adapt} if self.adapt else {})

    def scale(self, n: int, group: str = DEFAULT) -> None:
        """Have so many workers from now on, whatever there is to do. Workers that are too many go when they are idle.

        Parameters
        ----------
        n : int
            How many.
        group : str, default "default"
            Of which worker group, if the cluster has several.

        Raises
        ------
        SetupError
            If the environment is not set up, or others scale its cluster.
        """
        if self._client is None or self._client.cluster is None:
            raise SetupError(
                f"{self!r} has no cluster that can be scaled from here; call setup() first, and ask whoever brought up "
                "a cluster that is reached by its address"
            )
        if not isinstance(n, int) or n < 0:
            raise SetupError(f"a number of workers is a whole number from 0 on, got {n!r}")
        if self._scaler is None:
            from headrace.environments.scaling import Scaler

            self._scaler = Scaler(self._client, self._client.cluster, {group: (n, n)})
        else:
            self._scaler.keep(n, group)

    def close(self) -> None:  # noqa: D102 - inherited
        self._closes += 1
        client, cluster, scaler = self._client, self._cluster, self._scaler
        owns_client, self._owns_client = self._owns_client, False
        self._client = self._cluster = self._inspection = self._scaler = None
        with ExitStack() as ending:  # the scaler first; each of them whatever became of those before
            if cluster is not None:
                ending.callback(cluster.close)
            if client is not None and owns_client:
                ending.callback(disconnect, client)
            if scaler is not None:
                ending.callback(scaler.close)

    # -- runs ----------------------------------------------------------------------------------------------------

    def executor(self) -> Executor:  # noqa: D102 - inherited
        from headrace.execution.dask import DaskExecutor

        coming = [self.offers] if self.offers is not None else None
        if self._scaler is None:
            executor = DaskExecutor(self._client, coming, self.reconnect)
        else:
            executor = DaskExecutor(self._client, coming or self._scaler.offers, self.reconnect)
            executor.on_told, executor.wanted = self._scaler.poke, self._scaler.wanted
        executor.explain = getattr(self._cluster, "explain", executor.explain)
        return executor

    def launch(self, runner: EnvRunner, parameters: Mapping[str, Any], run_id: str) -> dict[str, Any]:  # noqa: D102
        start = LAUNCHERS.get(self.cluster) if isinstance(self.cluster, str) else None
        if start is None:
            return super().launch(runner, parameters, run_id)
        return start(self.serialize(), runner, parameters, run_id)

    def observers(self) -> Sequence[Observer]:  # noqa: D102 - inherited
        return self.callbacks.observers()

    # -- as data -------------------------------------------------------------------------------------------------

    def _kind(self) -> str:
        given = self.cluster
        if isinstance(given, str):
            return given
        if isinstance(given, type):
            return f"{given.__module__}.{given.__qualname__}"
        return type(given).__name__

    def describe(self) -> dict[str, Any]:  # noqa: D102 - inherited
        asked = PLACES.get(self.cluster, ()) if isinstance(self.cluster, str) else ()  # before there is one
        place = {name: str(self.options[name]) for name in asked if self.options.get(name)}
        return {**self._own_data(), **place, **getattr(self._cluster, "facts", {})}

    def _own_data(self) -> dict[str, Any]:
        data: dict[str, Any] = {"type": "DaskEnvironment", "cluster": self._kind()}
        if self.n_workers is not None:
            data["n_workers"] = self.n_workers
        if self.adapt is not None:
            data["adapt"] = list(self.adapt)
        if self.offers is not None:
            data["offers"] = self.offers
        return data

    def serialize(self) -> dict[str, Any]:  # noqa: D102 - inherited
        if not isinstance(self.cluster, (str, type)):
            raise SetupError(
                f"an environment around a live {type(self.cluster).__name__} cannot be written down, because it exists "
                "in this process only; give its address, or its class and options, instead"
            )
        kind = self._kind()
        if "<locals>" in kind or kind.startswith("__main__"):
            raise SetupError(f"the cluster class {kind} cannot be found again by name; define it in a module")
        options = dict(self.options)
        if "security" in options:
            options["security"] = as_data(options["security"])
        options = PLAIN.get(kind, dict)(options)
        data = {
            **self._own_data(),
            **self.callbacks.serialize(),
            "deadline": self.deadline,
            "reconnect": self.reconnect,
            "options": options,
        }
        if secrets := list(secret_paths({name: each for name, each in options.items() if name != "security"})):
            raise SetupError(
                f"the options of {self!r} cannot be written down, because {', '.join(secrets)} looks like a secret; "
                "leave it to where the cluster is made, such as a Kubernetes secret or Dask's configuration"
            )
        lost = [name for name, value in {**data, **options}.items() if name != "options" and not _is_json(value)]
        if lost:
            raise SetupError(  # their names only: what cannot be written may hold credentials
                f"the options of {self!r} cannot be written down as JSON without loss: {', '.join(lost)}; give plain "
                "numbers, strings, lists and dicts with string keys"
            )
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        return Environment.deserialize, (self.serialize(),)

    @classmethod
    def _from_data(cls, data: dict[str, Any]) -> Self:
        return super()._from_data({**data.pop("options", {}), **data})


def _are_amounts(given: Any) -> bool:
    return isinstance(given, Mapping) and all(
        isinstance(name, str) and isinstance(amount, (int, float)) and amount > 0 for name, amount in given.items()
    )


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def _root(error: BaseException) -> str:
    """What began a chain of errors, which is what a user can mend; Dask wraps it several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"
