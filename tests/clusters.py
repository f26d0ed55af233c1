"""Dask's clusters on this machine, for tests that bring up one themselves: threads of this process, on loopback."""

from __future__ import annotations

from typing import Any

from distributed import LocalCluster

#: By themselves, the web servers of workers listen on all interfaces.
LOOPBACK = {"dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


def local_cluster(cls: type[LocalCluster] = LocalCluster, **options: Any) -> LocalCluster:
    """Bring up a cluster; its workers are threads unless the options say ``processes=True``."""
    return cls(**{"processes": False, **LOOPBACK, **options})
