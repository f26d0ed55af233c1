"""Dask inside tasks, on clusters with a single thread: what waits must not hold what it waits for."""

import threading

import dask
import pytest

import headrace as hr
from tests.waiting import until

WIDTH = 6


@pytest.fixture(scope="module", params=[False, True], ids=["threads", "processes"])
def narrow(request):
    with hr.DaskEnvironment("local", n_workers=1, threads_per_worker=1, processes=request.param) as env:
        env.setup(None)
        yield env


def double(x):
    return 2 * x


@hr.task
def by_client(x):
    client = hr.get_client()
    assert hr.get_client() is client
    return sum(client.gather(client.map(double, range(x, x + 3), pure=False)))


@hr.task
def by_collection(x):
    hr.get_client()
    return sum(dask.compute(*[dask.delayed(double)(x + more) for more in range(3)]))


@hr.task
def by_collection_alone(x):
    return dask.delayed(sum)([dask.delayed(double)(x + more) for more in range(3)]).compute()


@hr.task
def plus(x):
    return x + 1


@hr.task(retries=1)
def fails_after(x):
    hr.get_client().submit(double, x, pure=False).result()
    raise ValueError(x)


def expected(x):
    return 2 * (3 * x + 3)


@pytest.mark.parametrize("task", [by_client, by_collection, by_collection_alone], ids=lambda task: task.name)
def test_a_task_waits_for_what_it_hands_to_the_only_thread(narrow, task):
    flow = hr.flow(name="waits")(lambda: plus.map(task.map(plus.map(list(range(WIDTH))))))
    run = flow.run(environment=narrow)
    assert run.result() == [expected(x + 1) + 1 for x in range(WIDTH)]


def test_one_that_fails_is_tried_again(narrow):
    run = hr.flow(name="fails")(lambda: fails_after.map([1, 2])).run(environment=narrow)
    assert [one.attempts for one in run["fails_after"]] == [2, 2]
    with pytest.raises(ValueError, match="1"):
        run.result()


def threads_of(dask_worker):
    return len(dask_worker.executors["default"]._threads)


def test_the_pool_is_as_large_as_before(narrow):
    flow = hr.flow(name="again")(lambda: [by_client.map(list(range(WIDTH))), by_collection_alone.map([1, 2])])
    for _ in range(3):
        assert flow.run(environment=narrow).state is hr.State.SUCCESS
    until(lambda: set(narrow.client.run(threads_of).values()) == {1})
    assert hr.flow(name="plain")(lambda: plus.map([1, 2])).run(environment=narrow).result() == [2, 3]


@hr.task
def from_another_thread():
    told = []

    def ask():
        try:
            hr.get_client()
        except hr.errors.RunError as error:
            told.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    return told


def test_a_thread_of_a_task_is_told(narrow):
    run = hr.flow(name="other")(lambda: from_another_thread()).run(environment=narrow)
    assert "call it in the task itself" in run.result()[0]


def test_an_isolated_task_is_told(narrow):
    alone = by_client.with_options(isolated=True, name="alone")
    run = hr.flow(name="isolated")(lambda: alone(1)).run(environment=narrow)
    with pytest.raises(hr.errors.RunError, match=r"isolated in a process of its own"):
        run.result()


def test_outside_of_tasks_it_says_why():
    with pytest.raises(hr.errors.RunError, match="no Dask worker"):
        hr.get_client()
    run = hr.flow(name="inline")(lambda: by_client(1)).run()
    with pytest.raises(hr.errors.RunError, match=r"the process that started it.*DaskEnvironment"):
        run.result()
