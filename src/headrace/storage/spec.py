"""What a storage is, as data: where it lies and how it is reached. Plain JSON, without secrets, on request."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from headrace.errors import StorageError
from headrace.storage.confidential import merged, without_secrets
from headrace.storage.files import normal_url

_FIELDS = {"url", "name", "storage_options", "credentials", "omitted"}


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
    """

    url: str
    name: str = ""
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    lacking: tuple[str, ...] = ()
    credentials: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "url", normal_url(self.url))
        object.__setattr__(self, "name", self.name or default_name(self.url))

    @property
    def hint(self) -> str:
        """What to do where access is denied, if options were left out; else empty."""
        if not self.lacking:
            return ""
        return (
            f"the storage was serialized without {', '.join(self.lacking)}: give them again, "
            "deserialize(..., storage_options={...}), or name who gives them: Storage(..., credentials='module:name')"
        )

    def serialize(self) -> dict[str, Any]:
        """Return JSON data without secrets; ``omitted`` names what was left out."""
        options, omitted = without_secrets(self.storage_options)
        return {
            "url": self.url,
            "name": self.name,
            "storage_options": options,
            **({"credentials": self.credentials} if self.credentials else {}),
            "omitted": sorted({*omitted, *self.lacking}),
        }

    @classmethod
    def deserialize(cls, data: Mapping[str, Any], storage_options: Mapping[str, Any] | None = None) -> StorageSpec:
        """Return what `serialize` returned as a spec again.

        Parameters
        ----------
        data : mapping
            JSON data.
        storage_options : mapping, optional
            Added to the options in ``data``: the secrets, say.

        Raises
        ------
        StorageError
            If the data are not those of a storage.
        """
        unknown = set(data) - _FIELDS
        if unknown or not isinstance(data.get("url"), str):
            what = f"has unknown fields {', '.join(sorted(unknown))}" if unknown else "has no url"
            raise StorageError(f"this is not a serialized storage: it {what}; give what storage.serialize() returned")
        options = merged(data.get("storage_options") or {}, storage_options or {})
        lacking = tuple(name for name in data.get("omitted") or [] if not _has(options, name))
        return cls(data["url"], data.get("name") or "", options, lacking, data.get("credentials") or "")


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
