"""Looking for secrets in bytes: each form in which a text may have got there."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable
from urllib.parse import quote, quote_plus


def forms(secret: str) -> dict[str, bytes]:
    """The forms of a text, by name."""
    data = secret.encode()
    found = {
        "plain": data,
        "repr": repr(secret)[1:-1].encode(),
        "json": json.dumps(secret)[1:-1].encode(),
        "html": html.escape(secret).encode(),
        "url": quote(secret, safe="").encode(),
        "url, slashes kept": quote(secret).encode(),
        "form": quote_plus(secret).encode(),
        "utf-16-le": secret.encode("utf-16-le"),
        "utf-16-be": secret.encode("utf-16-be"),
        "hex": data.hex().encode(),
        "reversed": data[::-1],
    }
    for shift in range(3):  # base64 of a longer text that holds it; the characters at its edges depend on the rest
        coded = base64.b64encode(b"\0" * shift + data)
        inner = coded[4 if shift else 0 : len(coded) // 4 * 4 - 4]
        found[f"base64, {shift}"] = inner
        found[f"base64 for urls, {shift}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return found


def leaks(secrets: Iterable[str], data: bytes | str) -> list[str]:
    """Which secrets stand in data, in which form; nothing of the secrets themselves but their beginnings."""
    data = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return [f"{secret[:12]}… ({name})" for secret in secrets for name, form in forms(secret).items() if form in data]
