"""What is special about single media: requests of S3, host keys of SFTP, links in folders, the table of protocols."""

from __future__ import annotations

import asyncio
import importlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from headrace.errors import AlreadyExists, NotFound, StorageError
from headrace.storage.files import Files
from headrace.storage.media import PROTOCOLS, objects
from headrace.storage.media.objects import GCS, S3

from ..waiting import until

DOCS = Path(__file__).parents[2] / "docs"


class TestTable:
    @pytest.mark.parametrize("protocol", PROTOCOLS)
    def test_each_row_names_a_medium(self, protocol):
        row = PROTOCOLS[protocol]
        module, _, name = row.medium.partition(":")
        medium = getattr(importlib.import_module(f"headrace.storage.media.{module}"), name)
        assert medium.writable == bool(row.create) == bool(row.replace)
        assert medium.lists == row.lists

    def test_the_documentation_says_the_same(self):
        text = (DOCS / "storage.md").read_text()
        table = text.partition("| protocols |")[2].partition("\n\n")[0]
        told = {}
        for line in table.splitlines()[2:]:
            protocols, create, replace = [cell.strip() for cell in line.strip("|").split("|")[:3]]
            told |= dict.fromkeys(re.findall(r"`(\w+)://`", protocols), (create, replace))
        assert told == {name: (row.create or "refused", row.replace or "refused") for name, row in PROTOCOLS.items()}


