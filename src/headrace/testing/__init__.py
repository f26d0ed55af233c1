"""Exams for storages and environments, to inherit.

Those of storages look at the medium itself, race processes, and kill writers in mid-write; those of environments look
at what is left of them.

A storage that fsspec knows passes or fails like this, with pytest::

    from headrace.testing import FlowStorageTests, Place, StorageTests

    class TestMyStore(StorageTests, FlowStorageTests):
        @pytest.fixture
        def place(self):
            return Place(f"mine://host/{uuid.uuid4().hex}", {"token": "…"})

and an environment like this::

    from headrace.testing import EnvironmentTests

    class TestMyEnvironment(EnvironmentTests):
        @pytest.fixture(scope="class")
        def make(self):
            return MyEnvironment
"""

from __future__ import annotations

from headrace.errors import MissingPackage

try:
    import pytest
except ImportError as error:
    raise MissingPackage("headrace.testing needs pytest, which is not installed; pip install pytest") from error

pytest.register_assert_rewrite("headrace.testing.environments", "headrace.testing.flows", "headrace.testing.storages")

from headrace.testing.environments import EnvironmentTests, Make  # noqa: E402 - so that their asserts tell what they saw
from headrace.testing.flows import FlowStorageTests  # noqa: E402
from headrace.testing.place import Look, Place  # noqa: E402
from headrace.testing.storages import StorageTests  # noqa: E402

__all__ = ["EnvironmentTests", "FlowStorageTests", "Look", "Make", "Place", "StorageTests"]
