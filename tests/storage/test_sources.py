"""Flows whose code lies elsewhere, and storages without pickles."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
import textwrap
import threading
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

import headrace as hr
from headrace.code import units
from headrace.errors import (
    AlreadyExists,
    ChangedSource,
    FlowError,
    MissingModule,
    NotFound,
    ParameterError,
    PickleRefused,
    StorageError,
    ValueReleased,
)
from headrace.loading import Target, load_flow
from headrace.storage import git, imports
from headrace.storage.envelope import open_envelope

HERE = ("127.0.0.1", 0)
FLOW = """
    import headrace as hr

    @hr.task
    def double(x):
        return FACTOR * x

    @hr.flow
    def etl(n: int = 3):
        return double.map(range(n))

    FACTOR = {factor}
"""


def source_text(text=FLOW, **values):
    return textwrap.dedent(text).format(**{"factor": 2, **values})


@pytest.fixture
def storage(tmp_path):
    return hr.Storage(tmp_path / "store", pickle=False)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A folder that stands for what is installed: a package, and the facts of its distribution."""
    site = tmp_path / "site"
    module = site / f"mill_{tmp_path.name[-6:].replace('-', '_')}"
    module.mkdir(parents=True)
    (module / "__init__.py").write_text("")
    (module / "flows.py").write_text(source_text())
    set_version(site, module.name, "1.2.0")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", str(site))
    yield module
    for name in [name for name in sys.modules if name.partition(".")[0] == module.name]:
        del sys.modules[name]


def set_version(site, name, version):
    facts = site / f"{name}-1.dist-info"
    facts.mkdir(exist_ok=True)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (facts / "top_level.txt").write_text(f"{name}\n")


def imported_anew(package, text):
    """What a process sees that starts after the package was changed."""
    (package / "flows.py").write_text(text)
    for name in [name for name in sys.modules if name.partition(".")[0] == package.name]:
        del sys.modules[name]


class TestModule:
    def test_the_storage_holds_a_name_and_what_the_code_must_be(self, storage, package):
        location = storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        envelope = open_envelope(storage.files.read(location), location, "flow")
        assert envelope.payload == b""
        assert envelope.header["source"] == {
            "kind": "module",
            "module": f"{package.name}.flows",
            "name": "etl",
            "distributions": {package.name: "1.2.0"},
        }
        run = storage.get_runner("etl").run({"n": 2})
        assert run.result() == [0, 2]

    def test_a_flow_object_is_found_by_its_module(self, storage, package):
        flow = storage.named_flow(f"{package.name}.flows:etl", "module")
        assert storage.add_flow(flow) == storage.add_flow(f"{package.name}.flows:etl", source="module")

    def test_installed_code_that_draws_another_graph_is_refused_with_the_versions(self, storage, package):
        location = storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        set_version(package.parent, package.name, "1.3.0")
        imports._package_of.cache_clear()
        imported_anew(package, source_text().replace("double.map(range(n))", "double(double(n))"))
        with pytest.raises(
            ChangedSource, match=rf"stored with {package.name} 1\.2\.0, and here is {package.name} 1\.3"
        ):
            storage.load(location)

    def test_code_that_draws_the_same_graph_is_taken_as_it_is_installed(self, storage, package):
        location = storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        imported_anew(package, source_text(factor=5))
        assert storage.get_runner(location).run({"n": 2}).result() == [0, 5]

    def test_a_module_that_is_not_installed(self, storage, package):
        location = storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        imported_anew(package, "import a_module_that_nobody_has")
        with pytest.raises(MissingModule, match=r"a_module_that_nobody_has.*install it") as caught:
            storage.load(location)
        assert caught.value.module == "a_module_that_nobody_has"

    def test_a_flow_of_a_notebook_has_no_import_path(self, storage):
        flow = hr.Flow("etl", eval("lambda n=3: None", {"__name__": "__main__"}))
        with pytest.raises(FlowError, match=r"'etl' of __main__ cannot be stored by import path.*source='script'"):
            storage.add_flow(flow)

    def test_build_finds_what_only_this_process_can_import(self, storage, package, monkeypatch):
        storage.add_flow(f"{package.name}.flows:etl", source="module")
        monkeypatch.delenv("PYTHONPATH")
        with pytest.raises(MissingModule, match=rf"{package.name}\.flows"):
            storage.build()
        assert storage.runs() == []
        assert storage.files.list() == []

    def test_an_example_goes_through_json(self, storage, package):
        imported_anew(
            package,
            "import datetime\n"
            + source_text().replace("n: int = 3", "n: int, day: datetime.date").replace("range(n)", "[day] * n"),
        )
        text = f"{package.name}.flows:etl"
        storage.add_flow(text, source="module", example={"n": 2, "day": datetime.date(2026, 11, 1)})
        storage.build()
        assert storage.manifest("etl")["example"] == {"n": 2, "day": "2026-11-01"}
        assert storage.load("etl").name == "etl"

    def test_an_example_without_a_json_form_is_refused(self, storage, package):
        imported_anew(package, source_text().replace("n: int = 3", "n").replace("range(n)", "list(n)"))
        with pytest.raises(ParameterError, match="do not come back from JSON"):
            storage.add_flow(f"{package.name}.flows:etl", source="module", example={"n": {object()}})

    def test_a_default_without_a_json_form_leaves_the_graph_out(self, storage, package):
        imported_anew(
            package, source_text().replace("n: int = 3", "n=frozenset([1, 'a'])").replace("range(n)", "[*n, n]")
        )
        storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        assert storage.manifest("etl")["digest"] is None

    def test_the_same_content_is_known_again(self, storage, package):
        flow = storage.named_flow(f"{package.name}.flows:etl", "module")
        storage.add_flow(flow)
        storage.build()
        assert flow in storage


