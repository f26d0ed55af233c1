"""Dask's operator as it is, but without the libraries that kopf imports for handlers that use them: 40 % of a start."""

from __future__ import annotations

import sys


def main() -> None:
    unused = ("kubernetes", "kubernetes_asyncio", "pykube")
    sys.modules |= dict.fromkeys(unused)  # type: ignore[arg-type]  # importing them is an ImportError now
    from kopf.cli import main as kopf

    kopf()


if __name__ == "__main__":
    main()
