"""Networks that fail and stores that are busy for a moment: the verbs keep their promise, as if nothing had been."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from headrace.errors import AlreadyExists, NotFound
from headrace.storage.files import Files
from headrace.testing.players import content, processes
from tests import proxies
from tests.proxies import Proxy, every, first, led_to
from tests.servers import CLOUDS, Server

STORES = ["s3", "gs", pytest.param("abfs", marks=pytest.mark.clouds)]
REMOTE = [*STORES, pytest.param("sftp", marks=pytest.mark.clouds)]
MORE_STATUSES = [pytest.param(status, marks=pytest.mark.clouds) for status in (429, 500)]
#: the method of a request that writes
WRITES = "PUT|POST"


@pytest.fixture
def server(request: pytest.FixtureRequest, server_of: Callable[[str], Server]) -> Server:
    return server_of(request.param)


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with proxies.proxy_before(server) as proxy:
        yield proxy


@pytest.fixture
def url(server: Server) -> str:
    return server.new_url()


@pytest.fixture
def through(server: Server, proxy: Proxy, url: str) -> Files:
    """The place, seen through the proxy."""
    return Files(led_to(proxy.address, server, url), led_to(proxy.address, server, server.storage_options))


def of(protocols: list[Any]) -> Any:
    return pytest.mark.parametrize("server", protocols, indirect=True)


def use_all_verbs(files: Files) -> None:
    keys = [f"x/{number}" for number in range(6)]
    for key in keys:
        files.create(key, key.encode())
    assert [files.read(key) for key in keys] == [key.encode() for key in keys]
    for key in keys:
        with pytest.raises(AlreadyExists):
            files.create(key, b"no")
        files.replace(key, b"new")
        assert files.exists(key)
    assert files.list() == keys
    assert files.children("x") == ["0", "1", "2", "3", "4", "5"]
    assert files.create_many(dict.fromkeys([*keys, "y"], b"no")) == set(keys)
    assert files.read_many([*keys, "z"]) == dict.fromkeys(keys, b"new")
    files.delete(keys[0])
    files.delete_many(keys[1:])
    assert files.exists_many([*keys, "y"]) == {"y"}
    with pytest.raises(NotFound):
        files.read(keys[0])


class TestPassingTrouble:
    @of(STORES)
    @pytest.mark.parametrize("fault", [503, proxies.RESET, proxies.LOSE, proxies.HALF, *MORE_STATUSES], ids=str)
    def test_each_third_request_fails(self, server: Server, proxy: Proxy, through: Files, fault: Any) -> None:
        proxy.choose = every(3, fault)
        use_all_verbs(through)
        assert len(proxy.asked) > 30

    @of([pytest.param("http", marks=pytest.mark.clouds)])
    @pytest.mark.parametrize("fault", [503, proxies.RESET, proxies.HALF], ids=str)
    def test_a_web_server_is_asked_again(self, server: Server, proxy: Proxy, url: str, fault: Any) -> None:
        server.look(url).write("a", b"0123456789")
        files = Files(led_to(proxy.address, server, url))
        proxy.choose = every(2, fault)
        assert [files.read("a") for _ in range(3)] == [b"0123456789"] * 3
        assert len(proxy.asked) > 3

    @of(REMOTE)
    def test_connections_that_break_while_nobody_speaks(self, server: Server, proxy: Proxy, through: Files) -> None:
        through.create("a", b"1")
        for _ in range(3):
            proxy.cut()
            assert through.read("a") == b"1"
            proxy.cut()
            through.replace("a", b"1")
        proxy.cut()
        assert through.list() == ["a"]

    @of(STORES)
    def test_half_of_a_large_answer_is_never_taken_for_all(self, server: Server, proxy: Proxy, through: Files) -> None:
        data = content(1, 3_000_000)
        through.create("large", data)
        proxy.choose = every(2, proxies.HALF, "GET")
        assert [through.read("large") for _ in range(4)] == [data] * 4

    @of(STORES)
    def test_one_silence_is_survived(self, server: Server, proxy: Proxy, url: str) -> None:
        options = led_to(proxy.address, server, server.storage_options)
        files = Files(url, options, deadline=4)
        files.create("a", b"1")
        proxy.choose = first(1, proxies.SILENT)
        assert files.exists("a")


class TestLostAnswers:
    @of(STORES)
    def test_the_creator_knows_its_own_object(self, server: Server, proxy: Proxy, url: str, through: Files) -> None:
        proxy.choose = first(1, proxies.LOSE, WRITES)
        through.create("mine", b"of this writer")
        assert server.look(url).read("mine") == b"of this writer"
        assert len([asked for asked in proxy.asked if asked.startswith(("PUT", "POST"))]) > 1

    @of(STORES)
    def test_the_object_of_another_is_told(self, server: Server, proxy: Proxy, url: str, through: Files) -> None:
        server.look(url).write("theirs", b"of another writer")
        proxy.choose = first(2, proxies.LOSE, WRITES)
        with pytest.raises(AlreadyExists):
            through.create("theirs", b"of this writer")
        assert server.look(url).read("theirs") == b"of another writer"

    @of(STORES)
    @pytest.mark.parametrize("size", [1000, 12_000_000])
    def test_of_racing_creators_one_wins(self, server: Server, proxy: Proxy, url: str, size: int) -> None:
        proxy.choose = every(2, proxies.LOSE, WRITES)
        options = led_to(proxy.address, server, server.storage_options)
        keys = [f"race/{number}" for number in range((100 if CLOUDS else 6) if size < 10_000 else 2)]
        look = server.look(url)
        with processes(url, options, 2) as players:
            for key in keys:
                for mark, player in enumerate(players):
                    player.tell("create", key, mark, size)
                answers = [player.answer() for player in players]
                assert sorted(answer.error for answer in answers) == ["", "AlreadyExists"], answers
                assert look.read(key) == content(0 if not answers[0].error else 1, size)
        assert look.keys() == set(keys)

    @of(STORES)
    def test_also_if_they_write_the_same(self, server: Server, proxy: Proxy, url: str) -> None:
        proxy.choose = every(2, proxies.LOSE, WRITES)
        options = led_to(proxy.address, server, server.storage_options)
        with processes(url, options, 2) as players:
            for number in range(100 if CLOUDS else 6):
                for player in players:
                    player.tell("create", f"race/{number}", 1, 1000)
                answers = [player.answer() for player in players]
                assert sorted(answer.error for answer in answers) == ["", "AlreadyExists"], answers
