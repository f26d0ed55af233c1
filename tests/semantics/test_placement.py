"""Tasks that say where they may be executed, and before which others."""

import time

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker, get_worker

import headrace as hr


@pytest.fixture(scope="module")
def env():
    """Two workers in this process: "plain", and "special" with a resource."""
    options = {"nthreads": 1, "host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        SpecCluster(
            scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}},
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
    env = hr.DaskEnvironment(env.client, offers={"TPU": 1})

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


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"resources": {"TPU": 1}}, r"'where'.*resources=\{'TPU': 1\}.*plain at .* with no resources.*GPU: 1"),
        ({"resources": {"GPU": 2}}, "no worker of this cluster"),
        ({"resources": {"GPU": 1}, "workers": "plain"}, "GPU.* and workers="),
        ({"workers": ["absent", "gone"]}, r"workers=\['absent', 'gone'\]"),
    ],
)
def test_what_no_worker_offers_is_an_error_at_once(env, options, told):
    strange = hr.task(name="where", **options)(where)

    @hr.flow
    def hopeless():
        return strange(anywhere(1))

    began = time.monotonic()
    with pytest.raises(hr.errors.NoSuchWorker, match=told) as caught:
        hopeless.run(environment=env)
    assert time.monotonic() - began < 20
    assert caught.value.task == "where"


@pytest.mark.parametrize(
    "options",
    [{"resources": {"GPU": 1}}, {"workers": ["absent", "special"]}, {"workers": "127.0.0.1"}, {"priority": 3}],
)
def test_what_some_worker_offers_runs(env, options):
    task = hr.task(name="where", **options)(where)
    flow = hr.flow(name="fine")(lambda: task(1))
    assert flow.run(environment=env).result() in ("plain", "special")


def test_a_worker_may_be_named_by_its_number_and_by_its_address():
    with hr.DaskEnvironment("local", n_workers=2, processes=False, threads_per_worker=1) as env:
        env.setup(None)
        named = hr.task(name="where", workers="1")(where)
        flow = hr.flow(name="named")(lambda: named.map(list(range(20))))
        assert set(flow.run(environment=env).result()) == {1}
        address = next(iter(env.client.scheduler_info()["workers"]))
        named = hr.task(name="where", workers=address)(where)
        flow = hr.flow(name="named")(lambda: named.map(list(range(20))))
        assert len(set(flow.run(environment=env).result())) == 1


def test_a_cluster_that_adapts_may_bring_what_is_not_there():
    options = {"processes": False, "threads_per_worker": 1, "resources": {"GPU": 1}}
    with hr.DaskEnvironment("local", adapt=(0, 1), **options) as env:
        flow = hr.flow(name="adapts")(lambda: on_gpu(1))
        assert flow.run(environment=env).state is hr.State.SUCCESS


def test_offers_are_data():
    env = hr.DaskEnvironment("tcp://10.0.0.1:8786", offers={"GPU": 2})
    assert hr.Environment.deserialize(env.serialize()).offers == {"GPU": 2}
    with pytest.raises(hr.errors.SetupError, match="offers must be amounts"):
        hr.DaskEnvironment(offers={"GPU": 0})
