"""The one question that the HTTP port of a scheduler with TLS answers to Dask's operator: since when it has been idle.

Dask's own ``distributed.http.scheduler.api`` answers it, too, but also lets everybody who reaches the port retire
workers. Imported by the scheduler.
"""

from typing import Any

from distributed.http.scheduler.api import CheckIdleHandler

routes: list[tuple[str, type, dict[str, Any]]] = [("/api/v1/check_idle", CheckIdleHandler, {})]
