"""The places where every row must come to the same: this process, Dask threads, Dask processes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import headrace as hr

PLACES = {
    "inline": lambda: hr.LocalEnvironment(),
    "threads": lambda: hr.DaskEnvironment("local", processes=False, n_workers=1, threads_per_worker=2),
    "processes": lambda: hr.DaskEnvironment("local", n_workers=2),
}


@pytest.fixture(scope="session", params=PLACES)
def place(request: pytest.FixtureRequest) -> Iterator[hr.Environment]:
    with PLACES[request.param]() as environment:
        environment.setup(None)
        yield environment


@pytest.fixture(scope="session", params=[name for name in PLACES if name != "inline"])
def dask_place(request: pytest.FixtureRequest) -> Iterator[hr.DaskEnvironment]:
    with PLACES[request.param]() as environment:
        environment.setup(None)
        yield environment
