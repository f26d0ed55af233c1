"""Schedulers and workers that end, and are started again elsewhere, while runs go on."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from distributed import Client

import headrace as hr
from tests.pods import pods
from tests.waiting import until

LARGE = np.ones(300_000)


@pytest.fixture(scope="module")
def cluster():
    with pods(3) as (address, scheduler, workers), Client(address, set_as_default=False, timeout=60) as client:
        client.wait_for_workers(3, timeout=60)
        yield client, scheduler, workers


@hr.task
def note(i, folder, seconds=0.0):
    """Nothing needs its value."""
    time.sleep(seconds)
    with Path(folder, f"note-{i}").open("a") as file:
        file.write("x")


@hr.task
def part(i, large):
    time.sleep(0.1)
    return float(large[:10].sum()) + i


@hr.task
def cell(*values):
    time.sleep(0.01)
    return sum(values) % 1_000_003 + 1


@hr.task
def total(parts, row):
    return sum(parts), row


@hr.flow
def mixture(folder: str):
    notes = note.map(range(20), hr.unmapped(folder))
    parts = part.map(range(60), hr.unmapped(LARGE), upstream=notes)
    row = [cell(i) for i in range(3)]
    for _ in range(40):
        row = [cell(row[i - 1], row[i]) for i in range(3)]
    return total(parts, row), parts


def mixture_answer():
    row = [i + 1 for i in range(3)]
    for _ in range(40):
        row = [(row[i - 1] + row[i]) % 1_000_003 + 1 for i in range(3)]
    return sum(10.0 + i for i in range(60)), row


class KillOnce(hr.Observer):
    """Kills a pod when so many tasks are done."""

    def __init__(self, pod, done):
        self.pod = pod
        self.done = done
        self.killed = False

    def on_progress(self, summaries, elapsed):
        if not self.killed and sum(summary.done for summary in summaries) >= self.done:
            self.killed = True
            self.pod.kill()


def test_a_new_empty_scheduler_is_a_pause(cluster, tmp_path):
    client, scheduler, _ = cluster
    environment = hr.DaskEnvironment(client)
    kill = KillOnce(scheduler, 45)
    run = mixture.run(environment=environment, observers=[kill], folder=str(tmp_path))
    assert kill.killed
    assert run.state is hr.State.SUCCESS
    result, parts = run.result()
    assert result == mixture_answer()
    assert parts == [10.0 + i for i in range(60)]
    # What had ended, and has no value that anybody needs, was not executed again.
    assert Counter(file.read_text() for file in tmp_path.iterdir()) == {"x": 20}

    scheduler.kill()
    until(lambda: client.status == "connecting")
    with pytest.raises(hr.errors.ValueReleased):
        run["part"].result()
    client.wait_for_workers(3, timeout=60)


@hr.task
def short(i):
    time.sleep(0.2)
    return i


@hr.task
def long(i, folder):
    """Lasts until workers have been killed often enough."""
    with Path(folder, f"long-{i}").open("a") as file:
        file.write(f"{os.getpid()}\n")
    until(Path(folder, "often enough").exists)
    return i


@hr.task
def summed(shorts, longs):
    return sum(shorts), longs


@hr.flow
def patience(folder: str):
    return summed(short.map(range(40)), long.map(range(3), hr.unmapped(folder)))


def test_workers_that_are_killed_again_and_again_cost_time_only(cluster, tmp_path):
    """Some are killed, some are asked to go, as Kubernetes does; each time when there are others.

    Each long task is interrupted once, the first time that it is executed: one that is there at each death is at fault.
    """
    client, _, workers = cluster
    environment = hr.DaskEnvironment(client)
    environment.setup()
    over, killed, numbers = threading.Event(), [], cycle((signal.SIGKILL, signal.SIGTERM))

    def kill(pod):
        killed.append(pod.process.pid)
        pod.kill(next(numbers))

    def evict():
        kill(workers[0])
        while not over.wait(0.05):
            first = {int(pid) for path in tmp_path.glob("long-*") for pid in path.read_text().split()[:1]}
            if len(first) == 3 and first.issubset(killed):
                (tmp_path / "often enough").touch()
                return
            ripe = [pod for pod in workers if pod.process.pid in first.difference(killed)]
            if ripe and len(client.nthreads()) > 1:
                kill(ripe[0])

    evicting = threading.Thread(target=evict)
    evicting.start()
    try:
        run = patience.run(environment=environment, folder=str(tmp_path))
    finally:
        over.set()
        evicting.join()
    assert run.state is hr.State.SUCCESS, run.errors
    assert run.result() == (sum(range(40)), list(range(3)))
    assert len(killed) > 2
