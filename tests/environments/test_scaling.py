"""Environments that scale their clusters: by group, up at once, and down without anything lost or done twice."""

import gc
import time
from pathlib import Path
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

import headrace as hr
from headrace.core.scaling import Group
from headrace.environments.scaling import Scaler, crew_of
from headrace.errors import NoSuchWorker, SetupError
from headrace.execution.demand import Seen
from headrace.execution.scheduler import RunsPlugin
from tests.clusters import local_cluster
from tests.waiting import until

#: A worker may go after 0.15 s, and there are as many as get all done within half a second.
QUICK = {
    "distributed.adaptive.interval": "50ms",
    "distributed.adaptive.target-duration": "500ms",
    "distributed.adaptive.wait-count": 3,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("headrace.core.scaling.LONGEST", 0.15)  # however long processes take to start
    with dask.config.set(QUICK):
        yield


class Count(hr.Observer):
    """Raises flags in a folder: for each number of workers that there has been, but `most` first."""

    def __init__(self, env, folder, most):
        self.env, self.folder, self.most = env, Path(folder), most
        self.seen = []
        self.told = []

    def on_workers(self, present, wanted):
        self.told.append((present, wanted))

    def on_progress(self, summaries, elapsed):
        number = len(self.env.client.cluster.scheduler_info["workers"])
        if number == self.most or self.seen:
            self.seen.append(number)
            (self.folder / f"workers-{number}").touch()


@hr.task
def part(i, folder):
    """Notes that it ran; takes long until there are three workers."""
    with open(Path(folder, f"part-{i}"), "a") as file:
        file.write("x")
    if not Path(folder, "workers-3").exists():
        time.sleep(0.1)
    return np.full(1000, i)


@hr.task
def hold(i, folder, flag, parts):
    """Notes that it ran, and is busy until there is a flag."""
    with open(Path(folder, f"hold-{i}"), "a") as file:
        file.write("x")
    until(Path(folder, flag).exists)
    return len(parts)


@hr.task
def plus(values, x):
    return int(values[0]) + x


@hr.task
def total(values):
    return sum(values)


@hr.flow
def wide_narrow_wide(folder: str, holds: int, flag: str, n: int = 60):
    parts = part.map(range(n), hr.unmapped(folder))
    held = hold.map(range(holds), hr.unmapped(folder), hr.unmapped(flag), hr.unmapped(parts))
    return total(plus.map(parts, hr.unmapped(total(held))))


@pytest.mark.parametrize(("holds", "processes"), [(1, False), (2, True)])
def test_idle_workers_go_with_nothing_lost_and_busy_ones_stay(tmp_path, holds, processes):
    flag = f"workers-{holds}"  # it is raised when all that do nothing have gone, so those that hold have stayed
    with hr.DaskEnvironment("local", adapt=(1, 3), processes=processes, threads_per_worker=1) as env:
        env.setup(None)
        count = Count(env, tmp_path, 3)
        run = wide_narrow_wide.run(environment=env, observers=[count], folder=str(tmp_path), holds=holds, flag=flag)
        assert run.result() == sum(range(60)) + 60 * 60 * holds
        assert min(count.seen[: count.seen.index(holds) + 1]) == holds
        assert {path.read_text() for path in tmp_path.glob("part-*")} == {"x"}  # no value was lost and made again
        assert {path.read_text() for path in tmp_path.glob("hold-*")} == {"x"}  # nobody was let go who was busy


@hr.task
def wait_for_three(i, folder):
    until(Path(folder, "workers-3").exists)
    return i


@hr.flow
def long_ones(folder: str):
    return total(wait_for_three.map(range(3), hr.unmapped(folder)))


def test_first_task_runs_bring_workers_the_longer_they_last(tmp_path):
    with hr.DaskEnvironment("local", adapt=(0, 3), processes=False, threads_per_worker=1) as env:
        env.setup(None)
        count = Count(env, tmp_path, 3)
        run = long_ones.run(environment=env, observers=[count], folder=str(tmp_path))
        assert run.result() == 3
        assert count.told[0][0] == 0
        assert max(wanted for _, wanted in count.told) == 3
        del run
        gc.collect()
        until(lambda: not env.client.cluster.scheduler.workers)


@hr.task
def size(array):
    return len(array)


@hr.flow
def with_a_constant():
    return size(np.zeros(1_000_000))


def test_a_batch_that_waits_for_a_constant_brings_the_first_worker():
    with hr.DaskEnvironment("local", adapt=(0, 1), processes=False) as env:
        assert with_a_constant.run(environment=env).result() == 1_000_000


def test_by_hand_and_by_others():
    with hr.DaskEnvironment("local", n_workers=1, processes=False) as env:
        with pytest.raises(SetupError, match="call setup"):
            env.scale(2)
        env.setup(None)
        scheduler = env.client.cluster.scheduler
        env.scale(3)
        until(lambda: len(scheduler.workers) == 3)
        env.scale(1)
        until(lambda: len(scheduler.workers) == 1)
        with pytest.raises(SetupError, match="no worker group 'gpu' in this cluster; it has default"):
            env.scale(1, "gpu")
        with pytest.raises(SetupError, match="from 0 on, got -1"):
            env.scale(-1)
        with hr.DaskEnvironment(scheduler.address) as other:
            other.setup(None)
            with pytest.raises(SetupError, match="no cluster that can be scaled from here"):
                other.scale(2)
    with pytest.raises(SetupError, match="who brought up this one scales it"):
        hr.DaskEnvironment("tcp://127.0.0.1:1", adapt=(0, 1))


def test_of_a_cluster_that_was_lost_nothing_is_left_and_the_next_one_is_scaled():
    with hr.DaskEnvironment("local", n_workers=1, processes=False) as env:
        env.setup()
        env.scale(1)
        lost = env.client.cluster
        env.client.close()
        env.setup()
        assert env.client.cluster is not lost
        assert lost.status.name == "closed"
        env.scale(2)
        env.client.wait_for_workers(2, timeout=20)


def test_a_live_cluster_is_scaled_unless_it_adapts_by_itself():
    with local_cluster(n_workers=0) as cluster:
        with hr.DaskEnvironment(cluster, adapt=(2, 3)) as env:
            env.setup(None)
            until(lambda: len(cluster.scheduler.workers) == 2)
        cluster.adapt(minimum=0, maximum=2)
        with pytest.raises(SetupError, match="adapts by itself already"):
            hr.DaskEnvironment(cluster, adapt=(1, 2)).setup(None)


# -- a cluster with groups -----------------------------------------------------------------------------------------


class Groups(SpecCluster):
    """Groups of workers, the second of which offers something."""

    def __init__(self, n_workers=0):
        self.groups = {
            "default": SimpleNamespace(resources={}, nthreads=1, least=n_workers, most=n_workers),
            "gpu": SimpleNamespace(resources={"GPU": 1.0}, nthreads=1, least=0, most=2),
        }
        self.made = dict.fromkeys(self.groups, 0)
        scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
        super().__init__(scheduler=scheduler, workers={})
        self.scale(n_workers)

    def scale(self, n=0, group=None):
        of_group = [name for name in self.worker_spec if group is None or self.group_of(name) == group]
        for name in of_group[n:]:
            del self.worker_spec[name]
        for _ in range(n - len(of_group)):
            group = group or "default"
            self.made[group] += 1
            options = {"nthreads": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
            options |= {"resources": self.groups[group].resources}
            self.worker_spec[f"{group}-{self.made[group]}"] = {"cls": Worker, "options": options}
        self.loop.add_callback(self._correct_state)

    def group_of(self, name):
        return name.partition("-")[0]

    def let_go(self, names, group):
        for name in names:
            del self.worker_spec[name]
        self.loop.add_callback(self._correct_state)


@hr.task(resources={"GPU": 1})
def learn(i):
    time.sleep(0.3)
    return i


@hr.task
def prepare(i):
    time.sleep(0.1)
    return i


@hr.flow
def preparing():
    return total(prepare.map(range(20)))


@hr.flow
def learning():
    return total(learn.map(range(6)))


def test_each_group_goes_up_for_what_it_offers_and_down_again():
    with hr.DaskEnvironment(Groups, adapt=(1, 2)) as env:
        env.setup(None)
        cluster = env.client.cluster
        assert preparing.run(environment=env).result() == sum(range(20))
        assert cluster.made["gpu"] == 0
        run = learning.run(environment=env)
        assert run.result() == sum(range(6))
        assert cluster.made["gpu"] >= 2  # more, if one was let go and another one came
        del run
        gc.collect()
        until(lambda: [worker["name"].partition("-")[0] for worker in _workers(cluster)] == ["default"])
        env.scale(2, "gpu")
        until(lambda: len(_workers(cluster)) == 3)

        @hr.task(resources={"TPU": 1})
        def nobody():
            return 1

        with pytest.raises(NoSuchWorker, match="TPU"):
            hr.flow(nobody).run(environment=env)


def _workers(cluster):
    return list(cluster.scheduler_info["workers"].values())


# -- letting go ----------------------------------------------------------------------------------------------------


@pytest.fixture
def watched():
    """A cluster of two workers, a client, and what its scheduler tells and does."""
    with (
        local_cluster(n_workers=2, threads_per_worker=1) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        plugin = RunsPlugin()
        client.register_plugin(plugin)
        demand = cluster.scheduler.plugins[RunsPlugin.name].demand

        def let_go(*workers):
            return client.sync(client.scheduler.headrace_retire, units=[[each] for each in workers], ends=True)

        yield SimpleNamespace(cluster=cluster, client=client, demand=demand, let_go=let_go)


def test_who_is_busy_is_not_let_go(watched, tmp_path):
    client = watched.client
    first, second = (worker.address for worker in watched.cluster.workers.values())
    held = client.submit(np.zeros, 1000, workers=[first])
    held.result()
    flag = tmp_path / "flag"
    busy = client.submit(until, flag.exists, workers=[second])
    until(lambda: watched.cluster.scheduler.workers[second].processing)
    assert watched.let_go(second) == []
    until(lambda: [seen.address for seen in watched.demand.look()[1] if seen.idle] == [first])
    assert watched.let_go(first, second) == [first]  # its value went to the busy one
    works, seen = watched.demand.look()
    assert works == (((), pytest.approx(0.5), 1),)
    assert [worker.address for worker in seen] == [second]
    flag.touch()
    busy.result()
    assert len(held.result()) == 1000


def test_the_last_one_stays_while_values_are_on_it(watched, caplog):
    client = watched.client
    values = client.map(np.zeros, range(1000, 1010))
    client.gather(values)
    until(lambda: all(seen.idle for seen in watched.demand.look()[1]))
    workers = [seen.address for seen in watched.demand.look()[1]]
    assert len(watched.let_go(*workers)) == 1
    assert watched.let_go(*workers) == []
    told = [record for record in caplog.records if record.levelname == "WARNING"]
    assert {record.name for record in told} <= {"distributed.gc"}  # which is told by whatever runs in this process
    assert [len(value) for value in client.gather(values)] == list(range(1000, 1010))
    del values
    until(lambda: not any(worker.has_what for worker in watched.cluster.scheduler.workers.values()))
    until(lambda: watched.let_go(*workers))


def test_a_worker_stays_whose_values_would_fill_the_others(watched):
    client = watched.client
    first, second = watched.cluster.scheduler.workers.values()
    held = client.submit(np.zeros, 1000, workers=[first.address])
    held.result()
    until(lambda: watched.demand.look()[1][0].idle)
    second.memory_limit = held.result().nbytes
    assert watched.let_go(first.address) == []
    second.memory_limit = 2 * held.result().nbytes
    assert watched.let_go(first.address) == [first.address]


def test_jobs_with_several_processes_are_understood():
    spec = {"options": {"cores": 4, "processes": 2}, "group": ["-0", "-1"]}
    crew = crew_of(SimpleNamespace(new_spec=spec, worker_spec={"job-0": spec, "job-1": spec}, scale=None))
    assert crew.groups({"default": (0, 4)}, ()) == [Group("default", 2, None, 0, 4)]
    seen = [Seen(f"tcp://{name}", name, 2, {"GPU": 1.0}, True) for name in ("job-0-0", "job-0-1", "job-1-0")]
    assert crew.groups({"default": (0, 4)}, seen) == [Group("default", 2, {"GPU": 1.0}, 0, 4)]
    assert [crew.present(each).unit for each in seen] == ["job-0", "job-0", "job-1"]


def test_it_goes_on_when_the_cluster_cannot_be_asked_for_a_while(caplog):
    asked: list[int] = []

    class Moody:
        """Fails the first time."""

        def scale(self, number):
            asked.append(number)
            if len(asked) == 1:
                raise ConnectionError("try again")

    with (
        local_cluster(n_workers=0) as cluster,
        Client(cluster, set_as_default=False) as client,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setattr("headrace.core.scaling.RENEW", 0.1)
        scaler = Scaler(client, Moody(), {"default": (2, 2)})
        try:
            until(lambda: asked[1:])
        finally:
            scaler.close()
    assert set(asked) == {2}
    assert [record.message for record in caplog.records if record.name == "headrace.scaling"] == [
        "the cluster could not be scaled just now"
    ]


def test_idle_workers_go_also_when_more_of_another_group_are_refused(monkeypatch):
    gone: list[str] = []
    worker = Seen("tcp://here:1", "here", 1, {}, True)

    class Refusing:
        def __init__(self):
            kinds = {"default": {}, "gpu": {"GPU": 1}}
            self.groups = {
                name: SimpleNamespace(resources=kind, nthreads=1, least=0, most=2) for name, kind in kinds.items()
            }

        def scale(self, number, group):
            raise ConnectionError("no")

        def group_of(self, name):
            return "default"

        def let_go(self, names, group):
            gone.extend(names)

    def ask(scaler, seconds, what, units=(), **about):
        if units:
            return [address for unit in units for address in unit]
        return [[[["GPU", 1]], 100.0, 5]], [] if gone else [worker]

    monkeypatch.setattr("headrace.core.scaling.RENEW", 0.0)  # so that each look asks for more
    monkeypatch.setattr(Scaler, "_ask", ask)
    scaler = Scaler(None, Refusing(), {})
    try:
        until(lambda: gone == ["here"])
        until(lambda: not scaler.scaling.leaving)
    finally:
        scaler.close()
