"""``Flow``: what its author can do with it, beyond what the rooms below are tested for."""

import asyncio

import pytest

import headrace as hr
from headrace.errors import FlowError


@hr.task
def same(value):
    return value


def test_parameters_that_run_takes_for_itself_are_named():
    @hr.flow
    def deploy(environment: str = "test"):
        return same(environment)

    with pytest.raises(FlowError, match=r"parameter 'environment'.*environment\.execute\(storage, location"):
        deploy.run(environment="production")
    storage = hr.Storage("memory://deploy")
    location = storage.add_flow(deploy)
    run = hr.LocalEnvironment().execute(storage, location, {"environment": "production"})
    assert run.result() == "production"


def told_flow():
    """A flow whose hooks write into a list of this process, as in a script; and the list."""
    told = []

    def tell(change, old, new):
        told.append(f"{change}")

    watched = same.with_options(name="watched", on_state=tell)

    @hr.flow(on_state=tell)
    def flow(x: int = 1):
        return watched.with_options(name="second")(watched(x))

    return flow, told


ALL = sorted(f"{name}: {state}" for name in ("flow", "watched", "second") for state in ("Running", "Success"))
STARTS = {
    "run": lambda flow: flow.run(),
    "start": lambda flow: flow.start().wait(),
    "run_async": lambda flow: asyncio.run(flow.run_async()),
}


@pytest.mark.parametrize("start", STARTS)
def test_a_run_calls_the_hooks_themselves(start):
    flow, told = told_flow()
    assert STARTS[start](flow).result() == 1
    assert sorted(told) == ALL


def test_a_run_on_a_cluster_calls_the_hooks_themselves():
    flow, told = told_flow()
    with hr.DaskEnvironment("local", n_workers=1, processes=False) as environment:
        assert flow.run(environment=environment).result() == 1
    assert sorted(told) == ALL


def test_a_run_of_a_flow_with_a_storage_calls_the_hooks_themselves(tmp_path):
    flow, told = told_flow()
    flow.storage = hr.Storage(tmp_path)
    flow.run()
    assert sorted(told) == ALL


def test_runs_of_a_flow_built_by_hand_call_the_hooks_themselves():
    told = []
    with hr.Flow("built", on_state=lambda change, old, new: told.append(new)) as flow:
        same(hr.Parameter("x", int))
    assert [flow.run(x=x).result() for x in (1, 2)] == [1, 2]
    assert told == 2 * [hr.State.RUNNING, hr.State.SUCCESS]


def test_an_executed_flow_calls_the_hooks_that_were_stored(tmp_path):
    flow, told = told_flow()
    flow.storage = storage = hr.Storage(tmp_path)
    flow.run()
    told.clear()
    assert hr.LocalEnvironment().execute(storage, storage.flows["flow"]).result() == 1
    assert told == []
