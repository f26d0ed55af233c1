from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
import textwrap
import threading
import types
from datetime import UTC, datetime

import pytest

from headrace.core.flow import FlowDefinition, parameter
from headrace.core.task import task
from headrace.errors import (
    AccessDenied,
    AlreadyExists,
    DamagedObject,
    FlowError,
    ForeignObject,
    MissingModule,
    NotFound,
    NotPicklable,
    ParameterError,
    StorageError,
    TruncatedObject,
    UnstableFlow,
)
from headrace.storage.files import private_memory
from headrace.storage.flows import StoredFlows
from headrace.storage.spec import default_name

SOURCE = """
from headrace.core.flow import FlowDefinition
from headrace.core.task import task

@task(retries=2)
def double(x):
    return FACTOR * x

@task
def total(xs):
    return sum(xs)

def etl(n: int = 3):
    '''Doubles.

    And adds.'''
    return total([double(i) for i in range(n)])

def other(n: int):
    return double(n)

FACTOR = {factor}
flow = FlowDefinition("{name}", {function})
"""


def make_flow(name="etl", function="etl", factor=2, module="__main__"):
    """A flow as a script defines it: its functions are pickled by value."""
    namespace = {"__name__": module}
    exec(SOURCE.format(name=name, function=function, factor=factor), namespace)
    return namespace["flow"]


def memory():
    return StoredFlows("memory://x", filesystem=private_memory())


@pytest.fixture
def stored(medium):
    return StoredFlows(medium.url, medium.options)


def reopened(stored):
    """The same storage as another process sees it."""
    return StoredFlows(stored.url, stored.spec.storage_options)


class TestEveryMedium:
    def test_store_and_load(self, stored):
        flow = make_flow()
        location = stored.add_flow(flow)
        assert stored.build() is stored
        other = reopened(stored)
        assert other.flows == {"etl": location}
        assert "etl" in other
        assert flow in other
        loaded = other.load(location)
        graph = loaded.draw({"n": 2})
        assert graph.names == ["double", "double-2", "total"]
        assert graph.nodes[0].task(21) == 42
        assert graph.nodes[0].task.policy.retries == 2

    def test_layout(self, stored):
        location = stored.add_flow(make_flow())
        stored.build()
        key, version = stored.files.list()
        assert key == location
        assert version == "flows/etl/versions/00000001"
        record = json.loads(stored.files.read(version))
        assert record["origin"] == "__main__:etl"
        assert location == f"flows/etl/{record['sha256']}.flow"

    def test_build_is_idempotent(self, stored):
        stored.add_flow(make_flow())
        stored.build()
        before = stored.files.list()
        stored.build()
        stored.add_flow(make_flow())
        stored.build()
        assert stored.files.list() == before

    def test_new_content_is_a_new_version_and_the_old_one_stays(self, stored):
        first = stored.add_flow(make_flow(factor=2))
        stored.build()
        second = stored.add_flow(make_flow(factor=3))
        stored.build()
        assert first != second
        other = reopened(stored)
        assert other.flows == {"etl": second}
        assert other.load(first).draw({"n": 1}).nodes[0].task(1) == 2
        assert other.load("etl").draw({"n": 1}).nodes[0].task(1) == 3
        assert make_flow(factor=2) in other
        assert make_flow(factor=4) not in other

    def test_going_back_to_old_content_makes_it_the_newest(self, stored):
        first = stored.add_flow(make_flow(factor=2))
        stored.build().add_flow(make_flow(factor=3))
        stored.build()
        assert stored.add_flow(make_flow(factor=2)) == first
        stored.build()
        assert reopened(stored).flows == {"etl": first}

    def test_builders_lose_nothing(self, stored):
        builders = [reopened(stored) for _ in range(3)]
        locations = [builder.add_flow(make_flow(name=f"etl-{number}")) for number, builder in enumerate(builders)]
        shared = {builder.add_flow(make_flow(name="shared")) for builder in builders}
        for builder in builders:
            builder.build()
        assert len(shared) == 1
        assert sorted(stored.flows.values()) == sorted([*locations, *shared])

    def test_manifest(self, stored):
        stored.add_flow(make_flow())
        manifest = stored.build().manifest("etl")
        assert manifest["name"] == "etl"
        assert manifest["doc"] == "Doubles."
        assert manifest["parameters"][0]["default"] == 3
        assert manifest["example"] == {"n": 3}
        assert [row["name"] for row in manifest["tasks"]] == ["double", "total"]
        assert manifest["tasks"][0]["retries"] == 2
        assert manifest["graph"][-1] == {
            "name": "total",
            "task": "total",
            "mapped": False,
            "upstream": ["double", "double-2", "double-3"],
        }
        assert manifest == json.loads(json.dumps(manifest))

    def test_damaged_objects_are_refused(self, stored):
        location = stored.add_flow(make_flow())
        data = stored.build().files.read(location)
        for changed, error in (
            (data[:-1] + b"x", DamagedObject),
            (data[:-10], TruncatedObject),
            (b"#!/bin/sh", ForeignObject),
        ):
            stored.files.replace(location, changed)
            with pytest.raises(error, match=location):
                stored.load(location)

    def test_storing_again_mends_a_damaged_object(self, stored):
        location = stored.add_flow(make_flow())
        stored.build().files.replace(location, b"rubbish")
        stored.add_flow(make_flow())
        assert stored.build().load(location).name == "etl"


