"""Which storage options may be written down. When in doubt, they may not.

What counts as a secret: a text under a name that suggests one, or that looks like one itself, whatever its name; and
what has no JSON form, because credentials are often objects. What is left out by mistake has to be given again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

#: parts of option names that mark a secret; a harmless option that matches has to be given again.
_WORDS = (
    "key", "secret", "token", "passw", "passphrase", "pwd", "credential", "connection_string", "connectionstring",
    "sas", "auth", "cookie", "signature", "private", "bearer", "jwt",
)  # fmt: skip
#: names too short to be looked for inside of others.
_NAMES = {"sig", "pass", "pin"}
#: ends of names of what says where a secret is found.
_REFERENCES = ("name", "file", "path", "ref")
#: what stands under ``token``, and is none: ways to find credentials.
_HARMLESS = {"anon", "cloud", "google_default", "browser", "cache"}
#: what is none under any name; variables of environments are all texts (``TOKENIZERS_PARALLELISM=false``).
_TRUTHS = {"", "0", "1", "true", "false", "yes", "no", "on", "off"}
#: fields of Kubernetes whose ``key`` is that of a label or a taint.
_LABELS = {"tolerations", "matchexpressions"}
_USER_IN_URL = re.compile(r"://[^/@\s]*:([^@\s]*)@")
_TOKEN_IN_URL = re.compile(r"^https?://([^/@:\s]+)@", re.IGNORECASE)
_SCHEME = re.compile(r"(?:Bearer|Basic|Token|Negotiate|AWS4-\S+)\s+(\S.*)", re.IGNORECASE)
_FIELD = re.compile(r"(?:^|[?&;\s])([A-Za-z][\w.\-]*)=([^&;\s]+)")
_PRIVATE_KEY = "PRIVATE KEY-----"
#: what no human makes up: many letters and digits without a break.
_RANDOM = re.compile(r"[A-Za-z0-9+/=]{20,}")
_PLACE = re.compile(r"[/.~]|[A-Za-z][A-Za-z0-9+.\-]*://")


def looks_secret(name: object, value: object = None) -> bool:
    """Whether an option's name, or a text in its place, suggests a secret."""
    if value is None or isinstance(value, bool) or (name == "token" and value in _HARMLESS):
        return False
    if not isinstance(value, str):
        return _is_secret_name(name)
    return value.lower() not in _TRUTHS and (_is_secret_name(name) or any(_inside(value)))


def has_password(text: str) -> bool:
    """Whether a URL holds a password or a token: ``user:password@``, ``https://token@``, ``?sig=…``."""
    query = text.partition("?")[2] if "://" in text else ""
    return bool(_USER_IN_URL.search(text) or _TOKEN_IN_URL.match(text) or any(_fields(query)))


def _is_secret_name(name: object) -> bool:
    lowered = str(name).lower().replace("-", "_")
    return not lowered.endswith(_REFERENCES) and (lowered in _NAMES or any(word in lowered for word in _WORDS))


def _inside(text: str) -> Iterator[str]:
    """The secrets in a text that may hold some, whatever it is called."""
    if match := _USER_IN_URL.search(text):
        yield match[1]
    if match := _TOKEN_IN_URL.match(text):
        yield match[1]
    if match := _SCHEME.fullmatch(text.strip()):
        yield match[1]
    yield from _fields(text)
    if _PRIVATE_KEY in text or any(map(_is_random, [] if _PLACE.match(text) else _RANDOM.findall(text))):
        yield text


def _fields(text: str) -> Iterator[str]:
    """The values under secret names in ``a=1;b=2`` and ``?a=1&b=2``: connection strings, signed URLs."""
    for name, value in _FIELD.findall(text):
        if _is_secret_name(name):
            yield value


def _is_random(text: str) -> bool:
    kinds = sum(any(map(test, text)) for test in (str.islower, str.isupper, str.isdigit))
    return kinds >= (3 if "/" in text else 2) and any(map(str.isdigit, text)) and len(set(text)) >= 10


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


def only_secrets(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `without_secrets` leaves out."""
    found: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, Mapping) and not looks_secret(name, value):
            if inner := only_secrets(value):
                found[str(name)] = inner
        elif without_secrets({name: value})[1]:
            found[str(name)] = value
    return found


def plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that JSON can hold."""
    found = {str(name): plain(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    return {name: value for name, value in found.items() if isinstance(value, dict) or _is_json(value)}


def _is_plain(value: Any) -> bool:
    # Mappings inside lists are rare and could hold anything: they count as not plain. So do pairs of a name and a
    # secret, as headers are sometimes written.
    if isinstance(value, Mapping):
        return False
    if isinstance(value, (list, tuple)):
        if len(value) == 2 and isinstance(value[0], str) and looks_secret(*value):
            return False
        return all(_is_plain(item) and not looks_secret("", item) for item in value)
    return _is_json(value)


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def secret_paths(value: Any, path: str = "") -> Iterator[str]:
    """Yield where secrets stand in data of any depth, also in lists, and in pairs as Kubernetes writes variables.

    Parameters
    ----------
    value : object
        Options of a cluster, say. What is named a reference (``secretKeyRef``) is none, and no label of Kubernetes is.
    path : str
        For recursion.
    """
    items: Iterable[tuple[object, Any]] = ()
    if isinstance(value, Mapping):
        if isinstance(value.get("value"), str) and looks_secret(value.get("name"), value["value"]):
            yield f"{path}.value" if path else "value"
        lowered = {name: str(name).lower() for name in value}
        items = ((name, value[name]) for name, low in lowered.items() if not low.endswith("ref") and low not in _LABELS)
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    for name, each in items:
        inner = f"{path}.{name}" if path else str(name)
        if isinstance(each, (str, bytes)) and looks_secret(name, each):
            yield inner
        yield from secret_paths(each, inner)


def secret_texts(options: Mapping[str, Any]) -> Iterator[str]:
    """All texts in options that must never show up in a message: secrets, and those inside of others.

    Parameters
    ----------
    options : mapping
        As the user gave them.
    """
    return _texts(options.items(), inside=False)


def _texts(items: Iterable[tuple[object, Any]], *, inside: bool) -> Iterator[str]:
    for name, value in items:
        secret = inside or looks_secret(name, value)
        if isinstance(value, Mapping):
            yield from _texts(value.items(), inside=secret)
        elif isinstance(value, (list, tuple)):
            pair = len(value) == 2 and isinstance(value[0], str) and looks_secret(*value)
            yield from _texts((("", item) for item in value), inside=secret or pair)
        elif secret and isinstance(value, (str, bytes)):
            text = value if isinstance(value, str) else value.decode("utf-8", "replace")
            if len(text) > 3:
                yield text
            yield from (part for part in _inside(text) if len(part) > 3)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with others over them, mappings within mappings, too."""
    found = dict(below)
    for name, value in above.items():
        inner = found.get(name)
        both = isinstance(inner, Mapping) and isinstance(value, Mapping)
        found[name] = merged(inner, value) if both else value  # type: ignore[arg-type]
    return found
