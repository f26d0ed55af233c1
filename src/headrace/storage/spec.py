"""What a storage is, as data: where it lies and how it is reached. Plain JSON, without secrets, on request."""

from __future__ import annotations

import functools
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace import entrusted
from headrace.errors import StorageError
from headrace.storage.confidential import merged, only_secrets, plain, without_secrets
from headrace.storage.files import DEADLINE, Files, normal_url
from headrace.storage.signing import KeySource, KeySources, Seal, references_of, sources_of

_FIELDS: dict[str, type | tuple[type, ...]] = {
    "url": str, "name": str, "storage_options": dict, "credentials": str, "shipped": str, "omitted": list,
    "pickle": bool, "signing_keys": list, "deadline": (int, float),
}  # fmt: skip
_KEYS = "signing_keys"


@dataclass(frozen=True)
class StorageSpec:
    """What makes a storage, but for what lies there.

    Attributes
    ----------
    url : str
        In its one spelling.
    name : str
        Unique name of the storage.
    storage_options : mapping
        As the user gave them, secrets included; never shown.
    credentials : str
        Name of a provider of further options, secret ones; empty if there is none.
    lacking : tuple of str
        Dotted names of options that were left out when the storage was written down, and not given again.
    ship_credentials : bool
        Whether the secrets among the options may travel with a run; see `headrace.entrusted`.
    pickle : bool
        Whether pickles are written and read.
    signing_keys : tuple of key sources, optional
        See `headrace.storage.signing.sources_of`; never shown.
    deadline : float
        Seconds within which the store must answer; see `headrace.storage.files.Files`.
    """

    url: str
    name: str = ""
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lacking: tuple[str, ...] = ()
    credentials: str = ""
    ship_credentials: bool = False
    pickle: bool = True
    signing_keys: tuple[KeySource, ...] | None = field(default=None, repr=False)
    deadline: float = DEADLINE

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", normal_url(self.url))
        object.__setattr__(self, "name", self.name or default_name(self.url))
        if self.ship_credentials and not self.lacking:
            entrusted.entrust(self.url, self.name, only_secrets(self.storage_options))
        if not isinstance(self.deadline, (int, float)) or not self.deadline > 0:
            raise StorageError(f"the deadline of a storage is a number of seconds above 0, got {self.deadline!r}")

    @functools.cached_property
    def seal(self) -> Seal:
        """What signs and checks this storage's objects."""
        return Seal(self.signing_keys, lacking=_KEYS in self.lacking)

    def open(self, filesystem: Any = None) -> Files:
        """Return the objects that lie there; by another file system than the URL's, if one is given."""
        files = Files(
            self.url,
            merged(self.storage_options, self._brought),
            filesystem,
            hint=self.hint,
            credentials=self.credentials,
            seal=self.seal,
            deadline=self.deadline,
        )
        files.pickles = self.pickle
        return files

    @property
    def _brought(self) -> Mapping[str, Any]:
        """The secrets that came here with a run, apart from the storage."""
        if not (self.ship_credentials and self.lacking):
            return {}
        return entrusted.options_of(entrusted.reference_of(self.url, self.name)) or {}

    def plain_secrets(self) -> dict[str, Any]:
        """Return the secrets among the options that JSON can hold, with what came here apart from the storage."""
        return plain(only_secrets(merged(self.storage_options, self._brought)))

    @property
    def hint(self) -> str:
        """What to do where access is denied, if options were left out; else empty."""
        brought = self._brought
        options = [name for name in self.lacking if name != _KEYS and not _has(brought, name)]
        if not options:
            return ""
        return (
            f"the storage was serialized without {', '.join(options)}: give them again, "
            "deserialize(..., storage_options={...}), or name who gives them: Storage(..., credentials='module:name')"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return StorageSpec.deserialize, (self.serialize(),)

    def serialize(self) -> dict[str, Any]:
        """Return JSON data without secrets; ``omitted`` names what was left out."""
        options, omitted = without_secrets(self.storage_options)
        data: dict[str, Any] = {"url": self.url, "name": self.name, "storage_options": options}
        if self.credentials:
            data["credentials"] = self.credentials
        if self.ship_credentials:
            data["shipped"] = entrusted.reference_of(self.url, self.name)
        if not self.pickle:
            data["pickle"] = False
        references = references_of(self.signing_keys)
        if references is not None:
            data[_KEYS] = references
        elif _KEYS in self.lacking or self.seal.active:  # never without saying that there are some
            omitted.append(_KEYS)
        if self.deadline != DEADLINE:
            data["deadline"] = self.deadline
        return {**data, "omitted": sorted({*omitted, *self.lacking})}

    @classmethod
    def deserialize(
        cls,
        data: Mapping[str, Any],
        storage_options: Mapping[str, Any] | None = None,
        signing_keys: KeySources | None = None,
    ) -> StorageSpec:
        """Return what `serialize` returned as a spec again.

        Parameters
        ----------
        data : mapping
            JSON data.
        storage_options : mapping, optional
            Added to the options in ``data``: the secrets, say.
        signing_keys : key sources, optional
            In place of those in ``data``.

        Raises
        ------
        StorageError
            If the data are not those of a storage.
        """
        what = _what_is_wrong(data)
        if what:
            raise StorageError(f"this is not a serialized storage: it {what}; give what storage.serialize() returned")
        options = merged(data.get("storage_options") or {}, storage_options or {})
        omitted = data.get("omitted") or []
        lacking = [name for name in omitted if name != _KEYS and not _has(options, name)]
        if signing_keys is None and _KEYS in omitted:
            lacking.append(_KEYS)
        keys = sources_of(data.get(_KEYS) if signing_keys is None else signing_keys)
        # What is not plainly allowed is forbidden: a storage without pickles never becomes one with them by accident.
        return cls(
            data["url"],
            data.get("name") or "",
            options,
            tuple(lacking),
            credentials=data.get("credentials") or "",
            ship_credentials=bool(data.get("shipped")),
            pickle=data.get("pickle", True) is True,
            signing_keys=keys,
            deadline=data.get("deadline", DEADLINE),
        )


def _what_is_wrong(data: Any) -> str:
    if not isinstance(data, Mapping):
        return f"is a {type(data).__name__}"
    if unknown := set(data) - set(_FIELDS):
        return f"has unknown fields {', '.join(sorted(map(str, unknown)))}"
    if "url" not in data:
        return "has no url"
    wrong = [name for name, value in data.items() if value is not None and not isinstance(value, _FIELDS[name])]
    if not wrong and not all(isinstance(each, str) for each in data.get("omitted") or ()):
        wrong = ["omitted"]
    return f"has another kind of {', '.join(wrong)}" if wrong else ""


def default_name(url: str) -> str:
    """Return a readable name for a storage, the same for the same URL and different for different ones."""
    last = re.sub(r"[^A-Za-z0-9_.\-]+", "-", url.rpartition("/")[2]).strip("-") or url.partition(":")[0]
    return f"{last}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def _has(options: Mapping[str, Any], dotted: str) -> bool:
    found: Any = options
    for part in dotted.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return False
        found = found[part]
    return True
