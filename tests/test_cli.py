"""The command line, called in this process wherever that is enough."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import pytest
from fsspec.registry import _registry

from headrace import DaskEnvironment, LocalEnvironment, Storage, cli, cli_support
from headrace.errors import PreflightWarning
from tests.cli_kit import FLOWS, call, facts, loading_undone, process, refused
from tests.clusters import local_cluster

#: Where no scheduler is.
AWAY = "tcp://127.0.0.1:1"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a file of flows."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_flows.py").write_text(dedent(FLOWS))
    with loading_undone(tmp_path):
        yield tmp_path


# -- the whole ---------------------------------------------------------------------------------------------------


def test_version_and_help() -> None:
    assert re.fullmatch(r"headrace \d+\.\d+.*\n", call("--version").out)
    said = call("--help")
    assert said.code == 0
    for command in ("demo", "run", "execute", "add", "ls", "show", "--traceback"):
        assert command in said.out


def test_help_imports_neither_dask_nor_a_cloud_library(folder: Path) -> None:
    code = (
        "import sys; from headrace import cli; sys.argv[1:] = ['--help']\n"
        "try: cli.main()\n"
        "except SystemExit: pass\n"
        "heavy = {'dask', 'distributed', 'fsspec', 's3fs', 'pydantic'} & set(sys.modules)\n"
        "print('heavy:', sorted(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("heavy: []\n")


def test_shells_complete_commands(folder: Path) -> None:
    said = process(cwd=folder, _HEADRACE_COMPLETE="complete_bash", COMP_WORDS="headrace sh", COMP_CWORD="1")
    assert said.out.split() == ["show"]
    for line, found in (
        ("run x --on kube", {"kubernetes"}),
        ("run x --on kubernetes -o image", {"image=", "image_pull_policy=", "image_pull_secrets="}),
        ("check x -o n_w", {"n_workers="}),
    ):
        words = f"headrace {line}"
        said = process(
            cwd=folder, _HEADRACE_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(words.count(" "))
        )
        assert set(said.out.split()) == found, line


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rnu"], ["'rnu'", "'run'"]),
        (["run"], ["Missing argument", "headrace run --help"]),
        (["run", "some_flows.py#etl", "--onn", "local"], ["--onn", "--on"]),
        (["run", "some_flows.py#etl", "-p", "a"], ["KEY=VALUE", "'a'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-p", "a=2"], ["a is given twice"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "n_workers"], ["--option", "KEY=VALUE", "'n_workers'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "cluster=kubernetes"], ["--on WHERE"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", "inline", "-o", "type=x"], ["type is no option", "one by"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "deadline=NaN"], ["deadline", "seconds, got nan"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "offers=5"], ["offers must be amounts", "got 5"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "n_workers=0"], ["n_workers", "from 1 on, got 0"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "deadline=soon"], ["deadline", "seconds, got 'soon'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-o", "n_worker=1"], ["'local'", "did you mean 'n_workers'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", "inline", "-o", "n_workers=2"], ["no option 'n_workers'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", AWAY, "-o", "n_workers=2"], ["n_workers", "who brought up"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", AWAY, "-o", "nam=x"], [AWAY, "did you mean 'name'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", "kubernetes", "-o", "imge=x"], ["did you mean 'image'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", "kubernetes"], ["give image="]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", "lcoal"], ["'lcoal'", "did you mean 'local'", "'inline'"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "--on", "no_such.Cluster"], ["no_such.Cluster", "pip install"]),
        (["run", "some_flows.py#etl", "--storage-option", "x=1"], ["--storage URL"]),
        (["run", "some_flows.py#elt"], ["'elt'", "did you mean 'etl'", "'broken'"]),
        (["run", "some_flows.py"], ["which flow", "'etl'", "'broken'"]),
        (["run", "other.py#etl"], ["no Python file other.py"]),
        (["run", "nowhere#etl"], ["no folder", "nowhere"]),
        (["run", "some_flows.py#etl"], ["'a'", "int", "missing"]),
        (["run", "some_flows.py#etl", "a=1"], ["unexpected", "-p a=1"]),
        (["run", "some_flows.py#etl", "-p", "a=one"], ["'a'", "'one'", "int"]),
        (["run", "some_flows.py#etl", "-p", "a=1", "-p", "tag=1"], ["'tag'", "did you mean 'tags'"]),
        (["run", "some_flows.py#undrawable"], ["ZeroDivisionError", "line", "some_flows.py", "--traceback"]),
        (["run", "s3://#etl"], ["names no bucket"]),
        (["run", "nope://x/flows#etl"], ["'nope'"]),
        (["add", "some_flows.py:elt", "store"], ["did you mean 'etl'"]),
        (["add", "no_module_here:etl", "store"], ["no module 'no_module_here'"]),
        (["add", "some_flows.py:etl", "store", "--example", "c=1"], ["'c'"]),
        (["ls", "nowhere"], ["no folder"]),
        (["ls", "gs://bucket/flows"], ["pip install 'headrace[gcs]'"]),
        (["show", "nowhere#etl"], ["no folder"]),
        (["execute"], ["HEADRACE_STORAGE", "not set"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_is_told_in_one_paragraph(
    args: list[str], words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "gs://bucket/flows" in args:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        monkeypatch.delitem(_registry, "gs", raising=False)  # fsspec keeps classes that it found once
    said = call(*args)
    refused(said, *words)
    assert not Path("store").exists()


def test_traceback_shows_more_wherever_it_stands() -> None:
    command = ["run", "some_flows.py#undrawable"]
    for args in (["--traceback", *command], [*command, "--traceback"]):
        said = call(*args)
        assert said.code == 2
        assert "Traceback (most recent call last)" in said.err
        assert "in undrawable" in said.err


# -- run ---------------------------------------------------------------------------------------------------------


def test_run_from_a_file_answers_on_standard_output() -> None:
    said = call("run", "some_flows.py#etl", "-p", "a=40", "-p", 'tags=["y", "z"]')
    assert said.code == 0, said
    assert facts(said.out)["result"] == "42"
    assert "not kept" in facts(said.out)["record"]
    assert "etl Success" in said.err
    assert not Path("store").exists()


def test_run_from_a_file_keeps_flow_and_record_where_it_is_told() -> None:
    said = call("run", "some_flows:etl", "-p", "a=40", "--storage", "store")
    assert said.code == 0, said
    storage = Storage("store")
    [record] = storage.runs()
    assert facts(said.out)["record"] == f"{storage.url}/runs/{record.run_id}"
    assert (record.state, record.result(), record.parameters["a"]) == ("Success", 42, 40)
    assert record.location == storage.flows["etl"]


def test_a_large_result_is_not_brought_here(folder: Path) -> None:
    Path("large.py").write_text(
        "import headrace as hr\n@hr.task\ndef t(): return b'x' * 10**6\n@hr.flow\ndef large(): return t()\n"
    )
    said = process("run", "large.py", "-o", "n_workers=1", cwd=folder)
    assert said.code == 0, said
    assert "larger than 64 kB" in said.out
    said = call("run", "large.py")
    assert said.code == 0, said
    assert len(facts(said.out)["result"]) < 1000


def test_a_failed_run_shows_errors_with_the_users_frames() -> None:
    said = call("run", "some_flows.py#broken")
    assert said.code == 1, said
    assert "result" not in facts(said.out)
    assert "divide[0] failed with ZeroDivisionError: division by zero" in said.err
    assert "return a / b" in said.err
    assert "headrace/execution" not in said.err


def test_equal_errors_are_shown_once() -> None:
    Path("alike.py").write_text(
        "import headrace as hr\n"
        "@hr.task\ndef t(n): raise ValueError(n)\n"
        "@hr.flow\ndef alike(): return t.map(range(50))\n"
    )
    said = call("run", "alike.py")
    assert said.code == 1
    assert said.err.count("Traceback") == 1
    assert "t[0] and 49 more like it failed with ValueError: 0" in said.err


def test_run_by_url() -> None:
    call("add", "some_flows.py:etl", "store")
    Path("some_flows.py").unlink()  # the storage is enough
    said = call("run", "store#etl", "-p", "a=1")
    assert said.code == 0, said
    assert facts(said.out)["result"] == "3"
    assert call("run", "store", "-p", "a=1").code == 0  # the only one there is meant
    refused(call("run", "store#etl", "-p", "b=1"), "'a'", "missing")
    refused(call("run", "store#etll", "-p", "a=1"), "'etll'", "did you mean 'etl'")
    refused(call("run", "store#etl", "-p", "a=1", "--storage", "other"), "--storage is for flows from code")
    assert len(Storage("store").runs()) == 2


def test_check_shows_what_is_wrong_and_what_to_do() -> None:
    call("add", "some_flows.py:etl", "place")
    good = call("check", "place#etl", "-p", "a=1")
    assert good.code == 0
    assert (good.out, good.err) == ("", "looked at LocalEnvironment(): found nothing wrong\n")
    assert call("check", "place").code == 0
    unknown = call("check", "place#etl")
    assert unknown.code == 0
    assert "give parameters, so that its tasks can be looked at" in unknown.out
    wrong = call("check", "place#etl", "-p", "a=many")
    assert wrong.code == 1
    assert re.search(r"^error +flow 'etl' +parameter 'a'", wrong.out, re.MULTILINE)
    assert wrong.err == "looked at LocalEnvironment(): 1 error\n"


def test_add_tells_what_the_build_has_noticed() -> None:
    Path("keyed_flow.py").write_text(
        "import headrace as hr\nKEY = 'sentinel-of-the-command-line'\n"
        "@hr.task\ndef look(): return len(KEY)\n@hr.flow\ndef keyed(): return look()\n"
    )
    option = "secret=" + "-".join(["sentinel", "of", "the", "command", "line"])
    said = call("add", "keyed_flow.py:keyed", "store", "--storage-option", option)
    assert said.code == 0, said
    assert "warning: flow 'keyed' → keyed_flow.py: is stored with the flow, and has the text of a secret" in said.err
    Path("large_flow.py").write_text(
        "import headrace as hr\n@hr.task\ndef look(table): return table[0]\n"
        "with hr.Flow('large') as large:\n    look(list(range(600_000)))\n"
    )
    said = call("add", "large_flow.py:large", "store")
    assert said.code == 0
    assert "warning: flow 'large' → argument 1 of node 'look': is a list of" in said.err
    assert "PreflightWarning" not in said.err


@pytest.mark.filterwarnings("default::headrace.errors.PreflightWarning")
def test_what_a_set_up_has_noticed_is_told_without_our_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # which is set for the whole process
    noticed = PreflightWarning("package x: is missing")
    monkeypatch.setattr(cli, "app", lambda prog_name: warnings.warn(noticed, stacklevel=1))
    cli.main()
    assert capsys.readouterr().err == "warning: package x: is missing\n"


def test_a_flow_runs_on_the_environment_that_it_carries() -> None:
    with open("some_flows.py", "a") as file:
        file.write("\netl.environment = hr.DaskEnvironment('local', n_workers=1, processes=False)\n")
    call("add", "some_flows.py:etl", "store")
    assert call("run", "store#etl", "-p", "a=1").code == 0
    assert call("run", "store#etl", "-p", "a=1", "--on", "inline").code == 0
    assert call("run", "some_flows.py#etl", "-p", "a=1", "--storage", "store").code == 0
    kinds = [record.environment["type"] for record in sorted(Storage("store").runs(), key=lambda run: run.start)]
    assert kinds == ["DaskEnvironment", "LocalEnvironment", "DaskEnvironment"]


@pytest.mark.parametrize("tells", [False, True])
def test_a_terminal_says_that_a_place_is_brought_up_unless_that_tells_it_itself(
    tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LocalEnvironment, "tells_setup", tells)
    said = call("run", "some_flows.py#etl", "-p", "a=1", "--on", "inline", TTY_COMPATIBLE="1", FORCE_COLOR="1")
    assert said.code == 0, said
    assert ("bringing up LocalEnvironment()" in said.err) is not tells
    assert DaskEnvironment("kubernetes").tells_setup
    assert not DaskEnvironment("local").tells_setup


def test_options_go_to_whatever_place_is_meant(folder: Path) -> None:
    Path("clusters.py").write_text(
        "from tests.clusters import local_cluster\n"
        "def small(threads, label, n_workers):\n"
        "    assert (threads, label, n_workers) == (2, 'a b', 1)\n"
        "    return local_cluster(n_workers=1, threads_per_worker=threads)\n"
    )
    with open("some_flows.py", "a") as file:
        file.write("\nbroken.environment = hr.DaskEnvironment('local', adapt=(1, 2), processes=False)\n")
    etl = ["run", "some_flows.py#etl", "-p", "a=1", "--storage", "store"]
    small = [*etl, "--on", "clusters.small", "-o", "threads=2", "-o", "n_workers=1"]
    assert call(*etl, "-o", "n_workers=1", "-o", "processes=false").code == 0  # a cluster, and so a local one
    assert call(*small, "-o", "label=a b").code == 0
    refused(call(*small, "-o", "lable=a b"), "the cluster class small", "did you mean 'label'")
    own = ["run", "some_flows.py#broken", "--storage", "store"]  # over those of the flow's own environment
    assert call(*own, "-o", "adapt=[1, 3]", "-o", "reconnect=null").code == 1
    refused(call(*own, "-o", "options=5"), "options is no option", "one by one")
    refused(call(*own, "-o", "n_workers=1"), "either n_workers= or adapt=")
    places = [record.environment for record in sorted(Storage("store").runs(), key=lambda run: run.start)]
    assert [(each["cluster"], each.get("n_workers"), each.get("adapt")) for each in places] == [
        ("local", 1, None),
        ("clusters.small", 1, None),
        ("local", None, [1, 3]),
    ]


def test_a_refused_port_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli_support.DEADLINE < 15
    monkeypatch.setattr(cli_support, "DEADLINE", 1.0)  # Dask tries again until then
    refused(call("run", "some_flows.py#etl", "-p", "a=1", "--on", AWAY), AWAY, "address")


def test_run_on_a_running_cluster_whose_workers_lack_the_file(folder: Path) -> None:
    with local_cluster(n_workers=1, protocol="tcp") as cluster:
        said = process("run", "some_flows.py#etl", "-p", "a=40", "--on", cluster.scheduler_address, cwd=folder)
        assert said.code == 0, said
        assert facts(said.out)["result"] == "42"


# -- add, ls, show -----------------------------------------------------------------------------------------------


def test_add_prints_location_and_the_next_line() -> None:
    said = call("add", "some_flows.py:etl", "store")
    assert said.code == 0, said
    location = said.out.strip()
    assert Storage("store").flows == {"etl": location}
    assert "headrace run store#etl -p a=…" in said.err
    assert call("add", "some_flows.py:etl", "store").out.strip() == location


def test_add_of_other_code_under_a_taken_name_needs_replace() -> None:
    first = call("add", "some_flows.py:etl", "store").out.strip()
    Path("another.py").write_text(Path("some_flows.py").read_text())
    refused(call("add", "another.py:etl", "store"), "some_flows:etl", "another:etl", "--replace")
    assert Storage("store").flows["etl"] == first
    said = call("add", "another.py:etl", "store", "--replace")
    assert said.code == 0, said
    assert Storage("store").flows["etl"] == said.out.strip() != first


def test_add_of_a_script_keeps_its_name_and_digest_and_show_tells_them() -> None:
    said = call("add", "some_flows.py:etl", "store", "--source", "script", "--example", "a=3")
    assert said.code == 0, said
    shown = call("show", "store#etl").out
    assert f"code in file://{Path('some_flows.py').resolve()}  (sha256 " in shown
    assert 'as drawn for a=3, b=2, tags=["x"]' in shown
    assert call("run", "store#etl", "-p", "a=1").code == 0
    with open("some_flows.py", "a") as file:
        file.write("# edited\n")
    refused(call("run", "store#etl", "-p", "a=1"), "is not the one that was stored", "store the flow again")
    refused(call("add", "some_flows.py:etl", "store", "--source", "zip"), "'pickle', 'module', 'script'")


def test_ls_lists_flows_and_runs() -> None:
    Path("store").mkdir()
    assert "no flows in" in call("ls", "store").err
    assert "no runs in" in call("ls", "store", "--runs").err
    call("add", "some_flows.py:etl", "store")
    call("add", "some_flows.py:broken", "store")
    said = call("ls", "store")
    rows = said.out.splitlines()
    assert [row.split()[0] for row in rows] == ["Flow", "broken", "etl"]
    assert 'a: int, b: int = 2, tags: list[str] = ["x"]' in rows[2]
    assert "Add two numbers." in rows[2]
    call("run", "store#etl", "-p", "a=1")
    call("run", "store#broken")
    said = call("ls", "store", "--runs")
    assert sorted(row.split()[1:3] for row in said.out.splitlines()[1:]) == [["broken", "Failed"], ["etl", "Success"]]
    said = call("ls", "store", "--runs", "--limit", "1")
    assert len(said.out.splitlines()) == 2
    assert "older ones; --limit shows more" in said.err


def test_a_run_that_cannot_be_read_hides_no_others() -> None:
    call("add", "some_flows.py:etl", "store")
    for _ in range(2):
        call("run", "store#etl", "-p", "a=1")
    Path("store/runs/20990101T000000-empty").mkdir()  # whose creation was interrupted
    newest, oldest = (record.run_id for record in Storage("store").runs())
    Path(f"store/runs/{newest}/run.json").write_text("{")
    said = call("ls", "store", "--runs")
    assert said.code == 0, said
    assert [row.split()[0] for row in said.out.splitlines()[1:]] == [oldest]
    assert f"left out run {newest}" in said.err


def test_show_tells_all_about_a_flow() -> None:
    call("add", "some_flows.py:etl", "store", "--example", "a=7")
    for said in (call("show", "store#etl"), call("show", "store")):
        assert said.code == 0, said
        text = re.sub(r" +", " ", said.out)
        assert "etl from some_flows:etl" in text
        assert "Add two numbers." in text
        assert re.search(r"a int required\s", text)
        assert 'tags list[str] = ["x"]' in text
        assert "add retries=1" in text
        assert "as drawn for a=7, b=2" in text
        assert "add\n └─ add-2" in text
    assert "not drawn" in call("show", "some_flows.py#etl").out  # `a` has no default, and no example was given


def test_show_unpickles_nothing(folder: Path) -> None:
    Path("trap.py").write_text(
        dedent("""
            import headrace as hr

            class Trap:
                def __reduce__(self):
                    return spring, ()

            def spring():
                open("sprung", "w").close()
                return Trap()

            @hr.task
            def look(what):
                return what

            with hr.Flow("trapped") as trapped:
                look(Trap())
        """)
    )
    assert call("add", "trap.py:trapped", "store").code == 0
    Storage("store").load("trapped")
    assert Path("sprung").exists()  # so the trap works
    Path("sprung").unlink()
    assert "look" in call("show", "store#trapped").out
    assert "trapped" in call("ls", "store").out
    assert not Path("sprung").exists()


def test_show_of_a_run() -> None:
    call("run", "some_flows.py#broken", "--storage", "store")
    [record] = Storage("store").runs()
    said = call("show", "store", "--run", record.run_id)
    assert said.code == 0, said
    assert "broken" in facts(said.out)["flow"]
    assert "divide" in said.out
    assert "Failed" in said.out
    assert "ZeroDivisionError: division by zero" in said.err
    refused(call("show", "store", "--run", "20000101T000000-00000000"), "no run")


def test_the_demo_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "sklearn" else found(name, *more)
    )
    refused(call("demo"), "pip install 'headrace[demo]'")
