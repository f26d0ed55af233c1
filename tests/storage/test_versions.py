"""Versions, labels, removing and copying of flows, on every medium that `medium` knows."""

from __future__ import annotations

import importlib
import json
import sys
import textwrap
import threading
from datetime import UTC, datetime

import pytest

from headrace.core.flow import FlowDefinition
from headrace.errors import (
    AlreadyExists,
    Conflict,
    DamagedObject,
    EnvelopeError,
    FlowError,
    LeftOut,
    NoSuchFlow,
    NotFound,
    PickleRefused,
    UntrustedObject,
)
from headrace.storage import removing
from headrace.storage.capture import code_key
from headrace.storage.files import Files, private_memory
from headrace.storage.flows import StoredFlows
from headrace.storage.labels import check_label
from headrace.storage.records import read_record
from headrace.storage.versions import Seen, Versions
from headrace.store import Storage
from tests.storage.test_flows import make_flow, memory, reopened


@pytest.fixture
def stored(medium):
    return StoredFlows(medium.url, medium.options)


def build(stored, *factors, name="etl"):
    """Store one version for each factor; return their locations."""
    locations = []
    for factor in factors:
        locations.append(stored.add_flow(make_flow(name=name, factor=factor)))
        stored.build(check=False)
    return locations


def run_of(stored, run_id, location, *, ended):
    record = stored.create_run(run_id, {"flow": location.split("/")[1], "location": location})
    if ended:
        record.finish({"state": "Success"}, result=None)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder whose modules travel with the flows that reach them."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    sys.modules.pop("code_of_versions", None)


def build_with_code(stored, project, value, factor):
    """Store a flow that reaches a module, which gives a value."""
    (project / "code_of_versions.py").write_text(f"def value():\n    return {value}\n")
    sys.modules.pop("code_of_versions", None)
    importlib.invalidate_caches()
    namespace = {"__name__": "__main__", "module": importlib.import_module("code_of_versions"), "factor": factor}
    source = """
    from headrace.core.task import task
    @task
    def use(): return module.value() + factor
    def etl(): return use()
    """
    exec(textwrap.dedent(source), namespace)
    stored.add_flow(FlowDefinition("etl", namespace["etl"]))
    stored.build(check=False)


def digest(location):
    return location.rpartition("/")[2].removesuffix(".flow")


