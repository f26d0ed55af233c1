"""What people see of a run: views, errors with their tracebacks, reprs; and what Dask sees of it."""

from __future__ import annotations

import gc
import traceback

import numpy as np
import pytest

import headrace as hr
from headrace.core.signals import Cancelled
from headrace.errors import RunCancelled, RunError, TaskFailed, TriggerFailed
from tests.semantics import rows_basic as rows
from tests.semantics.rows_basic import Awkward, Broken, add, fail, locked, odd_fails, rescue, same, total
from tests.waiting import until


@hr.flow
def small(n: int = 3):
    return total(add.map(list(range(n))))


@hr.flow
def half_failing():
    return add.map(odd_fails.map([0, 1]))


@hr.task
def deep():
    return deeper()


def deeper():
    raise Broken("far down") from KeyError("the cause")


@hr.task(retries=1)
def deep_twice():
    raise Broken("again")


@hr.task
def zeros(n):
    return np.zeros(n)


@hr.task
def length(array):
    return len(array)


def test_views_of_a_success(place):
    run = small.run(environment=place)
    assert list(run) == ["add", "total"]
    assert len(run) == 2
    assert "add" in run
    assert "sub" not in run
    view = run["add"]
    assert (view.name, view.state, len(view)) == ("add", hr.State.SUCCESS, 3)
    assert [one.result() for one in view] == view.result() == [1, 2, 3]
    assert view[-1].result() == 3
    assert all(seconds >= 0 for seconds in view.durations)
    assert view.duration == sum(view.durations) > 0
    assert view.errors == run.errors == {}
    assert (view[0].error, view[0].attempts) == (None, 1)
    assert run["total"].result() == run.result() == 6
    with pytest.raises(IndexError, match="has 3 task runs, so there is none with index 3"):
        view[3]
    with pytest.raises(KeyError, match="no task 'sub'; it has add, total"):
        run["sub"]


def test_views_of_a_failure(place):
    run = half_failing.run(environment=place)
    assert set(run.errors) == {"odd_fails[1]"}
    assert type(run.errors["odd_fails[1]"]) is Broken
    assert set(run["odd_fails"].errors) == {1}
    assert run["odd_fails"][0].result() == 0
    assert run["add"][0].result() == 1
    assert run["add"].state is hr.State.TRIGGER_FAILED
    for raising in (run.result, run["odd_fails"].result, run["odd_fails"][1].result):
        with pytest.raises(Broken, match="1 is odd"):
            raising()
    for raising in (run["add"].result, run["add"][1].result):
        with pytest.raises(TriggerFailed, match=r"'add\[1\]' did not run.*'all_successful'"):
            raising()
    assert run["add"][1].attempts == 0


def test_reprs(place):
    run = half_failing.run(environment=place)
    assert repr(run).startswith(f"<FlowRun half_failing {run.run_id}: Failed, 4 task runs in ")
    assert repr(run["odd_fails"]) == "<odd_fails: Failed, 2 of 2 done>"
    assert repr(run["odd_fails"][1]) == "<odd_fails[1]: Failed, 1 is odd>"
    page = run._repr_html_()
    assert "half_failing" in page
    assert "1 is odd" in page


@pytest.mark.parametrize("task", [deep, deep_twice])
def test_tracebacks_show_the_users_frames_only(place, task):
    flow = hr.flow(name="deep_down")(lambda: task())
    error = flow.run(environment=place)[task.name][0].error
    assert [frame.name for frame in traceback.extract_tb(error.__traceback__)][:1] == [task.name]
    text = "".join(traceback.format_exception(error))
    assert "headrace/execution" not in text
    assert f"in task {task.name!r} of flow 'deep_down'" in text


def test_the_text_of_a_failure_tells_its_cause(place):
    failure = hr.flow(name="deep_down")(lambda: deep()).run(environment=place).failures()["deep"]
    assert failure.type_name == "tests.semantics.test_views.Broken".replace("test_views", "rows_basic")
    assert "KeyError: 'the cause'" in failure.traceback
    assert "in deeper" in failure.traceback


