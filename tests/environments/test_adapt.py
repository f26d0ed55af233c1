"""Clusters that scale themselves: up when a run has work for more workers, down again, and nothing is lost."""

import gc
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from distributed import Client

import headrace as hr
from headrace.execution import switchboard
from headrace.execution.demand import BACKLOG
from headrace.execution.scheduler import RunsPlugin, forget_plan, open_run
from headrace.execution.switchboard import OVER, topic
from tests.clusters import local_cluster
from tests.waiting import until

#: All is quicker than by default: a look each 50 ms, and as many workers as get all done within half a second.
QUICK = {
    "distributed.adaptive.interval": "50ms",
    "distributed.adaptive.target-duration": "500ms",
    "distributed.adaptive.wait-count": 3,
}


@pytest.fixture(autouse=True)
def quick():
    with dask.config.set(QUICK):
        yield


@hr.task
def nap(i, flag):
    """Takes long until enough workers are there, so that the tests neither wait nor come too late."""
    if not Path(flag).exists():
        time.sleep(0.1)
    return i


@hr.task
def tiny(i):
    return i


@hr.task
def total(values):
    return sum(values)


@hr.flow
def naps(flag: str, n: int = 400):
    return total(nap.map(range(n), hr.unmapped(flag)))


@hr.flow
def many(n: int):
    return total(tiny.map(range(n)))


class Heads(hr.Observer):
    """An observer that counts workers, and raises a flag when there are so many."""

    def __init__(self, scheduler, flag, enough):
        self.scheduler = scheduler
        self.flag = Path(flag)
        self.enough = enough
        self.most = 0

    def on_progress(self, summaries, elapsed):
        self.most = max(self.most, len(self.scheduler.workers))
        if self.most >= self.enough:
            self.flag.touch()


@pytest.mark.parametrize("least", [0, 1])
def test_a_cluster_that_adapts_scales_up_and_down(least, tmp_path):
    flag = tmp_path / "enough"
    with local_cluster(n_workers=least, threads_per_worker=1) as cluster:
        cluster.adapt(minimum=least, maximum=4)
        with Client(cluster, set_as_default=False) as client:
            heads = Heads(cluster.scheduler, flag, 4)
            run = naps.run(environment=hr.DaskEnvironment(client), observers=[heads], flag=str(flag))
            assert run.result() == sum(range(400))
            assert heads.most == 4
            del run
            gc.collect()
            until(lambda: len(cluster.scheduler.workers) == least)


def test_a_little_work_wants_no_more_workers():
    with local_cluster(n_workers=1, threads_per_worker=1) as cluster:
        adaptive = cluster.adapt(minimum=1, maximum=4)
        with Client(cluster, set_as_default=False) as client:
            run = many.run(environment=hr.DaskEnvironment(client), n=2000)
            assert run.result() == sum(range(2000))
        assert len(cluster.scheduler.workers) == 1
        assert not [entry for _, entry in adaptive.log if entry["status"] == "up"]


