"""The servers work, and looking at them sees what is there."""

import os
import signal

import fsspec
import pytest

from tests.servers import CLOUDS, SERVERS

QUICK = ("file", "memory", "s3", "gs")


@pytest.fixture(params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.clouds) for name in SERVERS])
def server(request, server_of):
    return server_of(request.param)


def test_looking_sees_what_was_written(server):
    url = server.new_url()
    look = server.look(url)
    assert look.keys() == set()
    look.write("a/b #1?%20+é.bin", b"1")
    look.write("c", b"22")
    assert look.keys() == {"a/b #1?%20+é.bin", "c"}
    assert look.read("a/b #1?%20+é.bin") == b"1"
    assert server.look(server.new_url()).keys() == set()


def test_fsspec_gets_in_and_sees_the_same(server):
    url = server.new_url()
    if url.startswith("sftp:"):
        pytest.skip("what fsspec has for it is not what storage uses")
    server.look(url).write("c", b"22")
    with fsspec.open(f"{url}/c", "rb", **server.storage_options) as file:
        assert file.read() == b"22"


@pytest.mark.parametrize("protocol", ["s3", "gs"])
def test_a_server_is_gone_at_the_end(protocol):
    with SERVERS[protocol]() as server:
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, signal.SIGKILL)


@pytest.mark.clouds
@pytest.mark.skipif(CLOUDS, reason="there, it is an error")
def test_without_azurite_it_is_said_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("tests.servers.CHECKOUT", tmp_path)
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("AZURITE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="npm install azurite"), SERVERS["abfs"]():
        pass
