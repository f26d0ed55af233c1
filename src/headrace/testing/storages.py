"""``StorageTests``: what headrace needs of a medium, as an exam."""

from __future__ import annotations

import asyncio
import json
import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from headrace.errors import AlreadyExists, HeadraceError, NotFound, StorageError
from headrace.storage.confidential import secret_texts
from headrace.storage.files import Files
from headrace.store import Storage
from headrace.testing.place import Place
from headrace.testing.players import Player, ProcessPlayer, ask, content, processes, race, threads, value_of

#: keys that trip up URLs, shells, globs and file systems. All of them are asked for at once.
STRANGE_KEYS = (
    "a b", "a+b", "a%20b", "a%2Fb", "a#b", "a?b", "a?b=c&d", "a[b]", "a*", "a**b", "{a,b}", "~a", "a@b:c", "a=b;c",
    "'a'", '"a"', "$a", "(a)", "a!", "a,b", "-a", ".a", "a.", "..a", "a..b", "grüße", "日本語", "🜄", "é", "é",
    "x" * 200, "/".join("abcdefghijklmnopqrstuvwxyz"), "/".join(["part-" + "y" * 95] * 8),
)  # fmt: skip


class StorageTests:
    """An exam of the verbs that everything in headrace stands on, for pytest.

    Inherit, and define a fixture ``place`` that returns a new, empty `Place` for each test. What the protocol cannot
    promise stands in ``place.refuses``: it is examined that it is refused, and what needs it is left out.

    Attributes
    ----------
    races : int
        How many objects two processes try to create at the same moment.
    kills : int
        How many writers are killed in mid-write, for each verb that writes.
    large : int
        Bytes of a large object.
    many : int
        How many objects a large listing has.
    """

    races = 100
    kills = 4
    large = 20_000_000
    many = 120

    @pytest.fixture
    def place(self) -> Place:
        """Where the exam takes place; to be defined by the heir."""
        raise NotImplementedError("define a fixture 'place' that returns a headrace.testing.Place")

    @pytest.fixture
    def files(self, place: Place) -> Files:
        """What is examined."""
        return Files(place.url, place.storage_options, deadline=place.deadline)

    @pytest.fixture
    def put(self, place: Place, files: Files) -> Callable[[str, bytes], None]:
        """Puts an object there, by our own verb if it is promised."""
        if "create" not in place.refuses:
            return files.create
        assert place.look is not None, "a place that refuses 'create' needs a look, so that something can fill it"
        return place.look.write

    # -- one verb after the other ----------------------------------------------------------------------------

    def test_what_is_created_is_read(self, place: Place, files: Files, put: Callable[[str, bytes], None]) -> None:
        """Whole, under its key, on the medium too."""
        put("a/b.bin", b"\x00one\xff")
        assert files.read("a/b.bin") == b"\x00one\xff"
        assert files.exists("a/b.bin")
        _holds(place, {"a/b.bin": b"\x00one\xff"})

    def test_creation_keeps_the_first(self, place: Place, files: Files) -> None:
        """And leaves nothing of the second."""
        _promised(place, "create")
        files.create("a", b"first")
        with pytest.raises(AlreadyExists, match="'a'"):
            files.create("a", b"second")
        _holds(place, {"a": b"first"})
        assert files.read("a") == b"first"

    def test_empty_objects_are_objects(self, place: Place, files: Files, put: Callable[[str, bytes], None]) -> None:
        """They are there, and are not overwritten."""
        put("empty", b"")
        assert files.exists("empty")
        assert files.read("empty") == b""
        if "create" not in place.refuses:
            with pytest.raises(AlreadyExists):
                files.create("empty", b"no more")
        _holds(place, {"empty": b""})

    def test_large_objects(self, place: Place, files: Files, put: Callable[[str, bytes], None]) -> None:
        """Whatever parts they travel in."""
        data = content(1, self.large)
        put("large", data)
        assert files.read("large") == data
        _holds(place, {"large": data})
        if "create" not in place.refuses:
            with pytest.raises(AlreadyExists):
                files.create("large", content(2, self.large))
            assert files.read("large") == data
        if "replace" not in place.refuses:
            files.replace("large", content(3, self.large))
            _holds(place, {"large": content(3, self.large)})

    def test_replacing_writes_new_and_old(self, place: Place, files: Files) -> None:
        """A longer one by a shorter one, too."""
        _promised(place, "replace")
        files.replace("a", b"the first of them")
        files.replace("a", b"second")
        assert files.read("a") == b"second"
        _holds(place, {"a": b"second"})

    def test_what_is_missing(self, files: Files) -> None:
        """Is told as such."""
        assert not files.exists("nope")
        assert not files.exists("no/such/folder")
        for key in ("nope", "no/such/folder"):
            with pytest.raises(NotFound, match=key):
                files.read(key)

    def test_a_folder_is_no_object(self, files: Files, put: Callable[[str, bytes], None]) -> None:
        """Whether or not the medium has folders."""
        put("folder/a", b"1")
        assert not files.exists("folder")
        with pytest.raises(StorageError):
            files.read("folder")

    def test_lists_are_deep_sorted_and_by_whole_parts(
        self, place: Place, files: Files, put: Callable[[str, bytes], None]
    ) -> None:
        """``x`` is no prefix of ``x2/c``."""
        _promised(place, "list")
        assert files.list() == files.children() == []
        for key in ("x/b", "x/a/deep", "x/a/deeper/still", "x2/c", "top"):
            put(key, b"1")
        assert files.list() == ["top", "x/a/deep", "x/a/deeper/still", "x/b", "x2/c"]
        assert files.list("x") == files.list("x/") == ["x/a/deep", "x/a/deeper/still", "x/b"]
        assert files.list("x/a/deep") in ([], ["x/a/deep"])
        assert files.list("nothing/here") == []
        assert files.children() == ["top", "x", "x2"]
        assert files.children("x") == ["a", "b"]
        assert files.children("x/a") == ["deep", "deeper"]
        assert files.children("nothing") == []

    def test_long_lists_are_complete(self, place: Place, files: Files) -> None:
        """Also if the store gives them out in pages."""
        _promised(place, "create", "list")
        keys = [f"many/{number:06}" for number in range(self.many)]
        assert files.create_many(dict.fromkeys(keys, b"1")) == set()
        assert files.list("many") == keys
        assert files.children("many") == [key.removeprefix("many/") for key in keys]

    def test_deleting(self, place: Place, files: Files) -> None:
        """Removes that object only, and does nothing if there is none."""
        _promised(place, "create", "delete")
        for key in ("x/a", "x/ab", "x2/a"):
            files.create(key, b"1")
        files.delete("x/a")
        files.delete("x/a")
        files.delete("nope")
        files.delete("no/such/folder")
        _holds(place, {"x/ab": b"1", "x2/a": b"1"})
        assert not files.exists("x/a")
        files.create("x/a", b"2")
        assert files.read("x/a") == b"2"

    def test_deleting_a_folder_takes_nothing_along(self, place: Place, files: Files) -> None:
        """It may be refused, or do nothing."""
        _promised(place, "create", "delete")
        files.create("x/a", b"1")
        with _ours_or_nothing():
            files.delete("x")
        assert files.read("x/a") == b"1"

    def test_an_object_below_an_object(self, place: Place, files: Files) -> None:
        """Some media cannot: then it is an error of ours, and the first stays."""
        _promised(place, "create")
        files.create("a", b"1")
        with _ours_or_nothing():
            files.create("a/b", b"2")
        assert files.read("a") == b"1"

    def test_strange_keys_live_side_by_side(
        self, place: Place, files: Files, put: Callable[[str, bytes], None]
    ) -> None:
        """Each with its own bytes, and under its very name on the medium."""
        objects = {f"keys/{key}": key.encode() for key in STRANGE_KEYS}
        for key, data in objects.items():
            put(key, data)
        assert {key: files.read(key) for key in objects} == objects
        assert all(files.exists(key) for key in objects)
        _holds(place, objects)
        if "list" not in place.refuses:
            assert files.list() == files.list("keys") == sorted(objects)
            assert files.children("keys") == sorted({key.partition("/")[0] for key in STRANGE_KEYS})
        if "replace" not in place.refuses:
            for key in objects:
                files.replace(key, b"new " + objects[key])
            _holds(place, {key: b"new " + data for key, data in objects.items()})
        if "delete" not in place.refuses:
            for key in list(objects)[::2]:
                files.delete(key)
                del objects[key]
            assert files.exists_many(f"keys/{key}" for key in STRANGE_KEYS) == set(objects)

    @pytest.mark.parametrize("key", ["", "/etc/passwd", "../up", "a/../../b", ".."])
    def test_keys_stay_below_the_root(self, files: Files, key: str) -> None:
        """By no verb is anything else reached."""
        asks: list[Callable[[], Any]] = [
            lambda: files.read(key),
            lambda: files.exists(key),
            lambda: files.create(key, b""),
            lambda: files.replace(key, b""),
            lambda: files.delete(key),
        ]
        for refused in asks:
            with pytest.raises(StorageError):
                refused()

    # -- many at once ----------------------------------------------------------------------------------------

    def test_batches(self, place: Place, files: Files) -> None:
        """Say what was there, and what was not."""
        _promised(place, "create")
        objects = {f"batch/{number}": content(number, 100) for number in range(30)}
        files.create("batch/7", b"mine")
        assert files.create_many(objects) == {"batch/7"}
        there = {**objects, "batch/7": b"mine"}
        assert files.read_many([*objects, "nope"]) == there
        assert files.exists_many([*objects, "nope", "batch"]) == set(objects)
        assert files.create_many(objects) == set(objects)
        _holds(place, there)
        if "delete" not in place.refuses:
            files.delete_many([*list(objects)[:20], "nope"])
            assert files.exists_many(objects) == set(list(objects)[20:])

    def test_empty_batches(self, place: Place, files: Files) -> None:
        """Do nothing."""
        assert files.read_many([]) == {}
        assert files.exists_many([]) == set()
        if "create" not in place.refuses:
            assert files.create_many({}) == set()
        if "delete" not in place.refuses:
            files.delete_many([])

    def test_batches_that_only_read(self, files: Files, put: Callable[[str, bytes], None]) -> None:
        """Leave out what is missing."""
        put("a", b"1")
        put("folder/b", b"22")
        assert files.read_many(["a", "nope", "folder/b"]) == {"a": b"1", "folder/b": b"22"}
        assert files.exists_many(["a", "nope", "folder", "folder/b"]) == {"a", "folder/b"}

    # -- others at the same place ----------------------------------------------------------------------------

    def test_of_racing_creators_one_wins(self, place: Place, files: Files) -> None:
        """Each time, and the other is told."""
        _promised(place, "create")
        with _players(place, files, 2) as players:
            winners = [race(players, "create", f"race/{number}", 1000) for number in range(self.races)]
        assert files.read_many(f"race/{number}" for number in range(self.races)) == {
            f"race/{number}": content(winner, 1000) for number, winner in enumerate(winners)
        }
        _holds_no_more_than(place, self.races)

    def test_of_racing_creators_of_large_objects_one_wins(self, place: Place, files: Files) -> None:
        """However many parts the object travels in."""
        _promised(place, "create")
        numbers = max(1, self.races // 250)
        with _players(place, files, 2) as players:
            for number in range(numbers):
                winner = race(players, "create", f"race/{number}", self.large)
                assert files.read(f"race/{number}") == content(winner, self.large)
        _holds_no_more_than(place, numbers)

    def test_of_racing_batches_each_object_is_won_once(self, place: Place, files: Files) -> None:
        """Though a batch is no transaction: the one may win some, the other the rest."""
        _promised(place, "create")
        keys = [f"race/{number}" for number in range(self.races)]
        with _players(place, files, 2) as players:
            for mark, player in enumerate(players):
                player.tell("create_many", keys, mark, 1000)
            taken = [set(value_of(player.answer())) for player in players]
        assert taken[0] | taken[1] == set(keys)
        assert not taken[0] & taken[1], "an object that nobody won"
        assert files.read_many(keys) == {key: content(0 if key in taken[1] else 1, 1000) for key in keys}
        _holds_no_more_than(place, len(keys))

    def test_a_reader_never_sees_half_of_a_replacement(self, place: Place, files: Files) -> None:
        """It sees the old bytes or the new ones, while two writers replace them."""
        _promised(place, "replace")
        times, size = 10, 300_000
        whole = {content(mark, size) for mark in range(2 * times)}
        files.replace("hint", content(0, size))
        reads = 0
        with _players(place, files, 2) as players, ThreadPoolExecutor(2) as pool:
            while reads < 25:
                for mark, player in enumerate(players):
                    player.tell("replace", "hint", mark, size, times)
                answers = [pool.submit(player.answer) for player in players]
                while True:
                    assert files.read("hint") in whole, f"neither old nor new, at read {reads}"
                    reads += 1
                    if all(answer.done() for answer in answers):
                        break
                assert [value_of(answer.result()) for answer in answers] == [None, None]
        last = 2 * (times - 1)
        assert files.read("hint") in {content(last, size), content(last + 1, size)}
        _holds_no_more_than(place, 1)

    def test_what_others_do_is_seen_at_once(self, place: Place, files: Files) -> None:
        """Listings that were asked for before hide nothing."""
        _promised(place, "create", "list", "delete")
        with _players(place, files, 1) as [other]:
            for number in range(5):
                key = f"seen/{number}"
                before = [f"seen/{earlier}" for earlier in range(number)]
                assert files.list("seen") == before
                assert files.children("seen") == [str(earlier) for earlier in range(number)]
                assert not files.exists(key)
                with pytest.raises(NotFound):
                    files.read(key)
                assert ask(other, "create", key, number, 10) is None
                assert files.exists(key)
                assert files.read(key) == content(number, 10)
                assert files.list("seen") == [*before, key]
            for number in range(5):
                key = f"seen/{number}"
                assert ask(other, "delete", key) is None
                assert not files.exists(key)
                assert key not in files.list("seen")
                with pytest.raises(NotFound):
                    files.read(key)

    def test_deleting_the_same_at_once(self, place: Place, files: Files) -> None:
        """Nobody is told that somebody else was quicker."""
        _promised(place, "create", "delete")
        keys = [f"gone/{number}" for number in range(20)]
        files.create_many(dict.fromkeys(keys, b"1"))
        with _players(place, files, 2) as players:
            for key in keys:
                for player in players:
                    player.tell("delete", key)
                assert [value_of(player.answer()) for player in players] == [None, None]
        assert files.exists_many(keys) == set()

    @pytest.mark.parametrize("verb", ["create", "replace"])
    def test_what_a_killed_writer_leaves(self, place: Place, files: Files, verb: str) -> None:
        """An object that is whole, or the state before; and nothing that a listing shows."""
        _promised(place, verb)
        if not place.shared:
            pytest.skip("what is in memory ends with its process")
        old = content(0, self.large) if verb == "replace" else None
        cut = 0
        for number in range(self.kills):
            key = f"killed/{number}"
            if old is not None:
                files.replace(key, old)
            with _processes(place, 1) as [writer]:
                begin = time.perf_counter()
                assert ask(writer, verb, f"measured/{number}", 1, self.large) is None
                seconds = time.perf_counter() - begin
                writer.tell(verb, key, 1, self.large)
                cut += not writer.answers_within(seconds * (number + 0.5) / self.kills)
                writer.kill()
            # What was under way may still arrive at a store, so each look may see more than the one before.
            if "list" not in place.refuses:
                listed = files.list()
                assert set(listed) <= {f"{what}/{n}" for what in ("killed", "measured") for n in range(number + 1)}
                assert key not in listed or files.exists(key)
            there = files.exists(key)
            found = files.read_many([key]).get(key)
            assert found in (old, content(1, self.large)), f"neither the state before nor whole: {len(found or b'')}"
            assert found is not None or not there
            if verb == "create":
                with _ours_or_nothing():
                    files.create(key, b"the next one")
                assert files.read(key) in (b"the next one", content(1, self.large))
        assert cut, "no writer was killed in mid-write; give a larger object"

    # -- where it is used ------------------------------------------------------------------------------------

    def test_threads_share_one(self, place: Place, files: Files, put: Callable[[str, bytes], None]) -> None:
        """And each gets its own answers."""
        for number in range(8):
            put(f"shared/{number}", content(number, 10_000))

        def read(number: int) -> list[bytes]:
            return [files.read(f"shared/{number}") for _ in range(5)]

        with ThreadPoolExecutor(8) as pool:
            assert [*pool.map(read, range(8))] == [[content(number, 10_000)] * 5 for number in range(8)]

    def test_inside_a_running_event_loop(self, files: Files, put: Callable[[str, bytes], None]) -> None:
        """As in a notebook."""

        async def cell() -> tuple[bytes, dict[str, bytes]]:
            put("a", b"1")
            return files.read("a"), files.read_many(["a"])

        assert asyncio.run(cell()) == (b"1", {"a": b"1"})

    def test_after_a_fork(self, place: Place, put: Callable[[str, bytes], None]) -> None:
        """The right answer, or a clear error; never a wrong answer, and no hanging."""
        if not place.shared:
            pytest.skip("only threads use it")
        put("a", b"1")
        with _processes(place, 1) as [player]:
            value, error, message = ask(player, "read_after_fork", "a", 60)
        assert (value, error) == (b"1".hex(), "") or error in _OUR_ERRORS, f"{error}: {message}"

    # -- what is said ----------------------------------------------------------------------------------------

    def test_what_is_refused_is_explained(self, place: Place, files: Files, put: Callable[[str, bytes], None]) -> None:
        """By an error that names the protocol, and before anything is done."""
        put("a", b"1")
        asks: dict[str, list[Callable[[], Any]]] = {
            "create": [lambda: files.create("b", b"2"), lambda: files.create_many({"b": b"2"})],
            "replace": [lambda: files.replace("a", b"2")],
            "list": [files.list, files.children],
            "delete": [lambda: files.delete("a"), lambda: files.delete_many(["a"])],
        }
        assert place.refuses <= set(asks)
        for verb in place.refuses:
            for refused in asks[verb]:
                with pytest.raises(StorageError, match=place.url.partition(":")[0]) as caught:
                    refused()
                assert not isinstance(caught.value, (AlreadyExists, NotFound)), f"{verb} was tried"
        _holds(place, {"a": b"1"})

    def test_secrets_stay_here(self, place: Place, files: Files) -> None:
        """Not in a text, a pickle, or what is written down."""
        secrets = [*secret_texts(place.storage_options)]
        storage = Storage(place.url, place.storage_options)
        texts = [repr(files), repr(storage), repr(storage.spec), json.dumps(storage.serialize())]
        texts.append(pickle.dumps(storage).decode("latin-1"))
        with pytest.raises(NotFound) as caught:
            files.read("nope")
        texts.append(str(caught.value))
        assert not [secret for secret in secrets for text in texts if secret in text]
        with pytest.raises(HeadraceError):
            pickle.dumps(files)


_OUR_ERRORS = {"StorageError", "Unreachable", "NotPicklable"}


def _promised(place: Place, *verbs: str) -> None:
    if refused := place.refuses & set(verbs):
        pytest.skip(f"refused: {', '.join(sorted(refused))}")


def _holds(place: Place, objects: dict[str, bytes]) -> None:
    """Whether the medium itself holds these objects, and nothing else: no temporary ones, no others."""
    if place.look is not None:
        assert place.look.keys() == set(objects)
        for key, data in objects.items():
            assert place.look.read(key) == data, key


def _holds_no_more_than(place: Place, count: int) -> None:
    if place.look is not None:
        assert len(place.look.keys()) == count


@contextmanager
def _ours_or_nothing() -> Iterator[None]:
    try:
        yield
    except HeadraceError:
        return


def _processes(place: Place, count: int) -> AbstractContextManager[list[ProcessPlayer]]:
    return processes(place.url, place.storage_options, count, deadline=place.deadline)


@contextmanager
def _players(place: Place, files: Files, count: int) -> Iterator[Sequence[Player]]:
    if place.shared:
        with _processes(place, count) as players:
            yield players
    else:
        with threads(files, count) as others:
            yield others
