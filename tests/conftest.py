"""What holds for all tests, and the servers of `tests/servers.py`, each started when the first test asks for it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address

import pytest
from hypothesis import settings

from headrace import redaction
from headrace.execution import secrets
from tests.servers import SERVERS, Server

settings.load_profile("ci")  # the same examples each time, and no deadline: a busy machine is no failure


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """No socket of this process listens where other machines could reach it."""
    listen = socket.socket.listen

    def listen_here(self: socket.socket, *backlog: int) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            host = self.getsockname()[0]
            assert ip_address(host).is_loopback, f"a test listens on {host}; take `tests.clusters.LOOPBACK`"
        listen(self, *backlog)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "listen", listen_here)
        yield


@pytest.fixture(scope="session")
def server_of() -> Iterator[Callable[[str], Server]]:
    """Protocol → its server."""
    running: dict[str, Server] = {}
    with ExitStack() as stack:

        def server_of(protocol: str) -> Server:
            if protocol not in running:
                running[protocol] = stack.enter_context(SERVERS[protocol]())
            return running[protocol]

        yield server_of


@pytest.fixture(scope="session")
def s3(server_of: Callable[[str], Server]) -> Server:
    return server_of("s3")


@pytest.fixture(autouse=True)
def no_known_secrets() -> Iterator[None]:
    """What one test makes known as a secret is none for the next, whose flows may hold the same words."""
    values, forms = secrets._KNOWN.values, redaction._KNOWN.forms
    yield
    secrets._KNOWN.values, redaction._KNOWN.forms = values, forms