class TestNumbers:
    def test_they_count_from_one_and_say_what_when(self, stored):
        before = datetime.now(UTC)
        locations = build(stored, 1, 2, 1)
        versions = reopened(stored).versions("etl")
        assert [version.number for version in versions] == [1, 2, 3]
        assert [version.location for version in versions] == locations
        assert {version.origin for version in versions} == {"__main__:etl"}
        times = [before, *(version.time for version in versions), datetime.now(UTC)]
        assert times == sorted(times)

    def test_a_clock_at_the_end_of_all_times_stops_nobody(self):
        stored = memory()
        build(stored, 1)
        stored.tag("etl", "prod")
        for key, time in (
            ("flows/etl/versions/00000001", "99991231T235959.999999Z"),
            ("flows/etl/labels/prod/00000001", "9999-12-31T23:59:59.999999+00:00"),
        ):
            stored.files.replace(key, json.dumps({**read_record(stored.files, key), "time": time}).encode())
        build(stored, 2)
        stored.tag("etl", "prod")
        assert stored.labels("etl") == {"prod": 2}

    def test_a_removed_number_is_never_given_again(self, stored):
        build(stored, 1, 2, 3)
        stored.remove("etl@3")
        stored.remove("etl@1")
        build(stored, 4)
        assert [version.number for version in reopened(stored).versions("etl")] == [2, 4]

    def test_of_writers_that_saw_the_same_each_gets_its_own(self, stored):
        build(stored, 1)
        versions = Versions(stored.files)
        seen = versions.see("etl")
        added = [versions.add("etl", str(number) * 64, "o", seen).number for number in range(5)]
        assert added == [2, 3, 4, 5, 6]
        assert versions.add("etl", "4" * 64, "o", seen).number == 6  # is the newest already, whatever was seen before

    def test_a_number_that_no_listing_shows_yet_is_passed_over(self):
        files = Files("memory://x", filesystem=private_memory())
        versions = Versions(files)
        versions.add("etl", "1" * 64, "o", Seen(None, 0))
        versions.see = lambda name: Seen(None, 0)  # as of a store whose listings are late
        assert versions.add("etl", "2" * 64, "o", Seen(None, 0)).number == 2

    def test_another_origin_that_was_faster_is_refused(self):
        stored = memory()
        stored.add_flow(make_flow(name="same", function="other"))
        original = Versions.see
        built = []

        def see(self, name):
            found = original(self, name)
            if not built:  # it builds after this one has looked
                built.append(True)
                faster = StoredFlows("memory://x", filesystem=stored.files._medium.filesystem)
                build(faster, 1, name="same")
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Versions, "see", see)
            with pytest.raises(AlreadyExists, match="belongs to the flow of __main__:etl"):
                stored.build(check=False)
        assert [version.origin for version in stored.versions("same")] == ["__main__:etl"]

    def test_older_storages_hold_records_by_time(self):
        stored = memory()
        old = build(stored, 1, 2, name="etl")
        records = [read_record(stored.files, f"flows/etl/versions/{number:08d}") for number in (1, 2)]
        stored.files.delete_many([f"flows/etl/versions/{number:08d}" for number in (1, 2)])
        for day, record in zip((1, 2), records, strict=True):
            facts = {key: record[key] for key in ("sha256", "origin", "headrace")}
            key = f"flows/etl/versions/2026110{day}T120000.000000Z-{record['sha256']}"
            stored.files.create(key, json.dumps(facts).encode())
        assert stored.flows == {"etl": old[1]}
        [new] = build(stored, 3)
        assert [(version.number, version.location) for version in stored.versions("etl")] == [
            (1, old[0]),
            (2, old[1]),
            (3, new),
        ]
        assert stored.versions("etl")[0].time == datetime(2026, 11, 1, 12, tzinfo=UTC)
        assert stored.resolve("etl@2") == old[1]
        stored.tag("etl", "prod", 2)
        stored.remove("etl@1")
        assert [version.number for version in stored.versions("etl")] == [2, 3]
        other = memory()
        stored.copy_to(other)
        assert [version[:2] for version in told(other)] == [(2, old[1]), (3, new)]

    def test_a_record_that_is_not_good_hides_no_other_flow(self):
        stored = memory()
        [good] = build(stored, 1, name="good")
        build(stored, 1, name="bad")
        stored.files.replace("flows/bad/versions/00000001", b"{")
        with pytest.warns(LeftOut, match="flow 'bad' is left out: flows/bad/versions/00000001"):
            assert stored.flows == {"good": good}
        with pytest.raises(DamagedObject, match="flows/bad/versions/00000001"):
            stored.resolve("bad")
        stored.files.replace("flows/bad/versions/00000001", b'{"sha256": "x", "time": "y"}')
        with pytest.raises(EnvelopeError, match="not the record of a version"):
            stored.resolve("bad")
        stored.files.create("flows/bad/versions/junk", b"rubbish")  # is no version
        stored.files.create("flows/etl@3/stray", b"rubbish")
        with pytest.warns(LeftOut, match="flow 'bad'"):
            assert list(stored) == ["good"]

    def test_a_record_that_is_not_good_hides_no_other_version(self):
        stored = memory()
        build(stored, 1, 2, 3)
        stored.files.replace("flows/etl/versions/00000002", b"{")
        with pytest.warns(LeftOut, match="version 2 of flow 'etl' is left out"):
            assert [version.number for version in stored.versions("etl")] == [1, 3]
        for change in (lambda: stored.remove("etl@1"), lambda: stored.copy_to(memory())):
            with pytest.raises(DamagedObject, match="flows/etl/versions/00000002"):  # it may name what would be lost
                change()
        assert stored.load("etl@1").name == "etl"