class TestStaging:
    def test_staged_flows_count_here_and_nowhere_else(self):
        stored = memory()
        flow = make_flow()
        location = stored.add_flow(flow)
        assert stored.flows == {"etl": location}
        assert flow in stored
        assert "etl" in stored
        assert stored.resolve("etl") == location
        assert stored.load(location).name == "etl"
        assert stored.files.list() == []

    def test_the_moment_of_adding_counts(self):
        stored = memory()
        namespace = {"__name__": "__main__"}
        exec(SOURCE.format(name="etl", function="etl", factor=2), namespace)
        location = stored.add_flow(namespace["flow"])
        namespace["FACTOR"] = 5
        assert stored.build().load(location).draw({"n": 1}).nodes[0].task(1) == 2
        assert stored.add_flow(namespace["flow"]) != location

    def test_one_content_has_one_location_also_after_use(self):
        stored = memory()
        flow = make_flow()
        flow.location = flow.storage = None
        first = stored.add_flow(flow)
        graph = flow.draw({"n": 4})
        assert [node.task.function([1]) for node in graph.nodes[:1]] == [[1, 1]]
        flow.location = first
        flow.storage = stored
        assert stored.add_flow(flow) == first
        assert memory().add_flow(flow) == first

    def test_an_example_is_not_content(self):
        stored = memory()
        flow = make_flow(function="other")
        without = stored.add_flow(flow)
        with_example = stored.add_flow(flow, example={"n": "7"})
        assert without != with_example
        assert stored.manifest(without)["graph"] is None
        assert [row["name"] for row in stored.manifest(without)["tasks"]] == ["double"]
        assert stored.manifest(with_example)["example"] == {"n": 7}
        stored.build()
        assert flow in stored

    def test_a_flow_built_by_hand(self):
        @task
        def show(value):
            return value

        with FlowDefinition("hand") as flow:
            show(parameter("who", str, default="me"))
        stored = memory()
        location = stored.add_flow(flow)
        assert stored.manifest(location)["origin"] == "built:hand"
        assert stored.load(location).draw({"who": "x"}).names == ["show"]

    def test_added_last_is_newest(self):
        stored = memory()
        first = stored.add_flow(make_flow(factor=1))
        stored.add_flow(make_flow(factor=2))
        assert stored.add_flow(make_flow(factor=1)) == first
        assert stored.flows == {"etl": first}
        assert memory().add_flow(make_flow(factor=1)) == first
        assert stored.build().flows == {"etl": first}

    def test_versions_are_told_newest_last(self):
        stored = memory()
        assert stored.versions("etl") == []
        before = datetime.now(UTC)
        locations = []
        for factor in (1, 2, 1):
            locations.append(stored.add_flow(make_flow(factor=factor)))
            assert len(stored.versions("etl")) == len(locations) - 1  # staged is not uploaded
            stored.build()
        versions = stored.versions("etl")
        assert [version.location for version in versions] == locations
        assert versions[-1].location == stored.flows["etl"]
        times = [before, *(version.time for version in versions), datetime.now(UTC)]
        assert times == sorted(times)

    def test_the_clock_of_another_machine_may_be_ahead(self):
        stored = memory()
        sha256 = "0" * 64
        ahead = f"flows/etl/versions/29991231T235959.999998Z-{sha256}"
        stored.files.create(ahead, json.dumps({"sha256": sha256, "origin": "__main__:etl"}).encode())
        location = stored.add_flow(make_flow())
        assert stored.build().flows == {"etl": location}


