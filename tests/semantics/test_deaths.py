"""What a worker's death must not change."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest
from distributed import Client

import headrace as hr
from tests.clusters import local_cluster
from tests.waiting import until


@hr.task
def part(i, flag):
    """Quick before the death; afterwards slow enough for the watchdog to give back the rest of its batch."""
    time.sleep(0.1 if os.path.exists(flag) else 0.002)
    return i


@hr.task
def kill_one(flag, pids):
    Path(flag).touch()
    os.kill(next(pid for pid in pids if pid != os.getpid()), signal.SIGKILL)
    return [0]


@hr.task
def total(_, parts):
    return sum(parts)


@hr.flow
def survivor(flag: str, pids: list[int], n: int = 100):
    parts = part.map(list(range(n)), hr.unmapped(flag))
    killed = kill_one(flag, pids, upstream=parts)
    return total.map(killed, hr.unmapped(parts))


def test_values_that_died_with_a_worker_are_computed_again(tmp_path):
    with hr.DaskEnvironment("local", n_workers=2) as environment:
        environment.setup(None)
        pids = list(environment.client.run(os.getpid).values())
        run = survivor.run(environment=environment, flag=str(tmp_path / "flag"), pids=pids)
        assert run.result() == [sum(range(100))]


@hr.task
def die_once(flag):
    if not os.path.exists(flag):
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return 1


@hr.flow
def dying(flag: str):
    return die_once(flag)


class Heard(logging.Handler):
    """The errors that a scheduler in this process logs."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.told = []

    def emit(self, record):
        self.told.append(record.getMessage())

    def __enter__(self):
        logging.getLogger("distributed.scheduler").addHandler(self)
        return self

    def __exit__(self, *exc):
        logging.getLogger("distributed.scheduler").removeHandler(self)


def test_only_what_is_lost_for_good_is_called_so(tmp_path):
    before = logging.getLogger("distributed.scheduler").filters[:]
    with Heard() as log, hr.DaskEnvironment("local", n_workers=2) as environment:
        assert dying.run(environment=environment, flag=str(tmp_path / "dead")).result() == 1
        assert log.told == []
        until(lambda: len(environment.client.run(os.getpid)) == 2)
        pids = environment.client.run(os.getpid)
        mine = [environment.client.scatter({f"mine-{i}": i}, workers=[each]) for i, each in enumerate(pids)]
        run = survivor.run(environment=environment, flag=str(tmp_path / "flag"), pids=list(pids.values()))
        assert run.result() == [sum(range(100))]
        [error] = log.told
        assert "lose scattered data" in error
        assert "mine-" in error
        assert run.run_id not in error
        log.told.clear()
        for pid in environment.client.run(os.getpid).values():
            os.kill(pid, signal.SIGKILL)
        until(lambda: any(run.run_id in error for error in log.told))  # nobody makes it again
        del mine
    assert logging.getLogger("distributed.scheduler").filters == before


class Opens:
    """Can be pickled until it is used."""

    lock = None


@hr.task
def make_opens():
    return Opens()


@hr.task
def use_it(thing):
    thing.lock = threading.Lock()


@hr.task
def take(thing):
    return 1


@hr.flow
def changed():
    """One of the two that take it is not where it lies."""
    thing = make_opens()
    used = use_it(thing)
    return [take.with_options(workers=name)(thing, upstream=used) for name in ("0", "1")]


@hr.flow
def returned_changed():
    thing = make_opens()
    use_it(thing)
    return thing


def test_a_value_that_cannot_travel_any_more_is_an_error_that_names_the_task():
    with hr.DaskEnvironment("local", n_workers=2, silence_logs=50) as environment:
        run = changed.run(environment=environment)
        assert run["make_opens"].state is hr.State.SUCCESS
        told = r"the value of task make_opens\[0\], a Opens, is needed in another"
        with pytest.raises(hr.errors.NotPicklable, match=told):
            run.result()
        run = returned_changed.run(environment=environment)
        assert run.state is hr.State.SUCCESS
        with pytest.raises(hr.errors.NotPicklable, match=told):
            run.result()


@hr.task
def where():
    return os.getpid()


@hr.task
def places(pids):
    return pids


@hr.flow
def spread():
    return places([where.with_options(name=f"where-{name}", workers=name)() for name in ("0", "1")])


def test_values_that_went_with_a_worker_after_the_run_are_told_so():
    with hr.DaskEnvironment("local", n_workers=2, silence_logs=50) as environment:
        run = spread.run(environment=environment)
        pids = run.result()
        assert len(set(pids)) == 2
        os.kill(pids[0], signal.SIGKILL)
        with pytest.raises(hr.errors.ValueReleased, match="went with the worker"):  # also before the cluster knows
            run["where-0"].result()
        assert run.result() == pids


@hr.task
def nap(i):
    time.sleep(0.05)
    return i


@hr.flow
def naps(n: int = 30):
    return total.map([0], hr.unmapped(nap.map(range(n))))


class Disconnect(hr.Observer):
    """An observer that cuts the driver's connection to the scheduler, once, when some tasks are done."""

    def __init__(self, client):
        self.client = client
        self.lost = None

    def on_progress(self, summaries, elapsed):
        if self.lost is None and any(summary.done for summary in summaries):
            self.lost = self.client.scheduler_comm.comm
            self.client.loop.add_callback(self.lost.abort)


def test_a_driver_that_is_cut_off_for_a_moment_goes_on():
    with (
        local_cluster(n_workers=2, threads_per_worker=1) as cluster,
        Client(cluster.scheduler_address, set_as_default=False) as client,
    ):
        disconnect = Disconnect(client)
        run = naps.run(environment=hr.DaskEnvironment(client), observers=[disconnect])
        assert disconnect.lost.closed()
        assert run.result() == [sum(range(30))]


@hr.task
def works_once(folder):
    made = Path(folder, "made")
    if made.exists():
        os.kill(os.getpid(), signal.SIGKILL)
    made.touch()
    return 1


@hr.task(priority=1)  # so that the two are no batch
def takes_its_worker_along(value, folder):
    broke = Path(folder, "broke")
    if not broke.exists():
        broke.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return value


@hr.flow
def not_made_again(folder: str):
    return takes_its_worker_along(works_once(folder), folder)


def test_a_value_that_cannot_be_made_again_is_told_with_the_run(tmp_path):
    options = {"n_workers": 1, "threads_per_worker": 1, "silence_logs": 50}
    with hr.DaskEnvironment("local", **options) as environment:
        run = not_made_again.run(environment=environment, folder=str(tmp_path))
        assert run.state is hr.State.CRASHED
        assert list(run.errors) == ["works_once"]
        with pytest.raises(hr.errors.TaskCrashed, match="each time it was tried"):
            run.result()
