"""Where the boxes of a graph's picture go. Pure, standard library only.

The classic steps for a layered drawing: a node's *level* is its longest path from a root, an edge that spans
several levels gets an invisible *bend* in each level that it crosses, and a few sweeps order every level by
the mean position of its neighbours. Graphs too large to look at are collapsed first, so that neither the
picture nor the time it takes grows with the flow.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

#: more nodes than this are collapsed: calls of one task on one level become one box; if that is not
#: enough, so do chains of one task.
MOST_NODES = 60
#: more boxes than this, and more bends than that, are not drawn.
MOST_BOXES = 250
MOST_BENDS = 1500

HEIGHT, GAP_X, GAP_Y, BEND = 34.0, 22.0, 34.0, 10.0


@dataclass(slots=True)
class Box:
    """One box of the picture: a node, or several alike.

    Attributes
    ----------
    label : str
        What stands in it.
    mapped : bool
        Whether its nodes have children.
    count : int
        How many nodes it stands for; 0 for a bend.
    x, y, width : float
        The middle of its upper edge, and how wide it is.
    """

    label: str
    mapped: bool
    count: int
    level: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = BEND
    above: list[int] = field(default_factory=list)
    below: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Layout:
    """A picture's boxes and lines.

    Attributes
    ----------
    boxes : list of Box
        Bends included.
    lines : list of list of int
        For each edge, the boxes that it passes, ends included.
    width, height : float
        Of the whole picture.
    hidden : int
        How many nodes are not in it.
    """

    boxes: list[Box]
    lines: list[list[int]]
    width: float
    height: float
    hidden: int


def lay_out(nodes: Sequence[Mapping[str, Any]]) -> Layout:
    """Return where the boxes of a graph's picture go.

    Parameters
    ----------
    nodes : sequence of mapping
        As ``Graph.describe()`` gives them: name, task, mapped, upstream.
    """
    boxes, edges = _boxes(nodes)
    hidden = 0
    if len(boxes) > MOST_BOXES:
        kept = set(sorted(range(len(boxes)), key=lambda at: boxes[at].level)[:MOST_BOXES])
        hidden = sum(box.count for at, box in enumerate(boxes) if at not in kept)
        place = {old: new for new, old in enumerate(sorted(kept))}
        boxes = [boxes[old] for old in sorted(kept)]
        edges = [(place[a], place[b]) for a, b in edges if a in kept and b in kept]
    lines = _lines(boxes, edges)
    levels: list[list[int]] = [[] for _ in range(max((box.level for box in boxes), default=0) + 1)]
    for at, box in enumerate(boxes):
        levels[box.level].append(at)
    _order(boxes, levels)
    width, height = _place(boxes, levels)
    return Layout(boxes, lines, width, height, hidden)


def _boxes(nodes: Sequence[Mapping[str, Any]]) -> tuple[list[Box], list[tuple[int, int]]]:
    """Make a box of each node, or of several alike, and the edges between boxes."""
    number = {str(node["name"]): at for at, node in enumerate(nodes)}
    edges = [(number[source], at) for at, node in enumerate(nodes) for source in node["upstream"]]
    group = list(range(len(nodes)))
    if len(nodes) > MOST_NODES:
        levels = _levels(len(nodes), edges)
        alike: dict[tuple[int, str, bool], int] = {}
        group = [
            alike.setdefault((levels[at], str(node["task"]), bool(node["mapped"])), len(alike))
            for at, node in enumerate(nodes)
        ]
        if len(alike) > MOST_NODES:
            group = _without_chains(nodes, group, edges)
    members: dict[int, list[int]] = {}
    for at, its in enumerate(group):
        members.setdefault(its, []).append(at)
    place = {its: new for new, its in enumerate(members)}
    boxes = []
    for inside in members.values():
        first = nodes[inside[0]]
        label = first["name"] if len(inside) == 1 else f"{first['task']} \u00d7{len(inside):,}"
        boxes.append(Box(str(label), bool(first["mapped"]), len(inside)))
    joined = sorted({(place[group[a]], place[group[b]]) for a, b in edges if group[a] != group[b]})
    for box, level in zip(boxes, _levels(len(boxes), joined), strict=True):
        box.level = level
    return boxes, joined


def _without_chains(
    nodes: Sequence[Mapping[str, Any]], group: list[int], edges: Sequence[tuple[int, int]]
) -> list[int]:
    """Join a group to the one before it where both call one task and no other edge is between them."""
    before: dict[int, set[int]] = {}
    after: dict[int, set[int]] = {}
    for a, b in edges:
        before.setdefault(group[b], set()).add(group[a])
        after.setdefault(group[a], set()).add(group[b])
    kind = {its: (nodes[at]["task"], nodes[at]["mapped"]) for at, its in enumerate(group)}
    head: dict[int, int] = {}
    # Groups are numbered when first met, which is not an order of levels: follow each chain to its head.
    for its in kind:
        chain = [its]
        while chain[-1] not in head:
            sources = before.get(chain[-1], set())
            source = next(iter(sources)) if len(sources) == 1 else None
            if source is None or len(after[source]) > 1 or kind[source] != kind[its]:
                head[chain[-1]] = chain[-1]
                break
            chain.append(source)
        for link in chain:
            head[link] = head[chain[-1]]
    return [head[its] for its in group]


def _levels(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """Return each node's longest path from a root."""
    below: list[list[int]] = [[] for _ in range(count)]
    waits = [0] * count
    for a, b in edges:
        below[a].append(b)
        waits[b] += 1
    levels = [0] * count
    ready = [at for at in range(count) if not waits[at]]
    while ready:
        at = ready.pop()
        for target in below[at]:
            levels[target] = max(levels[target], levels[at] + 1)
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    return levels