def test_what_a_driver_told_goes_with_it():
    with (
        local_cluster(n_workers=1, threads_per_worker=1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.register_plugin(RunsPlugin())
        driver = Client(cluster.scheduler_address, set_as_default=False)
        wanted = cluster.scheduler.adaptive_target
        told = topic("run"), [((), 100.0, 7)]
        driver.log_event(BACKLOG, told)
        assert wanted() <= 1  # nobody drives this run, so it is over
        driver.run_on_scheduler(open_run, topic("run"), driver.id, 60.0, "token")
        driver.log_event(BACKLOG, told)
        assert [wanted("30s"), wanted("1s")] == [4, 7]
        driver.close()
        until(lambda: wanted("1s") <= 1)


@pytest.mark.parametrize("end", ["over", "forgotten"])
def test_a_cluster_is_not_idle_while_a_run_goes_on_of_which_it_has_no_task(end):
    with (
        local_cluster(n_workers=1) as cluster,
        Client(cluster) as driver,
    ):
        scheduler = cluster.scheduler
        driver.run_on_scheduler(open_run, topic("run"), driver.id, 60.0, "token")
        by_itself = scheduler.periodic_callbacks["idle-timeout"].callback
        for ask in (scheduler.check_idle, scheduler.handlers["check_idle"], by_itself) * 3:
            assert ask() is None
        if end == "over":
            driver.log_event(topic("run"), OVER)
        else:
            driver.run_on_scheduler(forget_plan, topic("run"))
        until(scheduler.check_idle)


#: Holds the values of a run that is over; then has one that waits for its next attempt, until it is killed.
DRIVER = """
import sys
from pathlib import Path
import headrace as hr


@hr.task
def value():
    return bytes(1000)


@hr.task(retries=1, retry_delay=600)
def again(path):
    Path(path).touch()
    raise ValueError


@hr.flow
def kept():
    return value()


@hr.flow
def waiting(path: str):
    again(path)


environment = hr.DaskEnvironment(sys.argv[1])
run = kept.run(environment=environment)
print("over", flush=True)
sys.stdin.readline()
waiting.run(environment=environment, path=sys.argv[2])
"""


def test_a_cluster_is_idle_while_values_are_held_and_once_a_driver_that_was_killed_is_forgotten(tmp_path):
    with local_cluster(n_workers=1, protocol="tcp") as cluster:
        scheduler, tried = cluster.scheduler, tmp_path / "tried"
        script = [sys.executable, "-c", DRIVER, cluster.scheduler_address, str(tried)]
        with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout.readline() == "over\n"
                runs = scheduler.plugins[RunsPlugin.name].switchboard.runs
                until(scheduler.check_idle)
                assert len(runs) == 1
                process.stdin.write("\n")
                process.stdin.flush()
                until(tried.exists)
                until(lambda: not any(worker.processing for worker in scheduler.workers.values()))
                assert [scheduler.check_idle() for _ in range(3)] == [None] * 3
                assert len(runs) == 2
                for driver in runs.values():
                    driver.patience = 0.2
            finally:
                process.kill()
        until(lambda: not runs)
        until(scheduler.check_idle)


def test_a_driver_that_hangs_with_its_connection_open_does_not_keep_its_cluster(tmp_path, monkeypatch):
    monkeypatch.setattr(switchboard, "HANGING", 1.0)
    monkeypatch.setenv("DASK_DISTRIBUTED__CLIENT__HEARTBEAT", "50ms")
    with local_cluster(n_workers=1, protocol="tcp") as cluster:
        scheduler, tried = cluster.scheduler, tmp_path / "tried"
        script = [sys.executable, "-c", DRIVER, cluster.scheduler_address, str(tried)]
        with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
            try:
                process.stdin.write("\n")
                process.stdin.flush()
                until(tried.exists)
                process.send_signal(signal.SIGSTOP)
                until(scheduler.check_idle)
                process.send_signal(signal.SIGCONT)
                until(lambda: scheduler.check_idle() is None)  # it was not given up
                process.send_signal(signal.SIGSTOP)
                scheduler.idle_timeout = 0.5
                until(lambda: scheduler.status.name == "closed")
            finally:
                process.kill()


def test_a_run_that_is_forgotten_wants_nothing_even_if_it_told_so_when_it_was_cut_off():
    with (
        local_cluster(n_workers=1) as cluster,
        Client(cluster) as driver,
    ):
        driver.run_on_scheduler(open_run, topic("run"), driver.id, 60.0, "token")
        demand = cluster.scheduler.plugins[RunsPlugin.name].demand
        driver.log_event(BACKLOG, (topic("run"), [((), 100.0, 7)]))
        until(demand.works)
        driver.run_on_scheduler(forget_plan, topic("run"))
        assert not demand.works()


# -- scaling down loses nothing ------------------------------------------------------------------------------------


@hr.task
def part(i, folder):
    """Notes that it ran; takes long until there is a flag."""
    with open(Path(folder, str(i)), "a") as file:
        file.write("x")
    if not Path(folder, "enough").exists():
        time.sleep(0.1)
    return i


@hr.task
def until_one_is_left(folder, parts):
    """Takes long enough for the idle workers to be let go."""
    flag = Path(folder, "one is left")
    until(flag.exists)
    return sum(parts)


@hr.flow
def wide_narrow_wide(folder: str, n: int = 40):
    parts = part.map(range(n), hr.unmapped(folder))
    narrow = until_one_is_left(folder, parts)
    return total(plus.map(parts, hr.unmapped(narrow)))


@hr.task
def plus(x, y):
    return x + y


class Left(Heads):
    """An observer that raises a flag when one worker is left of several."""

    def on_progress(self, summaries, elapsed):
        self.most = max(self.most, len(self.scheduler.workers))
        if self.most > 1 and len(self.scheduler.workers) == 1:
            self.flag.touch()


def test_workers_that_are_let_go_hand_their_values_over(tmp_path):
    with local_cluster(n_workers=1, threads_per_worker=1) as cluster:
        cluster.adapt(minimum=1, maximum=4)
        with Client(cluster, set_as_default=False) as client:
            left = Left(cluster.scheduler, tmp_path / "one is left", 1)
            run = wide_narrow_wide.run(environment=hr.DaskEnvironment(client), observers=[left], folder=str(tmp_path))
            assert run.result() == sum(range(40)) * 41
            assert left.most > 1
            assert {len((tmp_path / str(i)).read_text()) for i in range(40)} == {1}  # no value was made twice


class Retire(Heads):
    """An observer that lets a busy worker go, and another one."""

    def __init__(self, scheduler, client, flag):
        super().__init__(scheduler, flag, 0)
        self.client = client
        self.retired = 0

    def on_progress(self, summaries, elapsed):
        busy = [worker.address for worker in list(self.scheduler.workers.values()) if worker.processing]
        if len(busy) == 3 - self.retired > 1:
            self.retired += 1
            self.client.retire_workers(busy[:1])
        if self.retired == 2:
            self.flag.touch()


@hr.flow
def parts(folder: str, n: int = 400):
    return total(part.map(range(n), hr.unmapped(folder)))


def test_workers_that_are_let_go_while_they_are_busy_lose_nothing(tmp_path):
    with (
        local_cluster(n_workers=3, threads_per_worker=1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        retire = Retire(cluster.scheduler, client, tmp_path / "enough")
        run = parts.run(environment=hr.DaskEnvironment(client), observers=[retire], folder=str(tmp_path))
        assert retire.retired == 2
        assert {state for name in run for state in run[name].states} == {hr.State.SUCCESS}
        assert run.result() == sum(range(400))
