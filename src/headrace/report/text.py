"""A graph as an indented tree of text, from the description that a stored flow carries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: a tree deeper than this goes on at the left margin: nobody reads a chain of 500 nodes along the diagonal,
#: and its indentation alone would grow with the square of its length.
_DEEPEST = 24


def graph_tree(nodes: Sequence[Mapping[str, Any]], *, limit: int = 2000) -> str:
    """Return a graph as text: roots first, and below each node what waits for it.

    A node that waits for several appears in full once, below the first of them; below the others, its name is
    followed by ``(above)``, or by ``(below)`` where it is yet to come.

    Parameters
    ----------
    nodes : sequence of mapping
        As ``Graph.describe()`` gives them: name, mapped, upstream.
    limit : int, default 2000
        How many lines there are at most.

    Returns
    -------
    str
        Lines without a final newline; empty for an empty graph.
    """
    consumers: dict[str, list[str]] = {str(node["name"]): [] for node in nodes}
    mapped = {str(node["name"]) for node in nodes if node["mapped"]}
    for node in nodes:
        for source in node["upstream"]:
            consumers[source].append(str(node["name"]))
    lines: list[str] = []
    drawn: set[str] = set()
    # A stack, not a recursion: a chain may be longer than Python's recursion limit.
    margin = [str(node["name"]) for node in reversed(nodes) if not node["upstream"]]
    postponed: set[str] = set()
    while margin and len(lines) <= limit:
        stack = [(margin.pop(), "", "", 0)]
        if stack[0][0] in drawn:  # postponed, then met again closer to a root
            continue
        while stack and len(lines) <= limit:
            name, lead, below, depth = stack.pop()
            label = f"{lead}{name} [map]" if name in mapped else f"{lead}{name}"
            if name in drawn:
                lines.append(f"{label} (above)")
            elif depth > _DEEPEST:
                lines.append(f"{label} (below)")
                if name not in postponed:
                    postponed.add(name)
                    margin.append(name)
            else:
                drawn.add(name)
                lines.append(f"{label} (continued)" if depth == 0 and name in postponed else label)
                stack += _branches(consumers[name], below, depth)
    if len(lines) > limit:
        lines[limit:] = [f"… {len(consumers) - len(drawn):,} more nodes"]
    return "\n".join(lines)


def _branches(names: Sequence[str], below: str, depth: int) -> list[tuple[str, str, str, int]]:
    """What the stack receives for a node's consumers, last first."""
    branches = []
    for place, name in enumerate(names):
        last = place == len(names) - 1
        branches.append((name, below + ("└─ " if last else "├─ "), below + ("   " if last else "│  "), depth + 1))
    return branches[::-1]
