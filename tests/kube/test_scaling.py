"""Groups of workers on Kubernetes go up for what they offer, and down without anything lost or done twice."""

from __future__ import annotations

import gc
import time
from pathlib import Path

import dask
import pytest

import headrace as hr
from tests.waiting import until

#: A worker may go after a second, and there are as many as get all done within half a second.
QUICK = {
    "distributed.adaptive.interval": "500ms",
    "distributed.adaptive.target-duration": "500ms",
    "distributed.adaptive.wait-count": 2,
}


#: Parts that one worker alone would need a minute for: within that, there is a second one.
N = 300


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("headrace.core.scaling.LONGEST", 1.0)  # however long pods take to start
    with dask.config.set(QUICK):
        yield


@hr.task
def part(i, folder):
    """Notes that it ran; takes long until there is a second worker."""
    with open(Path(folder, f"part-{i}"), "a") as file:
        file.write("x")
    if not Path(folder, "two default").exists():
        time.sleep(0.2)
    return [i] * 100


@hr.task(resources={"BIG": 1})
def weigh(i, folder, parts):
    """Notes that it ran, and is busy until those who are not have gone."""
    with open(Path(folder, f"weigh-{i}"), "a") as file:
        file.write("x")
    until(Path(folder, "one default").exists)
    return i + len(parts)


@hr.task
def total(parts, weights):
    return sum(values[0] for values in parts) + sum(weights)


@hr.flow
def weighing(folder: str, n: int = N):
    parts = part.map(range(n), hr.unmapped(folder))
    return total(parts, weigh.map(range(2), hr.unmapped(folder), hr.unmapped(parts)))


class Count(hr.Observer):
    """Raises a flag when there are two workers in the default group, and another one when one is left of them."""

    def __init__(self, env, folder):
        self.env, self.folder = env, folder
        self.most = {"default": 0, "big": 0}

    def there(self):
        found = [worker["name"] for worker in self.env.client.scheduler_info(n_workers=-1)["workers"].values()]
        groups = [self.env.client.cluster.group_of(name) for name in found]
        return {name: groups.count(name) for name in self.most}

    def on_progress(self, summaries, elapsed):
        there = self.there()
        self.most = {name: max(number, there[name]) for name, number in self.most.items()}
        if there["default"] == 2:
            (self.folder / "two default").touch()
        if self.most["default"] == 2 and there["default"] == 1:
            (self.folder / "one default").touch()


def test_two_groups_go_up_and_down_and_nothing_is_lost(kube, namespace, tmp_path):
    groups = {"big": {"adapt": (0, 1), "resources": {"BIG": 2}, "nthreads": 2}}
    options = {"image": kube.image, "namespace": namespace, "worker_groups": groups}
    with hr.DaskEnvironment("kubernetes", adapt=(1, 2), **options) as env:
        env.setup()
        count = Count(env, tmp_path)
        assert count.there() == {"default": 1, "big": 0}
        run = weighing.run(environment=env, observers=[count], folder=str(tmp_path))
        assert run.result() == sum(range(N)) + 1 + 2 * N
        assert count.most == {"default": 2, "big": 1}
        assert {path.read_text() for path in tmp_path.glob("part-*")} == {"x"}
        assert {path.read_text() for path in tmp_path.glob("weigh-*")} == {"x"}
        del run
        gc.collect()
        until(lambda: count.there() == {"default": 1, "big": 0})

        def wanted():
            return sorted(each["spec"]["worker"]["replicas"] for each in kube.objects("daskworkergroups", namespace))

        until(lambda: wanted() == [0, 1])
        until(lambda: len(kube.objects("deployments", namespace)) == 2)  # the scheduler and one worker
    until(lambda: not kube.left_over(namespace))
