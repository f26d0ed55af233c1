"""Credentials on their way to the workers of a run: beside its plan, and over encrypted connections only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from distributed import WorkerPlugin

from headrace import entrusted
from headrace.errors import SetupError

#: Connections that nobody else can listen to: encrypted ones, and those within one process.
_SAFE = ("tls://", "inproc://")


class CredentialsPlugin(WorkerPlugin):
    """Brings credentials of storages to a worker, for one run.

    Parameters
    ----------
    name : str
        Of the run's topic.
    parcel : mapping
        See `headrace.entrusted.needed_by`.
    """

    idempotent = False

    def __init__(self, name: str, parcel: Mapping[str, Mapping[str, Any]]) -> None:
        self.name = name_for(name)
        self.parcel = parcel

    def __repr__(self) -> str:
        return f"<CredentialsPlugin {self.name}>"

    def setup(self, worker: Any) -> None:
        """Keep them in this process's memory."""
        entrusted.bring(self.name, self.parcel)

    def teardown(self, worker: Any) -> None:
        """Forget them."""
        entrusted.forget(self.name)


def name_for(topic: str) -> str:
    """Return the name of the plugin that brings the credentials for a run."""
    return f"{topic}-credentials"


def check_encrypted(addresses: Iterable[str]) -> None:
    """Refuse a cluster on whose connections others could listen.

    Parameters
    ----------
    addresses : iterable of str
        At which its scheduler and its workers listen.

    Raises
    ------
    SetupError
        Names the address.
    """
    for address in addresses:
        if not address.startswith(_SAFE):
            raise SetupError(
                "the run needs a storage with ship_credentials=True, and credentials travel over encrypted connections "
                f"only, but this cluster talks at {address}; use one with TLS (tls://…), or let the workers find "
                "credentials themselves: in their own environment, or by Storage(..., credentials='module:function')",
                address=address,
            )


def listens_at(dask_scheduler: Any = None) -> list[str]:
    """Return all addresses at which the scheduler listens. Runs on the scheduler."""
    return [listener.contact_address for listener in dask_scheduler.listeners]
