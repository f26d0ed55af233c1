from __future__ import annotations

import gc

import pytest

import headrace as hr
from headrace.errors import FlowError
from headrace.execution.runner import FlowRunner


@hr.task
def t(x):
    return x


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_garbage_collector_is_off_while_a_flow_is_drawn_and_then_as_before(enabled, fails):
    seen = []

    @hr.flow
    def flow():
        seen.append(gc.isenabled())
        return 1 if fails else t(1)

    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        runner = FlowRunner(flow, "here", record=lambda facts: pytest.fail("nothing was run"))
        if fails:
            with pytest.raises(FlowError, match="drew no node"):
                runner.prepare()
        else:
            assert len(runner.prepare().plan.nodes) == 1
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
    assert set(seen) == {False}
