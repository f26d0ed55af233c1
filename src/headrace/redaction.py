"""Texts that must not leave this process, wherever they are known from, and how they are struck out of others.

Whoever comes to know a secret says so, once: of secrets that tasks look up, ``execution.secrets``; of the credentials
and signing keys of storages, ``storage``. From then on ``redact`` goes over texts (messages, tracebacks, logs),
``exposes`` over bytes.
"""

from __future__ import annotations

import base64
import html
import json
import threading
from urllib.parse import quote

#: Texts shorter than this are in no danger of being told apart from others, so they are not struck out.
SHORTEST = 4
#: What stands in the place of a secret.
MASK = "***"


class _Known:
    """The forms in which the secrets of this process may stand in texts, the longest first."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.forms: tuple[str, ...] = ()


_KNOWN = _Known()


def know(*texts: str) -> None:
    """Know texts as secrets from now on.

    Parameters
    ----------
    *texts : str
        Those of less than ``SHORTEST`` characters are left out, because they may stand anywhere by chance.
    """
    forms = {form for text in texts for form in forms_of(text)}
    if not forms.issubset(_KNOWN.forms):
        with _KNOWN.lock:
            _KNOWN.forms = tuple(sorted({*_KNOWN.forms, *forms}, key=len, reverse=True))


def forms_of(text: str) -> set[str]:
    """Return the forms in which a secret stands in texts: as it is, in Python, JSON, HTML, a URL, a header."""
    if len(text) < SHORTEST:
        return set()
    coded = base64.b64encode(text.encode("utf-8", "surrogatepass")).decode().rstrip("=")
    quoted = quote(text, safe="", errors="replace")
    return {text, repr(text)[1:-1], json.dumps(text)[1:-1], html.escape(text), quoted, coded}


def redact(text: str) -> str:
    """Return a text with ``***`` in the place of each secret that this process knows.

    Parameters
    ----------
    text : str
        About to leave the process, or to be shown.
    """
    return without(text, _KNOWN.forms)


def without(text: str, forms: tuple[str, ...]) -> str:
    """Return a text with ``***`` in the place of each of these forms, the longest first."""
    for form in forms:
        if form in text:
            text = text.replace(form, MASK)
    return text


def exposes(data: bytes) -> bool:
    """Whether bytes hold a secret that this process knows."""
    return any(form.encode("utf-8", "surrogatepass") in data for form in _KNOWN.forms)