def test_raising_an_error_often_does_not_lengthen_its_traceback(place):
    run = hr.flow(name="failing")(lambda: fail()).run(environment=place)
    lengths = set()
    for _ in range(3):
        with pytest.raises(Broken) as caught:
            run.result()
        lengths.add(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(lengths) == 1


def test_an_exception_that_cannot_travel_arrives_as_its_text(dask_place):
    run = hr.flow(name="locking")(lambda: locked()).run(environment=dask_place)
    failure = run.failures()["locked"]
    assert (failure.type_name, failure.message) == ("tests.semantics.rows_basic.Locked", "it holds a lock")
    with pytest.raises((TaskFailed, rows.Locked), match="it holds a lock"):
        run.result()


def test_an_exception_keeps_its_attributes(place):
    run = hr.flow(name="awkward_flow")(lambda: rows.awkward()).run(environment=place)
    with pytest.raises(Awkward) as caught:
        run.result()
    assert caught.value.code == 7


def test_a_handler_receives_an_exception_that_cannot_be_pickled(place):
    run = hr.flow(name="rescuing")(lambda: rescue(locked())).run(environment=place)
    assert "it holds a lock" in run.result()[0]


def test_a_run_without_result_keeps_none(place):
    storage = hr.Storage(f"memory://semantics-{id(place)}")
    flow = hr.flow(name="failing_quietly")(lambda: rescue(add(1)))
    flow.storage = storage
    run = flow.run(environment=place)
    with pytest.raises(TriggerFailed):
        run.result()
    assert isinstance(run["rescue"][0].error, RunError)


def test_large_values_come_whole(place):
    n = (2 << 20) // 8
    run = hr.flow(name="large")(lambda: [zeros(n), length(zeros(n))]).run(environment=place)
    array, counted = run.result()
    assert array.shape == (n,)
    assert counted == n


def test_a_large_map_is_reduced(place):
    n = (1 << 20) // 8
    run = hr.flow(name="large_map")(lambda: total(length.map(zeros.map([n] * 8)))).run(environment=place)
    assert run.result() == 8 * n


def test_values_are_kept_for_inspection(place):
    run = hr.flow(name="inspected")(lambda: same(add(add(0)))).run(environment=place)
    assert (run["add"].result(), run["add-2"].result()) == (1, 2)


def test_by_node_of_a_flow_built_by_hand(place):
    with hr.Flow("by_node") as flow:
        node = add(1)
        add(node)
    run = flow.run(environment=place)
    assert run[node].result() == 2
    assert run.result() == 3


def test_dask_keys_read_like_the_flow(dask_place):
    run = small.run(environment=dask_place)
    keys = set(dask_place.client.who_has())
    assert {key.split("-")[0] for key in keys if run.run_id in key} <= {"add", "total"}
    assert any(run.run_id in key for key in keys)


def test_a_dropped_run_leaves_nothing_on_the_cluster(dask_place):
    client = dask_place.client
    run = small.run(environment=dask_place)
    run_id = run.run_id
    del run
    gc.collect()
    until(
        lambda: (
            not client.run_on_scheduler(lambda dask_scheduler: [key for key in dask_scheduler.tasks if run_id in key])
        )
    )
    until(lambda: not any(client.run(lambda dask_worker: any(run_id in name for name in dask_worker.plugins)).values()))


@hr.task
def skip():
    raise hr.Skip("nothing to do\nat all")


def test_views_say_why_a_task_run_ended_as_it_did(place):
    @hr.flow
    def mixed():
        return same(skip()), fail(), same.with_options(name="later", trigger="all_failed")(add(1))

    run = mixed.run(environment=place)
    assert run["skip"][0].message == "nothing to do\nat all"
    assert repr(run["skip"][0]) == "<skip: Skipped, nothing to do>"
    assert (run["same"][0].message, repr(run["same"][0])) == ("", "<same: Skipped>")
    assert repr(run["fail"][0]) == "<fail: Failed, as ordered>"
    assert "did not run" in run["later"][0].message
    assert repr(run["add"][0]) == "<add: Success>"
    assert list(run.errors) == ["fail"]


def test_a_task_run_that_was_cancelled_says_so():
    @hr.task
    def cancelled():
        raise Cancelled

    @hr.flow
    def stopped():
        return cancelled()

    run = stopped.run()
    assert run["cancelled"].states == [hr.State.CANCELLED]
    assert run.errors == {}
    with pytest.raises(RunCancelled, match="task 'cancelled' was cancelled"):
        run.result()
