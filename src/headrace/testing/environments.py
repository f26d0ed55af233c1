"""``EnvironmentTests``: whatever runs execute on, they end alike, and nothing is left of it."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import psutil
import pytest

from headrace.core.state import State
from headrace.core.summary import NodeSummary, Observer
from headrace.core.task import task
from headrace.environments.base import Environment, known_kinds
from headrace.errors import HeadraceError, ParameterError, SetupError, ValueReleased
from headrace.execution.flowrun import FlowRun
from headrace.flows import Flow, flow
from headrace.store import Storage


class Make(Protocol):
    """Makes an environment that is not set up, each time a new one."""

    def __call__(self, **options: Any) -> Environment:
        """Make it.

        Parameters
        ----------
        **options
            Those of ``EnvironmentTests.takes``.
        """
        ...


class EnvironmentTests:
    """An exam for environments, for pytest.

    Inherit, and define a fixture ``make`` with ``scope="class"``, which returns a function of options that makes a new
    environment. If there is a way in which its ``setup`` fails, define a fixture ``broken``, an environment like that.

    Attributes
    ----------
    takes : set of str
        Options of ``make``: ``"n_workers"`` and ``"adapt"``, if the environment keeps what they promise.
    serializes : bool, default True
        Whether it can be written down. If not, ``serialize`` must say so.
    patience : float, default 60
        Seconds for what should take a few.
    """

    takes: frozenset[str] = frozenset()
    serializes: bool = True
    patience: float = 60.0

    # -- what the exam uses, to be defined anew where it does not fit -----------------------------------------------

    @pytest.fixture(scope="class")
    def storage(self, tmp_path_factory: pytest.TempPathFactory) -> Storage:
        """A storage that the environment can reach: by default a folder of this machine."""
        return Storage(tmp_path_factory.mktemp("storage"))

    @pytest.fixture(scope="class")
    def left(self, make: Make) -> Callable[[], set[Any]]:
        """Look at what environments have brought up, with other eyes than theirs: by default processes and ports."""
        return _processes_and_ports

    @pytest.fixture
    def broken(self) -> Environment:
        """An environment whose ``setup`` fails within seconds."""
        pytest.skip("there is no fixture `broken`: an environment whose setup fails")

    @pytest.fixture(scope="class")
    def environment(self, make: Make, left: Callable[[], set[Any]]) -> Iterator[Environment]:
        """One that several tests share; when they are through, it is closed, and nothing is left."""
        before = left()
        with make() as environment:
            yield environment
        environment.close()
        assert self.comes(lambda: left() <= before), f"left behind by close(): {left() - before}"

    def comes(self, condition: Callable[[], object]) -> bool:
        """Wait for a condition, and return whether it came."""
        end = time.monotonic() + self.patience
        while not condition():
            if time.monotonic() > end:
                return False
            time.sleep(0.02)
        return True

    # -- runs ----------------------------------------------------------------------------------------------------

    def test_one_setup_serves_many_runs(
        self, environment: Environment, storage: Storage, left: Callable[[], set[Any]]
    ) -> None:
        """Of one flow with several parameters; a second setup is none."""
        environment.setup(storage)
        up = left()
        environment.setup(storage)
        location = storage.add_flow(_doubles())
        assert environment.execute(storage, location, {"n": 5}).result() == 20
        assert environment.execute(storage, "doubles", {"n": "4"}, strings=True).result() == 12
        assert environment.execute(storage, location).result() == 6
        assert left() <= up, f"brought up by a second setup, or by a run: {left() - up}"

    def test_parameters_are_checked(self, environment: Environment, storage: Storage) -> None:
        """In this process, before anything runs."""
        location = storage.add_flow(_doubles())
        wrong: Sequence[Mapping[str, Any]] = ({"n": "many"}, {"m": 1})
        for parameters in wrong:
            with pytest.raises(ParameterError, match=r"'?[nm]'?"):
                environment.execute(storage, location, parameters)

    def test_a_failure_is_told(self, environment: Environment, storage: Storage) -> None:
        """With the exception of the task, and where it was; what does not depend on it is there."""
        run = environment.execute(storage, storage.add_flow(_fails()))
        assert run.state is State.FAILED
        with pytest.raises(ZeroDivisionError, match="seven") as caught:
            run.result()
        assert "task 'divide[7]'" in "".join(caught.value.__notes__)
        assert run["divide"][8].result() == 8
        record = storage.get_run(run.run_id)
        assert (record.state, record.environment) == ("Failed", environment.describe())
        self.still_works(environment, storage)

    def test_a_run_is_cancelled(self, environment: Environment, storage: Storage) -> None:
        """In the middle of a task."""
        run = environment.start(storage, storage.add_flow(_endless()))
        assert self.comes(lambda: run["nap"].state is State.RUNNING)
        run.cancel()
        assert self.comes(lambda: run.done)
        assert run.state is State.CANCELLED
        assert storage.get_run(run.run_id).state == "Cancelled"
        self.still_works(environment, storage)

    def test_ctrl_c(self, environment: Environment, storage: Storage) -> None:
        """Cancels the run that is executed, and is raised; the environment stays."""
        location, main = storage.add_flow(_endless()), threading.main_thread()
        if threading.current_thread() is not main:
            pytest.skip("Ctrl-C is for the main thread, and this is another")
        began = _Began()

        def press() -> None:
            if began.run.wait(self.patience):
                began.task.wait(1.0)  # executed in this very thread, it cannot tell that a task is running
                signal.pthread_kill(main.ident or 0, signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        with pytest.raises(KeyboardInterrupt) as caught:
            environment.execute(storage, location, observers=[began])
        presser.join()
        run = caught.value.run  # type: ignore[attr-defined]
        assert run.state is State.CANCELLED
        assert storage.get_run(run.run_id).state == "Cancelled"
        self.still_works(environment, storage)

    def still_works(self, environment: Environment, storage: Storage) -> None:
        """Whatever has happened before."""
        assert environment.execute(storage, storage.add_flow(_doubles()), {"n": 2}).result() == 2

    # -- beside others, and afterwards ---------------------------------------------------------------------------

    def test_another_one_at_the_same_time(
        self, make: Make, environment: Environment, storage: Storage, left: Callable[[], set[Any]]
    ) -> None:
        """Made of what the first one wrote down, if it can. An exception closes it, and the first one goes on."""
        self.still_works(environment, storage)
        before = left()
        other = self._written_and_read(environment) if self.serializes else make()
        other.close()  # which does no harm before a setup

        def use() -> FlowRun:
            with other:
                run = other.execute(storage, storage.add_flow(_doubles()), {"n": 3})
                self.still_works(environment, storage)
                assert run.result() == 6
                raise _Escaped(run)

        with pytest.raises(_Escaped) as caught:
            use()
        assert self.comes(lambda: left() <= before), f"left behind by close(): {left() - before}"
        self._values_are_there_or_said_to_be_gone(caught.value.run)
        self.still_works(environment, storage)
        other.close()
        with other:  # set up again, when the run has begun
            run = other.start(storage, storage.add_flow(_doubles()), {"n": 3}).wait()
            assert run.result() == 6
            assert storage.get_run(run.run_id).environment == other.describe()
        assert self.comes(lambda: left() <= before), f"left behind by close(): {left() - before}"

    def _values_are_there_or_said_to_be_gone(self, run: FlowRun) -> None:
        for value, found in ((6, run.result), ([0, 2, 4], run["double"].result)):
            try:
                assert found() == value
            except ValueReleased as error:
                assert "closed" in str(error)  # noqa: PT017 - either is right

    def _written_and_read(self, environment: Environment) -> Environment:
        data = environment.serialize()
        again = Environment.deserialize(json.loads(json.dumps(data)))
        assert type(again) is type(environment)
        assert again.serialize() == data
        return again

    def test_what_is_written_down(self, environment: Environment) -> None:
        """Names a kind that is known; what cannot be written down is refused loudly."""
        described = environment.describe()
        assert json.loads(json.dumps(described)) == described
        assert described["type"] in known_kinds()
        if self.serializes:
            assert environment.serialize()["type"] == described["type"]
        else:
            with pytest.raises(SetupError, match="cannot be written down"):
                environment.serialize()

    def test_a_failed_setup(self, broken: Environment, storage: Storage, left: Callable[[], set[Any]]) -> None:
        """Says so, each time, and leaves nothing."""
        before = left()
        for _ in range(2):
            with pytest.raises(HeadraceError) as caught:
                broken.setup(storage)
            assert isinstance(caught.value, SetupError | ImportError)
            assert self.comes(lambda: left() <= before), f"left behind: {left() - before}"
        broken.close()

    # -- size ----------------------------------------------------------------------------------------------------

    def test_n_workers(self, make: Make, storage: Storage) -> None:
        """So many take part, if there is enough to do."""
        if "n_workers" not in self.takes:
            pytest.skip("it does not take n_workers")
        with make(n_workers=2) as environment:
            location = storage.add_flow(_who())
            assert self.comes(lambda: len(set(environment.execute(storage, location).result())) == 2)

    def test_adapt(self, make: Make, storage: Storage) -> None:
        """From nothing, as soon as there is something to do."""
        if "adapt" not in self.takes:
            pytest.skip("it does not take adapt")
        with make(adapt=(0, 2)) as environment:
            self.still_works(environment, storage)
            assert len(set(environment.execute(storage, storage.add_flow(_who())).result())) <= 2


class _Escaped(Exception):
    """Leaves a ``with`` block, with the run that was executed there."""

    def __init__(self, run: FlowRun) -> None:
        super().__init__(run.run_id)
        self.run = run


class _Began(Observer):
    """Tells other threads that a run has begun, and a task of it."""

    def __init__(self) -> None:
        self.run, self.task = threading.Event(), threading.Event()

    def on_start(self, run_id: str, flow_name: str, nodes: Sequence[NodeSummary]) -> None:
        self.run.set()

    def on_progress(self, nodes: Sequence[NodeSummary], elapsed: float) -> None:
        if any(node.counts.get(State.RUNNING) for node in nodes):
            self.task.set()


def _processes_and_ports() -> set[Any]:
    """Those of this process; but not the helpers that Python's multiprocessing keeps to itself."""
    me, found = psutil.Process(), set[Any]()
    for child in me.children(recursive=True):
        try:
            helper = any("resource_tracker" in word or "forkserver" in word for word in child.cmdline())
        except psutil.Error:
            continue
        if not helper and child.status() != psutil.STATUS_ZOMBIE:
            found.add(("process", child.pid))
    ports = [each for each in me.net_connections() if each.status == psutil.CONN_LISTEN]
    return found | {("port", *each.laddr) for each in ports}


# -- flows: defined within functions, so that they travel by value, and workers need no pytest -----------------------


def _doubles() -> Flow:
    @task
    def double(number: int) -> int:
        return 2 * number

    @task
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @flow
    def doubles(n: int = 3) -> Any:
        return total(double.map(range(n)))

    return doubles


def _fails() -> Flow:
    @task
    def divide(number: int) -> int:
        if number == 7:
            raise ZeroDivisionError("by seven")
        return number

    @flow
    def fails() -> Any:
        return divide.map(range(9))

    return fails


def _endless() -> Flow:
    @task
    def nap() -> None:
        for _ in range(6000):
            time.sleep(0.05)

    @flow
    def endless() -> Any:
        return nap()

    return endless


def _who() -> Flow:
    @task
    def who(number: int) -> str:
        time.sleep(0.1)
        try:
            from distributed import get_worker

            return str(get_worker().address)
        except (ImportError, ValueError):
            return str(os.getpid())

    @flow
    def everybody() -> Any:
        return who.map(range(20))

    return everybody
