"""``Flow``: what its author can do with it, beyond what the rooms below are tested for."""

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
