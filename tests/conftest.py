"""The servers of `tests/servers.py` as fixtures: each started once, when the first test asks for it.

For Hypothesis, a busy machine is no failure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from hypothesis import HealthCheck, settings

from headrace import redaction
from headrace.execution import secrets
from tests.servers import SERVERS, Server

settings.register_profile("busy", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


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
