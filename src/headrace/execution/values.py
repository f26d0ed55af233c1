"""Values as executors hold them: by node, then by child."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Values = dict[int, dict[int, Any]]


class Part:
    """Some elements of a list, which answer to the same indices as in the whole list.

    Parameters
    ----------
    low : int
        The index of the first.
    elements : list
        The elements.
    """

    __slots__ = ("elements", "low")

    def __init__(self, low: int, elements: list[Any]) -> None:
        self.low = low
        self.elements = elements

    def __getitem__(self, index: int) -> Any:
        return self.elements[index - self.low]

    def __reduce__(self) -> tuple[Any, ...]:
        return Part, (self.low, self.elements)


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
