import pytest

import headrace as hr
from headrace.errors import SetupError
from tests.environments import flows

SEEN = []
HERE = __name__


def note(change):
    SEEN.append((change.flow_name, change.state, change.task_name, bool(change.seconds)))


def refuse(change):
    SEEN.append(change.state)
    raise ValueError("not now")


@pytest.fixture(autouse=True)
def nothing_seen():
    SEEN.clear()


def dask(**callbacks):
    return hr.DaskEnvironment("local", n_workers=1, processes=False, **callbacks)


KINDS = [hr.LocalEnvironment, dask]


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_told_of_start_and_end(kind):
    with kind(on_start=note, on_exit=note) as environment:
        assert flows.doubled.run(environment=environment, n=3).result() == 6
    assert SEEN == [("doubled", hr.State.RUNNING, None, False), ("doubled", hr.State.SUCCESS, None, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_start_that_raises_lets_nothing_run(kind, tmp_path):
    storage = hr.Storage(tmp_path)
    location = storage.add_flow(flows.doubled)
    with kind(on_start=refuse, on_exit=note) as environment, pytest.raises(ValueError, match="not now"):
        environment.execute(storage, location)
    assert SEEN == [hr.State.RUNNING, ("doubled", hr.State.CRASHED, None, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_exit_that_raises_changes_nothing(kind, caplog):
    with kind(on_exit=refuse) as environment:
        assert flows.doubled.run(environment=environment, n=3).result() == 6
    assert SEEN == [hr.State.SUCCESS]
    assert "on_exit of the environment raised" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_written_down_by_name(kind):
    data = kind(on_start=note, on_exit=flows.double).serialize()
    assert data["on_start"] == f"{HERE}:note"
    again = hr.Environment.deserialize(data)
    assert again.serialize() == data
    with again:
        assert flows.doubled.run(environment=kind(on_start=data["on_start"]), n=3).result() == 6
    assert SEEN == [("doubled", hr.State.RUNNING, None, False)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("callback", [lambda change: None, SEEN.append])
def test_what_has_no_name_is_not_written_down(kind, callback):
    environment = kind(on_exit=callback)
    with pytest.raises(SetupError, match=r"on_exit=.*could not be found again by name"):
        environment.serialize()


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ("tests.environments.flows:nothing", "cannot be found here"),
        ("no.such.module:f", "cannot be found here"),
        ("without_a_colon", "cannot be found here"),
        ("tests.environments.flows:time", "is no function"),
    ],
)
def test_a_name_that_leads_nowhere_says_so(callback, said):
    with pytest.raises(SetupError, match=said):
        flows.doubled.run(environment=hr.LocalEnvironment(on_start=callback), n=3)


def test_only_functions_and_names_are_taken():
    with pytest.raises(SetupError, match="on_start must be a function"):
        hr.LocalEnvironment(on_start=3)
