"""Others who use the same place at the same time: processes, or threads where processes cannot.

This file is also the program of such a process. It does what it is told, one line of JSON after the other, and
answers with one line each.
"""

from __future__ import annotations

import base64
import json
import os
import pickle
import random
import select
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, Protocol


class Answer(NamedTuple):
    """What came of an act: its value, or the name of the error's class and its text."""

    value: Any
    error: str = ""
    message: str = ""


class Player(Protocol):
    """Someone else at the place."""

    def tell(self, act: str, *arguments: Any) -> None:
        """Let it begin with an act; see ``ACTS``."""
        ...

    def answer(self) -> Answer:
        """Wait for what came of it."""
        ...


def content(mark: int, size: int) -> bytes:
    """Bytes of which no part could be taken for another, the same for the same mark."""
    return random.Random(mark).randbytes(size)


def _create(files: Any, key: str, mark: int, size: int) -> None:
    files.create(key, content(mark, size))


def _replace(files: Any, key: str, mark: int, size: int, times: int = 1) -> None:
    """With the marks ``mark``, ``mark + 2``, ``mark + 4`` …, so that two writers never write the same."""
    for number in range(times):
        files.replace(key, content(mark + 2 * number, size))


def _create_many(files: Any, keys: list[str], mark: int, size: int) -> list[str]:
    return sorted(files.create_many({key: content(mark, size) for key in keys}))


def _delete(files: Any, key: str) -> None:
    files.delete(key)


def _read_after_fork(files: Any, key: str, seconds: int) -> list[Any]:
    """What a forked process reads with what its parent opened: ``[bytes as hex or None, error, message]``."""
    files.read(key)  # so that there are connections, threads and locks that a fork does not take along
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            answer = _done(lambda: files.read(key).hex())
            os.write(writing, json.dumps(answer).encode())
        finally:
            os._exit(0)
    os.close(writing)
    try:
        ready, _, _ = select.select([reading], [], [], seconds)
        return list(json.loads(os.read(reading, 65536))) if ready else [None, "Hangs", f"for {seconds} s"]
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(reading)


ACTS: dict[str, Callable[..., Any]] = {
    "create": _create,
    "replace": _replace,
    "create_many": _create_many,
    "delete": _delete,
    "read_after_fork": _read_after_fork,
}


def _done(act: Callable[[], Any]) -> Answer:
    try:
        return Answer(act())
    except Exception as error:  # noqa: BLE001 - which one it was is what the exam wants to know
        return Answer(None, type(error).__name__, str(error))


class ThreadPlayer:
    """A thread of this process."""

    def __init__(self, files: Any, pool: ThreadPoolExecutor) -> None:
        self._files = files
        self._pool = pool
        self._under_way: Future[Answer] | None = None

    def tell(self, act: str, *arguments: Any) -> None:
        """See `Player`."""
        self._under_way = self._pool.submit(_done, lambda: ACTS[act](self._files, *arguments))

    def answer(self) -> Answer:
        """See `Player`."""
        assert self._under_way is not None
        return self._under_way.result()


class ProcessPlayer:
    """A process of its own, which can be killed.

    Parameters
    ----------
    url : str
        Of the place.
    storage_options : mapping
        Of the place.
    deadline : float
        Of the place.
    """

    def __init__(self, url: str, storage_options: Any, deadline: float) -> None:
        # -P: this file's folder holds modules whose names must not hide others.
        command = [sys.executable, "-P", __file__]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        # Options may hold secrets, so they go through the pipe and not where `ps` shows them.
        setup = pickle.dumps((sys.path, url, dict(storage_options), deadline))
        self._send(base64.b64encode(setup))

    def _send(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + b"\n")

    def tell(self, act: str, *arguments: Any) -> None:
        """See `Player`."""
        self._send(json.dumps([act, *arguments]).encode())

    def answer(self) -> Answer:
        """See `Player`."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the process ended with code {self._process.wait()}"
        return Answer(*json.loads(line))

    def answers_within(self, seconds: float) -> bool:
        """Wait for an answer, but no longer than that."""
        assert self._process.stdout is not None
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def processes(url: str, storage_options: Any, count: int, *, deadline: float = 15) -> Iterator[list[ProcessPlayer]]:
    """Start players that are ready to act, and end them."""
    with ExitStack() as stack:
        players = [ProcessPlayer(url, storage_options, deadline) for _ in range(count)]
        for player in players:
            stack.callback(player.kill)
        for player in players:
            player.answer()
        yield players


@contextmanager
def threads(files: Any, count: int) -> Iterator[list[ThreadPlayer]]:
    """The same with threads."""
    with ThreadPoolExecutor(count) as pool:
        yield [ThreadPlayer(files, pool) for _ in range(count)]


def value_of(answer: Answer) -> Any:
    """Return the value of an answer, which must not be an error."""
    assert not answer.error, f"{answer.error}: {answer.message}"
    return answer.value


def ask(player: Player, act: str, *arguments: Any) -> Any:
    """Let a player act; return the value."""
    player.tell(act, *arguments)
    return value_of(player.answer())


def race(players: Sequence[Player], act: str, key: str, size: int) -> int:
    """Let all create the same at once; return whose mark won. Exactly one must, and the others must be told."""
    for mark, player in enumerate(players):
        player.tell(act, key, mark, size)
    answers = [player.answer() for player in players]
    winners = [mark for mark, answer in enumerate(answers) if not answer.error]
    assert len(winners) == 1, f"{len(winners)} winners of {key}: {answers}"
    assert {answer.error for answer in answers} == {"", "AlreadyExists"}, answers
    return winners[0]


def main() -> None:
    """Do what comes in, line by line, until nothing more comes."""
    path, url, storage_options, deadline = pickle.loads(base64.b64decode(sys.stdin.buffer.readline()))
    sys.path[:] = path
    from headrace.storage.files import Files

    def say(answer: Answer) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()

    files = Files(url, storage_options, deadline=deadline)
    say(Answer("ready"))
    for line in sys.stdin.buffer:
        act, *arguments = json.loads(line)
        say(_done(lambda act=act, arguments=arguments: ACTS[act](files, *arguments)))  # type: ignore[misc]


if __name__ == "__main__":
    main()
