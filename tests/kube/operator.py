"""Dask's operator as it is, but for two things.

* The libraries are missing that kopf imports for handlers that use them: 40 % of a start.
* It opens no port-forwards. It would to a scheduler whose name is not known any more, as its cluster has gone since it
  was looked at, and would then do nothing else, for no cluster, for 200 seconds (``networking.is_comm_open``).
"""

from __future__ import annotations

import sys
from typing import NoReturn


async def no_forward(service: str, namespace: str, *_: object) -> NoReturn:
    raise ConnectionError(f"the name of the service {service} in {namespace} is not known")


def main() -> None:
    unused = ("kubernetes", "kubernetes_asyncio", "pykube")
    sys.modules |= dict.fromkeys(unused)  # type: ignore[arg-type]  # importing them is an ImportError now
    from dask_kubernetes.operator import networking
    from kopf.cli import main as kopf

    networking.port_forward_service = no_forward
    kopf()


if __name__ == "__main__":
    main()