class TestTexts:
    def test_all_ways_to_name_a_version(self, stored):
        first, second, third = build(stored, 1, 2, 3)
        stored.tag("etl", "prod", 2)
        for text, location in {
            "etl": third,
            "etl@1": first,
            "etl@prod": second,
            f"etl@{digest(first)[:6]}": first,
            f"etl@{digest(second)[:9].upper()}": second,
            f"etl@{digest(third)}": third,
            second: second,
            f"{stored.url}/{second}": second,
            f"{stored.url}#etl@prod": second,
            f"{stored.url}#etl": third,
        }.items():
            assert stored.resolve(text) == location, text
            assert text in stored
            assert stored.manifest(text)["content"] == stored.manifest(location)["content"]

    def test_what_is_not_there_is_told(self):
        stored = memory()
        build(stored, 1, 2, 3)
        build(stored, 1, name="extract")
        stored.remove("etl@2")
        stored.tag("etl", "prod")
        for text, told in {
            "elt": r"no flow 'elt' .*did you mean 'etl'\?.*known are 'etl', 'extract'",
            "elt@3": "no flow 'elt'|flow 'elt' in .* has no version 3: nothing was stored",
            "etl@4": "has no version 4; it has 1, 3",
            "etl@2": "has no version 2 any more: it was removed; it has 1, 3",
            "etl@": "does not say which version is meant",
            "etl@prd": r"no label 'prd' \(did you mean 'prod'\?\); its labels are 'prod'",
            "extract@prod": "its labels are none yet",
            "etl@000000": "no version of flow 'etl' .* digest that begins with '000000'",
            "etl@latest": "no label 'latest'",
            "s3://elsewhere/flows#etl": "does not lie in memory://x",
            "": "no flow ''",
            "../etl": "no flow",
            "a/b@3": "no flow",
        }.items():
            with pytest.raises(NoSuchFlow, match=told):
                stored.resolve(text)
            assert text not in stored

    @pytest.mark.parametrize(
        "text", ["etl@../prod", "etl@prod/", "etl@.", "etl@pr\0d", "e\0l", "..", "etl@" + "f" * 70, 3]
    )
    def test_texts_that_name_nothing(self, text):
        stored = memory()
        build(stored, 1)
        stored.tag("etl", "prod")
        with pytest.raises(NoSuchFlow):
            stored._find(text)
        assert text not in stored

    def test_a_name_with_two_dots(self):
        stored = memory()
        build(stored, 1, name="a..b")
        assert stored.versions("a..b")[0].location == stored.resolve("a..b@1")

    def test_a_number_comes_before_a_digest(self):
        stored = memory()
        versions = Versions(stored.files)
        versions.add("etl", "123456" + "a" * 58, "o", Seen(None, 0))
        stored.files.create(f"flows/etl/123456{'a' * 58}.flow", b"")
        assert stored.resolve("etl@123456") == f"flows/etl/123456{'a' * 58}.flow"
        versions.add("etl", "b" * 64, "o", Seen(None, 123455))
        assert stored.resolve("etl@123456") == f"flows/etl/{'b' * 64}.flow"

    def test_a_digest_that_means_several(self):
        stored = memory()
        for last in "ab":
            stored.files.create(f"flows/etl/{'c' * 63}{last}.flow", b"")
        with pytest.raises(NoSuchFlow, match=r"means several versions.*etl@cccccccccccc, etl@cccccccccccc"):
            stored.resolve("etl@cccccc")

    def test_what_is_staged_counts_where_no_number_is_asked_for(self):
        stored = memory()
        build(stored, 1)
        location = stored.add_flow(make_flow(factor=2))
        assert stored.resolve("etl") == location
        assert stored.resolve(f"etl@{digest(location)[:8]}") == location
        assert stored.resolve("etl@1") != location
        with pytest.raises(NoSuchFlow, match=r"staged here and not uploaded yet.*build\(\)"):
            stored.tag("etl", "prod")

    def test_names_with_an_at_sign_cannot_be(self):
        with pytest.raises(FlowError, match="etl@3"):
            make_flow(name="etl@3")


class TestMapping:
    def test_a_storage_is_a_mapping_of_names(self, tmp_path):
        storage = Storage(tmp_path)
        assert len(storage) == 0
        assert storage  # an empty one is one, too
        first, second = build(storage, 1, 2)
        build(storage, 1, name="another")
        assert list(storage) == ["another", "etl"]
        assert len(storage) == 2
        assert storage._ipython_key_completions_() == ["another", "etl"]
        flow = storage["etl"]
        assert (flow.name, flow.location, flow.number) == ("etl", second, 2)
        assert [version.location for version in flow.versions] == [first, second]
        assert flow.manifest["name"] == "etl"
        assert flow.load().name == "etl"
        assert flow.runner().run({"n": 2}).result() == 2
        assert storage["etl@1"].runner().run({"n": 2}).result() == 1
        assert {run.location for run in flow.runs()} == {first, second}
        assert storage["etl@1"] == storage[first] != flow
        with pytest.raises(KeyError) as caught:
            storage["elt"]
        assert isinstance(caught.value, NotFound)
        assert str(caught.value).startswith("there is no flow 'elt'")

    def test_how_it_looks(self, tmp_path):
        storage = Storage(tmp_path)
        first, second = build(storage, 1, 2)
        storage.tag("etl", "prod", 1)
        assert repr(storage["etl"]) == f"<StoredFlow etl@2 ({digest(second)[:8]}) in {storage.url}>"
        assert repr(storage[first]) == f"<StoredFlow etl ({digest(first)[:8]}) in {storage.url}>"
        html = storage["etl@prod"]._repr_html_()
        assert "<svg" in html
        assert "<b>1</b>" in html
        assert "<td>prod</td>" in html
        assert digest(second)[:8] in html

    def test_runners_by_name_number_and_label(self, tmp_path):
        storage = Storage(tmp_path)
        first, second = build(storage, 1, 2)
        storage.tag("etl", "prod", 1)
        assert storage.get_env_runner("etl@prod").location == first
        assert storage.get_env_runner("etl").location == second
        assert storage.get_runner("etl@prod").run({"n": 3}).result() == 3


