"""``StoredFlow``: one flow as a storage holds it, to look at and to run."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from headrace.core.flow import FlowDefinition
from headrace.errors import LeftOut
from headrace.report.html import stored_flow_html
from headrace.storage.flows import StoredFlows
from headrace.storage.resolving import Found
from headrace.storage.runs import RunRecord
from headrace.storage.versions import Version

if TYPE_CHECKING:
    from headrace.execution.runner import FlowRunner


class StoredFlow:
    """A flow in a storage, as ``storage["etl"]`` or ``storage["etl@prod"]`` finds it. What it tells is read when asked.

    Parameters
    ----------
    storage : Storage
        Where it lies.
    found : Found
        Which one.
    get_runner : callable
        Returns a runner for a location.

    Attributes
    ----------
    name : str
        Of the flow.
    location : str
        Of the version that was asked for. Versions that are added later do not change it.
    number : int or None
        Of that version, if it was asked for by number or label, or is the newest.
    """

    def __init__(self, storage: StoredFlows, found: Found, get_runner: Callable[[str], FlowRunner]) -> None:
        self._storage = storage
        self._get_runner = get_runner
        self.name, self.location, self.number = found.name, found.location, found.number

    def __repr__(self) -> str:
        number = "" if self.number is None else f"@{self.number}"
        return f"<StoredFlow {self.name}{number} ({self._digest[:8]}) in {self._storage.url}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StoredFlow):
            return NotImplemented
        return (self._storage.url, self.location) == (other._storage.url, other.location)

    def __hash__(self) -> int:
        return hash((self._storage.url, self.location))

    @property
    def _digest(self) -> str:
        return self.location.rpartition("/")[2]

    @property
    def versions(self) -> list[Version]:
        """All versions of the flow, newest last, with their labels, as the storage says now.

        None, with a warning, where that cannot be known: HTTP has no listings.
        """
        return self._storage.versions(self.name) if self._lists("versions") else []

    @property
    def labels(self) -> dict[str, int]:
        """The labels of the flow, and the number of the version that each points at now; see `versions`."""
        return self._storage.labels(self.name) if self._lists("labels") else {}

    def _lists(self, what: str) -> bool:
        """Whether the storage can tell what there is of a flow; warn if not."""
        lists = self._storage.files.lists
        if not lists:
            warnings.warn(
                f"the {what} of flow {self.name!r} are not known: {self._storage.url} has no listings; this one is at "
                f"{self.location}",
                LeftOut,
                stacklevel=3,
            )
        return lists

    @property
    def manifest(self) -> dict[str, Any]:
        """What this version says about itself; no code of it is run."""
        return self._storage.manifest(self.location)

    def runs(self, limit: int | None = 20) -> list[RunRecord]:
        """Return the runs of the flow, of whichever version, newest first.

        Parameters
        ----------
        limit : int, optional
            How many at most; None: all.
        """
        return self._storage.runs(limit, flow=self.name)

    def load(self) -> FlowDefinition:
        """Return the flow itself."""
        return self._storage.load(self.location)

    def runner(self) -> FlowRunner:
        """Return a way to run this version."""
        return self._get_runner(self.location)

    def _repr_html_(self) -> str:
        rows = [
            (version.number, version.labels, version.time, version.sha256[:8], version.location == self.location)
            for version in (reversed(self.versions) if self._storage.files.lists else ())
        ]
        return stored_flow_html(self.manifest, f"{self._storage.url}/{self.location}", rows)
