import json

import pytest

import headrace as hr
from headrace.environments.base import known_kinds
from headrace.errors import SetupError
from tests.environments import flows


@pytest.mark.parametrize(
    "environment",
    [
        hr.LocalEnvironment(),
        hr.DaskEnvironment(),
        hr.DaskEnvironment("local", n_workers=3, threads_per_worker=2),
        hr.DaskEnvironment("tcp://127.0.0.1:8786", deadline=5.0),
        hr.DaskEnvironment("distributed.LocalCluster", adapt=(1, 4), processes=False),
    ],
    ids=repr,
)
def test_an_environment_survives_json(environment):
    data = environment.serialize()
    again = hr.Environment.deserialize(json.loads(json.dumps(data)))
    assert type(again) is type(environment)
    assert again.serialize() == data


def test_a_class_is_written_down_by_its_import_path():
    from distributed import LocalCluster

    data = hr.DaskEnvironment(LocalCluster, n_workers=1).serialize()
    assert data["cluster"] == "distributed.deploy.local.LocalCluster"
    assert hr.Environment.deserialize(data).serialize() == data


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(SetupError, match=r"unknown environment 'MoonEnvironment'.*DaskEnvironment, LocalEnvironment"):
        hr.Environment.deserialize({"type": "MoonEnvironment"})


def test_foreign_data_are_refused():
    with pytest.raises(SetupError, match="LocalEnvironment has no option 'n_workers'; there are on_start, on_exit"):
        hr.Environment.deserialize({"type": "LocalEnvironment", "n_workers": 3})


def test_other_packages_bring_environments_by_entry_point():
    assert {"LocalEnvironment", "DaskEnvironment"} <= set(known_kinds())


class Camp(hr.LocalEnvironment):
    """Knows where it is when it is set up."""

    place = ""

    def setup(self, storage=None):
        self.place = "hill"

    def describe(self):
        return {**super().describe(), **({"place": self.place} if self.place else {})}


def test_a_record_tells_what_is_known_of_the_environment_as_soon_as_it_is_set_up(tmp_path):
    storage, camp = hr.Storage(tmp_path), Camp()
    location = storage.add_flow(flows.doubled)
    seen = []

    class Looking(hr.Observer):
        def wants_moves(self, policy):
            return True

        def on_moves(self, moves):
            seen.append(storage.runs(1)[0].environment)

    records = [storage.get_run(camp.start(storage, location, observers=[Looking()]).wait().run_id) for _ in range(2)]
    assert seen
    assert all(each == camp.describe() for each in seen)
    assert [record.facts["environment"].get("place") for record in records] == [None, "hill"]
    assert [record.environment for record in records] == [camp.describe()] * 2


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (lambda: hr.DaskEnvironment(n_workers=1, callback=print), "without loss"),
        (lambda: hr.DaskEnvironment(object()), "around a live object"),
        (lambda: hr.DaskEnvironment(type("Local", (), {"__qualname__": "f.<locals>.Local"})), "cannot be found again"),
    ],
)
def test_what_has_no_json_form_is_refused_loudly(environment, said):
    with pytest.raises(SetupError, match=said):
        environment().serialize()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_workers": 0}, "whole number from 1 on"),
        ({"n_workers": 2, "adapt": (1, 2)}, "not both"),
        ({"adapt": (3, 2)}, "least <= largest"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(options, said):
    with pytest.raises(SetupError, match=said):
        hr.DaskEnvironment(**options)
