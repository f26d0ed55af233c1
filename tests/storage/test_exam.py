"""Every protocol that storage knows sits the exam that third parties inherit, on a real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.storage.files import DEADLINE, Files
from headrace.testing import FlowStorageTests, Place, StorageTests
from headrace.testing.players import content, processes, race
from tests.servers import CLOUDS, Server


class Exam(StorageTests, FlowStorageTests):
    protocol: str
    refuses: frozenset[str] = frozenset()
    shared = True
    races, kills, many = (1000, 8, 1200) if CLOUDS else (100, 2, 120)

    @pytest.fixture
    def place(self, server_of: Callable[[str], Server]) -> Place:
        server = server_of(self.protocol)
        url = server.new_url()
        # An emulator that is asked for a thousand things at once is slow, and no less exact.
        deadline = 60 if CLOUDS else DEADLINE
        return Place(url, server.storage_options, server.look(url), self.refuses, self.shared, deadline)


class TestFile(Exam):
    protocol = "file"


class TestMemory(Exam):
    protocol = "memory"
    shared = False


class TestS3(Exam):
    protocol = "s3"


class TestGS(Exam):
    protocol = "gs"


@pytest.mark.clouds
class TestABFS(Exam):
    protocol = "abfs"

    def test_creators_of_many_blocks(self, place: Place, files: Files) -> None:
        """Beyond 64 MiB, Azure is sent blocks, and then the list of them; that must be exclusive, too."""
        size = 70_000_000
        with processes(place.url, place.storage_options, 2, deadline=place.deadline) as players:
            winner = race(players, "create", "blocks", size)
        assert files.read("blocks") == content(winner, size)


@pytest.mark.clouds
class TestSFTP(Exam):
    protocol = "sftp"


@pytest.mark.clouds
class TestHTTP(Exam):
    protocol = "http"
    refuses = frozenset({"create", "replace", "list", "delete"})
