"""Which storage options may be written down. When in doubt, they may not."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

#: parts of option names that mark a secret; a harmless option that matches has to be given again.
_WORDS = (
    "key", "secret", "token", "passw", "pwd", "credential", "connection_string", "connectionstring", "sas",
    "auth", "cookie", "signature", "private",
)  # fmt: skip
_USER_IN_URL = re.compile(r"://[^/@\s]*:[^/@\s]*@")


def looks_secret(name: object, value: object = None) -> bool:
    """Whether an option's name, or a URL with a password in its value, suggests a secret."""
    lowered = str(name).lower().replace("-", "_")
    return any(word in lowered for word in _WORDS) or has_password(value)


def has_password(value: object) -> bool:
    """Whether a text is a URL that holds a password."""
    return isinstance(value, str) and _USER_IN_URL.search(value) is not None


def without_secrets(options: Mapping[str, Any], prefix: str = "") -> tuple[dict[str, Any], list[str]]:
    """Split storage options into what may be written as JSON and the names of the rest.

    Parameters
    ----------
    options : mapping
        As the user gave them.
    prefix : str
        For recursion.

    Returns
    -------
    dict, list of str
        What may be written, and the dotted names of what was left out: secrets, and what JSON cannot hold.
    """
    kept: dict[str, Any] = {}
    omitted: list[str] = []
    for name, value in options.items():
        if looks_secret(name, value):
            omitted.append(f"{prefix}{name}")
        elif isinstance(value, Mapping):
            kept[str(name)], inner = without_secrets(value, f"{prefix}{name}.")
            omitted.extend(inner)
        elif _is_plain(value):
            kept[str(name)] = value
        else:
            omitted.append(f"{prefix}{name}")
    return kept, omitted


def _is_plain(value: Any) -> bool:
    # Mappings inside lists are rare and could hold anything: they count as not plain.
    if isinstance(value, Mapping):
        return False
    if isinstance(value, (list, tuple)):
        return all(_is_plain(item) and not has_password(item) for item in value)
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def secret_texts(options: Mapping[str, Any], *, inside: bool = False) -> Iterator[str]:
    """All texts in options that must never show up in a message."""
    for name, value in options.items():
        secret = inside or looks_secret(name, value)
        if isinstance(value, Mapping):
            yield from secret_texts(value, inside=secret)
        elif secret and isinstance(value, str) and len(value) > 3:
            yield value
