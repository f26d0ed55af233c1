"""How runs are called."""

from __future__ import annotations

import re
import secrets
from datetime import UTC, datetime

from headrace.errors import RunError

_ID = re.compile(r"[^/\x00-\x1f]{1,200}")


def new_run_id() -> str:
    """Return an id for a run: begins with the time (UTC), to the microsecond, so that ids sort by age."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{secrets.token_hex(4)}"


def is_run_id(text: str) -> bool:
    """Whether a run can be called so: it is a folder of a storage, and part of the name of a log."""
    return _ID.fullmatch(text) is not None and not set(text) <= {"."}


def checked_run_id(text: str) -> str:
    """Return the id that a user gave to a run.

    Raises
    ------
    RunError
        If a run cannot be called so.
    """
    if not is_run_id(text):
        raise RunError(
            f"{text!r} cannot be the id of a run, which has at most 200 characters, and no slash among them; give "
            "another run_id=, or leave it out"
        )
    return text
