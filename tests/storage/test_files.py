from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from headrace.errors import (
    AccessDenied,
    AlreadyExists,
    MissingPackage,
    NotFound,
    NotPicklable,
    StorageError,
)
from headrace.storage.confidential import without_secrets
from headrace.storage.files import Files, normal_url, private_memory
from headrace.storage.trouble import translate


@pytest.fixture
def files(medium):
    return Files(medium.url, medium.options)


class TestVerbs:
    def test_create_then_read(self, files):
        files.create("a/b c.bin", b"\x00one")
        assert files.read("a/b c.bin") == b"\x00one"

    def test_create_is_exclusive_and_keeps_the_first(self, files):
        files.create("a", b"first")
        with pytest.raises(AlreadyExists, match="'a'"):
            files.create("a", b"second")
        assert files.read("a") == b"first"

    def test_empty_objects_are_objects(self, files):
        files.create("empty", b"")
        assert files.exists("empty")
        assert files.read("empty") == b""
        with pytest.raises(AlreadyExists):
            files.create("empty", b"")

    def test_replace_writes_new_and_old(self, files):
        files.replace("a", b"first")
        files.replace("a", b"second")
        assert files.read("a") == b"second"

    def test_missing(self, files):
        assert not files.exists("nope")
        with pytest.raises(NotFound, match="nope"):
            files.read("nope")
        with pytest.raises(FileNotFoundError):
            files.read("no/such/folder")

    def test_a_folder_is_not_an_object(self, files):
        files.create("folder/a", b"1")
        assert not files.exists("folder")

    def test_list_is_recursive_sorted_and_by_whole_parts(self, files):
        for key in ("x/b", "x/a/deep", "x2/c", "top"):
            files.create(key, b"1")
        assert files.list() == ["top", "x/a/deep", "x/b", "x2/c"]
        assert files.list("x") == ["x/a/deep", "x/b"]
        assert files.list("nothing/here") == []

    def test_children_are_one_level(self, files):
        for key in ("x/b", "x/a/deep", "x/a/deeper/still", "x2/c"):
            files.create(key, b"1")
        assert files.children("x") == ["a", "b"]
        assert files.children() == ["x", "x2"]
        assert files.children("nothing") == []

    def test_delete_twice(self, files):
        files.create("a", b"1")
        files.delete("a")
        files.delete("a")
        assert not files.exists("a")
        files.create("a", b"2")

    def test_other_writers_are_seen_after_a_listing(self, files, medium):
        other = Files(medium.url, {**medium.options, "skip_instance_cache": True} if medium.options else None)
        assert files.list() == []
        assert not files.exists("new")
        other.create("new", b"1")
        assert files.list() == ["new"]
        assert files.exists("new")
        assert files.read("new") == b"1"

    def test_of_racing_threads_one_wins(self, files):
        barrier = threading.Barrier(4)
        won, lost = [], []

        def race(number):
            barrier.wait()
            try:
                files.create("prize", b"%d" % number)
                won.append(number)
            except AlreadyExists:
                lost.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert len(lost) == 3
        assert files.read("prize") == b"%d" % won[0]

    @pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../b"])
    def test_keys_stay_below_the_root(self, files, key):
        with pytest.raises(StorageError, match="key"):
            files.read(key)


class TestMany:
    def test_create_many_tells_which_were_taken_and_leaves_them(self, files):
        files.create("a", b"first")
        assert files.create_many({"a": b"second", "b/c": b"2", "d": b""}) == {"a"}
        assert files.read_many(["a", "b/c", "d", "nope"]) == {"a": b"first", "b/c": b"2", "d": b""}

    def test_exists_many(self, files):
        files.create_many({"a": b"1", "b/c": b"2"})
        assert files.exists_many(["a", "b", "b/c", "d"]) == {"a", "b/c"}

    def test_delete_many_passes_over_what_is_missing(self, files):
        files.create_many({"a": b"1", "b/c": b"2", "d": b"3"})
        files.delete_many(["a", "b/c", "nope"])
        assert files.list() == ["d"]

    def test_none_at_all(self, files):
        assert files.create_many({}) == files.exists_many([]) == set()
        assert files.read_many([]) == {}
        files.delete_many([])


