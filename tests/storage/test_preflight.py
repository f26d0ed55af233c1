"""What a build finds out before it uploads: the fresh interpreter, and what is worth knowing."""

from __future__ import annotations

import base64
import gc
import hashlib
import importlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from contextlib import suppress
from importlib.metadata import version

import pytest

from headrace import redaction
from headrace.core.flow import FlowDefinition
from headrace.core.task import task
from headrace.errors import FlowError, PreflightWarning
from headrace.storage.capture import capture
from headrace.storage.findings import Finding
from headrace.storage.flows import StoredFlows
from headrace.storage.packages import findings_about
from headrace.storage.preflight import Preflight
from tests.waiting import until


def flow_of(source, name="made", **names):
    """A flow of a script: its functions travel by value."""
    namespace = {"__name__": "__main__", "task": task, **names}
    exec(textwrap.dedent(source), namespace)
    return FlowDefinition(name, namespace["function"])


PLAIN = """
@task
def show(): return 1
def function(): return show()
"""


class Bad:
    """What pickles, and does not come back."""

    def __reduce__(self):
        return eval, ("1 / 0",)


def alive(pid):
    try:
        return "Z" not in open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


#: Draws here, and hangs in another process, which it says by a file.
HANGING = """
import os, time
parent = os.getpid()
@task
def show(): return 1
def function():
    if os.getpid() != parent:
        open(MARK, "w").close()
        time.sleep(600)
    return show()
"""


def open_pipes() -> set[str]:
    """Of this process; other tests' servers and connections come and go."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{name}"))
    return {target for target in found if target.startswith("pipe:")}


class TestTheInterpreter:
    def test_it_starts_when_a_flow_is_added_and_serves_all_of_a_build(self, tmp_path):
        stored = StoredFlows(tmp_path)
        stored.add_flow(flow_of(PLAIN, "a"))
        child = stored._preflight._waiting
        pid = child._process.pid
        stored.add_flow(flow_of(PLAIN, "b"))
        assert stored._preflight._waiting is child
        stored.build()
        assert stored._preflight._waiting is None
        assert not alive(pid)
        assert child._process.returncode == 0
        assert child._output.closed
        assert child._process.stdin.closed

    def test_a_flow_that_was_mended_takes_the_place_of_the_one_that_was_refused(self, tmp_path):
        stored = StoredFlows(tmp_path)
        stored.add_flow(flow_of(PLAIN, "other"))
        stored.add_flow(flow_of("@task\ndef show(x): return 1\ndef function(): return show(BAD)\n", BAD=Bad()))
        with pytest.raises(FlowError, match="'made' does not load"):
            stored.build()
        mended = stored.add_flow(flow_of(PLAIN))
        assert set(stored.build().flows) == {"made", "other"}
        assert [version.location for version in stored.versions("made")] == [mended]

    def test_staging_for_a_run_starts_none(self, tmp_path):
        stored = StoredFlows(tmp_path)
        stored.stage(flow_of(PLAIN))
        assert stored._preflight._waiting is None
        assert stored.build().flows  # which starts one then

    def test_a_build_that_never_comes_leaves_nothing_behind(self, tmp_path):
        before = open_pipes()
        stored = StoredFlows(tmp_path)
        stored.add_flow(flow_of(PLAIN))
        pid = stored._preflight._waiting._process.pid
        assert alive(pid)
        del stored
        gc.collect()
        assert not os.path.exists(f"/proc/{pid}")  # not even as a zombie
        assert open_pipes() <= before

    def test_running_what_is_staged_ends_it(self):
        import headrace as hr

        stored = hr.Storage("memory://staged-only")
        location = stored.add_flow(flow_of(PLAIN))
        pid = stored._preflight._waiting._process.pid
        stored.get_runner(location)
        assert not os.path.exists(f"/proc/{pid}")
        assert list(stored.build().flows) == ["made"]

    def test_a_process_that_ends_takes_it_along(self, tmp_path):
        code = f"""
