"""What lies in a storage, by name: flows, versions, labels. Reads, points, removes and copies; stores nothing itself.

Nothing is remembered from one call to the next, so each sees what all writers have written by then.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Self

from headrace.errors import EnvelopeError, NoSuchFlow
from headrace.storage import copying, removing
from headrace.storage.files import Files
from headrace.storage.labels import ANYTHING, Anything, LabelChange, Labels
from headrace.storage.resolving import Found, find
from headrace.storage.versions import Version, Versions


class Catalog:
    """The flows below one URL. Not to be used by itself: see `StoredFlows`."""

    files: Files
    url: str

    def _waiting(self) -> dict[str, str]:
        """Location → name of the flows that are staged here, the newest last."""
        raise NotImplementedError

    # -- names -----------------------------------------------------------------------------------------------

    @property
    def flows(self) -> dict[str, str]:
        """Flow name → location of the newest version, as the medium says now, and what is staged here."""
        newest = Versions(self.files).newest(self._names())
        found = {name: version.location for name, version in newest.items()}
        found.update((name, location) for location, name in self._waiting().items())
        return dict(sorted(found.items()))

    def newest(self) -> dict[str, Version]:
        """Return the newest version of each flow by name, with its labels; what is staged is not among them."""
        found = Versions(self.files).newest(self._names())
        labels = Labels(self.files).of_all(list(found))
        return {name: _labelled(version, labels[name]) for name, version in sorted(found.items())}

    def _names(self) -> list[str]:
        return Versions(self.files).names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.flows)

    def __len__(self) -> int:
        return len(self.flows)

    def __bool__(self) -> bool:
        return True  # also an empty one is a storage: `storage or another` must not ask the medium

    def _ipython_key_completions_(self) -> list[str]:
        return sorted({*self._names(), *self._waiting().values()})

    def resolve(self, text: str) -> str:
        """Return the location that a text means.

        Parameters
        ----------
        text : str
            The name of a flow, which means its newest version; ``name@3``, a version's number; ``name@prod``, a label;
            ``name@ab12cd``, the beginning of a digest; a location; each also after the URL of this storage, and ``#``.

        Raises
        ------
        NoSuchFlow
            If there is none; names those that there are.
        """
        return self._find(text).location

    def _find(self, text: str) -> Found:
        return find(text, self.files, self._waiting())

    def _alike(self, url: str | os.PathLike[str], storage_options: Mapping[str, Any] | None) -> Self:
        """A storage at another URL that signs, and refuses, what this one does."""
        raise NotImplementedError

    def _names_a_flow(self, text: str) -> bool:
        try:
            self._find(text)
        except NoSuchFlow:
            return False
        return True

    def _uploaded(self, text: str) -> Found:
        found = self._find(text)
        if found.location in self._waiting():
            raise NoSuchFlow(f"flow {found.name!r} is staged here and not uploaded yet; call storage.build() first")
        return found

    # -- versions --------------------------------------------------------------------------------------------

    def versions(self, name: str) -> list[Version]:
        """Return the versions of a flow that were uploaded, newest last.

        Parameters
        ----------
        name : str
            Of the flow. What was never stored has no versions.
        """
        versions = Versions(self.files).of(name, strict=False)
        labels = Labels(self.files).current(name) if versions else {}
        return [_labelled(version, labels) for version in versions]

    def _version(self, name: str, which: str | int | None) -> Version:
        """A version by all that may stand behind ``@``; of several with one content, the newest."""
        found = self._uploaded(name if which is None else f"{name}@{which}")
        if found.number is not None:
            return Versions(self.files).get(found.name, found.number)
        for version in reversed(Versions(self.files).of(found.name)):
            if version.location == found.location:
                return version
        raise NoSuchFlow(
            f"{found.location} in {self.url} is of no version: who stored it was interrupted; store it again"
        )

    # -- labels ----------------------------------------------------------------------------------------------

    def labels(self, name: str) -> dict[str, int]:
        """Return the labels of a flow, and the number of the version that each points at.

        Parameters
        ----------
        name : str
            Of the flow.
        """
        changes = sorted(Labels(self.files).current(name).items())
        return {label: change.version for label, change in changes if change.version is not None}

    def label_history(self, name: str, label: str | None = None) -> list[LabelChange]:
        """Return all moves of a flow's labels, oldest first.

        Parameters
        ----------
        name : str
            Of the flow.
        label : str, optional
            Of this one only.
        """
        return Labels(self.files).history(name, label)

    def tag(
        self,
        name: str,
        label: str,
        version: int | str | None = None,
        *,
        expect: int | str | Anything | None = ANYTHING,
    ) -> Version:
        """Let a label point at a version of a flow, from where it pointed before.

        Parameters
        ----------
        name : str
            Of the flow.
        label : str
            A letter, and up to 63 more letters, digits, ``_``, ``-``, ``.``.
        version : int or str, optional
            All that may stand behind ``@``: a number, another label, the beginning of a digest. Default: the newest.
        expect : int, str or None, optional
            The version that the label must point at until now; None: the label must be new. Without it, the last of
            several writers wins.

        Returns
        -------
        Version
            Where it points now.

        Raises
        ------
        NoSuchFlow
            If there is no such version.
        Conflict
            If the label points elsewhere than expected, or somebody else moves it at the same time; says who.
        """
        target = self._version(name, version)
        Labels(self.files).move(target.flow, label, target, self._expected(target.flow, expect))
        return target

    def untag(self, name: str, label: str, *, expect: int | str | Anything | None = ANYTHING) -> None:
        """Take a label away; its history stays.

        Parameters
        ----------
        name : str
            Of the flow.
        label : str
            Which.
        expect : int or str, optional
            The version that it must point at until now.

        Raises
        ------
        NoSuchFlow
            If there is no such label.
        Conflict
            If it points elsewhere than expected.
        """
        labels = Labels(self.files)
        labels.get(name, label)
        labels.move(name, label, None, self._expected(name, expect))

    def _expected(self, name: str, expect: int | str | Anything | None) -> int | Anything | None:
        return self._version(name, expect).number if isinstance(expect, str) else expect

    # -- removing and copying --------------------------------------------------------------------------------

    def remove(self, text: str, *, runs: bool = False, force: bool = False) -> list[Version]:
        """Remove a flow with all its versions, or, with ``name@…``, one version.

        Who reads meanwhile finds what was there, or nothing. A number is not given again as long as the flow has other
        versions. A flow that starts again after it was removed starts at 1.

        Parameters
        ----------
        text : str
            The name of a flow; or ``name@3``, ``name@label``, ``name@ab12cd``, or a location.
        runs : bool, default False
            Whether the records of its runs go, too; all runs in the storage are looked at then. Those that have not
            ended stay.
        force : bool, default False
            Whether to remove also what labels point at, and what a run began with that has not ended. Of runs, the
            newest 200 in the storage are looked at. A run holds its flow from its start on; but who is to start another
            process for it finds nothing. A whole flow goes also if its records are damaged or not trusted.

        Returns
        -------
        list of Version
            What was removed; without what could not be read.

        Raises
        ------
        NoSuchFlow
            If there is none.
        Conflict
            If it is in use.
        """
        try:
            found = self._uploaded(text)
            versions = Versions(self.files).of(found.name)
        except EnvelopeError:  # damaged, or signed by a key that is not trusted any more
            if not (force and text in self._names()):
                raise
            found, versions = Found(text, "", whole=True), Versions(self.files).of(text, strict=False)
        whole = found.whole
        if whole:
            removed = versions
        elif found.number is not None:
            removed = [version for version in versions if version.number == found.number]
        else:
            removed = [version for version in versions if version.location == found.location]
        if not removed and not whole:
            raise NoSuchFlow(f"{found.location} in {self.url} is of no version, so there is nothing to remove")
        whole = whole or len(removed) == len(versions)
        if not force:
            removing.check_unused(self.files, found.name, removed, whole=whole)
        if not found.whole:
            removing.remove_versions(self.files, found.name, removed)
            whole = whole and Versions(self.files).newest_key(found.name) is None  # or others stored one meanwhile
        if whole:
            removing.remove_flow(self.files, found.name)
        if runs:
            locations = None if whole else {version.location for version in removed}
            removing.remove_runs(self.files, found.name, locations)
        return removed

    def copy_to(
        self,
        other: Self | str | os.PathLike[str],
        names: str | Iterable[str] | None = None,
        *,
        runs: bool = False,
        storage_options: Mapping[str, Any] | None = None,
    ) -> copying.Copied:
        """Copy flows to another storage: the same content under the same locations, numbers and labels.

        Nothing is written twice, so a copy that was interrupted, or to which versions were added since, is repeated. A
        label that was moved in the other storage, too, stays as it is there.

        Parameters
        ----------
        other : Storage or str
            Where to; a URL is opened with ``storage_options``, and otherwise as this storage was: with its signing
            keys, for instance.
        names : str or iterable of str, optional
            Which flows. With ``name@3``, that version only: it becomes the newest there, as if it were built there.
            Of a storage at HTTP, which has no listings, give full locations. Default: all, whole.
        runs : bool, default False
            Whether to copy also the runs of these flows that have ended.
        storage_options : mapping, optional
            For a URL.

        Returns
        -------
        Copied
            What was new there.

        Raises
        ------
        NoSuchFlow
            If a flow is not here.
        Conflict
            If the other storage has another history of a flow.
        EnvelopeError
            If an object is not intact. It is not copied.
        """
        target = other if isinstance(other, Catalog) else self._alike(other, storage_options)
        copied = copying.Copied()
        if names is None:
            found = [Found(name, "", whole=True) for name in self._names()]
        else:
            found = [self._uploaded(text) for text in ([names] if isinstance(names, str) else names)]
        for flow in found:
            if flow.whole:
                copying.copy_flow(self.files, target.files, flow.name, copied)
            elif flow.number is None and not self.files.lists:
                copying.copy_location(self.files, target.files, flow.name, flow.location, copied)
            else:
                version = self._version(flow.name, flow.number or flow.location.rpartition("/")[2][:64])
                copying.copy_version(self.files, target.files, flow.name, version, copied)
            if runs:
                copying.copy_runs(self.files, target.files, flow.name, copied)
        return copied


def _labelled(version: Version, labels: Mapping[str, LabelChange]) -> Version:
    names = tuple(sorted(label for label, change in labels.items() if change.version == version.number))
    return replace(version, labels=names) if names else version