class TestFile:
    def test_the_storage_holds_a_url_and_a_digest(self, storage, tmp_path):
        script = tmp_path / "flow.py"
        script.write_text(source_text())
        location = storage.add_flow(f"{script}:etl", source="script")
        storage.build()
        envelope = open_envelope(storage.files.read(location), location, "flow")
        assert envelope.payload == b""
        assert envelope.header["source"]["url"] == f"file://{script}"
        assert hr.Storage(storage.url, pickle=False).get_runner(location).run({"n": 2}).result() == [0, 2]

    def test_a_script_that_changed_is_refused_and_not_run(self, storage, tmp_path):
        script = tmp_path / "flow.py"
        script.write_text(source_text())
        location = storage.add_flow(f"{script}:etl", source="script")
        storage.build()
        script.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + source_text())
        with pytest.raises(ChangedSource, match=r"sha256 is .*nothing of it was run.*store the flow again"):
            storage.load(location)
        assert not (tmp_path / "ran").exists()

    def test_a_script_at_any_url(self, storage, s3, tmp_path):
        bucket = hr.Storage(s3.new_bucket(), s3.storage_options, pickle=False)
        bucket.files.create("flow.py", source_text().encode())
        location = bucket.add_flow(f"{bucket.url}/flow.py:etl", source="script")
        assert bucket.load(location).name == "etl"
        # The fresh interpreter knows neither the endpoint nor the key, and is given the script.
        assert list(bucket.build().flows) == ["etl"]

    def test_a_script_over_http(self, storage, tmp_path):
        (tmp_path / "www").mkdir()
        (tmp_path / "www" / "flow.py").write_text(source_text())
        handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "www"))
        with ThreadingHTTPServer(HERE, handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}/flow.py"
            storage.add_flow(f"{url}:etl", source="script")
            storage.build()
            assert storage.get_runner("etl").run({"n": 2}).result() == [0, 2]
            server.shutdown()

    def test_credentials_of_the_storage_go_to_its_own_host_only(self, tmp_path):
        (tmp_path / "flow.py").write_text(source_text())
        asked = []

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self):
                asked.append((self.server.server_port, self.headers.get("Authorization")))
                super().do_GET()

        handler = partial(Handler, directory=str(tmp_path))
        with ThreadingHTTPServer(HERE, handler) as own, ThreadingHTTPServer(HERE, handler) as foreign:
            for server in (own, foreign):
                threading.Thread(target=server.serve_forever, daemon=True).start()
            urls = {server.server_port: f"http://127.0.0.1:{server.server_port}" for server in (own, foreign)}
            options = {"headers": {"Authorization": "Bearer open-sesame"}}
            web = hr.Storage(f"{urls[own.server_port]}/store", options, pickle=False)
            for url in urls.values():
                assert web.named_flow(f"{url}/flow.py:etl", "script").name == "etl"
            for server in (own, foreign):
                server.shutdown()
        assert {told for port, told in asked if port == own.server_port} == {"Bearer open-sesame"}
        assert {told for port, told in asked if port == foreign.server_port} == {None}

    def test_a_flow_object_of_a_script(self, storage, tmp_path):
        script = tmp_path / "flow.py"
        script.write_text(
            source_text()
            + textwrap.dedent(f"""
            if __name__ == "__main__":
                storage = hr.Storage({storage.url!r}, pickle=False)
                storage.add_flow(etl, source="script")
                storage.build()
            """)
        )
        subprocess.run([sys.executable, str(script)], check=True)
        assert storage.get_runner("etl").run({"n": 2}).result() == [0, 2]

    def test_a_script_that_stores_itself_wherever_it_runs(self, storage, tmp_path):
        script = tmp_path / "flow.py"
        script.write_text(source_text() + f"hr.Storage({storage.url!r}, pickle=False).add_flow(etl, source='script')\n")
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        assert "if __name__ == '__main__':" in done.stderr.splitlines()[-1]

    def test_a_new_version_is_of_the_same_origin(self, storage, tmp_path):
        script = tmp_path / "flow.py"
        for factor in (2, 3):
            script.write_text(source_text(factor=factor))
            storage.add_flow(f"{script}:etl", source="script")
            storage.build()
        assert len(storage.versions("etl")) == 2
        assert storage.get_runner("etl").run({"n": 2}).result() == [0, 3]

    def test_two_versions_in_one_process(self, storage, tmp_path):
        places = {}
        for factor in (2, 3):
            folder = tmp_path / str(factor)
            folder.mkdir()
            (folder / "flow.py").write_text(source_text(factor=factor))
            places[factor] = storage.add_flow(f"{folder}/flow.py:etl", source="script")
        storage.build()
        runners = {factor: storage.get_runner(place) for factor, place in places.items()}
        for factor in (2, 3, 2):
            assert runners[factor].run({"n": 2}).result() == [0, factor]

    def test_a_file_is_loaded_under_its_own_name_after_its_flow_ran_from_a_storage(self, storage, tmp_path):
        script = tmp_path / "some_script.py"
        script.write_text(source_text())
        storage.add_flow(f"{script}:etl", source="script")
        assert storage.get_runner("etl").run({"n": 2}).result() == [0, 2]
        flow = load_flow(Target(str(script), "etl", True))
        assert flow.qualified_name == "some_script:etl"
        assert storage.get_runner("etl").run({"n": 2}).result() == [0, 2]

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("no-script", "names no script"),
            ("flow.py:", "names no script"),
            ("https://host/flow.py?sig=abc.py:etl", "holds a password or a token"),
            ("https://host/flow.py?version=1.py:etl", "goes on with a query"),
            ("https://me:pw@host/flow.py:etl", "holds a password"),
            ("missing.py:etl", "no such object"),
        ],
    )
    def test_texts_that_name_no_script(self, storage, text, told):
        with pytest.raises((FlowError, StorageError), match=told) as caught:
            storage.add_flow(text, source="script")
        assert "abc" not in str(caught.value)
        assert ":pw" not in str(caught.value)

    def test_a_script_with_an_error_tells_its_line(self, storage, tmp_path):
        (tmp_path / "flow.py").write_text("import headrace\n\n1 / 0\n")
        with pytest.raises(FlowError, match=r"flow\.py cannot be loaded: ZeroDivisionError.*line 3"):
            storage.add_flow(f"{tmp_path}/flow.py", source="script")