def _lines(boxes: list[Box], edges: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Add the bends of long edges to the boxes and return what each edge passes."""
    for box in boxes:
        box.width = min(max(7.4 * len(shortened(box.label)) + 26, 64), 240)
    lines = []
    bends = 0
    for a, b in edges:
        line = [a]
        span = boxes[b].level - boxes[a].level - 1
        if bends + span <= MOST_BENDS:
            bends += span
            for step in range(span):
                boxes.append(Box("", False, 0, boxes[a].level + step + 1))
                line.append(len(boxes) - 1)
        line.append(b)
        for upper, lower in pairwise(line):
            boxes[upper].below.append(lower)
            boxes[lower].above.append(upper)
        lines.append(line)
    return lines


def shortened(label: str, most: int = 28) -> str:
    """Return a label that fits into a box."""
    return label if len(label) <= most else f"{label[: most - 9]}…{label[-8:]}"


def _order(boxes: list[Box], levels: list[list[int]]) -> None:
    """Order each level by the mean position of its neighbours, downwards and upwards in turns."""
    for sweep in range(6):
        down = sweep % 2 == 0
        position = {at: (place + 0.5) / len(level) for level in levels for place, at in enumerate(level)}
        for level in levels if down else levels[::-1]:
            mean = {}
            for at in level:
                near = boxes[at].above if down else boxes[at].below
                mean[at] = sum(position[other] for other in near) / len(near) if near else position[at]
            level.sort(key=mean.__getitem__)
            position.update((at, (place + 0.5) / len(level)) for place, at in enumerate(level))


def _place(boxes: list[Box], levels: list[list[int]]) -> tuple[float, float]:
    """Set x and y of all boxes, each level centred, and return the picture's size."""
    spans = [sum(boxes[at].width for at in level) + GAP_X * (len(level) - 1) for level in levels]
    widest = max(spans, default=0.0)
    for depth, (level, span) in enumerate(zip(levels, spans, strict=True)):
        left = (widest - span) / 2 + GAP_X
        for at in level:
            box = boxes[at]
            box.x, box.y = left + box.width / 2, GAP_X + depth * (HEIGHT + GAP_Y)
            left += box.width + GAP_X
    return widest + 2 * GAP_X, 2 * GAP_X + len(levels) * (HEIGHT + GAP_Y) - GAP_Y