import os
from headrace.storage.flows import StoredFlows
from headrace.core.flow import FlowDefinition
from headrace.core.task import task
@task
def show(): return 1
stored = StoredFlows({str(tmp_path)!r})
stored.add_flow(FlowDefinition("x", lambda: show()))
print(stored._preflight._waiting._process.pid, flush=True)
"""
        for end in ("", "os.kill(os.getpid(), 9)"):
            done = subprocess.run([sys.executable, "-c", code + end], capture_output=True, text=True, check=False)
            assert done.stderr == ""
            until(lambda pid=int(done.stdout): not alive(pid))

    def test_one_that_has_waited_too_long_is_replaced(self, tmp_path):
        stored = StoredFlows(tmp_path)
        stored.add_flow(flow_of(PLAIN))
        process = stored._preflight._waiting._process
        process.stdin.close()  # as if nothing had come for too long
        process.stdin = None
        process.wait()
        assert list(stored.build().flows) == ["made"]

    def test_one_of_another_environment_is_not_asked(self, tmp_path, monkeypatch):
        source = """
        import os
        parent = os.getpid()
        @task
        def show(): return 1
        def function():
            if os.getpid() != parent: assert os.environ.get("TOLD_LATER") == "yes"
            return show()
        """
        stored = StoredFlows(tmp_path)
        stored.add_flow(flow_of(source))
        monkeypatch.setenv("TOLD_LATER", "yes")
        assert list(stored.build().flows) == ["made"]

    def test_it_may_end_while_it_is_asked(self, monkeypatch):
        check = Preflight()
        check.prepare("headrace.core.flow")
        child = check._waiting
        child._process.stdin.close()
        child._process.stdin = None
        monkeypatch.setattr(check, "_take", lambda: child)
        assert check.check([capture(flow_of(PLAIN))]) == []

    def test_a_fork_does_not_end_its_parents(self, tmp_path):
        stored = StoredFlows(tmp_path)
        stored.add_flow(flow_of(PLAIN))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            fork = os.fork()
        if fork == 0:
            del stored
            gc.collect()
            os._exit(0)
        os.waitpid(fork, 0)
        assert stored._preflight._waiting.is_alive()
        assert list(stored.build().flows) == ["made"]

    def test_a_hanging_import_is_told_in_time(self):
        stored = StoredFlows("memory://hanging")
        stored.add_flow(flow_of(HANGING.replace("MARK", "os.devnull"), "slow"))
        pid = stored._preflight._waiting._process.pid
        began = time.monotonic()
        with pytest.raises(FlowError, match=r"'slow' did not load in a fresh interpreter within 2 s; .*deadline"):
            stored.build(deadline=2)
        assert time.monotonic() - began < 20
        assert not alive(pid)
        assert stored.files.list() == []

    def test_ctrl_c_ends_it(self, tmp_path):
        stored = StoredFlows("memory://interrupted")
        stored.add_flow(flow_of(HANGING.replace("MARK", repr(str(tmp_path / "hangs"))), "slow"))
        pid = stored._preflight._waiting._process.pid

        def press():
            until((tmp_path / "hangs").exists)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

        presser = threading.Thread(target=press)
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            stored.build()
        presser.join()
        assert not alive(pid)


class TestAwayFromHome:
    def test_it_runs_in_an_empty_folder_that_is_removed(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "beside.txt").write_text("x")
        source = """
        import os
        parent = os.getpid()
        @task
        def show(): return 1
        def function():
            if os.getpid() != parent: assert os.listdir(".") == []
            return show()
        """
        stored = StoredFlows("memory://empty")
        stored.add_flow(flow_of(source))
        folder = stored._preflight._waiting._folder
        assert os.path.isdir(folder)
        stored.build()
        assert not os.path.exists(folder)

    def test_what_only_pythonpath_makes_importable_is_missing(self, tmp_path, monkeypatch):
        (tmp_path / "pk_at_home.py").write_text("a = 1\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.syspath_prepend(tmp_path)
        source = """
        import importlib
        @task
        def show(): return 1
        def function():
            importlib.import_module("_".join(["pk", "at", "home"]))  # which no search for imports finds
            return show()
        """
        stored = StoredFlows("memory://home")
        stored.add_flow(flow_of(source, "homely"))
        with pytest.raises(FlowError, match=r"'homely' does not load in a fresh interpreter.*pk_at_home"):
            stored.build()
        sys.modules.pop("pk_at_home")
        (tmp_path / "pk_at_home-1.dist-info").mkdir()  # then it is a folder of packages
        stored.build()


class TestContents:
    def test_large_constants_are_told_with_their_size_and_their_way(self):
        source = """
        table = {"rows": list(range(600_000)), "name": "x"}
        blob = b"x" * 2_000_000
        @task
        def show(): return len(table["rows"])
        @task
        def other(): return len(blob)
        def function(): return show(), other()
        """
        stored = StoredFlows("memory://large")
        stored.add_flow(flow_of(source, "big"))
        with pytest.warns(PreflightWarning) as caught:
            stored.build()
        assert len(caught) == len(stored.findings) == 2
        rows, blob = sorted(stored.findings, key=lambda finding: "blob" in finding.subject)
        assert rows.level == blob.level == "warning"
        assert rows.subject == "flow 'big' → task 'show' → global variable 'table' → ['rows']"
        assert rows.message.startswith("is a list of 1.") or rows.message.startswith("is a list of 2.")
        assert blob.subject == "flow 'big' → task 'other' → global variable 'blob'"
        assert blob.message.startswith("is a bytes of 2.0 MB")
        assert "give its URL as a parameter" in str(blob)
        assert caught[0].filename == __file__
        stored.build()  # nothing is staged any more
        assert stored.findings == ()

    def test_small_flows_are_not_looked_through(self, monkeypatch):
        from headrace import pickling

        stored = StoredFlows("memory://small")
        monkeypatch.setattr(pickling, "parts_of", lambda obj: pytest.fail("looked"))
        stored.add_flow(flow_of(PLAIN))

    def test_a_credential_that_this_process_knows_is_not_stored(self, monkeypatch):
        monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())
        stored = StoredFlows("memory://leak", {"secret": "sentinel-in-a-flow"})
        source = """
        options = {"client": {"secret": "sentinel-in-a-flow"}}
        @task
        def show(): return len(options)
        def function(): return show()
        """
        with pytest.raises(FlowError, match="cannot be stored") as caught:
            stored.add_flow(flow_of(source, "leaky"))
        assert caught.value.path == "flow 'leaky' → task 'show' → global variable 'options' → ['client'] → ['secret']"
        assert "sentinel" not in str(caught.value)
        assert stored.flows == {}


class TestSources:
    def test_a_credential_in_a_source_that_travels_is_told(self, tmp_path, monkeypatch):
        monkeypatch.setattr(redaction, "_KNOWN", redaction._Known())
        (tmp_path / "pk_with_key.py").write_text("KEY = 'sentinel-in-source'\n")
        monkeypatch.syspath_prepend(tmp_path)
        stored = StoredFlows("memory://source", {"secret": "-".join(["sentinel", "in", "source"])})
        source = """
        @task
        def show(): return len(pk_with_key.KEY)
        def function(): return show()
        """
        stored.add_flow(flow_of(source, pk_with_key=importlib.import_module("pk_with_key")))
        with pytest.warns(PreflightWarning, match=r"flow 'made' → pk_with_key.py: .* has the text of a secret") as told:
            stored.build()
        assert "sentinel" not in str(told[0].message)
        sys.modules.pop("pk_with_key")


def install(site, name, files, url=None, shift=0.0):
    """Write a package as an installer does."""
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    rows = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        rows.append(f"{path},sha256={digest},{len(text)}")
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]) + "\n")
    if url is not None:
        (info / "direct_url.json").write_text(json.dumps(url))
    os.utime(info / "RECORD", (time.time() - 100, time.time() - 100))
    for path in files:
        os.utime(site / path, (time.time() - 100, time.time() - 100))
    return info


@pytest.fixture
def site(tmp_path, monkeypatch):
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    return folder


def loaded(*names):
    importlib.invalidate_caches()
    modules = [importlib.import_module(name) for name in names]
    for name in names:
        sys.modules.pop(name, None)
    return modules


class TestPackages:
    def test_intact_ones_from_a_registry_are_no_news(self, site):
        install(site, "pk_plain", {"pk_plain/__init__.py": "a = 1\n"})
        assert findings_about(loaded("pk_plain")) == []

    def test_edited_ones(self, site):
        install(site, "pk_edited", {"pk_edited/__init__.py": "a = 1\n", "pk_edited/b.py": "b = 1\n"})
        (site / "pk_edited" / "b.py").write_text("b = 2\n")
        assert findings_about(loaded("pk_edited")) == []  # b is not imported
        (found,) = findings_about(loaded("pk_edited", "pk_edited.b"))
        assert found.level == "warning"
        assert found.subject == "package pk_edited 1.0"
        assert found.message.startswith("pk_edited/b.py was changed after it was installed")

    def test_touched_but_equal_ones_are_no_news(self, site):
        install(site, "pk_touched", {"pk_touched.py": "a = 1\n"})
        os.utime(site / "pk_touched.py")
        assert findings_about(loaded("pk_touched")) == []

    @pytest.mark.parametrize(
        ("url", "told"),
        [
            (
                {"url": "https://host/repo.git", "vcs_info": {"vcs": "git", "commit_id": "0123456789abcdef"}},
                "was installed from https://host/repo.git, commit 0123456789ab, not from a registry",
            ),
            ({"url": "file:///some%20where/pk", "dir_info": {}}, "was installed from the folder /some where/pk"),
            ({"url": "https://host/pk-1.0.whl", "archive_info": {}}, "was installed from https://host/pk-1.0.whl"),
        ],
    )
    def test_those_from_elsewhere(self, site, url, told):
        install(site, "pk_elsewhere", {"pk_elsewhere.py": "a = 1\n"}, url)
        (found,) = findings_about(loaded("pk_elsewhere"))
        assert found.level == "note"
        assert found.message.startswith(told)

    def test_editable_ones(self, site, tmp_path, monkeypatch):
        work = tmp_path / "work" / "src"
        work.mkdir(parents=True)
        (work / "pk_editable.py").write_text("a = 1\n")
        url = {"url": (tmp_path / "work").as_uri(), "dir_info": {"editable": True}}
        install(site, "pk_editable", {"__editable__.pth": str(work)}, url)
        monkeypatch.syspath_prepend(work)
        (found,) = findings_about(loaded("pk_editable"))
        assert found.level == "warning"
        assert found.message.startswith(f"is an editable install of {tmp_path / 'work'}")

    def test_a_build_tells_of_what_the_flow_imports(self, site, monkeypatch):
        install(site, "pk_built", {"pk_built.py": "def f(): return 1\n"})
        (site / "pk_built.py").write_text("def f(): return 2\n")
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        loaded_module = importlib.import_module("pk_built")
        source = """
        @task
        def show(): return pk_built.f()
        def function(): return show()
        """
        stored = StoredFlows("memory://packages")
        stored.add_flow(flow_of(source, pk_built=loaded_module))
        with pytest.warns(PreflightWarning, match=r"package pk_built 1.0: pk_built.py was changed"):
            stored.build()
        sys.modules.pop("pk_built")


class TestWhatIsImportedLater:
    """Packages that tasks import when they run, so that the fresh interpreter does not load them."""

    def test_one_that_is_not_installed_is_told(self):
        source = """
        @task
        def show():
            import pk_absent.deep as deep, json
            from pk_gone import a
            return deep, a, json
        @task
        def careful():
            try:
                import pk_optional
            except ImportError:
                pk_optional = None
            return pk_optional
        def function(): return show(), careful()
        """
        stored = StoredFlows("memory://later")
        stored.add_flow(flow_of(source))
        with pytest.warns(PreflightWarning) as caught:
            stored.build()
        told = [str(each.message) for each in caught]
        assert len(told) == 2
        assert told[0].startswith("flow 'made': imports 'pk_absent' when it runs, and there is no module of that name")
        assert "'pk_gone'" in told[1]

    @pytest.mark.parametrize("how", ["pickle", "script"])
    def test_in_sources_that_travel(self, how, tmp_path, monkeypatch):
        package = tmp_path / "pk_own"
        package.mkdir()
        (package / "__init__.py").write_text("")
        (package / "lazy.py").write_text("import pk_deep.inside\n")
        (package / "unreached.py").write_text("import pk_unreached\n")
        text = """
            '''A module.

            import pk_in_a_text
            '''
            from typing import TYPE_CHECKING
            import headrace as hr
            if TYPE_CHECKING:
                import pk_for_checkers
            @hr.task
            def show():
                import yaml
                import pk_absent
                from pk_own import lazy
            @hr.flow
            def lazily(): return show()
        """
        (tmp_path / "pk_flows.py").write_text(textwrap.dedent(text))
        stored = StoredFlows("memory://later-sources")
        if how == "pickle":
            monkeypatch.syspath_prepend(tmp_path)
            location = stored.add_flow(importlib.import_module("pk_flows").lazily)
        else:
            location = stored.add_flow(f"{tmp_path}/pk_flows.py:lazily", source="script")
        with pytest.warns(PreflightWarning) as caught:
            stored.build()
        absent = ["pk_absent", "pk_deep"] if how == "pickle" else ["pk_absent", "pk_own"]  # a script comes alone
        assert [str(each.message).split("'")[3] for each in caught] == absent
        assert stored.manifest(location)["imports"] == {"PyYAML": version("PyYAML")}
        sys.modules.pop("pk_flows", None)

    def test_edited_ones(self, site, monkeypatch):
        files = {"pk_later/__init__.py": "", "pk_later/a.py": "", "pk_later/b/__init__.py": "", "pk_later/b/c.py": ""}
        install(site, "pk_later", files)
        source = """
        @task
        def show():
            from pk_later.b import c
        def function(): return show()
        """
        monkeypatch.setenv("PYTHONPATH", str(site), prepend=os.pathsep)
        importlib.invalidate_caches()
        stored = StoredFlows("memory://later-edited")
        (site / "pk_later" / "a.py").write_text("a = 1\n")
        stored.add_flow(flow_of(source))
        stored.build()
        assert stored.findings == ()
        (site / "pk_later" / "b" / "c.py").write_text("a = 1\n")
        stored.add_flow(flow_of(source))
        with pytest.warns(PreflightWarning, match=r"package pk_later 1.0: pk_later/b/c.py was changed"):
            stored.build()
        assert "pk_later" not in sys.modules


def test_findings_are_told_once_and_warnings_first():
    from headrace.storage.findings import distinct

    note, warning = Finding("note", "a", "b", "c"), Finding("warning", "d", "e", "f")
    assert distinct([note, warning, note]) == [warning, note]