_RACER = """
import sys
from headrace.errors import AlreadyExists
from headrace.storage.files import Files
files = Files(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
won = []
for number in range(100):
    try:
        files.create(f"race/{number}", sys.argv[2].encode() * 10_000)
        won.append(number)
    except AlreadyExists:
        pass
print(won, flush=True)
"""


def test_two_processes_racing_on_a_local_disk_never_both_win(tmp_path):
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", _RACER, str(tmp_path), mark],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for mark in "ab"
    ]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [json.loads(racer.communicate()[0]) for racer in racers]
    assert sorted(answers[0] + answers[1]) == list(range(100))
    files = Files(tmp_path)
    for mark, won in zip("ab", answers, strict=True):
        assert all(files.read(f"race/{number}") == mark.encode() * 10_000 for number in won)
    assert len(os.listdir(tmp_path / "race")) == 100  # no temporary files stay


class TestLocal:
    def test_readers_see_no_temporary_file(self, tmp_path):
        (tmp_path / ".headrace-tmp-0123").write_bytes(b"half")
        files = Files(tmp_path)
        files.create("a", b"1")
        assert files.list() == ["a"]
        assert files.children() == ["a"]

    def test_a_failing_write_leaves_nothing(self, tmp_path):
        files = Files(tmp_path)
        (tmp_path / "taken").mkdir()
        with pytest.raises(StorageError):
            files.replace("taken", b"1")
        assert os.listdir(tmp_path) == ["taken"]

    def test_file_systems_without_hard_links_are_exclusive_too(self, tmp_path, monkeypatch):
        def no_link(source, target):
            raise PermissionError(1, "Operation not permitted")

        monkeypatch.setattr(os, "link", no_link)
        files = Files(tmp_path)
        files.create("a", b"first")
        with pytest.raises(AlreadyExists):
            files.create("a", b"second")
        assert files.read("a") == b"first"
        assert os.listdir(tmp_path) == ["a"]


