"""What is found by a name: our own by a table, that of other packages by their entry points."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any


def plugin(group: str, own: Mapping[str, str], name: str) -> Any:
    """Return what has a name, imported now; None if nothing has.

    Parameters
    ----------
    group : str
        The entry point group in which other packages name theirs.
    own : mapping of str to str
        Ours: name → ``"module:name"``. They are entry points, too, but need no search for them.
    name : str
        Which.
    """
    if name in own:
        return pkgutil.resolve_name(own[name])
    return next((point.load() for point in entry_points(group=group, name=name)), None)