class TestFolders:
    def test_links_and_odd_names(self, tmp_path):
        files = Files(tmp_path / "store")
        for key in ("flows/überfluß/a", "flows/日本/a b", "flows/e\u0301/x", "flows/100%/#?"):
            files.create(key, key.encode())
        elsewhere = tmp_path / "elsewhere"
        (elsewhere / "deep").mkdir(parents=True)
        (elsewhere / "deep" / "object").write_bytes(b"there")
        (tmp_path / "store" / "flows" / "linked").symlink_to(elsewhere)
        (elsewhere / "back").symlink_to(tmp_path / "store" / "flows")
        assert files.exists("flows/linked/deep/object")
        keys = files.list("flows")
        assert "flows/linked/deep/object" in keys
        assert len(keys) == 5
        assert all(files.read(key) == key.encode() for key in keys if "linked" not in key)
        assert "linked" in files.children("flows")

    def test_a_root_that_is_a_link(self, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        Files(tmp_path / "link").create("a/b", b"1")
        assert Files(tmp_path / "link").list() == Files(tmp_path / "real").list() == ["a/b"]

    def test_a_lost_answer_of_a_file_server_is_no_second_winner(self, tmp_path, monkeypatch):
        link = os.link

        def link_and_lose_the_answer(source, target):
            link(source, target)
            raise FileExistsError(17, "File exists")

        monkeypatch.setattr(os, "link", link_and_lose_the_answer)
        files = Files(tmp_path)
        files.create("a", b"mine")
        with pytest.raises(AlreadyExists):
            files.create("a", b"other")
        assert files.read("a") == b"mine"
        assert os.listdir(tmp_path) == ["a"]

    def test_without_hard_links_a_failing_rename_leaves_nothing(self, tmp_path, monkeypatch):
        def fail(source, target):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr(os, "link", fail)
        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(StorageError):
            Files(tmp_path).create("a", b"1")
        assert os.listdir(tmp_path) == []

    def test_a_folder_needs_no_fsspec(self, tmp_path):
        code = f"""
import sys
from headrace.storage.files import Files
files = Files({str(tmp_path)!r})
files.create("a", b"1")
assert files.list() == ["a"]
print("fsspec" in sys.modules)
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


class TestS3:
    @pytest.fixture
    def files(self, s3):
        return Files(s3.new_url(), dict(s3.storage_options))

    @pytest.fixture
    def sent(self, files):
        """Method and headers of each request."""
        files.exists("a")  # connects
        sent = []
        events = files._medium.filesystem.s3.meta.events
        events.register("before-send.s3", lambda request, **_: sent.append((request.method, dict(request.headers))))
        return sent

    @pytest.mark.parametrize(
        ("verb", "args", "methods"),
        [
            ("create", ("new", b"1"), ["PUT"]),
            ("replace", ("there", b"1"), ["PUT"]),
            ("read", ("there",), ["GET"]),
            ("exists", ("there",), ["HEAD"]),
            ("exists", ("nope",), ["HEAD"]),
            ("list", ("flows",), ["GET"]),
            ("list", ("nothing",), ["GET"]),
            ("children", ("nothing",), ["GET"]),
            ("delete", ("there",), ["DELETE"]),
            ("create_many", ({"b": b"1", "c": b"2"},), ["PUT"] * 2),
            ("read_many", (["there", "nope"],), ["GET"] * 2),
        ],
    )
    def test_one_request_for_one_thing(self, files, sent, verb, args, methods):
        files.create("there", b"1")
        sent.clear()
        getattr(files, verb)(*args)
        assert [method for method, _ in sent] == methods
        assert not any("Expect" in headers for _, headers in sent)

    def test_the_description_of_the_service_is_read_before_the_clock_starts(self, s3, monkeypatch):
        from botocore.loaders import JSONFileLoader

        read, load = [], JSONFileLoader.load_file

        def noted(self, path):
            read.append((threading.get_ident(), path))
            return load(self, path)

        monkeypatch.setattr(JSONFileLoader, "load_file", noted)
        objects._models.cache_clear()
        for _ in range(2):
            files = Files(s3.new_url(), {**s3.storage_options, "skip_instance_cache": True})
            assert not files.exists("a")
            assert any("s3" in path for _, path in read)
            assert {thread for thread, _ in read} == {threading.get_ident()}  # where no clock runs
            assert len({path for _, path in read}) == len(read)  # the second storage reads nothing

    def test_a_configuration_that_is_wrong_is_told_as_ever(self, s3, monkeypatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody-has-this-one")
        objects._models.cache_clear()
        with pytest.raises(StorageError, match="nobody-has-this-one"):
            Files(s3.new_url(), {**s3.storage_options, "skip_instance_cache": True}).exists("a")

    def test_pages(self, files, monkeypatch):
        files.create_many({f"flows/{number:04}/x": b"" for number in range(1005)})
        assert len(files.list("flows")) == 1005
        assert len(files.children("flows")) == 1005

    def test_a_large_object_in_pieces_is_exclusive_too(self, files, monkeypatch):
        monkeypatch.setattr(S3, "writing", {"chunksize": 5 * 2**20})
        data = os.urandom(11 * 2**20)
        files.create("large", data)
        assert files.read("large") == data
        with pytest.raises(AlreadyExists):
            files.create("large", data[::-1])
        assert files.read("large") == data
        filesystem, bucket = files._medium.filesystem, files.url.split("/")[2]
        assert not filesystem.call_s3("list_multipart_uploads", Bucket=bucket).get("Uploads")

    def test_no_bucket_is_ever_made(self, s3):
        files = Files("s3://a-bucket-nobody-made/x", dict(s3.storage_options))
        with pytest.raises(NotFound):
            files.create("a", b"1")
        with pytest.raises(NotFound):
            files.replace("a", b"1")
        with pytest.raises(NotFound):
            files.list()

    def test_a_file_system_of_the_user(self, s3):
        import s3fs

        filesystem = s3fs.S3FileSystem(**s3.storage_options, skip_instance_cache=True)
        files = Files(s3.new_url(), filesystem=filesystem)
        files.create("a", b"1")
        with pytest.raises(AlreadyExists):
            files.create("a", b"2")
        assert files.list() == ["a"]
        only_async = s3fs.S3FileSystem(**s3.storage_options, asynchronous=True, skip_instance_cache=True)
        with pytest.raises(StorageError, match="asynchronous=False"):
            Files(s3.new_url(), filesystem=only_async)

    def test_the_other_name_of_the_protocol(self, s3):
        url = s3.new_url()
        Files(url, dict(s3.storage_options)).create("a", b"1")
        assert Files(url.replace("s3:", "s3a:"), dict(s3.storage_options)).list() == ["a"]


class TestGCS:
    def test_a_large_object_and_the_other_name_of_the_protocol(self, server_of):
        server = server_of("gs")
        url = server.new_url()
        files = Files(url, dict(server.storage_options))
        data = os.urandom(6 * 2**20)
        files.create("large", data)
        with pytest.raises(AlreadyExists):
            files.create("large", data[::-1])
        assert Files(url.replace("gs:", "gcs:"), dict(server.storage_options)).read("large") == data

    def test_buckets_are_not_asked_for_their_kind(self, server_of):
        server = server_of("gs")
        files = Files(server.new_url(), dict(server.storage_options))
        assert isinstance(files._medium, GCS)
        assert not any("Extended" in cls.__name__ for cls in type(files._medium.filesystem).__mro__)

    def test_pages(self, server_of):
        server = server_of("gs")
        files = Files(server.new_url(), dict(server.storage_options))
        files.create_many({f"flows/{number:04}/x": b"" for number in range(1005)})
        assert len(files.list("flows")) == 1005
        assert len(files.children("flows")) == 1005


class TestAzure:
    @pytest.mark.parametrize("protocol", ["az", "abfss"])
    def test_the_other_names_of_the_protocol(self, server_of, protocol):
        server = server_of("abfs")
        url = server.new_url()
        Files(url, dict(server.storage_options)).create("a/b", b"1")
        files = Files(url.replace("abfs:", f"{protocol}:"), dict(server.storage_options))
        assert files.list() == ["a/b"]
        assert files.children() == ["a"]

    def test_the_account_may_stand_in_the_url(self):
        pytest.importorskip("adlfs")
        files = Files("abfss://box@someaccount.dfs.core.windows.net/deep/store", {"account_key": "Zm9v"})
        assert files._medium.filesystem.account_name == "someaccount"
        assert files._medium._at("a") == "box/deep/store/a"

    def test_a_large_object(self, server_of):
        server = server_of("abfs")
        files = Files(server.new_url(), dict(server.storage_options))
        data = os.urandom(70 * 2**20)  # beyond what one request takes
        files.create("large", data)
        with pytest.raises(AlreadyExists):
            files.create("large", data[:-1])
        assert files.read("large") == data


class TestSftp:
    @pytest.fixture
    def server(self, server_of):
        return server_of("sftp")

    def test_a_server_that_nobody_knows_is_refused(self, server, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        options = {name: value for name, value in server.storage_options.items() if name != "known_hosts"}
        with pytest.raises(StorageError, match=r"could not prove to be the one .*known_hosts"):
            Files(server.new_url(), options).read("a")

    def test_unless_the_user_says_so(self, server):
        files = Files(server.new_url(), {**server.storage_options, "known_hosts": None})
        files.create("a", b"1")

    def test_user_in_the_url_and_the_other_name_of_the_protocol(self, server):
        url = server.new_url()
        Files(url, dict(server.storage_options)).create("a/b", b"1")
        options = {name: value for name, value in server.storage_options.items() if name != "username"}
        files = Files(url.replace("sftp://", "ssh://tester@"), options)
        assert files.list() == ["a/b"]

    def test_a_lost_connection_is_made_again(self, server):
        files = Files(server.new_url(), dict(server.storage_options))
        files.create("a", b"1")
        medium = files._medium
        medium._loop.call_soon_threadsafe(medium._connection[0][0].abort)
        assert files.read("a") == b"1"

    def test_nothing_temporary_stays(self, server):
        url = server.new_url()
        files = Files(url, dict(server.storage_options))
        files.create("a", b"1")
        files.replace("a", b"2")
        with pytest.raises(AlreadyExists):
            files.create("a", b"3")
        look = server.look(url)
        until(lambda: look.keys() == {"a"})
        look.write(".headrace-tmp-0123", b"half")
        assert files.list() == files.children() == ["a"]

    def test_links(self, server, tmp_path):
        url = server.new_url()
        files = Files(url, dict(server.storage_options))
        files.create("flows/a/b", b"1")
        folder = server.look(url).folder / "flows"
        (folder / "linked").symlink_to("a")
        (folder / "a" / "back").symlink_to("..")
        assert {"flows/a/b", "flows/linked/b"} <= set(files.list())
        assert files.children("flows") == ["a", "linked"]

    def test_a_large_object(self, server):
        files = Files(server.new_url(), dict(server.storage_options))
        data = os.urandom(20 * 2**20)
        files.create("large", data)
        assert files.read("large") == data

    def test_options_that_ssh_does_not_know(self, server):
        with pytest.raises(StorageError, match="no_such_option"):
            Files(server.new_url(), {**server.storage_options, "no_such_option": 1}).read("a")


@contextmanager
def sftp_without(folder: Path, *missing: str, overwrites: bool = False) -> Iterator[Files]:
    """An SFTP server that lacks extensions, and whose plain rename may replace what is there."""
    asyncssh = pytest.importorskip("asyncssh")

    class Server(asyncssh.SFTPServer):
        def __init__(self, channel):
            super().__init__(channel, chroot=str(folder).encode())

        def link(self, oldpath, newpath):
            if "link" in missing:
                raise asyncssh.SFTPOpUnsupported("no links")
            return super().link(oldpath, newpath)

        def posix_rename(self, oldpath, newpath):
            if "posix_rename" in missing:
                raise asyncssh.SFTPOpUnsupported("no posix-rename")
            return super().posix_rename(oldpath, newpath)

        def rename(self, oldpath, newpath):
            return super().posix_rename(oldpath, newpath) if overwrites else super().rename(oldpath, newpath)

    class Anyone(asyncssh.SSHServer):
        def begin_auth(self, username):
            return False

    async def start():
        key = asyncssh.generate_private_key("ssh-ed25519")
        return await asyncssh.listen("127.0.0.1", 0, server_factory=Anyone, server_host_keys=[key], sftp_factory=Server)

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    server = asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    try:
        yield Files(f"sftp://tester@127.0.0.1:{server.get_port()}/store", {"known_hosts": None})
    finally:
        loop.call_soon_threadsafe(server.close)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


class TestPoorSftpServers:
    def test_without_hard_links_it_is_a_rename_that_does_not_replace(self, tmp_path):
        with sftp_without(tmp_path, "link") as files:
            files.create("a/b", b"first")
            with pytest.raises(AlreadyExists):
                files.create("a/b", b"second")
            assert files.read("a/b") == b"first"
        assert os.listdir(tmp_path / "store" / "a") == ["b"]

    def test_and_if_it_does_replace_creating_is_refused(self, tmp_path):
        with sftp_without(tmp_path, "link", overwrites=True) as files:
            with pytest.raises(StorageError, match="renames over what is there, so two writers could both win"):
                files.create("a", b"first")
            files.replace("a", b"second")
            with pytest.raises(AlreadyExists):
                files.create("a", b"third")
        assert os.listdir(tmp_path / "store") == ["a"]

    def test_without_posix_rename_replacing_is_refused(self, tmp_path):
        with sftp_without(tmp_path, "posix_rename") as files:
            files.create("a", b"first")
            with pytest.raises(StorageError, match="has no posix-rename"):
                files.replace("a", b"second")
            assert files.read("a") == b"first"
        assert os.listdir(tmp_path / "store") == ["a"]