@dataclass
class Repository:
    folder: str

    def __call__(self, *arguments):
        done = subprocess.run(
            ["git", "-c", "user.name=me", "-c", "user.email=me@example.org", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip()

    def commit(self, **files):
        for path, text in files.items():
            place = self.folder / path.replace("__", "/").replace("_py", ".py").replace("/init.", "/__init__.")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(textwrap.dedent(text))
        self("add", ".")
        self("commit", "-q", "-m", "more")
        return self("rev-parse", "HEAD")

    def at(self, commit, rest="flows/etl.py:etl"):
        return f"git+file://{self.folder}@{commit}#{rest}"


HELPED = """
    import headrace as hr
    from helpers import FACTOR

    @hr.task
    def double(x):
        from deeper import late
        return late.twice(x) * FACTOR

    @hr.flow
    def etl(n: int = 3):
        return double.map(range(n))
"""
LATE = "def twice(x):\n    return 2 * x\n"


@pytest.fixture
def repository(tmp_path):
    folder = tmp_path / "repository"
    folder.mkdir()
    made = Repository(folder)
    made("init", "-q", ".")
    return made


class TestGit:
    def test_a_commit_stays_what_it_is(self, storage, repository):
        files = {"flows__etl_py": HELPED, "flows__deeper__late_py": LATE, "flows__deeper__init_py": ""}
        first = repository.commit(**files, flows__helpers_py="FACTOR = 1")
        second = repository.commit(flows__helpers_py="FACTOR = 10")
        places = [storage.add_flow(repository.at(commit), source="script") for commit in (first, second)]
        storage.build()
        fresh = hr.Storage(storage.url, pickle=False)
        for place, expected in zip([*places, *places], [2, 20, 2, 20], strict=True):
            assert fresh.get_runner(place).run({"n": 2}).result() == [0, expected]

    @pytest.mark.parametrize("commit", ["main", "HEAD", "abcdef0", "A" * 40])
    def test_only_a_full_commit_is_the_same_tomorrow(self, storage, repository, commit):
        with pytest.raises(FlowError, match=rf"'{commit}' is not the full id of a commit.*git rev-parse {commit}"):
            storage.add_flow(repository.at(commit), source="script")

    def test_a_commit_that_is_not_there(self, storage, repository):
        repository.commit(flows__etl_py=source_text())
        with pytest.raises(NotFound, match="that the commit was pushed"):
            storage.add_flow(repository.at("0" * 40), source="script")

    def test_a_repository_that_is_not_there(self, storage, tmp_path):
        with pytest.raises(NotFound, match="check the URL"):
            storage.add_flow(f"git+file://{tmp_path}/none@{'0' * 40}#flow.py:etl", source="script")

    def test_a_file_that_is_not_there(self, storage, repository):
        commit = repository.commit(flows__etl_py=source_text())
        with pytest.raises(NotFound, match=r"no file flows/other\.py"):
            storage.add_flow(repository.at(commit, "flows/other.py:etl"), source="script")

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("git+ext::sh -c touch% x@{commit}#flow.py:etl", "names no script in a git repository"),
            ("git+http://host/repo@{commit}#flow.py:etl", "names no script in a git repository"),
            ("git+https://me:pw@host/repo@{commit}#flow.py:etl", "holds a password"),
            ("git+file:///repo@{commit}#../flow.py:etl", "leads out of the repository"),
            ("git+file:///repo@{commit}#flow", "names no script in a git repository"),
        ],
    )
    def test_texts_that_name_no_commit(self, storage, text, told):
        with pytest.raises(FlowError, match=told):
            storage.add_flow(text.format(commit="0" * 40), source="script")

    def test_nothing_of_the_repository_runs_or_leads_elsewhere(self, repository, tmp_path):
        (tmp_path / "secret.py").write_text("x = 1")
        (repository.folder / "link.py").symlink_to(tmp_path / "secret.py")
        commit = repository.commit(flow_py="x = $Id$\n", **{".gitattributes": "*.py ident export-ignore\n"})
        files = git.files_of(f"file://{repository.folder}", commit)
        assert set(files) == {"flow.py", ".gitattributes"}
        assert files["flow.py"] == b"x = $Id$\n"

    def test_a_commit_that_is_too_large(self, storage, repository, monkeypatch):
        monkeypatch.setattr(units, "MOST", 1000)
        commit = repository.commit(flows__etl_py=source_text(), flows__data_py="x" * 2000)
        with pytest.raises(FlowError, match=r"the largest are flows/data\.py"):
            storage.add_flow(repository.at(commit), source="script")

    def test_a_server_that_is_silent_is_given_up(self, storage, monkeypatch, silent_server):
        monkeypatch.setattr(git, "DEADLINE", 1.0)
        with pytest.raises(StorageError, match="within 1 s"):
            storage.add_flow(f"git+https://{silent_server}/repo@{'0' * 40}#flow.py:etl", source="script")


