"""Clusters on Kubernetes, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from headrace.report.stored import age

if TYPE_CHECKING:
    from rich.console import Console


def print_clusters(
    console: Console, clusters: Sequence[tuple[str, str, datetime, int, str, datetime | None, str]]
) -> None:
    """Print clusters as a table.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    clusters : sequence of (name, namespace, created, workers, creator, seen, orphan)
        The last two: when somebody who uses it said so, and why it counts as left over.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for head in ("Cluster", "Namespace", "Age", "Workers", "Made by", "Use"):
        table.add_column(head, no_wrap=head in ("Cluster", "Namespace", "Age"), overflow="fold")
    for name, namespace, created, workers, creator, seen, orphan in clusters:
        told = f"{orphan} (last seen {age(seen)} ago)" if orphan and seen is not None else orphan
        use = Text(told or "in use", style="yellow" if orphan else "green")
        table.add_row(Text(name), Text(namespace), age(created), str(workers), Text(creator), use)
    console.print(table)