class TestRefused:
    def test_another_origin_under_a_taken_name(self):
        stored = memory()
        stored.add_flow(make_flow(name="same"))
        stored.build()
        intruder = make_flow(name="same", function="other")
        with pytest.raises(AlreadyExists, match=r"'same' of __main__:other .* __main__:etl.*replace=True"):
            stored.add_flow(intruder)
        location = stored.add_flow(intruder, replace=True)
        assert stored.build().flows == {"same": location}

    def test_another_origin_that_came_between_add_and_build(self):
        stored = memory()
        stored.add_flow(make_flow(name="same", function="other"))
        faster = StoredFlows("memory://x", filesystem=stored.files._medium.filesystem)
        location = faster.add_flow(make_flow(name="same"))
        faster.build()
        with pytest.raises(AlreadyExists):
            stored.build()
        assert faster.flows == {"same": location}

    def test_unknown_names_and_locations(self):
        stored = memory()
        with pytest.raises(NotFound, match="none yet"):
            stored.resolve("etl")
        stored.add_flow(make_flow())
        with pytest.raises(NotFound, match=r"no flow 'elt' .*did you mean 'etl'\?.*known are 'etl'"):
            stored.resolve("elt")
        missing = f"flows/etl/{'0' * 64}.flow"
        for ask in (stored.resolve, stored.load, stored.manifest):
            with pytest.raises(NotFound, match=f"there is no flow at {missing} in .*see storage.flows"):
                ask(missing)
        assert 3 not in stored

    def test_an_intact_flow_under_the_name_of_another(self):
        stored = memory()
        good, bad = stored.add_flow(make_flow(factor=1)), stored.add_flow(make_flow(factor=2))
        stored.build()
        stored.files.replace(good, stored.files.read(bad))
        with pytest.raises(DamagedObject, match="moved or replaced"):
            stored.load(good)

    def test_a_draw_that_differs_in_this_process(self):
        counter = itertools.count()

        @task
        def show(value):
            return value

        stored = memory()
        with pytest.raises(UnstableFlow, match=r"drawn twice.*changing globals"):
            stored.add_flow(FlowDefinition("restless", lambda: show(next(counter))))
        assert stored.flows == {}

    def test_a_draw_that_depends_on_the_hash_seed(self):
        namespace = {"__name__": "__main__", "FlowDefinition": FlowDefinition, "task": task}
        source = """
        @task
        def show(value):
            return value

        def loose():
            return [show(word) for word in set("the quick brown fox jumps over a lazy dog".split())]

        flow = FlowDefinition("loose", loose)
        """
        exec(textwrap.dedent(source), namespace)
        stored = memory()
        stored.add_flow(namespace["flow"])
        with pytest.raises(UnstableFlow, match=r"'loose'.*fresh interpreter.*sorted\(...\) in place of a set"):
            stored.build()
        assert stored.files.list() == []

    def test_a_module_that_only_this_process_has(self, monkeypatch):
        only_here = types.ModuleType("only_here")  # without a file, so that it cannot travel
        exec("def helper(x):\n    return x\n", vars(only_here))
        monkeypatch.setitem(sys.modules, "only_here", only_here)

        @task
        def use(x):
            return only_here.helper(x)

        # Pickled by value, as from a script, while its helper is pickled by reference.
        use.function.__module__ = "__main__"
        stored = memory()
        stored.add_flow(FlowDefinition("lost", lambda: use(1)))
        with pytest.raises(MissingModule, match=r"flow 'lost'.*'only_here'.*install") as caught:
            stored.build()
        assert caught.value.module == "only_here"
        sys.modules.pop("only_here", None)

    def test_other_errors_on_loading_are_told(self):
        namespace = {"__name__": "__main__"}
        source = """
        import os
        class Picky:
            def __init__(self, pid): self.pid = pid
            def __reduce__(self): return check, (self.pid,)
        def check(pid):
            if pid != os.getpid(): raise OSError("wrong process")
            return Picky(pid)
        from headrace.core.task import task
        picky = Picky(os.getpid())
        @task
        def show(): return picky
        def function(): return show()
        """
        exec(textwrap.dedent(source), namespace)
        stored = memory()
        stored.add_flow(FlowDefinition("picky", namespace["function"]))
        with pytest.raises(FlowError, match=r"'picky' does not load in a fresh interpreter.*wrong process"):
            stored.build()

    def test_what_flows_print_does_not_disturb_the_check(self):
        namespace = {"__name__": "__main__"}
        source = """
        import os
        from headrace.core.task import task
        @task
        def show(): return 1
        def loud():
            os.write(1, b"I am being drawn")
            return show()
        """
        exec(textwrap.dedent(source), namespace)
        stored = memory()
        location = stored.add_flow(FlowDefinition("loud", namespace["loud"]))
        assert stored.build().flows == {"loud": location}

    def test_a_child_that_dies_is_told(self):
        namespace = {"__name__": "__main__"}
        source = """
        import os
        from headrace.core.task import task
        parent = os.getpid()
        @task
        def show(): return 1
        def deadly():
            if os.getpid() != parent: os._exit(7)
            return show()
        """
        exec(textwrap.dedent(source), namespace)
        stored = memory()
        stored.add_flow(FlowDefinition("deadly", namespace["deadly"]))
        with pytest.raises(FlowError, match=r"'deadly'.*ended with code 7"):
            stored.build()

    def test_not_picklable_at_add(self):
        handle = threading.Lock()

        @task
        def write():
            return handle

        with pytest.raises(NotPicklable, match="task 'write' → closure variable 'handle'"):
            memory().add_flow(FlowDefinition("f", lambda: write()))

    def test_a_wrong_example(self):
        with pytest.raises(ParameterError, match="'n' was given 'x'"):
            memory().add_flow(make_flow(), example={"n": "x"})

    def test_the_authors_own_error_while_drawing(self):
        def broken():
            raise ZeroDivisionError("mine")

        with pytest.raises(ZeroDivisionError, match="mine"):
            memory().add_flow(FlowDefinition("f", broken))