class TestUrls:
    def test_plain_paths_become_absolute(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HOME", "/home/someone")
        assert normal_url("flows") == f"file://{tmp_path}/flows"
        assert normal_url("~/flows/") == "file:///home/someone/flows"
        assert normal_url(Path("flows")) == f"file://{tmp_path}/flows"
        assert normal_url("file:///x/y/") == "file:///x/y"

    def test_trailing_slashes(self):
        assert normal_url("s3://bucket/") == "s3://bucket"
        assert normal_url("S3://bucket/a//") == "s3://bucket/a"
        assert normal_url("memory://") == "memory://"

    @pytest.mark.parametrize("url", ["", "  ", "s3://", "simplecache::s3://bucket/x"])
    def test_refused(self, url):
        with pytest.raises(StorageError):
            normal_url(url)

    @pytest.mark.parametrize("url", ["s3://", "s3:///", "s3:///flows", "gs:///a/b", "abfs://"])
    def test_a_bucket_is_asked_for(self, url):
        protocol = url.partition(":")[0]
        with pytest.raises(StorageError, match=f"names no bucket; give one, e.g. '{protocol}://bucket/flows'"):
            normal_url(url)

    @pytest.mark.parametrize("url", ["s3:/bucket/flows", "s3:bucket/flows"])
    def test_a_slash_too_few_makes_no_folder(self, url):
        with pytest.raises(StorageError, match="did you mean 's3://bucket/flows'"):
            normal_url(url)

    @pytest.mark.parametrize(
        ("url", "meant"),
        [("file:/a/b", "file:///a/b"), ("memory:/a", "memory://a"), ("https:/host/a", "https://host/a")],
    )
    def test_nor_does_one_too_few_elsewhere(self, url, meant):
        with pytest.raises(StorageError, match=f"did you mean '{meant}'"):
            normal_url(url)

    def test_folders_may_be_named_like_a_protocol(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        assert normal_url("s3") == f"file://{tmp_path}/s3"
        assert normal_url("gs/flows") == f"file://{tmp_path}/gs/flows"

    def test_a_password_is_refused_and_not_repeated(self):
        with pytest.raises(StorageError, match="storage_options") as caught:
            normal_url("ftp://me:hunter2@host/x")
        assert "hunter2" not in str(caught.value)

    def test_bucket_roots(self, s3):
        files = Files(s3.new_bucket() + "/", s3.storage_options)
        files.create("a", b"1")
        assert files.list() == files.children() == ["a"]

    def test_memory_root(self):
        files = Files("memory://", filesystem=private_memory())
        files.create("a/b", b"1")
        assert files.list() == ["a/b"]
        assert files.children() == ["a"]

    def test_private_memories_share_nothing(self):
        one, other = (Files("memory://x", filesystem=private_memory()) for _ in range(2))
        one.create("a", b"1")
        assert not other.exists("a")
        assert not Files("memory://x").exists("a")


class TestTrouble:
    def test_missing_package_names_the_pip_line(self, monkeypatch):
        import fsspec

        def missing(protocol):
            raise ImportError("No module named 'gcsfs'")

        monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
        with pytest.raises(MissingPackage, match=r"pip install 'headrace\[gcs\]'"):
            Files("gs://bucket/x")
        with pytest.raises(MissingPackage, match=r"pip install 'headrace\[s3\]'"):
            Files("s3://bucket/x")
        with pytest.raises(MissingPackage, match=r"pip install webdav4"):
            Files("webdav://host/x")
        with pytest.raises(MissingPackage, match=r"pip install the package that is named here: .*requests"):
            Files("webhdfs://host/x")
        monkeypatch.setitem(sys.modules, "asyncssh", None)
        with pytest.raises(MissingPackage, match=r"ssh:// .* pip install 'headrace\[sftp\]'"):
            Files("ssh://host/x")

    def test_unknown_protocol(self):
        with pytest.raises(StorageError, match=r"'nonsense'.*Correct the URL"):
            Files("nonsense://x")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_folder_without_permission(self, tmp_path):
        tmp_path.chmod(0o500)
        with pytest.raises(AccessDenied, match="permissions"):
            Files(tmp_path).create("a", b"1")

    def test_a_place_that_cannot_be_made(self, tmp_path):
        (tmp_path / "file").write_bytes(b"")
        with pytest.raises(StorageError, match="cannot create 'a'"):
            Files(tmp_path / "file" / "store").create("a", b"1")
        error = translate(FileNotFoundError(2, "No such file"), asked="create 'a'", url="file:///proc/x")
        assert type(error) is NotFound
        assert "cannot be made" in str(error)

    def test_the_users_options_are_not_changed(self, s3):
        options = {**s3.storage_options, "config_kwargs": {"read_timeout": 7}}
        before = json.dumps(options, sort_keys=True)
        Files(s3.new_bucket(), options).create("a", b"1")
        assert json.dumps(options, sort_keys=True) == before


class TestSecrets:
    def test_not_in_repr_nor_pickled(self, s3):
        files = Files("s3://bucket/x", s3.storage_options)
        assert repr(files) == "<Files s3://bucket/x>"
        with pytest.raises(NotPicklable):
            pickle.dumps(files)

    def test_scrubbed_from_foreign_texts(self):
        error = translate(RuntimeError("bad password hunter2"), asked="read 'a'", url="x://y", secrets=("hunter2",))
        assert "hunter2" not in str(error)

    def test_options_that_may_be_written(self):
        kept, omitted = without_secrets(
            {
                "anon": False,
                "endpoint_url": "http://localhost",
                "key": "K",
                "client_kwargs": {"region_name": "x", "aws_secret_access_key": "S"},
                "proxy": "http://me:pw@proxy",
                "mirrors": ["http://me:pw@mirror"],
                "lock": object(),
                "sas_token": "t",
                "more": [{"password": "p"}],
            }
        )
        assert kept == {
            "anon": False,
            "endpoint_url": "http://localhost",
            "client_kwargs": {"region_name": "x"},
        }
        assert sorted(omitted) == [
            "client_kwargs.aws_secret_access_key",
            "key",
            "lock",
            "mirrors",
            "more",
            "proxy",
            "sas_token",
        ]
