"""Values as executors hold them: by node, then by child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = dict[int, dict[int, Any]]


def add_values(values: Values, more: Mapping[int, Mapping[int, Any]]) -> None:
    """Put the values of a batch among those of others.

    Parameters
    ----------
    values : dict of node to dict of child to value
        Grows.
    more : mapping of the same shape
        A batch's values.
    """
    for node, children in more.items():
        values.setdefault(node, {}).update(children)
