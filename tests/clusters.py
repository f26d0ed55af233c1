"""Dask's clusters on this machine, for tests that bring up one themselves."""

from __future__ import annotations

from typing import Any

from distributed import LocalCluster

#: By themselves, the web servers of workers listen on all interfaces.
LOOPBACK = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


def local_cluster(**options: Any) -> LocalCluster:
    """Bring up a cluster on the loopback interface; its workers are threads, unless options say ``processes=True``."""
    return LocalCluster(**{"processes": False, **LOOPBACK, **options})
