"""The exam of environments finds what it looks for: environments with one fault each fail it."""

from __future__ import annotations

import inspect
import socket
from typing import Any, ClassVar

import pytest

import headrace as hr
from headrace.errors import SetupError
from headrace.testing import EnvironmentTests
from headrace.testing.environments import _doubles, _processes_and_ports


class Port(hr.LocalEnvironment):
    """Brings up a port that listens, and takes it down; no fault yet."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[socket.socket] = []

    def setup(self, storage: Any = None) -> None:
        if not self.open:
            self.bring_up()

    def bring_up(self) -> None:
        self.open.append(socket.create_server(("127.0.0.1", 0)))

    def close(self) -> None:
        while self.open:
            self.open.pop().close()


class SetsUpTwice(Port):
    def setup(self, storage: Any = None) -> None:
        self.bring_up()


class LeavesSomething(Port):
    kept: ClassVar[list[socket.socket]] = []

    def close(self) -> None:
        self.kept.extend(self.open)
        self.open = []


class ClosesOthers(Port):
    all: ClassVar[list[Port]] = []

    def bring_up(self) -> None:
        super().bring_up()
        self.all.append(self)

    def executor(self) -> Any:
        if not self.open:
            raise SetupError("it is closed")
        return super().executor()

    def setup(self, storage: Any = None) -> None:
        if self not in self.all:
            self.bring_up()

    def close(self) -> None:
        for each in self.all:
            Port.close(each)


class OnceOnly(Port):
    done = False

    def setup(self, storage: Any = None) -> None:
        if self.done:
            raise SetupError("it was closed")
        super().setup(storage)

    def close(self) -> None:
        self.done = self.done or bool(self.open)
        super().close()


class Deaf(Port):
    def execute(self, storage: Any, location: str, parameters: Any = None, **options: Any) -> Any:
        return super().execute(storage, location, None, **options)


class Rosy(Port):
    def execute(self, storage: Any, location: str, parameters: Any = None, **options: Any) -> Any:
        return super().execute(storage, storage.add_flow(_doubles()), parameters, **options)


class Unstoppable(Port):
    def start(self, *given: Any, **options: Any) -> Any:
        run = super().start(*given, **options)
        run.really, run.cancel = run.cancel, lambda: None
        self.run = run
        return run

    def close(self) -> None:
        super().close()
        if hasattr(self, "run"):
            self.run.really()
            self.run.wait(20)


class WritesLess(hr.LocalEnvironment):
    def serialize(self) -> dict[str, Any]:
        return {"type": "LocalEnvironment"}

    def describe(self) -> dict[str, Any]:
        return {"type": "WritesLess"}


class NoFailure(Port):
    """As `broken`: says nothing."""


class FailsLoudly(Port):
    """As `broken`; no fault yet."""

    def setup(self, storage: Any = None) -> None:
        raise SetupError("there is no port")


class FailsAndLeaves(LeavesSomething):
    def setup(self, storage: Any = None) -> None:
        self.bring_up()
        raise SetupError("there is one port only")


FAULTS = [
    (SetsUpTwice, "test_one_setup_serves_many_runs", Port),
    (Deaf, "test_one_setup_serves_many_runs", Port),
    (Deaf, "test_parameters_are_checked", Port),
    (Rosy, "test_a_failure_is_told", Port),
    (Unstoppable, "test_a_run_is_cancelled", Port),
    (LeavesSomething, "test_another_one_at_the_same_time", Port),
    (ClosesOthers, "test_another_one_at_the_same_time", Port),
    (OnceOnly, "test_another_one_at_the_same_time", Port),
    (WritesLess, "test_what_is_written_down", hr.LocalEnvironment),
    (NoFailure, "test_a_failed_setup", FailsLoudly),
    (FailsAndLeaves, "test_a_failed_setup", FailsLoudly),
]


def sit(cls: type[hr.Environment], test: str, storage: hr.Storage, patience: float) -> None:
    """Let one environment sit one test."""
    exam = EnvironmentTests()
    exam.patience, exam.serializes = patience, test == "test_what_is_written_down"
    with cls() as environment:
        given = {"environment": environment, "broken": cls(), "make": cls, "storage": storage}
        method = getattr(exam, test)
        wanted = inspect.signature(method).parameters
        method(**{name: value for name, value in {**given, "left": _processes_and_ports}.items() if name in wanted})


@pytest.mark.parametrize(("cls", "test", "sound"), FAULTS)
def test_a_fault_is_found(cls, test, sound, tmp_path):
    storage = hr.Storage(tmp_path)
    sit(sound, test, storage, 60.0)
    with pytest.raises((AssertionError, SetupError, pytest.fail.Exception)):
        sit(cls, test, storage, 1.0)
    for each in LeavesSomething.kept:
        each.close()
