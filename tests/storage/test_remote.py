"""Deadlines, retries and batches of what lies behind a network, on a medium that fails as it is told."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time

import pytest
from fsspec.asyn import get_loop

from headrace.errors import AlreadyExists, NotFound, StorageError, Unreachable
from headrace.storage.files import Files
from headrace.storage.media import remote
from headrace.storage.media.remote import MOST_ATTEMPTS, Remote

from ..waiting import until


class Scripted(Remote):
    """A dict; what the next requests do first is told by a list: raise, wait for ever, or lose the answer."""

    LOST = "lost"
    SILENT = "silent"

    def __init__(self, deadline: float = 1.0) -> None:
        super().__init__(get_loop(), "fake://x", deadline)
        self.objects: dict[str, bytes] = {}
        self.script: list[object] = []
        self.asked: list[str] = []
        self.under_way = self.most_under_way = self.cancelled = 0

    async def _do(self, verb, key, act):
        self.asked.append(verb)
        step = self.script.pop(0) if self.script else None
        if isinstance(step, Exception):
            raise step
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(1000 if step is self.SILENT else 0.001)
            answer = act()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        if step is self.LOST:
            raise ConnectionResetError("peer has gone")
        return answer

    def _get(self, key):
        if key not in self.objects:
            raise FileNotFoundError(key)
        return self.objects[key]

    def _put_new(self, key, data):
        if key in self.objects:
            raise FileExistsError(key)
        self.objects[key] = data

    async def _read(self, key):
        return await self._do("read", key, lambda: self._get(key))

    async def _create(self, key, data, mark):
        await self._do("create", key, lambda: self._put_new(key, data))

    async def _replace(self, key, data):
        await self._do("replace", key, lambda: self.objects.__setitem__(key, data))

    async def _size(self, key):
        return await self._do("size", key, lambda: len(self._get(key)))

    async def _delete(self, key):
        await self._do("delete", key, lambda: self.objects.pop(key))

    async def _pages(self, key, *, deep):
        names = sorted(self.objects)
        for begin in range(0, len(names), 10):
            yield await self._do("page", key, lambda begin=begin: names[begin : begin + 10])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE", 0.002)


@pytest.fixture
def medium():
    return Scripted()


@pytest.fixture
def files(medium):
    files = Files("memory://x", deadline=medium.deadline)
    files._medium = medium
    return files


def busy():
    return OSError(16, "Service Unavailable: SlowDown")


class TestRetries:
    def test_what_passes_by_itself_is_asked_again(self, files, medium):
        medium.script = [busy(), ConnectionResetError("gone"), TimeoutError()]
        files.create("a", b"1")
        assert medium.objects == {"a": b"1"}
        assert medium.asked == ["create"] * 4

    def test_not_for_ever(self, files, medium):
        medium.script = [busy() for _ in range(100)]
        with pytest.raises(Unreachable, match=r"too busy to answer, also when asked again .*SlowDown.*try again later"):
            files.replace("a", b"1")
        assert len(medium.asked) == MOST_ATTEMPTS

    @pytest.mark.parametrize("error", [PermissionError("AccessDenied"), ValueError("odd"), FileNotFoundError("a")])
    def test_what_does_not_is_asked_once(self, files, medium, error):
        medium.script = [error]
        with pytest.raises(StorageError):
            files.read("a")
        assert medium.asked == ["read"]

    def test_pauses_grow(self, files, medium, monkeypatch):
        monkeypatch.setattr(remote, "FIRST_PAUSE", 0.05)
        medium.script = [busy() for _ in range(4)]
        begin = time.monotonic()
        files.replace("a", b"1")
        assert time.monotonic() - begin > (0.05 + 0.1 + 0.2 + 0.4) / 2


class TestGettingReady:
    def test_it_is_done_once_and_does_not_count_as_the_stores_time(self, monkeypatch):
        class Slow(Scripted):
            made = 0

            def _get_ready(self):
                self.made += 1
                threading.Event().wait(2 * self.deadline)

        medium = Slow(deadline=1.5)
        medium.replace("a", b"1")
        assert medium.read("a") == b"1"
        assert medium.made == 1

    def test_threads_wait_for_each_other(self):
        class Slow(Scripted):
            began, go_on, ready = threading.Event(), threading.Event(), False

            def _get_ready(self):
                self.began.set()
                assert self.go_on.wait(20)
                self.ready = True

            async def _size(self, key):
                assert self.ready
                return 1

        medium, outcomes = Slow(deadline=20), []
        threads = [threading.Thread(target=lambda: outcomes.append(medium.exists("a"))) for _ in range(2)]
        threads[0].start()
        assert medium.began.wait(20)
        threads[1].start()
        medium.go_on.set()
        for thread in threads:
            thread.join()
        assert outcomes == [True, True]

    def test_a_failure_is_told_and_tried_again(self):
        class Lame(Scripted):
            def _get_ready(self):
                if not self.asked:
                    self.asked.append("ready")
                    raise OSError("no models")

        medium = Lame()
        with pytest.raises(OSError, match="no models"):
            medium.replace("a", b"1")
        medium.replace("a", b"1")
        assert medium.asked == ["ready", "replace"]


class TestLostAnswers:
    def test_a_creation_that_was_done_is_ours(self, files, medium):
        medium.script = [Scripted.LOST]
        files.create("a", b"mine")
        assert medium.asked == ["create", "create", "read"]

    def test_another_writers_object_is_not(self, files, medium):
        medium.script = [ConnectionResetError("before it arrived")]
        medium.objects["a"] = b"theirs"
        with pytest.raises(AlreadyExists):
            files.create("a", b"mine")

    def test_without_a_lost_answer_the_same_bytes_are_not_ours(self, files, medium):
        medium.objects["a"] = b"same"
        with pytest.raises(AlreadyExists):
            files.create("a", b"same")
        assert medium.asked == ["create"]

    def test_the_look_may_fail_for_a_moment_too(self, files, medium):
        medium.script = [Scripted.LOST, None, ConnectionResetError("again")]
        files.create("a", b"mine")
        assert medium.asked == ["create", "create", "read", "read"]

    def test_in_a_batch(self, files, medium):
        medium.script = [Scripted.LOST] * 3
        assert files.create_many({"a": b"1", "b": b"2", "c": b"3"}) == set()


class TestDeadlines:
    def test_silence_is_waited_for_twice_and_within_the_deadline(self, files, medium):
        medium.objects["there"] = b"1"
        medium.script = [Scripted.SILENT] * 10
        for verb in (lambda: files.create("a", b"1"), lambda: files.exists("a"), files.list, lambda: files.delete("a")):
            medium.asked.clear()
            begin = time.monotonic()
            with pytest.raises(Unreachable, match="does not answer within 1 s"):
                verb()
            assert 0.9 <= time.monotonic() - begin < 5  # the machine may be busy
            assert len(medium.asked) == 2

    def test_a_connection_that_died_while_idle_costs_one_wait(self, files, medium):
        medium.script = [Scripted.SILENT]
        files.create("a", b"1")
        assert medium.objects == {"a": b"1"}

    def test_a_silent_read_of_a_small_object(self, files, medium):
        medium.objects["a"] = b"small"
        medium.script = [Scripted.SILENT]
        with pytest.raises(Unreachable):
            files.read("a")
        assert medium.asked == ["read", "size"]

    def test_a_large_object_is_given_the_time(self, files, medium, monkeypatch):
        monkeypatch.setattr(remote, "SLOWEST", 1000)
        medium.objects["a"] = b"x" * 1500
        medium.script = [Scripted.SILENT]
        assert files.read("a") == b"x" * 1500
        assert medium.asked == ["read", "size", "read"]

    def test_objects_of_a_batch_share_the_line(self, files, medium, monkeypatch):
        monkeypatch.setattr(remote, "SLOWEST", 1000)
        objects = dict.fromkeys("abc", b"x" * 600)  # each by itself small enough to be there in time
        medium.objects = dict(objects)
        medium.script = [Scripted.SILENT] * 3
        assert files.read_many(objects) == objects

    def test_a_listing_may_take_long_as_long_as_pages_come(self, medium):
        medium.deadline = 0.1
        medium.objects = {f"a/{number:04}": b"" for number in range(1000)}
        begin = time.monotonic()
        assert len(medium.list("")) == 1000
        assert time.monotonic() - begin > medium.deadline

    def test_a_loop_that_is_stuck_is_noticed(self, files, medium):
        over = threading.Event()
        medium._loop.call_soon_threadsafe(over.wait)
        try:
            with pytest.raises(Unreachable, match="stuck"):
                files.read("a")
        finally:
            over.set()


class TestMany:
    def test_bounded_and_at_a_time(self, files, medium):
        objects = {f"a/{number}": b"%d" % number for number in range(500)}
        assert files.create_many(objects) == set()
        assert medium.most_under_way == medium.concurrency
        assert files.read_many(objects) == objects
        files.delete_many(objects)
        assert medium.objects == {}

    def test_the_first_trouble_ends_it_and_names_the_key(self, files, medium):
        medium.concurrency = 1
        medium.script = [None, None, PermissionError("AccessDenied")]
        with pytest.raises(StorageError, match="create 'c'"):
            files.create_many(dict.fromkeys("abcdef", b"1"))
        assert set(medium.objects) == {"a", "b"}

    def test_and_those_under_way_are_not_waited_for(self, files, medium):
        medium.deadline = 60.0
        medium.script = [Scripted.SILENT, Scripted.SILENT, PermissionError("AccessDenied")]
        begin = time.monotonic()
        with pytest.raises(StorageError, match="create 'c'"):
            files.create_many(dict.fromkeys("abc", b"1"))
        assert time.monotonic() - begin < medium.deadline * remote.SHARE

    def test_a_bucket_that_is_missing_is_not_a_missing_object(self, files, medium):
        medium.script = [FileNotFoundError("NoSuchBucket")]
        with pytest.raises(NotFound, match="no such bucket"):
            files.read_many(["a"])


class TestCallers:
    def test_whoever_is_interrupted_leaves_nothing_going_on(self, medium):
        medium.script = [Scripted.SILENT]

        class Interrupted(BaseException):
            pass

        def interrupt(*args, **kwargs):
            raise Interrupted

        monkeypatch = pytest.MonkeyPatch()
        with monkeypatch.context() as patch:
            patch.setattr(remote, "wait", interrupt)
            with pytest.raises(Interrupted):
                medium.read("a")
        until(lambda: medium.cancelled == 1 or not medium.asked)

    def test_on_the_loop_itself_it_is_refused(self, medium):
        async def misuse():
            medium.read("a")

        done = asyncio.run_coroutine_threadsafe(misuse(), medium._loop)
        with pytest.raises(StorageError, match=r"asyncio\.to_thread"):
            done.result(10)

    def test_on_another_loop_it_works(self, medium):
        medium.objects["a"] = b"1"

        async def use():
            return await asyncio.to_thread(medium.read, "a"), medium.read("a")

        assert asyncio.run(use()) == (b"1", b"1")

    def test_after_a_fork_it_is_refused(self, files):
        context = multiprocessing.get_context("fork")
        answers = context.SimpleQueue()
        child = context.Process(target=_ask_in_child, args=(files, answers))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        assert "forked" in answers.get()


def _ask_in_child(files, answers):
    try:
        files.read("a")
    except StorageError as error:
        answers.put(str(error))
