"""The commands about what lies in a storage, called in this process wherever that is enough."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from headrace import Storage
from headrace.cli_arguments import complete_target
from tests.cli_kit import FLOWS, call, facts, loading_undone, process, refused


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_flows.py").write_text(dedent(FLOWS))
    with loading_undone(tmp_path):
        yield tmp_path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two versions of ``etl``, which add 0 and 10, and one of ``broken``; stored once, by processes."""
    folder = tmp_path_factory.mktemp("stored")
    source = dedent(FLOWS)
    for ending, flow in ((0, "etl"), (10, "etl"), (0, "broken")):
        (folder / "some_flows.py").write_text(source.replace("add(add(a, b), 0)", f"add(add(a, b), {ending})"))
        said = process("add", f"some_flows.py:{flow}", "store", cwd=folder)
        assert said.code == 0, said
    return folder / "store"


@pytest.fixture
def store(stored: Path, folder: Path) -> Storage:
    shutil.copytree(stored, folder / "store")
    return Storage(folder / "store")


def rows(text: str) -> list[list[str]]:
    """The rows of a table below its head, as columns."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.splitlines()[1:]]


def test_the_life_of_a_version(store: Storage, folder: Path) -> None:
    said = call("tag", "store#etl@1", "prod")
    assert said.code == 0, said
    assert f"prod points at version 1 of etl in {store.url}" in said.err
    call("tag", "store#etl", "canary")
    assert store.labels("etl") == {"canary": 2, "prod": 1}
    assert facts(call("run", "store#etl@prod", "-p", "a=1").out)["result"] == "3"
    assert facts(call("run", "store#etl@2", "-p", "a=1").out)["result"] == "13"
    assert facts(call("run", f"store#etl@{store.versions('etl')[0].sha256[:7]}", "-p", "a=1").out)["result"] == "3"
    said = call("ls", "store#etl")
    assert [row[:2] for row in rows(said.out)] == [["2", "canary"], ["1", "prod"]]
    assert said.out.splitlines()[0].split() == ["Version", "Labels", "Stored", "Age", "Digest", "From"]
    assert store.versions("etl")[0].sha256[:8] in said.out
    assert re.search(r"version 1 \(prod\), \d+ s old; the newest is 2", call("show", "store#etl@prod").out)
    assert re.search(r"version 2 \(canary\), \d+ s old; the newest\n", call("show", "store#etl").out)
    refused(call("rm", "store#etl@1"), "label 'prod' points at it", "--force")
    said = call("tag", "store#etl@2", "prod", "--expect", "1")
    assert "before at version 1" in said.err
    refused(call("tag", "store#etl@1", "prod", "--expect", "1"), "expected to point at version 1", "at version 2 since")
    refused(call("tag", "store#etl@1", "prod", "--expect", "none"), "expected to point at no version")
    said = call("rm", "store#etl@1")
    assert said.err == f"removed version 1 of etl from {store.url}\n"
    refused(call("run", "store#etl@1", "-p", "a=1"), "no version 1 any more", "it has 2")
    assert call("untag", "store#etl", "canary").code == 0
    assert call("rm", "store#etl", "--force", "--runs").err.startswith("removed version 2 and with them flow etl")
    assert list(store) == ["broken"]
    assert store.runs() == []


def test_ls_tells_version_labels_and_age(store: Storage) -> None:
    store.tag("etl", "prod", 2)
    store.tag("etl", "canary", 2)
    said = call("ls", "store")
    assert said.out.splitlines()[0].split() == ["Flow", "Version", "Labels", "Age", "Parameters"]
    broken, etl = rows(said.out)
    assert broken[:2] == ["broken", "1"]
    assert etl[:3] == ["etl", "2", "canary, prod"]
    assert re.fullmatch(r"\d+ s", etl[3])


def test_a_flow_that_is_damaged_hides_no_others(store: Storage, folder: Path) -> None:
    (folder / "store" / store.flows["broken"]).write_bytes(b"rubbish")
    said = call("ls", "store")
    assert [row[0] for row in rows(said.out)] == ["broken", "etl"]
    assert "flow 'broken' does not tell more" in said.err
    assert said.code == 0
    for name, number in (("broken", 1), ("etl", 1)):
        (folder / "store" / f"flows/{name}/versions/{number:08d}").write_text("{")
    said = process("ls", "store", cwd=folder, PYTHONWARNINGS="ignore")  # as remarks, which are no warnings any more
    assert [row[0] for row in rows(said.out)] == ["etl"]
    assert said.err.startswith("flow 'broken' is left out: flows/broken/versions/00000001 is not the JSON object")
    said = process("ls", "store#etl", cwd=folder)
    assert [row[0] for row in rows(said.out)] == ["2"]
    assert said.err.startswith("version 1 of flow 'etl' is left out")
    assert said.err.count("left out") == 1


def test_runs_of_one_flow(store: Storage) -> None:
    for text in ("store#etl", "store#etl@1"):
        call("run", text, "-p", "a=1")
    call("run", "store#broken")
    assert [row[1] for row in rows(call("ls", "store#etl", "--runs").out)] == ["etl", "etl"]
    said = call("ls", "store#etl", "--runs", "--limit", "1")
    assert len(rows(said.out)) == 1
    assert "older ones" in said.err
    assert "no runs of 'other'" in call("ls", "store#other", "--runs").err


def test_add_tells_the_version(store: Storage, folder: Path) -> None:
    for _ in range(2):
        said = process("add", "some_flows.py:etl", "store", cwd=folder)
        assert f"stored in {store.url} as version 3; run it with" in said.err


def test_cp_copies_what_is_new(store: Storage, folder: Path) -> None:
    store.tag("etl", "prod", 1)
    call("run", "store#etl", "-p", "a=1")
    said = call("cp", "store", "other", "--runs")
    assert said.code == 0, said
    assert "etl: versions 1-2\n" in said.err
    assert re.search(r"copied \d objects \([\d,]+ bytes\) and 1 run to file://", said.err)
    other = Storage("other")
    assert other.flows == store.flows
    assert other.labels("etl") == {"prod": 1}
    assert facts(call("run", "other#etl@prod", "-p", "a=1").out)["result"] == "3"
    assert "nothing is new for" in call("cp", "store#etl", "other").err
    said = call("cp", "store#etl@1", "other")
    assert said.err.splitlines() == ["etl: version 3", f"{other.url} had all of their content"]
    store.tag("etl", "prod", 2)
    other.tag("etl", "prod", 3)
    assert "etl: prod stays as in" in call("cp", "store#etl", "other").err
    store.remove("etl@2", force=True)
    assert call("cp", "store#etl", "other").code == 0
    refused(call("cp", "store#broken", "nope://x"), "'nope'")


def test_a_folder_may_have_a_hash_in_its_name(store: Storage, folder: Path) -> None:
    (folder / "store").rename(folder / "team #1")
    assert [row[0] for row in rows(call("ls", "team #1#etl").out)] == ["2", "1"]
    assert call("tag", "team #1#etl@1", "prod").code == 0
    assert call("cp", "team #1#etl@prod", "other").code == 0
    assert len(Storage("other").versions("etl")) == 1
    assert complete_target("team #1#etl@p") == ["team #1#etl@prod"]


def test_cp_to_a_bucket_and_back(store: Storage, folder: Path, s3: Any) -> None:
    bucket = f"{s3.new_bucket()}/flows"
    given = [f"--to-option={key}={value}" for key, value in s3.storage_options.items()]
    said = process("cp", "store", bucket, *given, cwd=folder)
    assert said.code == 0, said
    options = {"HEADRACE_STORAGE_OPTIONS": json.dumps(s3.storage_options)}
    assert [row[:2] for row in rows(call("ls", bucket, **options).out)] == [["broken", "1"], ["etl", "2"]]
    said = call("tag", f"{bucket}#etl@1", "prod", **options)
    assert said.code == 0, said
    given = [f"--storage-option={key}={value}" for key, value in s3.storage_options.items()]
    assert call("cp", f"{bucket}#etl", "back", *given).code == 0
    assert Storage("back").labels("etl") == {"prod": 1}
    assert call("rm", f"{bucket}#etl", "--force", **options).code == 0
    assert len(rows(call("ls", bucket, **options).out)) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["ls", "store#elt"], ["'elt'", "did you mean 'etl'"]),
        (["tag", "store", "prod"], ["which flow", "store#FLOW"]),
        (["tag", "some_flows.py#etl", "prod"], ["names code", "#etl"]),
        (["tag", "store#etl", "12"], ["a label cannot be '12'"]),
        (["tag", "store#etl@9", "prod"], ["no version 9", "1, 2"]),
        (["tag", "store#etl@", "prod"], ["'etl@'", "which version", "give etl for the newest"]),
        (["tag", "nowhere#etl", "prod"], ["no folder"]),
        (["untag", "store#etl", "prod"], ["no label 'prod'"]),
        (["rm", "store"], ["which flow"]),
        (["rm", "store#etl@9"], ["no version 9"]),
        (["cp", "store#etl@9", "other"], ["no version 9"]),
        (["cp", "nowhere", "other"], ["no folder"]),
        (["show", "store#etl@prd"], ["no label 'prd'"]),
        (["run", "store#etl@", "-p", "a=1"], ["which version"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_told_in_one_paragraph(args: list[str], words: list[str], store: Storage) -> None:
    refused(call(*args), *words)


def test_shells_complete_flows_and_versions(store: Storage, folder: Path) -> None:
    store.tag("etl", "prod", 1)
    said = process(cwd=folder, _HEADRACE_COMPLETE="complete_bash", COMP_WORDS="headrace show store#", COMP_CWORD="2")
    assert said.out.split() == ["store#broken", "store#etl"]
    assert complete_target("store#e") == ["store#etl"]
    assert complete_target("store#etl@") == ["store#etl@prod", "store#etl@1", "store#etl@2"]
    assert complete_target("store#etl@p") == ["store#etl@prod"]
    for nothing in ("sto", "some_flows.py#e", "nowhere#e", "nope://x#e", "store#elt@"):
        assert complete_target(nothing) == []


def test_ids_of_runs_are_completed(store: Storage, folder: Path) -> None:
    for _ in range(2):
        assert call("run", "store#etl", "-p", "a=1").code == 0
    ids = [run.run_id for run in store.runs()]
    words = {"COMP_WORDS": f"headrace wait store {ids[0][:8]}", "COMP_CWORD": "3"}
    assert process(cwd=folder, _HEADRACE_COMPLETE="complete_bash", **words).out.split() == ids
    words = {"COMP_WORDS": "headrace cancel nowhere x", "COMP_CWORD": "3"}
    assert process(cwd=folder, _HEADRACE_COMPLETE="complete_bash", **words).out.split() == []
