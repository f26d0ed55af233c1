"""What a run needs on a cluster before its first batch: credentials, its code, its plan; also on a new scheduler."""

from __future__ import annotations

import pickle
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client, WorkerPlugin

from headrace.code.bundle import Bundle
from headrace.entrusted import needed_by
from headrace.errors import HeadraceError, MissingModule
from headrace.execution.arrival import CodePlugin, plugin_name
from headrace.execution.confided import CredentialsPlugin, check_encrypted, listens_at
from headrace.execution.line import RETRY, SILENCE, Line
from headrace.execution.logs import settings
from headrace.execution.scheduler import Opened, claim_code
from headrace.execution.worker import PlanPlugin

#: By client: the scheduler that it had, and the plugins by which its runs brought code to that one's workers.
_BROUGHT: WeakKeyDictionary[Client, tuple[str, set[str]]] = WeakKeyDictionary()


class Supplies:
    """What one run brings.

    Parameters
    ----------
    line : Line
        To the scheduler.
    plan : bytes
        The pickled plan.
    code : Bundle, optional
        The first-party code of the flow.
    """

    def __init__(self, line: Line, plan: bytes, code: Bundle | None) -> None:
        self.line = line
        self.plan = plan
        self.code = code
        self.complete = False

    def bring(self, opened: Opened) -> None:
        """Bring all to a scheduler.

        Parameters
        ----------
        opened : Opened
            What it said.

        Raises
        ------
        MissingModule
            If it cannot be loaded there.
        OSError
            If a part of it could not be brought to all workers.
        """
        line, client = self.line, self.line.client
        self.complete = False
        if _BROUGHT.get(client, ("", set()))[0] != opened.scheduler:
            _BROUGHT[client] = opened.scheduler, set()
        try:
            if parcel := needed_by(self.plan):
                _confide(line, opened, parcel)
            self._bring_code()
            sha256 = self.code.sha256 if self.code is not None else None
            _bring(line, PlanPlugin(line.run_id, self.plan, settings(len(opened.nthreads)), sha256))
        except HeadraceError:
            raise
        except ImportError as error:
            raise MissingModule(
                f"a worker of {client!r} cannot load run {line.run_id}: {error}; install what is missing where the "
                "workers run"
            ) from error
        self.complete = True

    def _bring_code(self) -> None:
        """Bring the flow's code to the workers, unless an earlier run did."""
        if self.code is None:
            return
        name, brought = plugin_name(self.code.sha256), _BROUGHT[self.line.client][1]
        if name in brought:  # it is hardly ever forgotten meanwhile, and plans wait for their code
            self.line.later(self._claim_again)
            return
        if not self.line.ask(self.line.client.run_on_scheduler, claim_code, self.line.topic, name):
            _bring(self.line, CodePlugin(self.code))
        brought.add(name)

    async def _claim_again(self) -> None:
        """Claim code that an earlier run of this client brought, not making the run wait for the answer."""
        assert self.code is not None
        client = self.line.client
        if not await client.run_on_scheduler(claim_code, self.line.topic, plugin_name(self.code.sha256)):
            await client.register_plugin(CodePlugin(self.code))


@contextmanager
def carried(client: Client, whatever: object) -> Iterator[None]:
    """While the workers have the credentials that something refers to, apart from any run.

    Parameters
    ----------
    client : distributed.Client
        Of the cluster.
    whatever : object
        What is about to be sent: a storage, say.
    """
    parcel = needed_by(pickle.dumps(whatever))
    if not parcel:
        yield
        return
    # For the scheduler it is a run: if this process dies, they are forgotten.
    line = Line(client, f"check-{secrets.token_hex(8)}", lambda report: None, SILENCE)
    try:
        _confide(line, line.open(), parcel)
        yield
    finally:
        line.forget()


def _confide(line: Line, opened: Opened, parcel: Mapping[str, Mapping[str, Any]]) -> None:
    """Bring credentials to the workers, if nobody else can listen."""
    check_encrypted([*line.ask(line.client.run_on_scheduler, listens_at), *opened.nthreads])
    _bring(line, CredentialsPlugin(line.topic, parcel))


def _bring(line: Line, plugin: WorkerPlugin) -> None:
    """Bring something to the workers; again, if one died meanwhile, for nobody knows then which others have it."""
    end = time.monotonic() + SILENCE
    while True:
        try:
            line.ask(line.client.register_plugin, plugin)
        except OSError:
            if not line.connected or time.monotonic() > end:
                raise
            time.sleep(RETRY)
        else:
            return
