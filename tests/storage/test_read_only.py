"""Media that can only be read: HTTP, and what else fsspec knows."""

from __future__ import annotations

import socket
import time
import warnings
import zipfile

import pytest

import headrace as hr
from headrace.errors import ForeignObject, LeftOut, NotFound, StorageError, Unreachable
from headrace.storage.files import Files


@pytest.fixture
def web(server_of):
    """The URL of a place on a web server, and what writes there."""
    server = server_of("http")
    url = server.new_url()
    return url, server.look(url)


@pytest.fixture
def stored(tmp_path):
    """Puts a flow somewhere, as it lies in a folder, and returns its location."""

    @hr.task
    def double(x):
        return 2 * x

    @hr.flow
    def twice(n: int = 3):
        return double(n)

    def put(below):
        folder = hr.Storage(tmp_path / "folder")
        location = folder.add_flow(twice)
        folder.build(check=False)
        for key in folder.files.list("flows/twice"):
            if "/versions/" not in key:
                below.write(key, folder.files.read(key))
        return location

    return put


class TestHttp:
    def test_reads_and_looks(self, web):
        url, below = web
        below.write("a/b c.bin", b"\x00one")
        below.write("100% #1?.bin", b"odd")
        below.write("empty", b"")
        files = Files(url)
        assert files.read("a/b c.bin") == b"\x00one"
        assert files.read("100% #1?.bin") == b"odd"
        assert files.read("empty") == b""
        assert files.exists("a/b c.bin")
        assert not files.exists("nope")
        with pytest.raises(NotFound, match="nope"):
            files.read("nope")
        assert files.read_many(["a/b c.bin", "nope"]) == {"a/b c.bin": b"\x00one"}
        assert files.exists_many(["a/b c.bin", "nope"]) == {"a/b c.bin"}

    @pytest.mark.parametrize(
        ("verb", "args", "what"),
        [
            ("create", ("a", b"1"), "create 'a'"),
            ("replace", ("a", b"1"), "write 'a'"),
            ("delete", ("a",), "delete 'a'"),
            ("list", ("runs",), "list 'runs'"),
            ("children", (), "list ''"),
            ("create_many", ({"a": b"1"},), "create 'a'"),
        ],
    )
    def test_refuses_the_rest_and_says_why(self, web, verb, args, what):
        files = Files(web[0])
        with pytest.raises(
            StorageError, match=rf"cannot {what} in http://.*read only.*full location.*to store something, use"
        ):
            getattr(files, verb)(*args)
        assert web[1].keys() == set()

    def test_a_flow_at_its_full_location_runs(self, web, stored):
        url, below = web
        location = stored(below)
        before = below.keys()

        storage = hr.Storage(url)
        assert storage.manifest(location)["name"] == "twice"
        assert storage.get_runner(location).run(parameters={"n": 21}).result() == 42
        with hr.LocalEnvironment() as environment:
            environment.setup(storage)
            assert environment.execute(storage, location, {"n": 4}).result() == 8
        assert below.keys() == before
        with pytest.raises(StorageError, match="has no listings"):
            storage.resolve("twice")
        with pytest.raises(StorageError, match="cannot be written there"):
            storage.get_env_runner(location)

    def test_a_flow_at_its_full_location_is_looked_at_and_copied(self, web, stored, tmp_path):
        url, below = web
        storage, location = hr.Storage(url), stored(below)
        flow = storage[location]
        with pytest.warns(LeftOut, match=rf"versions of flow 'twice' are not known: {url} has no listings"):
            assert flow.versions == []
        with pytest.warns(LeftOut, match="labels of flow 'twice' are not known"):
            assert flow.labels == {}
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a display has no place for warnings
            html = flow._repr_html_()
        assert location in html
        assert "double" in html
        assert "Version</th>" not in html

        other = hr.Storage(tmp_path / "copy")
        copied = storage.copy_to(other, location)
        assert (copied.versions, copied.labels_kept) == ({"twice": [1]}, {})
        (version,) = other.versions("twice")
        assert (version.number, version.location, version.labels) == (1, location, ())
        assert version.origin == storage.manifest(location)["origin"]
        assert other.get_runner("twice").run(parameters={"n": 21}).result() == 42
        assert storage.copy_to(other, [location]).versions == {}
        with pytest.raises(StorageError, match="to run or copy a flow, give its full location"):
            storage.copy_to(other)

    def test_of_a_flow_that_is_not_intact_nothing_is_copied(self, web, stored, tmp_path):
        url, below = web
        location = stored(below)
        below.write(location, b"junk")
        other = hr.Storage(tmp_path / "copy")
        with pytest.raises(ForeignObject):
            hr.Storage(url).copy_to(other, location)
        assert other.files.list() == []


class TestOthers:
    def test_an_archive_can_be_read_and_listed_and_not_written(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "flows.zip", "w") as archive:
            archive.writestr("flows/a/1", b"one")
            archive.writestr("flows/b", b"two")
        files = Files("zip://", {"fo": str(tmp_path / "flows.zip")})
        assert not files.writable
        assert files.list() == ["flows/a/1", "flows/b"]
        assert files.list("flows/a") == ["flows/a/1"]
        assert files.children("flows") == ["a", "b"]
        assert files.read("flows/b") == b"two"
        assert files.read_many(["flows/a/1", "flows/c"]) == {"flows/a/1": b"one"}
        assert not files.exists("flows")
        assert not files.exists("nope")
        with pytest.raises(StorageError, match=r"cannot create 'x' .* nobody promises .* use a folder, s3"):
            files.create("x", b"1")
        with pytest.raises(StorageError, match="cannot write 'x'"):
            files.replace("x", b"1")

    def test_one_that_connects_when_it_is_made_has_its_deadline_too(self):
        with socket.create_server(("127.0.0.1", 0)) as server:
            files = Files(f"ftp://127.0.0.1:{server.getsockname()[1]}/x", deadline=0.3)
            begin = time.monotonic()
            with pytest.raises(Unreachable, match=r"does not answer within 0\.3 s"):
                files.read("a")
            assert time.monotonic() - begin < 30

    def test_a_file_system_of_the_user(self, tmp_path):
        from fsspec.implementations.dirfs import DirFileSystem
        from fsspec.implementations.local import LocalFileSystem

        (tmp_path / "a").write_bytes(b"1")
        files = Files("dir://", filesystem=DirFileSystem(str(tmp_path), LocalFileSystem()))
        assert not files.writable
        assert files.read("a") == b"1"
        assert files.list() == ["a"]
