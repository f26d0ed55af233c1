"""Tasks that say where they may be executed, and before which others."""

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker

import headrace as hr


@pytest.fixture(scope="module")
def env():
    """Two workers in this process: "plain", and "special" with a resource."""
    options = {"nthreads": 1, "dashboard": False}
    with (
        SpecCluster(
            scheduler={"cls": Scheduler, "options": {"dashboard": False, "port": 0, "host": "127.0.0.1"}},
            workers={
                "plain": {"cls": Worker, "options": {**options, "name": "plain"}},
                "special": {"cls": Worker, "options": {**options, "name": "special", "resources": {"GPU": 1}}},
            },
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        hr.DaskEnvironment(client) as environment,
    ):
        client.wait_for_workers(2)
        environment.setup(None)
        yield environment


def where(*values):
    return get_worker().name


anywhere = hr.task(name="anywhere")(where)
on_gpu = hr.task(name="on_gpu", resources={"GPU": 1})(where)
on_plain = hr.task(name="on_plain", workers="plain")(where)


def test_each_runs_where_it_may(env):
    @hr.flow
    def mixed():
        first = anywhere.map(range(50))
        second = on_gpu.map(first)
        third = on_plain.map(second)
        return first, second, third

    run = mixed.run(environment=env)
    first, second, third = run.result()
    assert set(first) <= {"plain", "special"}
    assert set(second) == {"special"}
    assert set(third) == {"plain"}


def test_what_nobody_may_run_blocks_nothing_else(env):
    @hr.task
    def total(values):
        return len(values)

    @hr.flow
    def blocked():
        on_gpu.with_options(resources={"TPU": 1}).map(range(100), upstream=[])
        return total(anywhere.map(range(100)))

    done = []

    class Watch(hr.Observer):
        def on_progress(self, summaries, elapsed):
            if any(summary.name == "total" and summary.counts.get(hr.State.SUCCESS) for summary in summaries):
                done.append(elapsed)
                raise KeyboardInterrupt

    storage = hr.Storage("memory://placement")
    location = storage.add_flow(blocked)
    with pytest.raises(KeyboardInterrupt):
        env.execute(storage, location, observers=[Watch()])
    assert done
