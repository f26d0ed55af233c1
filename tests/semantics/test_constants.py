"""Large constants: they go to the cluster once, survive the death of who holds them, and leave nothing behind."""

import gc
import os
import pickle
import signal
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import headrace as hr
from headrace.core.events import Dispatch
from headrace.execution.dask import DaskExecutor
from headrace.execution.worker import PlanPlugin
from tests.environments.test_dask import until

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


def traffic(dask_scheduler):
    """Bytes that the scheduler read and wrote, as far as they were messages."""
    return dask_scheduler._headrace_traffic


class Spy:
    """Counts bytes of what goes from the driver to the cluster, but for scattered data."""

    def __init__(self, monkeypatch):
        self.plans, self.orders, self.scattered = [], [], Counter()
        plugin, send, scatter = PlanPlugin.__init__, DaskExecutor.send, None

        def plan(this, run_id, data):
            self.plans.append(len(data))
            plugin(this, run_id, data)

        def orders(this, commands):
            commands = list(commands)
            self.orders += [len(pickle.dumps(each)) for each in commands if isinstance(each, Dispatch)]
            send(this, commands)

        monkeypatch.setattr(PlanPlugin, "__init__", plan)
        monkeypatch.setattr(DaskExecutor, "send", orders)


@pytest.fixture(scope="module")
def two():
    with hr.DaskEnvironment("local", n_workers=2, threads_per_worker=1) as env:
        env.setup(None)
        yield env


def constants_on(dask_worker):
    return [key for key in dask_worker.data if str(key).startswith("constant-")]


def written(dask_worker):
    """Bytes that a worker got from others, and from the scheduler."""
    return dask_worker.counters


@pytest.mark.parametrize("flow", [by_map, by_calls], ids=lambda flow: flow.name)
def test_a_large_constant_goes_to_the_cluster_once(two, monkeypatch, flow):
    spy = Spy(monkeypatch)
    scattered = []
    scatter = two.client.scatter
    monkeypatch.setattr(two.client, "scatter", lambda data: scattered.append(len(data)) or scatter(data))
    run = flow.run(environment=two, array=an_array())
    result = run.result()
    assert [value for value, _ in result] == list(range(RUNS))
    assert scattered == [1]
    assert max(spy.plans) < MIB // 8
    assert sum(spy.orders) < MIB // 8
    assert len({pid for _, pid in result}) == 2  # not only where it was first
    assert until(lambda: not any(two.client.run(constants_on).values()))
