"""Values as executors hold them: by node, then by child."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

_TABLES: list[dict[Any, Any]] = [{}, OrderedDict()]
_VIEWS = [view for table in _TABLES for view in (table.keys(), table.values(), table.items())]
_ITERATED: list[Any] = [[], (), {}, set(), "", b"", range(0), range(1 << 70), *_VIEWS]
_REVERSED: list[Any] = [[], {}, range(0), *_VIEWS]

#: Types of values that can be neither shared, because they are used up, nor pickled, and that stand for their elements:
#: what Python's own functions and comprehensions return. A task's value of such a type becomes a list.
PASSING: frozenset[type] = frozenset(
    {
        *map(type, _VIEWS),
        *(type(iter(values)) for values in _ITERATED),
        *(type(reversed(values)) for values in _REVERSED),
        *(type(_ for _ in ()), map, filter, zip, enumerate, reversed),
        *(itertools.accumulate, itertools.chain, itertools.combinations, itertools.combinations_with_replacement),
        *(itertools.compress, itertools.dropwhile, itertools.filterfalse, itertools.islice, itertools.pairwise),
        *(itertools.permutations, itertools.product, itertools.starmap, itertools.takewhile, itertools.zip_longest),
    }
)

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
