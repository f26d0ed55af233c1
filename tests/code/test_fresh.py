"""Edited modules are picked up by the next run, wherever their functions are held."""

import logging

import pytest

from headrace.code import space
from headrace.code.fresh import refresh
from headrace.code.loaded import is_current
from headrace.code.units import reached
from headrace.errors import FlowError

FLOW = """
    import headrace as hr
    from fresh_helpers import scaled

    @hr.task
    def double(x):
        return scaled(x)

    @hr.flow
    def whole(x: int = 1):
        return double(x)
"""
HELPERS = """
    FACTOR = {factor}
    class Row:
        pass
    def scaled(x):
        return FACTOR * x
    def {other}():
        return 1
"""


def warnings(caplog):
    """What is ours: in this process, clusters of other tests may be at work."""
    return [record for record in caplog.records if record.name.startswith("headrace")]


def helpers(project, factor, other="other"):
    project.write("fresh_helpers.py", HELPERS.format(factor=factor, other=other))


def test_an_edit_within_the_second_and_of_the_same_size(project, caplog):
    helpers(project, 2)
    project.write("fresh_flow.py", FLOW)
    flow = project.load("fresh_flow").whole
    assert flow.run().result() == 2
    assert not warnings(caplog)
    for factor in (3, 4):
        helpers(project, factor)
        assert flow.run().result() == factor
    (told, _) = [record for record in warnings(caplog) if "edited" in record.message]
    assert told.levelno == logging.WARNING
    assert "fresh_helpers, fresh_flow" in told.message


def test_edits_leave_no_spaces_behind(project):
    before = set(space._SPACES)  # of other tests, and perhaps in use
    helpers(project, 0)
    project.write("fresh_flow.py", FLOW)
    flow = project.load("fresh_flow").whole
    for factor in range(2 * space.KEPT):
        helpers(project, factor)
        assert flow.run().result() == factor
    assert len(space._SPACES.keys() - before) <= space.KEPT


def test_an_edit_before_the_first_run(project):
    helpers(project, 2)
    project.write("fresh_flow.py", FLOW)
    flow = project.load("fresh_flow").whole
    helpers(project, 3)
    assert flow.run().result() == 3


def test_the_flow_itself_is_edited_and_keeps_where_it_lives(project):
    helpers(project, 2)
    project.write("fresh_flow.py", FLOW)
    flow = project.load("fresh_flow").whole
    flow.environment = place = __import__("headrace").LocalEnvironment()
    assert flow.run().result() == 2
    project.write("fresh_flow.py", FLOW.replace("return double(x)", "return double(x + 1)").replace("= 1", "= 10"))
    assert flow.run().result() == 22
    assert flow.environment is place


def test_what_a_notebook_imported_by_name(project, as_main):
    helpers(project, 2)
    main = as_main(
        """
        import headrace as hr
        from fresh_helpers import Row, scaled as my_scaled

        @hr.task
        def double(x):
            return my_scaled(x), Row()

        @hr.flow
        def whole(x: int = 1):
            return double(my_scaled(x))
        """
    )
    value, row = main["whole"].run().result()
    assert value == 4
    assert isinstance(row, main["Row"])
    held = [main["my_scaled"]]
    helpers(project, 5)
    value, row = main["whole"].run().result()
    assert value == 25
    assert type(row) is main["Row"]
    main["held"] = held
    exec("whole2 = hr.flow(name='whole2')(hr.task(lambda x=1, f=held[0]: f(x)))", main)
    assert main["whole2"].run().result() == 5  # an older function, held in a list, travels as what its name means now


def test_whoever_reloads_does_so_once(project, caplog):
    import importlib

    helpers(project, 2)
    project.write("fresh_flow.py", FLOW)
    module = project.load("fresh_flow")
    assert module.whole.run().result() == 2
    helpers(project, 33)
    importlib.reload(project.load("fresh_helpers"))
    row = project.load("fresh_helpers").Row
    importlib.reload(module)
    assert module.whole.run().result() == 33
    assert not warnings(caplog)
    assert project.load("fresh_helpers").Row is row


def test_what_was_taken_out_is_gone(project):
    helpers(project, 2)
    module = project.load("fresh_helpers")
    assert is_current(module)
    helpers(project, 2, other="newer")
    assert refresh(reached(["fresh_helpers"]))
    assert module.newer() == 1
    assert not hasattr(module, "other")


@pytest.mark.parametrize(
    ("text", "words"),
    [("def f(:\n", ["SyntaxError", "line 1"]), ("1 / 0\n", ["ZeroDivisionError"])],
)
def test_an_edit_that_cannot_be_loaded(project, text, words):
    helpers(project, 2)
    project.write("fresh_flow.py", FLOW)
    flow = project.load("fresh_flow").whole
    assert flow.run().result() == 2
    path = project.write("fresh_helpers.py", text)
    with pytest.raises(FlowError, match="'fresh_helpers' was edited") as told:
        flow.run()
    for word in [*words, str(path)]:
        assert word in str(told.value)
    helpers(project, 7)
    assert flow.run().result() == 7


def test_what_was_put_into_a_module_stays_there(project, monkeypatch):
    helpers(project, 2)
    project.write("fresh_flow.py", FLOW)
    module = project.load("fresh_flow")
    monkeypatch.setattr(module, "scaled", lambda x: 100 * x)
    assert module.whole.run().result() == 100


def test_state_stays_over_runs_and_unrelated_edits(project):
    project.write(
        "fresh_state.py",
        """
        import functools
        import headrace as hr
        SEEN = []

        @functools.lru_cache
        def cached(x):
            SEEN.append(x)
            return x

        @hr.task
        @functools.lru_cache
        def remembered(x):
            SEEN.append(-x)
            return cached(x)

        @hr.flow
        def whole(x: int = 1):
            return remembered(x)
        """,
    )
    module = project.load("fresh_state")
    for _ in range(3):
        assert module.whole.run().result() == 1
    assert module.SEEN == [-1, 1]


BOUND_AGAIN = """
    import headrace as hr
    COUNT = 0
    COUNT += 1
    DEBUG = False
    if COUNT:
        DEBUG = True
    json = None
    try:
        import json
    except ImportError:
        pass
    left = 1
    del left

    @hr.task
    def told():
        return COUNT, DEBUG, json is not None

    @hr.flow
    def whole():
        return told()
"""


def test_what_a_module_binds_again_is_no_edit(project, caplog):
    project.write("fresh_flow.py", BOUND_AGAIN)
    module = project.load("fresh_flow")
    assert module.whole.run().result() == (1, True, True)
    assert not warnings(caplog)