_BUILDER = """
import sys
from headrace.storage.flows import StoredFlows
namespace = {"__name__": "__main__"}
exec(sys.argv[2], namespace)
stored = StoredFlows(sys.argv[1])
print(stored.add_flow(namespace["flow"]), flush=True)
sys.stdin.readline()
stored.build()
"""


def test_processes_that_build_at_the_same_time(tmp_path):
    sources = [SOURCE.format(name="same", function="etl", factor=factor) for factor in (1, 2)]
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", _BUILDER, str(tmp_path), source],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for source in sources
    ]
    locations = [builder.stdout.readline().strip() for builder in builders]
    for builder in builders:
        builder.communicate("go\n")
    assert [builder.returncode for builder in builders] == [0, 0]
    stored = StoredFlows(tmp_path)
    assert stored.flows["same"] in locations
    assert sorted(stored.load(location).draw({"n": 1}).nodes[0].task(1) for location in locations) == [1, 2]
    assert len(stored.files.list("flows/same/versions")) == 2


class TestAsData:
    OPTIONS = {  # noqa: RUF012 - never changed
        "key": "AKIAKEYKEY",
        "secret": "hush-hush-hush",
        "endpoint_url": "http://127.0.0.1:1",
        "client_kwargs": {"verify": False, "aws_session_token": "sesame-sesame"},
    }

    def secret_free(self, text):
        assert not any(secret in text for secret in ("AKIAKEYKEY", "hush-hush-hush", "sesame-sesame"))

    def test_round_trip_without_secrets(self):
        stored = StoredFlows("s3://bucket/flows/", self.OPTIONS, name="mine")
        data = json.loads(json.dumps(stored.serialize()))
        assert data == {
            "url": "s3://bucket/flows",
            "name": "mine",
            "storage_options": {"endpoint_url": "http://127.0.0.1:1", "client_kwargs": {"verify": False}},
            "omitted": ["client_kwargs.aws_session_token", "key", "secret"],
        }
        assert StoredFlows.deserialize(data).serialize() == data

    def test_secrets_are_nowhere(self):
        stored = StoredFlows("s3://bucket/flows", self.OPTIONS)
        for text in (repr(stored), str(stored.serialize()), repr(pickle.dumps(stored))):
            self.secret_free(text)
        with pytest.raises(StorageError) as caught:
            stored.flows  # noqa: B018 - nobody listens there
        self.secret_free(str(caught.value))

    def test_secrets_given_again(self):
        data = StoredFlows("s3://bucket/flows", self.OPTIONS).serialize()
        again = {
            "key": "K",
            "secret": "S",
            "client_kwargs": {"aws_session_token": "T"},
        }
        stored = StoredFlows.deserialize(data, storage_options=again)
        assert stored.spec.storage_options == {
            "endpoint_url": "http://127.0.0.1:1",
            "key": "K",
            "secret": "S",
            "client_kwargs": {"verify": False, "aws_session_token": "T"},
        }

    def test_lacking_secrets_are_named_when_access_is_denied(self, s3, monkeypatch, tmp_path):
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        data = StoredFlows("s3://bucket/flows", {**s3.storage_options}).serialize()
        with pytest.raises(AccessDenied, match="serialized without key, secret: give them again"):
            StoredFlows.deserialize(data).flows  # noqa: B018

    def test_pickled_storages_work(self, tmp_path):
        stored = StoredFlows(tmp_path, name="mine")
        stored.add_flow(make_flow())
        stored.build()
        copy = pickle.loads(pickle.dumps(stored))
        assert copy.name == "mine"
        assert copy.flows == stored.flows

    @pytest.mark.parametrize(
        "data",
        [
            {},
            {"url": 3},
            [1],
            None,
            {"url": "memory://x", "surprise": 1},
            {"url": "memory://x", "storage_options": "abc"},
            {"url": "memory://x", "omitted": [1]},
            {"url": "memory://x", "credentials": ["a"]},
            {"url": "memory://x", "pickle": 1},
        ],
    )
    def test_foreign_data(self, data):
        with pytest.raises(StorageError, match="not a serialized storage"):
            StoredFlows.deserialize(data)

    def test_names(self, tmp_path):
        assert default_name("s3://bucket/flows") == default_name("s3://bucket/flows")
        assert default_name("s3://bucket/flows") != default_name("s3://other/flows")
        assert default_name("s3://bucket/flows").startswith("flows-")
        assert default_name("memory://").startswith("memory-")
        assert StoredFlows(tmp_path).name == StoredFlows(f"{tmp_path}/").name
        assert repr(StoredFlows("memory://x")) == "<StoredFlows memory://x>"
