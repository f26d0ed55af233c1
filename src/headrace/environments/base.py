"""What an environment is, and the table of the known kinds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import entry_points
from typing import Any, Literal, Self, overload

from headrace.core.summary import Observer
from headrace.drivers import driver_of
from headrace.environments.checks.sites import Here, Site
from headrace.environments.options import check_names, names_of, takes_any
from headrace.errors import RunError, SetupError
from headrace.execution.base import Executor
from headrace.execution.flowrun import FlowRun
from headrace.execution.runner import PreparedRun
from headrace.execution.waiting import see_through
from headrace.plugins import plugin
from headrace.storage.findings import Finding, distinct, finding_of
from headrace.storage.run_ids import checked_run_id, new_run_id
from headrace.storage.runs import RunRecord
from headrace.store import EnvRunner, Storage

#: The entry point group in which other packages name their environments; ours are there too.
GROUP = "headrace.environments"
_OWN = {
    "LocalEnvironment": "headrace.environments.local:LocalEnvironment",
    "DaskEnvironment": "headrace.environments.dask:DaskEnvironment",
}


class Environment(ABC):
    """Sets up, executes on, and takes down what runs execute on.

    A ``with`` block closes it at its end. ``setup`` is repeated without harm, and one set-up serves many runs.
    """

    #: whether ``setup`` itself tells people, on standard error, what it waits for
    tells_setup = False

    @abstractmethod
    def setup(self, storage: Storage | None = None) -> None:
        """Bring up what is needed, and check it. Repeating it changes nothing.

        Parameters
        ----------
        storage : Storage, optional
            Where the flows lie that will be executed.

        Raises
        ------
        SetupError
            If it cannot be brought up; nothing is left behind then.
        """

    @abstractmethod
    def executor(self) -> Executor:
        """Return where one run executes; called when it is set up."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return plain JSON data for a run's record: like ``serialize``, but of a live object its kind is enough."""

    def observers(self) -> Sequence[Observer]:
        """Return who is told of each run that executes here."""
        return ()

    def launch(self, runner: EnvRunner, parameters: Mapping[str, Any], run_id: str) -> dict[str, Any]:
        """Start a driver that outlives this process, and return where it is; see `headrace.drivers`.

        Parameters
        ----------
        runner : EnvRunner
            Of the flow.
        parameters : mapping
            JSON data.
        run_id : str
            Of the run, which the driver begins.

        Raises
        ------
        SetupError, RunError
            If that cannot be done.
        """
        return runner.start(parameters, self.serialize(), run_id)

    @overload
    def execute(
        self,
        storage: Storage,
        location: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        observers: Sequence[Observer] = (),
        strings: bool = False,
        run_id: str | None = None,
        detach: Literal[False] = False,
    ) -> FlowRun: ...

    @overload
    def execute(
        self,
        storage: Storage,
        location: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        strings: bool = False,
        run_id: str | None = None,
        detach: Literal[True],
    ) -> RunRecord: ...

    def execute(
        self,
        storage: Storage,
        location: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        observers: Sequence[Observer] = (),
        strings: bool = False,
        run_id: str | None = None,
        detach: bool = False,
    ) -> FlowRun | RunRecord:
        """Run a stored flow, and return when it is over; or have it run elsewhere, and return at once.

        Parameters
        ----------
        storage : Storage
            Where the flow lies.
        location : str
            Which flow: a location, or a name for its newest version.
        parameters : mapping, optional
            Values by parameter name; those with a default may be left out.
        observers : sequence of Observer
            Told how the run goes on.
        strings : bool, default False
            Whether the values are text, as from a command line.
        run_id : str, optional
            Default: made here.
        detach : bool, default False
            Whether the run is driven by a process of its own, which outlives this one: on Kubernetes a Job, else a
            process on this host.

        Returns
        -------
        FlowRun
            What became of it; a failed task is told there, not raised.
        RunRecord
            Of a detached run, what its storage knows: ``wait()`` waits for its end, ``cancel()`` asks for it.
        """
        if detach:
            return self._detach(storage, location, parameters, observers, strings=strings, run_id=run_id)
        prepared = storage.get_runner(location).prepare(parameters, strings=strings)  # a typing error costs no cluster
        watching = [*observers, *self.observers()]
        self.setup(storage)
        self._admit(prepared)
        return prepared.run(executor=self.executor, environment=self.describe(), observers=watching, run_id=run_id)

    def _detach(
        self,
        storage: Storage,
        location: str,
        parameters: Mapping[str, Any] | None,
        observers: Sequence[Observer],
        *,
        strings: bool,
        run_id: str | None,
    ) -> RunRecord:
        if observers:
            raise RunError(
                "observers= are told by the process that drives the run, and a detached one has a process of its own; "
                "look at what execute(..., detach=True) returns instead, or leave detach out"
            )
        runner = storage.get_env_runner(location)
        environment = self.serialize()
        given, facts = storage.get_runner(runner.location).portable(parameters, strings=strings)
        run_id = checked_run_id(run_id or new_run_id())  # before there is a driver of it
        driver = self.launch(runner, given, run_id)
        try:
            return storage.launch_run(run_id, {**facts, "environment": environment, "driver": driver})
        except BaseException:
            driver_of(driver, run_id).end()  # nobody would know of it
            raise

    def start(
        self,
        storage: Storage,
        location: str,
        parameters: Mapping[str, Any] | None = None,
        *,
        observers: Sequence[Observer] = (),
        strings: bool = False,
        run_id: str | None = None,
    ) -> FlowRun:
        """Start a run of a stored flow, and return it on its way; the environment is set up meanwhile.

        Parameters
        ----------
        storage, location, parameters, observers, strings, run_id
            As for ``execute``.

        Returns
        -------
        FlowRun
            On its way: ``wait()`` waits for its end, ``cancel()`` asks for it.
        """
        prepared = storage.get_runner(location).prepare(parameters, strings=strings)
        described = self.describe()

        def bring_up() -> Executor:
            self.setup(storage)
            self._admit(prepared)
            if (found := self.describe()) != described:  # a cluster has a name once it is there
                drive.record.found(found)
            return self.executor()

        watching = [*observers, *self.observers()]
        drive = prepared.begin(executor=bring_up, environment=described, observers=watching, run_id=run_id)
        return drive.start()

    async def execute_async(
        self, storage: Storage, location: str, parameters: Mapping[str, Any] | None = None, **options: Any
    ) -> FlowRun:
        """Run a stored flow without blocking the event loop; a cancel of the task that awaits it cancels the run.

        Parameters
        ----------
        storage, location, parameters, **options
            As for ``execute``.
        """
        return await see_through(partial(self.start, storage, location, parameters, **options))

    def check(
        self,
        storage: Storage,
        flow: str | None = None,
        parameters: Mapping[str, Any] | None = None,
        *,
        strings: bool = False,
    ) -> list[Finding]:
        """Look for what would go wrong, the worst first; executes no task.

        Sets up what is needed, as for a run. What cannot be set up is a finding, too.

        Parameters
        ----------
        storage : Storage
            Whether it can be read and written where tasks run, and is the same there.
        flow : str, optional
            A location or a name. Whether it loads where tasks run, and finds there its packages, secrets, workers for
            its tasks, and the places of their targets.
        parameters, strings
            As for ``execute``. Default: what the flow was drawn for when it was stored.

        Returns
        -------
        list of Finding
            Each with a remedy; empty if all is well.
        """
        from headrace.environments.checks.inspection import examine  # here, because few runs are checked

        try:
            found = self._ready()
            more = examine(self._site(), self.executor, storage, flow, parameters, strings=strings)
        except SetupError as error:
            return list(getattr(error, "findings", ())) or [finding_of(error, repr(self))]
        return list(distinct([*found, *more]))

    def _ready(self) -> Sequence[Finding]:
        """Set up, and return what is wrong though that succeeded."""
        self.setup()
        return ()

    def _site(self) -> Site:
        """Where tasks run; one that executes elsewhere says where."""
        return Here()

    def _admit(self, prepared: PreparedRun) -> None:  # noqa: B027 - most look at nothing
        """Look at a run before it begins; must cost it nothing."""

    @abstractmethod
    def close(self) -> None:
        """Take down what ``setup`` brought up. May be repeated, also after a failed ``setup``."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @abstractmethod
    def serialize(self) -> dict[str, Any]:
        """Return plain JSON data from which ``deserialize`` makes an equal environment.

        Raises
        ------
        SetupError
            If something in it has no JSON form; nothing is lost in silence.
        """

    @staticmethod
    def deserialize(data: Mapping[str, Any]) -> Environment:
        """Make an environment from what ``serialize`` returned.

        Parameters
        ----------
        data : mapping
            JSON data, with the kind under ``"type"``.

        Raises
        ------
        SetupError
            If the kind is unknown here, or the data are not those of an environment.
        """
        kind = data.get("type")
        cls = find_kind(kind) if isinstance(kind, str) else None
        if cls is None:
            raise SetupError(
                f"unknown environment {kind!r}; known here are {', '.join(known_kinds())}. An environment of another "
                f"package is found by its entry point in the group {GROUP!r}: install that package",
                kind=kind,
            )
        return cls._from_data({key: value for key, value in data.items() if key != "type"})

    @classmethod
    def _from_data(cls, data: dict[str, Any]) -> Self:
        """Make one from its own data; override when they are not the constructor's arguments."""
        if not takes_any(cls):
            check_names(data, names_of(cls), cls.__name__)
        try:
            return cls(**data)
        except TypeError as error:
            raise SetupError(f"these are not the data of a {cls.__name__}: {error}") from None


def known_kinds() -> list[str]:
    """Names of the environments that can be made here."""
    return sorted({*_OWN, *(point.name for point in entry_points(group=GROUP))})


def find_kind(kind: str) -> type[Environment] | None:
    """Return the class of a kind, imported now; None if it is unknown."""
    return plugin(GROUP, _OWN, kind)  # type: ignore[no-any-return]