@pytest.fixture
def silent_server():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        yield "{}:{}".format(*server.getsockname())


@hr.task(target="rows/{x}.pickle")
def pickled(x):
    return x


class TestWithoutPickles:
    def test_a_pickle_is_neither_written_nor_read(self, tmp_path):
        @hr.flow
        def etl():
            return None

        loose, strict = hr.Storage(tmp_path), hr.Storage(tmp_path, pickle=False)
        location = loose.add_flow(TestWithoutPickles.flow())
        loose.build()
        with pytest.raises(PickleRefused, match=r"the flow at .* is a pickle.*store it anew with source='module'"):
            strict.load(location)
        with pytest.raises(PickleRefused, match="add it with source='module' or source='script'"):
            strict.add_flow(etl, source="pickle")

    @staticmethod
    def flow():
        with hr.Flow("built") as flow:
            hr.task(len, name="length")([1])
        return flow

    def test_it_stays_so_when_it_is_serialized(self, storage):
        assert storage.serialize()["pickle"] is False
        assert hr.Storage.deserialize(storage.serialize()).spec.pickle is False
        assert hr.Storage.deserialize({**storage.serialize(), "pickle": None}).spec.pickle is False
        assert "pickle" not in hr.Storage(storage.url).serialize()

    def test_results_are_kept_as_json_or_not_at_all(self, storage, package):
        text = (
            source_text().replace("double.map(range(n))", "double(n)").replace("FACTOR * x", "{{1: x}} if x > 3 else x")
        )
        imported_anew(package, text.replace("{{", "{").replace("}}", "}"))
        storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        runner = storage.get_runner("etl")
        assert storage.get_run(runner.run({"n": 3}).run_id).result() == 3
        run = runner.run({"n": 4})
        assert run.result() == {1: 4}
        with pytest.raises(ValueReleased, match="has no JSON form, and the storage holds no pickles"):
            storage.get_run(run.run_id).result()
        for key in storage.files.list():
            data = storage.files.read(key)
            if key.endswith((".flow", "outcome")):
                envelope = open_envelope(data, key, "flow" if key.endswith(".flow") else "outcome")
                assert not envelope.payload or json.loads(bytes(envelope.payload)) == 3
            else:
                json.loads(data)

    def test_a_pickled_result_is_not_read(self, tmp_path):
        loose = hr.Storage(tmp_path)
        loose.add_flow(self.flow())
        loose.build()
        run = loose.get_runner("built").run()
        with pytest.raises(PickleRefused, match=f"the result of run {run.run_id} is a pickle"):
            hr.Storage(tmp_path, pickle=False).get_run(run.run_id).result()

    def test_targets_must_be_json(self, storage, package, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        target = "hr.Target(lambda x: f'rows/{x}.bin')"
        imported_anew(package, source_text().replace("@hr.task", f"@hr.task(target={target})"))
        storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        run = storage.get_runner("etl").run({"n": 1})
        with pytest.raises(PickleRefused, match=r"rows/0\.bin would be a pickle.*format='json'"):
            run.result()
        assert not (tmp_path / "rows").exists()

    def test_targets_that_cannot_be_are_told_before_the_run(self, storage, package):
        imported_anew(package, source_text().replace("@hr.task", "@hr.task(target='rows/{x}.bin')"))
        storage.add_flow(f"{package.name}.flows:etl", source="module")
        storage.build()
        with pytest.raises(PickleRefused, match=r"a value kept at rows/\{x\}\.bin would be a pickle"):
            storage.get_runner("etl").run()
        assert storage.runs() == []

    def test_a_flow_of_another_origin_is_still_refused(self, storage, package, tmp_path):
        storage.add_flow(f"{package.name}.flows:etl", source="module")
        (tmp_path / "flow.py").write_text(source_text())
        with pytest.raises(AlreadyExists):
            storage.add_flow(f"{tmp_path}/flow.py:etl", source="script")


def test_an_unknown_source(storage):
    with pytest.raises(FlowError, match="the source of a flow is 'pickle', 'module', 'script', got 'git'"):
        storage.add_flow("flow.py:etl", source="git")


def test_a_text_is_no_pickle(tmp_path):
    with pytest.raises(FlowError, match="is a text, not a flow"):
        hr.Storage(tmp_path).add_flow("flow.py:etl")
