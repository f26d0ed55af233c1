"""Runs on their way: started without waiting, cancelled from elsewhere, awaited in event loops, interrupted."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import headrace as hr
from headrace.errors import FlowError, ParameterError, RunCancelled, SetupError
from headrace.execution.inline import InlineExecutor
from headrace.execution.signals import Terminated, terminate
from headrace.storage.files import private_memory
from tests.waiting import until


@pytest.fixture(scope="module", params=["inline", "threads"])
def place(request: pytest.FixtureRequest) -> Iterator[hr.Environment]:
    if request.param == "inline":
        yield hr.LocalEnvironment()
        return
    with hr.DaskEnvironment("local", processes=False, n_workers=1, threads_per_worker=2) as environment:
        environment.setup()
        yield environment


@hr.task
def waits(path: str, name: str = "go") -> str:
    """Write that it is there, and wait until it may go on."""
    folder = Path(path)
    (folder / f"{name}-here").touch()
    end = time.monotonic() + 60
    while not (folder / name).exists():
        assert time.monotonic() < end
        time.sleep(0.002)
    return name


@hr.resource
def place_held(path: str) -> str:
    return path


@place_held.cleanup
def leave(path: str) -> None:
    (Path(path) / "clean").touch()


@hr.flow
def waiting(path: str, name: str = "go"):
    with place_held(path) as held:
        return waits(held, name)


@hr.task
def fails() -> None:
    raise ValueError("no")


@hr.flow
def failing():
    fails()


# -- start -------------------------------------------------------------------------------------------------------


def test_a_run_is_seen_on_its_way(place: hr.Environment, tmp_path: Path) -> None:
    run = waiting.start(environment=place, path=str(tmp_path))
    until(lambda: run["waits"].states == [hr.State.RUNNING])
    assert (run.state, run.done) == (hr.State.RUNNING, False)
    until(lambda: run["place_held"].states == [hr.State.SUCCESS])
    assert [node.done for node in run.summaries()] == [1, 0, 0]
    assert run.elapsed > 0
    assert "Running" in repr(run)
    assert run.wait(0.01) is run
    assert not run.done
    (tmp_path / "go").touch()
    assert run.result() == "go"
    assert (run.done, run.state) == (True, hr.State.SUCCESS)
    assert run.elapsed == run.elapsed


def test_what_is_not_over_says_so(place: hr.Environment, tmp_path: Path) -> None:
    run = waiting.start(environment=place, path=str(tmp_path))
    until(lambda: run["waits"].states == [hr.State.RUNNING])
    for view in (run["waits"], run["waits"][0]):
        with pytest.raises(hr.errors.RunError, match=r"task 'waits' .* is not over \(Running\)"):
            view.result()
    assert run.error is None
    (tmp_path / "go").touch()
    assert run.wait().state is hr.State.SUCCESS


@hr.task
def one(x: int) -> int:
    return x + 1


@hr.flow
def looping():
    return hr.loop(one, 0, until=lambda x: x >= 300, most=300)


def test_the_nodes_of_a_run_are_read_while_others_join() -> None:
    run, seen = looping.start(), []
    while not run.done:
        names = list(run)
        assert names[: len(seen)] == seen
        assert [run[name].name for name in names] == names
        seen = names
    names = list(run)
    assert len(names) >= 300
    assert [run[name].name for name in run] == names


def test_a_run_is_cancelled_from_another_thread(place: hr.Environment, tmp_path: Path) -> None:
    run = waiting.start(environment=place, path=str(tmp_path))
    until((tmp_path / "go-here").exists)
    threading.Thread(target=run.cancel).start()
    assert run.wait(30).state is hr.State.CANCELLED
    assert (tmp_path / "clean").exists()
    with pytest.raises(RunCancelled):
        run.result()
    run.cancel()  # changes nothing
    assert run.wait().state is hr.State.CANCELLED


def test_what_cannot_begin_is_told_at_once(place: hr.Environment) -> None:
    with pytest.raises(ParameterError):
        waiting.start(environment=place, paht="x")


def test_a_set_up_that_fails_is_told_by_who_waits(tmp_path: Path) -> None:
    storage = hr.Storage(str(tmp_path))
    location = storage.add_flow(failing)
    run = hr.DaskEnvironment("tcp://127.0.0.1:1", deadline=5).start(storage, location)
    with pytest.raises(SetupError) as caught:
        run.wait()
    assert run.error is caught.value
    assert run.done
    [record] = storage.runs()
    assert record.state == "Crashed"
    assert record.outcome["errors"][0]["type"] == "headrace.errors.SetupError"
    assert record.outcome["nodes"][0]["counts"] == {"Cancelled": 1}


def test_a_run_that_nobody_holds_goes_on(place: hr.Environment, tmp_path: Path) -> None:
    storage = hr.Storage(str(tmp_path / "store"))
    location = storage.add_flow(waiting)
    place.start(storage, location, {"path": str(tmp_path)})
    until((tmp_path / "go-here").exists)
    (tmp_path / "go").touch()
    until(lambda: storage.runs()[0].state != "Running")
    assert storage.runs()[0].result() == "go"


def test_a_run_that_is_cancelled_before_it_begins_executes_nothing(tmp_path: Path) -> None:
    begin = threading.Event()

    class Late(hr.LocalEnvironment):
        def executor(self) -> InlineExecutor:
            begin.wait(30)
            return super().executor()

    run = waiting.start(environment=Late(), path=str(tmp_path))
    run.cancel()
    begin.set()
    assert run.wait().state is hr.State.CANCELLED
    assert not list(tmp_path.iterdir())


def test_a_call_when_it_is_over(place: hr.Environment, tmp_path: Path) -> None:
    seen: list[hr.State] = []
    run = waiting.start(environment=place, path=str(tmp_path))
    run.call_when_over(lambda: seen.append(run.state))
    assert not seen
    (tmp_path / "go").touch()
    run.wait()
    until(lambda: seen)
    run.call_when_over(lambda: seen.append(run.state))
    assert seen == [hr.State.SUCCESS] * 2


# -- raise_on_failure --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frozen(Exception):
    code: int


@hr.task
def fails_frozen() -> None:
    raise Frozen(3)


def test_a_failure_is_raised_if_one_wants_that(place: hr.Environment) -> None:
    with pytest.raises(ValueError, match="no") as caught:
        failing.run(environment=place, raise_on_failure=True)
    assert caught.value.run["fails"].state is hr.State.FAILED
    with pytest.raises(Frozen) as frozen:
        hr.flow(name="frozen")(lambda: fails_frozen()).run(environment=place, raise_on_failure=True)
    assert frozen.value.run.state is hr.State.FAILED
    assert failing.run(environment=place).state is hr.State.FAILED
    good = hr.flow(name="good")(lambda: waits.with_options(name="w")(".", "."))
    assert good.run(environment=place, raise_on_failure=True).state is hr.State.SUCCESS


def test_arguments_of_run_are_no_parameters() -> None:
    @hr.flow
    def taken(raise_on_failure: bool = False):
        fails()

    for start in (taken.run, taken.start, lambda: asyncio.run(taken.run_async())):
        with pytest.raises(FlowError, match="raise_on_failure"):
            start()


# -- in an event loop --------------------------------------------------------------------------------------------


def test_runs_in_one_loop_at_the_same_time(place: hr.Environment, tmp_path: Path) -> None:
    async def both() -> list[str]:
        runs = [
            asyncio.create_task(waiting.run_async(environment=place, path=str(tmp_path), name=name)) for name in "ab"
        ]
        while not all((tmp_path / f"{name}-here").exists() for name in "ab"):  # the loop is not blocked
            await asyncio.sleep(0.005)
        for name in "ab":
            (tmp_path / name).touch()
        return [(await run).result() for run in runs]

    assert asyncio.run(both()) == ["a", "b"]


def test_a_cancel_in_a_loop_waits_for_the_cleanup(place: hr.Environment, tmp_path: Path) -> None:
    async def cancelled() -> None:
        run = asyncio.create_task(waiting.run_async(environment=place, path=str(tmp_path)))
        while not (tmp_path / "go-here").exists():
            await asyncio.sleep(0.005)
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
        assert (tmp_path / "clean").exists()

    asyncio.run(cancelled())


def test_a_time_limit_in_a_loop(place: hr.Environment, tmp_path: Path) -> None:
    async def limited() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(waiting.run_async(environment=place, path=str(tmp_path)), 0.3)

    asyncio.run(limited())
    assert (tmp_path / "clean").exists() or not (tmp_path / "go-here").exists()


def test_errors_in_a_loop(place: hr.Environment) -> None:
    with pytest.raises(ParameterError):
        asyncio.run(waiting.run_async(environment=place))
    assert asyncio.run(failing.run_async(environment=place)).state is hr.State.FAILED
    with pytest.raises(ValueError, match="no"):
        asyncio.run(failing.run_async(environment=place, raise_on_failure=True))


# -- signals -----------------------------------------------------------------------------------------------------


@hr.task
def presses_ctrl_c(path: str) -> None:
    signal.raise_signal(signal.SIGINT)
    raise AssertionError("it was not interrupted")


@hr.task
def raises_an_interrupt(path: str) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("task", [presses_ctrl_c, raises_an_interrupt])
def test_an_interrupted_run_is_cleaned_up(task: hr.Task, tmp_path: Path) -> None:
    @hr.flow
    def interrupted(path: str):
        with place_held(path) as held:
            waits(task(held))

    with pytest.raises(KeyboardInterrupt) as caught:
        interrupted.run(path=str(tmp_path))
    run = caught.value.run
    assert {name: run[name].state.label for name in run} == {
        "place_held": "Success", task.name: "Cancelled", "waits": "Cancelled", "leave": "Success"
    }  # fmt: skip
    assert run.state is hr.State.CANCELLED
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("number", "handler", "error"),
    [
        (signal.SIGINT, signal.default_int_handler, KeyboardInterrupt),
        (signal.SIGTERM, signal.SIG_DFL, SystemExit),
        (signal.SIGTERM, terminate, Terminated),
    ],
)
def test_a_signal_just_when_the_record_has_begun(
    number: int, handler: Any, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = hr.Storage("memory://signals", filesystem=private_memory())
    location = storage.stage(failing)
    begin = storage._begin_run

    def begin_interrupted(facts: dict[str, Any]) -> Any:
        record = begin(facts)
        signal.raise_signal(number)
        return record

    monkeypatch.setattr(storage, "_begin_run", begin_interrupted)
    before = signal.signal(number, handler)
    try:
        with pytest.raises(error) as caught:
            hr.LocalEnvironment().execute(storage, location)
        assert signal.getsignal(number) == handler
    finally:
        signal.signal(number, before)
    assert caught.value.run.state is hr.State.CANCELLED
    assert [record.state for record in storage.runs()] == ["Cancelled"]


def test_an_interrupt_between_two_steps_of_the_driver_cancels(place: hr.Environment, tmp_path: Path) -> None:
    class Presses(hr.Observer):
        pressed = False  # once: a second time would end the run without its clean-up

        def on_progress(self, nodes: object, elapsed: float) -> None:
            if (tmp_path / "go-here").exists() and not self.pressed:
                self.pressed = True
                raise KeyboardInterrupt

    (tmp_path / "go").touch()

    @hr.flow
    def two(path: str):
        with place_held(path) as held:
            late(pauses(waits(held)))

    with pytest.raises(KeyboardInterrupt) as caught:
        two.run(environment=place, path=str(tmp_path), observers=[Presses()])
    assert caught.value.run.state is hr.State.CANCELLED
    assert (tmp_path / "clean").exists()


@hr.task
def pauses(name: str) -> str:
    time.sleep(0.2)  # longer than what passes between two looks of an observer, also where the driver executes it
    return name


@hr.task
def late(name: str) -> None:
    end = time.monotonic() + 20
    while time.monotonic() < end:
        time.sleep(0.002)


def test_handlers_of_others_are_left_alone(tmp_path: Path) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append(number))
    try:

        @hr.flow
        def pressed(path: str):
            shrugs(path)

        assert pressed.run(path=str(tmp_path)).state is hr.State.SUCCESS
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.SIGINT]


@hr.task
def shrugs(path: str) -> None:
    signal.raise_signal(signal.SIGINT)
