"""Large constants: they go to the cluster once, survive the death of who holds them, and leave nothing behind."""

import os
import pickle
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client
from distributed.comm.tcp import TCP

import headrace as hr
from headrace.core.events import Dispatch
from headrace.execution.dask import DaskExecutor
from headrace.execution.worker import PlanPlugin
from tests.waiting import until

MIB = 1 << 20
RUNS = 300


@hr.task
def weigh(array, number):
    time.sleep(0.002)
    return int(array[number]), os.getpid()


@hr.task
def tell(thing):
    return type(thing).__name__, len(thing)


@hr.flow
def by_map(array: object, width: int = RUNS):
    return weigh.map(hr.unmapped(array), list(range(width)))


@hr.flow
def by_calls(array: object):
    return [weigh(array, number) for number in range(RUNS)]


def an_array(mib=20):
    return np.arange(mib * MIB // 8)


@pytest.fixture
def sent(monkeypatch):
    """Bytes of plans and of orders, and how many constants were scattered at a time."""
    counts = {"plans": [], "orders": [], "scattered": [], "written": [0]}
    plugin, send, scatter, write = PlanPlugin.__init__, DaskExecutor.send, Client.scatter, TCP.write

    def plan(self, run_id, data, *more):
        counts["plans"].append(len(data))
        plugin(self, run_id, data, *more)

    def orders(self, commands):
        commands = list(commands)
        counts["orders"] += [len(pickle.dumps(each)) for each in commands if isinstance(each, Dispatch)]
        send(self, commands)

    def scattering(self, data, **options):
        counts["scattered"].append(len(data))
        return scatter(self, data, **options)

    async def writing(self, *args, **options):
        number = await write(self, *args, **options)
        counts["written"][0] += number  # `+= await …` reads the old count first, and loses what others write meanwhile
        return number

    monkeypatch.setattr(PlanPlugin, "__init__", plan)
    monkeypatch.setattr(DaskExecutor, "send", orders)
    monkeypatch.setattr(Client, "scatter", scattering)
    monkeypatch.setattr(TCP, "write", writing)  # the driver's, and the scheduler's, which is in its process
    return counts


@pytest.fixture(scope="module")
def two():
    with hr.DaskEnvironment("local", n_workers=2, threads_per_worker=1) as env:
        env.setup(None)
        assert spoils.run(environment=env, array=np.zeros(2)).result() == 77  # brings the code of these flows
        yield env


def constants_on(dask_worker):
    return [key for key in dask_worker.data if str(key).startswith("constant-")]


@pytest.mark.parametrize("flow", [by_map, by_calls], ids=lambda flow: flow.name)
def test_a_large_constant_goes_to_the_cluster_once(two, sent, flow):
    run = flow.run(environment=two, array=an_array())
    result = run.result()
    assert [value for value, _ in result] == list(range(RUNS))
    assert len({pid for _, pid in result}) == 2  # not only where it was first
    assert sent["scattered"] == [1]
    assert max(sent["plans"]) < MIB // 8
    assert sum(sent["orders"]) < MIB // 8
    assert 40 * MIB < sent["written"][0] < 42 * MIB  # to the scheduler, and on to one worker
    until(lambda: not any(two.client.run(constants_on).values()))


class Kills(hr.Observer):
    """An observer that kills all workers that hold a constant, as soon as tasks run."""

    def __init__(self, client):
        self.client = client
        self.killed = 0

    def on_progress(self, summaries, elapsed):
        if self.killed or not any(summary.counts.get(hr.State.SUCCESS) for summary in summaries):
            return
        pids = self.client.run(os.getpid)
        for address, keys in self.client.run(constants_on).items():
            if keys:
                os.kill(pids[address], signal.SIGKILL)
                self.killed += 1


@hr.task
def slowly(array, number):
    time.sleep(0.05)
    return int(array[number])


@hr.flow
def slow_map(array: object):
    return slowly.map(hr.unmapped(array), list(range(RUNS // 6)))


def test_a_constant_whose_holders_die_is_brought_again(sent):
    with hr.DaskEnvironment("local", n_workers=2, threads_per_worker=1, silence_logs=50) as env:
        env.setup(None)
        kills = Kills(env.client)
        run = slow_map.run(environment=env, observers=[kills], array=an_array(2))
        assert run.result() == list(range(RUNS // 6))
        assert kills.killed
        assert sum(sent["scattered"]) >= 2
        until(lambda: not any(env.client.run(constants_on).values()))


def test_a_cluster_that_has_no_worker_yet_gets_it_when_it_has():
    with hr.DaskEnvironment("local", adapt=(0, 2), processes=False, threads_per_worker=1) as env:
        run = by_map.run(environment=env, array=an_array(2), width=20)
        assert [value for value, _ in run.result()] == list(range(20))


@pytest.mark.slow
def test_a_worker_that_joins_gets_it_from_others(tmp_path):
    with hr.DaskEnvironment("local", n_workers=1, threads_per_worker=1) as env:
        env.setup(None)

        class Grows(hr.Observer):
            def on_progress(self, summaries, elapsed):
                if list(tmp_path.iterdir()):
                    env._cluster.scale(2)

        run = meet.run(environment=env, observers=[Grows()], array=an_array(2), folder=str(tmp_path))
        assert len(set(run.result())) == 2


@hr.task
def who(array, number, folder):
    """Wait until it runs in two processes."""
    Path(folder, str(os.getpid())).touch()
    until(lambda: len(os.listdir(folder)) == 2, 60)
    return os.getpid()


@hr.flow
def meet(array: object, folder: str):
    return who.map(hr.unmapped(array), list(range(40)), hr.unmapped(folder))


# -- on every executor -------------------------------------------------------------------------------------------


@hr.flow
def everywhere(array: object):
    held = {"a": [array, 1], "b": (2, {"c": array})}
    texts = ["x" * (2 * MIB), "y" * 10, b"z" * (3 * MIB)]
    return [
        tell(array),
        first_of(held),
        tell.map(texts),
        tell(texts),
        tell.map([array, "short", array]),
        many(array, more=[array, tell(array)]),
    ]


@hr.task
def first_of(held):
    return [held["a"][0] is held["b"][1]["c"], int(held["a"][0][5]), held["a"][1], held["b"][0]]


@hr.task
def many(array, more):
    return int(array[1]), len(more[0]), more[1]


def test_wherever_it_stands_it_arrives(place):
    size = 2 * MIB // 8
    run = everywhere.run(environment=place, array=an_array(2))
    told = ("ndarray", size)
    assert run.result() == [
        told,
        [True, 5, 1, 2],
        [("str", 2 * MIB), ("str", 10), ("bytes", 3 * MIB)],
        ("list", 3),
        [told, ("str", 5), told],
        (1, size, told),
    ]


@hr.flow
def gives_back(array: object):
    return tell(array), array


def test_a_large_constant_that_is_returned_comes_back(place):
    array = an_array(2)
    run = gives_back.run(environment=place, array=array)
    told, back = run.result()
    assert told == ("ndarray", len(array))
    assert np.array_equal(back, array)


@hr.task
def spoil(array):
    array[0] = 77
    return int(array[0])


@hr.flow
def spoils(array: object):
    return spoil(array)


def test_a_task_that_changes_a_constant_changes_no_object_of_the_caller(place):
    array = an_array(2)
    assert spoils.run(environment=place, array=array).result() == 77
    assert array[0] == 0


def test_many_nodes_with_equal_constants_share_one(dask_place, sent):
    @hr.flow
    def equal():
        return [tell(["x", np.ones(MIB)]) for _ in range(5)]

    assert equal.run(environment=dask_place).result() == [("list", 2)] * 5
    assert sent["scattered"] == [1]


def test_a_constant_of_a_class_that_travels_by_value(dask_place):
    class Local:
        def __init__(self):
            self.data = "x" * (2 * MIB)

        def __len__(self):
            return len(self.data)

    flow = hr.flow(name="local_class")(lambda: tell(Local()))
    assert flow.run(environment=dask_place).result() == ("Local", 2 * MIB)
