"""Networks that fail and stores that are busy: the verbs keep their promise, or say in time why they cannot."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from headrace.errors import AccessDenied, AlreadyExists, HeadraceError, NotFound, Unreachable
from headrace.storage.files import Files
from headrace.testing.players import content, processes
from tests import proxies
from tests.proxies import Proxy, every, first, led_to
from tests.servers import CLOUDS, Server

STORES = ["s3", "gs", pytest.param("abfs", marks=pytest.mark.clouds)]
REMOTE = [*STORES, pytest.param("sftp", marks=pytest.mark.clouds)]
ALL = [*REMOTE, pytest.param("http", marks=pytest.mark.clouds)]
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
    @pytest.mark.parametrize("fault", [503, 500, 429, proxies.RESET, proxies.LOSE, proxies.HALF], ids=str)
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


#: seconds that a store gets in the tests below, and that may pass until the word is out on a busy machine
DEADLINE, SLACK = 1.5, 4.0


def ask_all(files: Files) -> list[tuple[str, float, BaseException | None]]:
    """Ask each verb at the same time, and return (verb, seconds, what was raised)."""
    asks: dict[str, Callable[[], Any]] = {
        "read": lambda: files.read("a"),
        "create": lambda: files.create("a", b"1"),
        "create a large one": lambda: files.create("large", bytes(400_000)),
        "replace": lambda: files.replace("a", b"1"),
        "exists": lambda: files.exists("a"),
        "list": lambda: files.list("x"),
        "children": lambda: files.children("x"),
        "delete": lambda: files.delete("a"),
        "read_many": lambda: files.read_many(["a", "b"]),
        "create_many": lambda: files.create_many({"a": b"1", "b": b"1"}),
    }

    def ask(verb: str) -> tuple[str, float, BaseException | None]:
        begin = time.monotonic()
        try:
            asks[verb]()
        except Exception as error:  # noqa: BLE001 - which one it is, is what is tested
            return verb, time.monotonic() - begin, error
        return verb, time.monotonic() - begin, None

    with ThreadPoolExecutor(len(asks)) as pool:
        return [*pool.map(ask, asks)]


def all_say(files: Files, kind: type[HeadraceError], *words: str, but: tuple[str, ...] = ()) -> None:
    for verb, seconds, error in ask_all(files):
        if verb in but:
            continue
        assert type(error) is kind, (verb, seconds, error)
        assert seconds < DEADLINE + SLACK, (verb, seconds)
        assert all(word in str(error) for word in words), (verb, str(error))
        assert "\n" not in str(error)


#: HTTP writes and lists nothing, whatever happens.
REFUSED_BY_HTTP = ("create", "create a large one", "create_many", "replace", "delete", "list", "children")


def refused_by(server: Server, url: str) -> tuple[str, ...]:
    return REFUSED_BY_HTTP if url.startswith("http") else ()


class TestLastingTrouble:
    """Each row of it ends in one sentence with what to do, in time."""

    @of(ALL)
    @pytest.mark.parametrize(
        "place",
        [proxies.address_that_refuses, proxies.address_that_drops, proxies.address_that_is_silent],
        ids=lambda place: place.__name__,
    )
    def test_nobody_answers(self, server: Server, url: str, place: Any) -> None:
        with place() as address:
            options = led_to(address, server, server.storage_options)
            files = Files(led_to(address, server, url), options, deadline=DEADLINE)
            all_say(files, Unreachable, "does not answer", "check", but=refused_by(server, url))

    @of(ALL)
    def test_no_such_host(self, server: Server, url: str) -> None:
        port = server.endpoint.rpartition(":")[2]
        address = f"no-such-host.invalid:{port}"
        files = Files(led_to(address, server, url), led_to(address, server, server.storage_options), deadline=DEADLINE)
        all_say(files, Unreachable, "does not answer", "check", but=refused_by(server, url))

    @of([protocol for protocol in ALL if "sftp" not in str(protocol)])
    def test_a_store_that_is_always_busy(self, server: Server, proxy: Proxy, url: str) -> None:
        proxy.choose = every(1, 503)
        options = led_to(proxy.address, server, server.storage_options)
        files = Files(led_to(proxy.address, server, url), options, deadline=DEADLINE)
        all_say(files, Unreachable, "too busy", "try again later", but=refused_by(server, url))
        assert len(proxy.asked) < 80, "a busy store is not to be asked without end"

    @of([protocol for protocol in ALL if "sftp" not in str(protocol)])
    def test_a_store_that_denies(self, server: Server, proxy: Proxy, url: str) -> None:
        proxy.choose = every(1, 403)
        options = led_to(proxy.address, server, server.storage_options)
        files = Files(led_to(proxy.address, server, url), options, deadline=DEADLINE)
        all_say(files, AccessDenied, "refuses access", "check the credentials", but=refused_by(server, url))

    @of(STORES)
    def test_no_such_bucket(self, server: Server) -> None:
        protocol = server.new_url().partition(":")[0]
        files = Files(f"{protocol}://there-is-no-such-bucket/x", server.storage_options)
        for verb, _, error in ask_all(files):
            if verb in ("exists", "delete", "read_many"):  # what is not there is not there
                assert error is None or type(error) is NotFound, (verb, error)
            else:
                assert type(error) is NotFound, (verb, error)
                assert "correct the URL" in str(error) or verb == "read", (verb, error)