class TestLabels:
    def test_they_move_and_remember(self, stored):
        build(stored, 1, 2, 3)
        stored.tag("etl", "prod", 1)
        stored.tag("etl", "staging")
        assert reopened(stored).labels("etl") == {"prod": 1, "staging": 3}
        assert stored.tag("etl", "prod", "staging").number == 3
        assert [version.labels for version in stored.versions("etl")] == [(), (), ("prod", "staging")]
        stored.untag("etl", "staging")
        assert stored.labels("etl") == {"prod": 3}
        history = stored.label_history("etl", "prod")
        assert [change.version for change in history] == [1, 3]
        assert all("@" in change.by for change in history)
        assert [(change.label, change.version) for change in stored.label_history("etl")] == [
            ("prod", 1),
            ("staging", 3),
            ("prod", 3),
            ("staging", None),
        ]
        with pytest.raises(NoSuchFlow, match="no label 'staging'"):
            stored.untag("etl", "staging")
        stored.tag("etl", "staging", 2, expect=None)
        assert stored.labels("etl")["staging"] == 2

    def test_the_version_may_stand_behind_the_name(self):
        stored = memory()
        build(stored, 1, 2)
        stored.tag("etl@1", "prod")
        stored.tag(f"{stored.url}#etl", "canary")
        assert stored.labels("etl") == {"canary": 2, "prod": 1}
        assert stored.files.children("flows") == ["etl"]

    def test_a_move_to_where_it_is_leaves_no_trace(self):
        stored = memory()
        build(stored, 1)
        for _ in range(3):
            stored.tag("etl", "prod")
        assert len(stored.label_history("etl")) == 1

    def test_the_loser_is_told_who_won(self, stored):
        build(stored, 1, 2, 3)
        stored.tag("etl", "prod", 1, expect=None)
        stored.tag("etl", "prod", 2, expect=1)
        for expect in (None, 1, "etl@1".partition("@")[2]):
            with pytest.raises(Conflict, match=r"expected to point at .* points at version 2 since .*@.* changed"):
                stored.tag("etl", "prod", 3, expect=expect)
        with pytest.raises(Conflict, match="it points at version 2"):
            stored.untag("etl", "prod", expect=3)
        assert stored.labels("etl") == {"prod": 2}

    def test_of_many_that_expect_the_same_one_wins(self, stored):
        build(stored, *range(1, 9))
        stored.tag("etl", "prod", 1)
        barrier, answers = threading.Barrier(7), []

        def move(version):
            mine = reopened(stored)
            barrier.wait()
            try:
                answers.append(mine.tag("etl", "prod", version, expect=1).number)
            except Conflict as error:
                answers.append(error)

        threads = [threading.Thread(target=move, args=[version]) for version in range(2, 9)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        [winner] = [answer for answer in answers if not isinstance(answer, Conflict)]
        assert stored.labels("etl") == {"prod": winner}
        assert {answer.version for answer in answers if isinstance(answer, Conflict)} == {winner}

    def test_without_an_expectation_all_moves_are_made(self, stored):
        build(stored, *range(1, 6))
        threads = [
            threading.Thread(target=reopened(stored).tag, args=["etl", "prod", version]) for version in range(1, 6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        history = stored.label_history("etl", "prod")
        assert sorted(change.version for change in history) == [1, 2, 3, 4, 5]
        assert stored.labels("etl") == {"prod": history[-1].version}

    @pytest.mark.parametrize(
        "label", ["", "3", "a b", "1st", "-x", "x@y", "x/y", "a#b", "abcdef", "Facade", "latest", "Newest", "x" * 65, 3]
    )
    def test_what_could_be_read_as_something_else_is_refused(self, label):
        stored = memory()
        build(stored, 1)
        with pytest.raises(FlowError, match="a label cannot be"):
            stored.tag("etl", label)
        assert stored.files.list("flows/etl/labels") == []

    def test_good_ones(self):
        for label in ("prod", "v1.2", "release-2026_11", "face", "Q", "x" * 64):
            assert check_label(label) == label

    def test_what_is_no_record_of_a_move_is_passed_over(self):
        stored = memory()
        build(stored, 1, 2)
        stored.tag("etl", "prod", 1)
        stored.files.create("flows/etl/labels/prod/999", b"junk")
        assert stored.resolve("etl@prod") == stored.resolve("etl@1")
        stored.tag("etl", "prod", 2, expect=1)
        assert stored.labels("etl") == {"prod": 2}

    def test_a_damaged_record_is_told(self):
        stored = memory()
        build(stored, 1)
        stored.tag("etl", "prod")
        for data, error in ((b"{", DamagedObject), (b'{"version": true, "time": "2026-11-01"}', EnvelopeError)):
            stored.files.replace("flows/etl/labels/prod/00000001", data)
            with pytest.raises(error, match="flows/etl/labels/prod/00000001"):
                stored.resolve("etl@prod")


class TestRemove:
    def test_a_version(self, stored):
        first, second, third = build(stored, 1, 2, 3)
        assert [version.number for version in stored.remove("etl@3")] == [3]
        other = reopened(stored)
        assert other.flows == {"etl": second}
        for gone in ("etl@3", third):
            with pytest.raises(NoSuchFlow):
                other.load(gone)
        assert other.load(first).name == "etl"
        with pytest.raises(NoSuchFlow, match="removed"):
            other.remove("etl@3")

    def test_content_that_another_version_names_stays(self):
        stored = memory()
        first, _, _ = build(stored, 1, 2, 1)
        stored.remove("etl@3")
        assert stored.load("etl@1").name == "etl"
        assert stored.resolve("etl@1") == first
        build(stored, 1)
        assert [version.number for version in stored.remove(first)] == [1, 4]  # a location: all versions of it
        assert [version.number for version in stored.versions("etl")] == [2]

    def test_a_whole_flow_leaves_nothing(self, stored):
        build(stored, 1, 2)
        build(stored, 1, name="etl2")
        stored.tag("etl", "prod")
        stored.files.create("flows/etl/costs.json", b"{}")
        stored.files.create(f"flows/etl/code/{'0' * 64}.zip", b"")
        with pytest.raises(Conflict, match=r"flow 'etl' .*label 'prod' points at it.*--force"):
            stored.remove("etl")
        assert len(stored.remove("etl", force=True)) == 2
        assert stored.files.list("flows/etl") == []
        assert list(reopened(stored).flows) == ["etl2"]
        build(stored, 7)
        assert [version.number for version in stored.versions("etl")] == [1]

    def test_the_last_version_takes_the_flow_along(self):
        stored = memory()
        build(stored, 1)
        stored.remove(f"{stored.url}#etl@1")
        assert stored.files.list() == []

    def test_the_url_before_a_name_changes_nothing(self):
        stored = memory()
        build(stored, 1, 2)
        assert len(stored.remove(f"{stored.url}#etl")) == 2

    def test_a_label_holds_its_version_only(self):
        stored = memory()
        build(stored, 1, 2)
        stored.tag("etl", "prod", 1)
        stored.tag("etl", "canary", 1)
        with pytest.raises(Conflict, match=r"version 1 of flow 'etl' .*labels 'canary', 'prod' point at it"):
            stored.remove("etl@1")
        assert stored.resolve("etl@prod")
        stored.remove("etl@1", force=True)
        assert stored.labels("etl") == {}
        with pytest.raises(NoSuchFlow, match="no label 'prod'"):
            stored.resolve("etl@prod")

    def test_a_run_that_goes_on_holds_its_version(self, stored):
        first, second = build(stored, 1, 2)
        run_of(stored, "20261101T000000-a", first, ended=False)
        run_of(stored, "20261101T000000-b", second, ended=True)
        stored.remove("etl@2")
        with pytest.raises(Conflict, match="run 20261101T000000-a of it has not ended, or its driver died"):
            stored.remove("etl")
        stored.remove("etl", force=True)
        assert stored.flows == {}
        assert len(stored.runs()) == 2

    def test_runs_go_along_if_asked_for(self, stored):
        first, second = build(stored, 1, 2)
        [other] = build(stored, 1, name="other")
        run_of(stored, "r1", first, ended=True)
        run_of(stored, "r2", second, ended=True)
        run_of(stored, "r3", second, ended=False)
        run_of(stored, "r4", other, ended=True)
        stored.remove("etl@1", runs=True)
        assert [run.run_id for run in stored.runs()] == ["r4", "r3", "r2"]
        stored.remove("etl", runs=True, force=True)
        assert [run.run_id for run in stored.runs()] == ["r4", "r3"]  # one that goes on stays
        assert stored.files.list("runs/r1") == []

    def test_a_damaged_run_is_nobodys(self):
        stored = memory()
        [location] = build(stored, 1)
        run_of(stored, "r1", location, ended=True)
        stored.files.replace("runs/r1/run.json", b"{")
        assert [run.run_id for run in stored.runs(5, flow="etl")] == ["r1"]  # it may be one
        stored.remove("etl", runs=True)
        assert [run.run_id for run in stored.runs()] == ["r1"]

    def test_code_goes_with_the_last_version_that_names_it(self, project):
        stored = memory()
        for value, factor in ((1, 1), (1, 2), (2, 3)):
            build_with_code(stored, project, value, factor)
        codes = [stored.manifest(f"etl@{number}")["code"]["sha256"] for number in (1, 2, 3)]
        assert codes[0] == codes[1] != codes[2]
        stored.remove("etl@3")
        assert stored.files.children("flows/etl/code") == [f"{codes[0]}.zip"]
        stored.remove("etl@1")
        assert stored.files.children("flows/etl/code") == [f"{codes[0]}.zip"]
        assert stored.load("etl").draw({}).nodes[0].task.function() == 3

    def test_readers_see_it_or_nothing(self, monkeypatch):
        """Between any two writes of a removal, what resolves also loads."""
        stored = memory()
        build(stored, 1, 2, 3)
        stored.tag("etl", "prod", 2)
        looks = []
        original = Files.delete

        def delete(self, key):
            looks.append(look())
            original(self, key)

        def look():
            seen = {}
            for text in ("etl", "etl@1", "etl@2", "etl@3"):
                try:
                    location = stored.resolve(text)
                except NoSuchFlow:
                    continue
                seen[text] = stored.load(location).name
            return seen

        monkeypatch.setattr(Files, "delete", delete)
        monkeypatch.setattr(Files, "delete_many", lambda self, keys: [self.delete(key) for key in keys])
        stored.remove("etl@1")
        stored.remove("etl", force=True)
        assert {text for seen in looks for text in seen} == {"etl", "etl@2", "etl@3"}
        newest = [bool(seen.get("etl")) for seen in looks]
        assert newest == sorted(newest, reverse=True)  # once it is gone, it is gone

    def test_content_that_comes_back_while_it_is_removed(self, monkeypatch):
        stored = memory()
        build(stored, 1, 2)
        again = StoredFlows("memory://x", filesystem=stored.files._medium.filesystem)
        location = again.add_flow(make_flow(factor=1))
        original = Versions.add

        def add(self, *args):
            if again._staged and self._files is again.files:  # it found the object, and now it is taken away
                stored.remove("etl@1")
            return original(self, *args)

        monkeypatch.setattr(Versions, "add", add)
        again.build(check=False)
        assert stored.resolve("etl") == location
        assert stored.load("etl").name == "etl"

    @pytest.mark.parametrize("what", ["etl@1", "etl"])
    def test_what_is_stored_while_older_versions_are_removed_stays_whole(self, monkeypatch, what):
        stored = memory()
        build(stored, 1, 2)
        another = StoredFlows("memory://x", filesystem=stored.files._medium.filesystem)
        original = Versions.add

        def add(self, *args):
            if self._files is stored.files:  # the object is there, and nothing names it yet
                another.remove(what)
            return original(self, *args)

        monkeypatch.setattr(Versions, "add", add)
        [location] = build(stored, 3)
        assert another.load("etl").name == "etl"
        assert another.resolve("etl") == location

    def test_with_the_last_version_a_newer_one_does_not_go(self, monkeypatch):
        stored = memory()
        build(stored, 1)
        original = removing.check_unused

        def check_unused(*args, **kwargs):
            original(*args, **kwargs)
            build(stored, 2)

        monkeypatch.setattr(removing, "check_unused", check_unused)
        assert [version.number for version in stored.remove("etl@1")] == [1]
        assert [version.number for version in stored.versions("etl")] == [2]

    def test_runs_of_which_nobody_knows_how_they_ended_hold_nothing(self):
        stored = memory()
        [location] = build(stored, 1)
        run_of(stored, "r1", location, ended=True)
        stored.files.replace("runs/r1/outcome", b"junk")
        stored.remove("etl", runs=True)
        assert stored.files.list() == []

    def test_a_flow_that_nobody_can_read_is_removed_by_force(self):
        leaked, new = "a-key-that-is-leaked", "a-key-that-is-not-leaked"
        filesystem = private_memory()
        old = StoredFlows("memory://x", filesystem=filesystem, signing_keys=leaked)
        build(old, 1)
        old.tag("etl", "prod")
        stored = StoredFlows("memory://x", filesystem=filesystem, signing_keys=new)
        for change in (lambda: build(stored, 1), lambda: stored.remove("etl")):
            with pytest.raises(UntrustedObject):
                change()
        with pytest.raises(NoSuchFlow):
            stored.remove("elt", force=True)
        with pytest.warns(LeftOut, match="another key"):
            assert stored.remove("etl", force=True) == []
        assert stored.files.list() == []
        assert build(stored, 1) == [stored.resolve("etl")]

    def test_what_is_staged_only_cannot_be_removed(self):
        stored = memory()
        stored.add_flow(make_flow())
        with pytest.raises(NoSuchFlow, match="not uploaded"):
            stored.remove("etl")


def told(stored, name="etl"):
    return [(version.number, version.location, version.time, version.labels) for version in stored.versions(name)]


class TestCopy:
    @pytest.fixture
    def other(self, tmp_path):
        return StoredFlows(tmp_path / "other")

    def test_all_flows_with_numbers_times_and_labels(self, stored, other):
        build(stored, 1, 2, 1)
        build(stored, 1, name="second")
        stored.tag("etl", "prod", 2)
        copied = stored.copy_to(other)
        assert copied.versions == {"etl": [1, 2, 3], "second": [1]}
        assert copied.objects == 3
        assert other.flows == stored.flows
        assert told(other) == told(stored)
        assert [change.by for change in other.label_history("etl")] == [
            change.by for change in stored.label_history("etl")
        ]
        assert other.load("etl@prod").name == "etl"

    def test_again_copies_what_came_since(self, stored, other):
        build(stored, 1)
        stored.tag("etl", "prod")
        stored.copy_to(other.url)
        build(stored, 2)
        stored.tag("etl", "prod")
        again = stored.copy_to(other.url)
        assert (again.versions, again.objects) == ({"etl": [2]}, 1)
        assert told(other) == told(stored)
        nothing = stored.copy_to(other.url)
        assert (nothing.versions, nothing.objects, nothing.size, nothing.labels_kept) == ({}, 0, 0, {})

    def test_one_version_becomes_the_newest_there(self, stored, other):
        first, second = build(stored, 1, 2)
        [own] = build(other, 5)
        assert stored.copy_to(other, "etl@1").versions == {"etl": [2]}
        assert stored.copy_to(other, f"etl@{digest(first)[:8]}").versions == {}
        assert [version.location for version in other.versions("etl")] == [own, first]
        assert second not in other

    def test_another_history_is_refused_before_anything_is_copied(self, other):
        stored = memory()
        build(stored, 1, 2)
        build(other, 5)
        before = other.files.list()
        with pytest.raises(Conflict, match=r"another history .* version 1 is .* copy a single version, e.g. etl@1"):
            stored.copy_to(other)
        assert other.files.list() == before

    def test_what_was_removed_there_does_not_come_back(self, other):
        stored = memory()
        build(stored, 1, 2, 3)
        stored.copy_to(other)
        other.remove("etl@2")
        build(stored, 4)
        assert stored.copy_to(other).versions == {"etl": [4]}
        assert [version.number for version in other.versions("etl")] == [1, 3, 4]

    def test_a_storage_without_pickles_gets_none(self, tmp_path):
        stored = memory()
        build(stored, 1)
        other = StoredFlows(tmp_path, pickle=False)
        with pytest.raises(PickleRefused, match=r"flow 'etl' at .* is a pickle"):
            stored.copy_to(other)
        stored.add_flow("tests.environments.flows:doubled", source="module")
        stored.build(check=False)
        name = next(name for name in stored.flows if name != "etl")
        for run_id, result in (("r1", None), ("r2", b"pickled")):
            record = stored.create_run(run_id, {"flow": name, "location": stored.flows[name]})
            record.finish({"state": "Success"}, result)
            if result is None:
                assert stored.copy_to(other, name, runs=True).runs == 1
        with pytest.raises(PickleRefused, match="the result at runs/r2/outcome is a pickle"):
            stored.copy_to(other, name, runs=True)

    def test_labels_that_moved_there_stay(self, other):
        stored = memory()
        build(stored, 1, 2)
        stored.tag("etl", "prod", 1)
        stored.tag("etl", "canary", 1)
        stored.copy_to(other)
        other.tag("etl", "prod", 2)
        stored.tag("etl", "canary", 2)
        assert stored.copy_to(other).labels_kept == {"etl": ["prod"]}
        stored.tag("etl", "prod", 2)
        stored.tag("etl", "prod", 1)
        assert stored.copy_to(other).labels_kept == {"etl": ["prod"]}
        assert other.labels("etl") == {"canary": 2, "prod": 2}

    def test_runs_that_ended_go_along_if_asked_for(self, stored, other):
        first, _ = build(stored, 1, 2)
        [elsewhere] = build(stored, 1, name="elsewhere")
        run_of(stored, "r1", first, ended=True)
        run_of(stored, "r2", first, ended=False)
        run_of(stored, "r3", elsewhere, ended=True)
        assert stored.copy_to(other, "etl").runs == 0
        copied = stored.copy_to(other, ["etl"], runs=True)
        assert (copied.runs, copied.runs_going_on) == (1, 1)
        assert [(run.run_id, run.state) for run in other.runs()] == [("r1", "Success")]
        assert stored.copy_to(other, "etl", runs=True).runs == 0

    def test_an_interrupted_copy_goes_on(self, other, monkeypatch):
        stored = memory()
        build(stored, *range(1, 6))
        stored.tag("etl", "prod")
        original, written = Files.create, []
        fail_after = 0

        def create(self, key, data):
            if self is other.files:
                if len(written) >= fail_after:
                    raise KeyboardInterrupt
                written.append(key)
            return original(self, key, data)

        def create_many(self, objects):
            for key, data in objects.items():
                self.create(key, data)
            return set()

        monkeypatch.setattr(Files, "create", create)
        monkeypatch.setattr(Files, "create_many", create_many)
        while fail_after < 11:
            with pytest.raises(KeyboardInterrupt):
                stored.copy_to(other)
            for version in other.versions("etl"):
                assert other.load(version.location).name == "etl"
            fail_after += 1
        stored.copy_to(other)
        assert told(other) == told(stored)
        assert len(written) == len(set(written)) == 11  # five objects, five records, one label: each once

    def test_what_is_not_intact_is_not_copied(self, other):
        stored = memory()
        [location] = build(stored, 1)
        stored.files.replace(location, stored.files.read(location)[:-1] + b"x")
        with pytest.raises(DamagedObject, match=location):
            stored.copy_to(other)
        assert other.flows == {}

    def test_code_comes_before_the_flows_that_name_it(self, other, project):
        stored = memory()
        build_with_code(stored, project, 1, 1)
        key = code_key("etl", stored.manifest("etl")["code"]["sha256"])
        data = stored.files.read(key)
        stored.files.delete(key)
        with pytest.raises(NotFound, match=f"{key} was removed"):
            stored.copy_to(other)
        stored.files.create(key, b"other")
        with pytest.raises(DamagedObject, match="not what its name says"):
            stored.copy_to(other)
        assert other.files.list() == []
        stored.files.replace(key, data)
        stored.copy_to(other)
        assert other.files.read(key) == data
        assert other.load("etl").draw({}).nodes[0].task.function() == 2

    def test_signed_storages_sign_what_they_get(self, tmp_path, other):
        one = StoredFlows(tmp_path / "one", signing_keys="first-key-first-key")
        two = StoredFlows(tmp_path / "two", signing_keys="second-key-second-key")
        [location] = build(one, 1)
        one.tag("etl", "prod")
        run_of(one, "r1", location, ended=True)
        one.copy_to(two, runs=True)
        assert told(two) == told(one)
        assert two.load("etl@prod").name == "etl"
        assert two.runs()[0].state == "Success"
        build(other, 1)
        with pytest.raises(UntrustedObject):  # what nobody signed is not vouched for by copying it
            StoredFlows(other.url, signing_keys="first-key-first-key").copy_to(two)

    def test_a_url_gets_what_the_storage_that_is_copied_signs_with(self, tmp_path):
        key = "a-key-of-more-than-16-bytes"
        one = StoredFlows(tmp_path / "one", signing_keys=key, deadline=7)
        build(one, 1)
        one.copy_to(str(tmp_path / "two"))
        assert StoredFlows(tmp_path / "two", signing_keys=key).load("etl@1").name == "etl"
        without = StoredFlows(tmp_path / "one", signing_keys=key, pickle=False)
        with pytest.raises(PickleRefused):
            without.copy_to(str(tmp_path / "three"))

    def test_what_is_staged_or_missing_is_told(self, other):
        stored = memory()
        stored.add_flow(make_flow())
        with pytest.raises(NoSuchFlow, match=r"not uploaded yet.*build\(\)"):
            stored.copy_to(other, "etl")
        with pytest.raises(NoSuchFlow, match="no flow 'elt'"):
            stored.copy_to(other, "elt")
        assert other.files.list() == []

    def test_to_itself_changes_nothing(self):
        stored = memory()
        build(stored, 1, 2)
        before = stored.files.list()
        assert stored.copy_to(stored).versions == {}
        assert stored.files.list() == before
