"""Files of a git commit, read by git itself into a passing repository: no checkout, so no hooks and no filters run."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence

from headrace.code.units import check_size
from headrace.errors import AccessDenied, NotFound, StorageError, Unreachable

#: Seconds within which a commit must be here.
DEADLINE = 120.0
#: How git's environment could point it at another repository.
_ELSEWHERE = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
_DENIED = ("permission denied", "authentication failed", "could not read username", "access denied", "403")
_UNREACHABLE = ("could not resolve", "timed out", "connection", "network is")
_FILE_MODES = ("100644", "100755")


@functools.lru_cache(maxsize=4)
def files_of(repository: str, commit: str, folder: str = "") -> Mapping[str, bytes]:
    """Return the files below a folder of a commit, by path from there.

    Parameters
    ----------
    repository : str
        A URL as git takes it: ``https://``, ``ssh://`` or ``file://``.
    commit : str
        Its full id, which git compares with the content.
    folder : str, optional
        Default: the whole commit.

    Raises
    ------
    NotFound, AccessDenied, Unreachable, StorageError
        If they cannot be had.
    """
    where = f"{repository}@{commit}"
    with tempfile.TemporaryDirectory(prefix="headrace-git-") as place:
        git = _Git(place, where)
        git("init", "--quiet", "--bare", "--template=", ".")
        try:
            git("fetch", "--quiet", "--depth=1", "--no-tags", repository, commit)
        except NotFound:  # not every server gives a commit by its id: then all branches and tags are asked for
            git("fetch", "--quiet", "--no-tags", repository, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
        git("cat-file", "-e", f"{commit}^{{commit}}")
        rows = _rows(git("ls-tree", "-r", "-l", "-z", "--full-tree", commit, *([f"{folder}/"] if folder else ())))
        check_size(f"the folder {folder!r} of {where}", {path: size for path, (_, size) in rows.items()})
        return _contents(git, rows, len(folder) + 1 if folder else 0)


def _rows(listing: bytes) -> dict[str, tuple[str, int]]:
    """Path → (id of the content, bytes); links and submodules are no files."""
    found = {}
    for row in filter(None, listing.split(b"\0")):
        facts, _, path = row.partition(b"\t")
        mode, _, blob, size = facts.decode().split()
        if mode in _FILE_MODES:
            found[os.fsdecode(path)] = blob, int(size)
    return found


def _contents(git: _Git, rows: Mapping[str, tuple[str, int]], skip: int) -> dict[str, bytes]:
    answer = git("cat-file", "--batch", sent="".join(f"{blob}\n" for blob, _ in rows.values()).encode())
    found, start = {}, 0
    for path, (_, size) in rows.items():
        start = answer.index(b"\n", start) + 1
        found[path[skip:]] = answer[start : start + size]
        start += size + 1
    return found


class _Git:
    """Runs git in a folder, without a shell, a terminal or questions, until a deadline."""

    def __init__(self, folder: str, where: str) -> None:
        self.folder = folder
        self.where = where
        self.end = time.monotonic() + DEADLINE
        self.environment = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
        self.environment |= {
            "GIT_TERMINAL_PROMPT": "0",
            "SSH_ASKPASS_REQUIRE": "never",
            "GIT_ALLOW_PROTOCOL": "file:https:ssh",
            "LC_ALL": "C",
        }

    def __call__(self, *arguments: str, sent: bytes = b"") -> bytes:
        try:
            process = subprocess.Popen(
                ["git", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,
            )
        except FileNotFoundError:
            raise StorageError(f"reading {self.where} needs the program git, which is not here; install it") from None
        try:
            out, told = process.communicate(sent, timeout=max(self.end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            raise Unreachable(
                f"git did not bring {self.where} within {DEADLINE:.0f} s; check the URL and the network"
            ) from None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # what it has started, too
                process.communicate()
        if process.returncode:
            raise self._error(arguments, told.decode(errors="replace"))
        return out

    def _error(self, arguments: Sequence[str], told: str) -> StorageError:
        lines = [line.strip() for line in told.splitlines() if line.strip()]
        said = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[0] if lines else "nothing")
        begin = f"git cannot {arguments[0]} {self.where}"
        lowered = told.lower()
        if any(word in lowered for word in _DENIED):
            return AccessDenied(f"{begin}: access was refused ({said}); give git credentials for it")
        if any(word in lowered for word in _UNREACHABLE):
            return Unreachable(f"{begin}: it does not answer ({said}); check the URL and the network")
        return NotFound(f"{begin} ({said}); check the URL, and that the commit was pushed")
