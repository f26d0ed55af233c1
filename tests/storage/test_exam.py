"""Every protocol that storage knows sits the exam that third parties inherit, on a real server."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from headrace.testing import FlowStorageTests, Place, StorageTests
from tests.servers import CLOUDS, Server


class Exam(StorageTests, FlowStorageTests):
    protocol: str
    refuses: frozenset[str] = frozenset()
    shared = True
    races, kills, large, many = (1000, 12, 60_000_000, 1200) if CLOUDS else (100, 2, 20_000_000, 120)

    @pytest.fixture
    def place(self, server_of: Callable[[str], Server]) -> Place:
        server = server_of(self.protocol)
        url = server.new_url()
        return Place(url, server.storage_options, server.look(url), self.refuses, self.shared)


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


@pytest.mark.clouds
class TestSFTP(Exam):
    protocol = "sftp"


@pytest.mark.clouds
class TestHTTP(Exam):
    protocol = "http"
    refuses = frozenset({"create", "replace", "list", "delete"})
