"""Workers that are killed at random moments, and flows that must not care.

Round 17 is repeated by ``pytest -m "" -k "survives_kills[17]" tests/semantics``: its seed says which workers are
killed, and when. Where the flow is at that time is up to the machine.
"""

import os
import random
import signal
import threading
import time
from contextlib import suppress

import dask
import pytest
from distributed import Client
from distributed.core import Status

import headrace as hr
from tests.clusters import local_cluster
from tests.waiting import until

TINY, COARSE, CHAINS, LINKS = 5_000, 20, 4, 15
WIDTH, STEPS = 6, 40
ROUNDS, QUICK_ROUNDS = 200, 3


@hr.task
def tiny(i):
    return i


@hr.task
def tripled(i):
    return 3 * i


@hr.task
def coarse(i, first):
    time.sleep(0.05)
    return i + first


@hr.task
def link(x):
    return x + 1


@hr.task
def total(tripled, coarse, chains):
    return sum(tripled), sum(coarse), chains


@hr.flow
def killed():
    numbers = tiny.map(range(TINY))
    chains = []
    for start in range(CHAINS):
        end = start
        for _ in range(LINKS):
            end = link(end)
        chains.append(end)
    return total(tripled.map(numbers), coarse.map(range(COARSE), hr.unmapped(chains[0])), chains)


ANSWER = (
    3 * sum(range(TINY)),
    sum(range(COARSE)) + COARSE * LINKS,
    [start + LINKS for start in range(CHAINS)],
)


@hr.task
def point(*neighbours):
    time.sleep(0.004)
    return sum(neighbours) % 1_000_003


@hr.flow
def coupled():
    """Each step takes values of the one before from all around, so workers send them to each other."""
    row = [point(i) for i in range(WIDTH)]
    for _ in range(STEPS):
        row = [point(row[i - 1], row[i], row[(i + 1) % WIDTH]) for i in range(WIDTH)]
    return row


def coupled_answer():
    row = list(range(WIDTH))
    for _ in range(STEPS):
        row = [(row[i - 1] + row[i] + row[(i + 1) % WIDTH]) % 1_000_003 for i in range(WIDTH)]
    return row


class Victims:
    """Two worker processes that come back, and how long the flows take when nobody is killed."""

    def __init__(self, cluster, client):
        self.cluster = cluster
        self.client = client
        self.environment = hr.DaskEnvironment(client)
        self.seconds = {flow: self._time(flow) for flow in (killed, coupled)}

    def _time(self, flow):
        began = time.monotonic()
        assert self.run(flow).state is hr.State.SUCCESS
        return time.monotonic() - began

    def run(self, flow):
        return flow.run(environment=self.environment)

    def run_and_kill(self, flow, seed):
        """Run a flow while workers are killed: some before the first batch, some after the last."""
        until(lambda: len(self.pids()) == 2)
        rng = random.Random(seed)
        latest = 1.1 * self.seconds[flow]
        number = 1 if seed % 3 else 2
        kills = [threading.Timer(rng.uniform(0, latest), self.kill, [rng]) for _ in range(number)]
        for kill in kills:
            kill.start()
        try:
            return self.run(flow)
        finally:
            for kill in kills:
                kill.join()

    def pids(self):
        """Of the workers that are up; fewer than two while one is being replaced.

        One that is killed while its nanny is starting it would not be started again.
        """
        known = self.cluster.scheduler.workers
        nannies = [nanny for nanny in self.cluster.workers.values() if nanny.status is Status.running]
        return [nanny.pid for nanny in nannies if nanny.worker_address in known and nanny.pid is not None]

    def kill(self, rng):
        pids = self.pids()
        if pids:
            with suppress(ProcessLookupError):  # the other killer was there before
                os.kill(rng.choice(pids), signal.SIGKILL)


@pytest.fixture(scope="module")
def victims():
    with (
        # So long after a worker's death, a local cluster takes its nanny down if the worker is dead at that moment;
        # here it may have come back, and died again.
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1h"}),
        local_cluster(n_workers=2, threads_per_worker=1, silence_logs=50, processes=True) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield Victims(cluster, client)


def rounds(number):
    """Seeds: few in each test session, so many in `make test-slow`."""
    return [pytest.param(seed, marks=[pytest.mark.slow] if seed >= QUICK_ROUNDS else []) for seed in range(number)]


@pytest.mark.parametrize("seed", rounds(ROUNDS))
def test_a_flow_survives_kills(victims, seed):
    run = victims.run_and_kill(killed, seed)
    assert run.state is hr.State.SUCCESS, run.errors
    assert {state for name in run for state in run[name].states} == {hr.State.SUCCESS}
    assert [len(run[name]) for name in ("tiny", "tripled", "coarse")] == [TINY, TINY, COARSE]
    assert run.result() == ANSWER


@pytest.mark.parametrize("seed", rounds(ROUNDS // 2))
def test_a_coupled_flow_survives_kills(victims, seed):
    run = victims.run_and_kill(coupled, seed)
    assert run.state is hr.State.SUCCESS, run.errors
    assert {state for name in run for state in run[name].states} == {hr.State.SUCCESS}
    assert run.result() == coupled_answer()
