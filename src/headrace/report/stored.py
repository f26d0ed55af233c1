"""What lies in a storage, for the terminal: its flows, its runs, and what one flow says about itself.

Everything comes from plain data, so nothing of a flow is unpickled to show it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from headrace.core.policy import Policy
from headrace.core.state import State
from headrace.core.summary import NodeSummary
from headrace.report.rows import duration
from headrace.report.text import graph_tree

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STATES = {state.label: state for state in State}
_LEVELS = {"error": "red", "warning": "yellow", "note": "dim"}
#: what a task's policy says when nobody said anything.
_USUAL = {field.name: field.default for field in fields(Policy)}


def print_flows(
    console: Console, flows: Sequence[tuple[str, int, Sequence[str], datetime, Mapping[str, Any] | None]]
) -> None:
    """Print flows as a table.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    flows : sequence of (name, number, labels, time, manifest)
        The newest version of each: its number, the labels that point at it, when it was stored, and what it says.
    """
    table = _table("Flow", "Version", "Labels", "Age", "Parameters", "")
    for name, number, labels, time, manifest in flows:
        told = manifest or {"parameters": []}
        parameters = ", ".join(_signature(parameter) for parameter in told["parameters"])
        doc = _dim(told.get("doc") or "")
        _add(table, name, str(number), ", ".join(labels), _kept_whole(age(time)), parameters, doc)
    console.print(table)


def print_versions(console: Console, versions: Sequence[tuple[int, Sequence[str], datetime, str, str]]) -> None:
    """Print the versions of a flow as a table.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    versions : sequence of (number, labels, time, digest, origin)
        As they shall stand there.
    """
    table = _table("Version", "Labels", "Stored", "Age", "Digest", "From")
    for number, labels, time, digest, origin in versions:
        _add(table, str(number), ", ".join(labels), moment(time), _kept_whole(age(time)), digest, _dim(origin))
    console.print(table)


def print_runs(console: Console, runs: Sequence[tuple[str, str, str, datetime | None, float | None]]) -> None:
    """Print runs as a table.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    runs : sequence of (run id, flow, state, start, elapsed)
        As their records tell.
    """
    from rich.text import Text

    table = _table("Run", "Flow", "State", "Started", "Took")
    for run_id, flow, label, start, elapsed in runs:
        state = Text(label, style=_STATES[label].tone if label in _STATES else "")
        _add(table, run_id, flow, state, moment(start), "" if elapsed is None else duration(elapsed))
    console.print(table)


def print_findings(console: Console, findings: Sequence[tuple[str, str, str, str]]) -> None:
    """Print what a check has found as a table.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    findings : sequence of (level, subject, message, remedy)
        The worst first.
    """
    from rich.text import Text

    table = _table("Level", "About", "Found", "What to do")
    for level, subject, message, remedy in findings:
        _add(table, Text(level, style=_LEVELS.get(level, "")), subject, message, remedy)
    console.print(table)


def print_manifest(console: Console, manifest: Mapping[str, Any], where: str, version: str = "") -> None:
    """Print what a flow says about itself: parameters, tasks, and its graph as a tree.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    manifest : mapping
        Of the flow.
    where : str
        Where it lies.
    version : str, optional
        Which version that is.
    """
    from rich.text import Text

    console.print(Text.assemble((manifest["name"], "bold"), ("  from ", "dim"), manifest["origin"]))
    if manifest.get("doc"):
        console.print(Text(manifest["doc"]))
    if version:
        console.print(Text(version))
    if where:
        console.print(Text(where, style="dim"), soft_wrap=True)
    if manifest.get("source"):
        console.print(Text.assemble(("code in ", "dim"), _code_of(manifest["source"])), soft_wrap=True)
    if manifest.get("environment"):
        console.print(Text.assemble(("runs on ", "dim"), _options(manifest["environment"])), soft_wrap=True)
    _print_parameters(console, manifest["parameters"])
    _print_tasks(console, manifest["tasks"])
    graph, example = manifest.get("graph"), manifest.get("example")
    if graph is None:
        console.print(_heading("Graph"))
        console.print("  not drawn: some parameters have no default; store the flow with an example of them")
        return
    console.print(_heading("Graph", f"as drawn for {_options(example)}" if example else ""))
    for line in graph_tree(graph).splitlines():
        console.print(Text(f"  {line}"), soft_wrap=True)


def _code_of(source: Mapping[str, Any]) -> str:
    """Where the code of a flow lies, in a line."""
    if source["kind"] == "module":
        versions = ", ".join(f"{name} {version}" for name, version in source["distributions"].items())
        return f"the module {source['module']}{f' of {versions}' if versions else ''}, which is installed where it runs"
    if source["kind"] != "script":
        return f"a place of a kind that this headrace does not know ({source['kind']!r:.60}); upgrade it"
    if "commit" in source:
        return f"git+{source['repository']}@{source['commit']}#{source['path']}"
    return f"{source['url']}  (sha256 {source['sha256'][:12]}…)"


def _print_parameters(console: Console, parameters: Sequence[Mapping[str, Any]]) -> None:
    console.print(_heading("Parameters", "" if parameters else "none"))
    table = _grid()
    for parameter in parameters:
        default = _dim("required") if parameter["required"] else f"= {_json(parameter['default'])}"
        _add(table, "", parameter["name"], parameter["annotation"] or _dim("any value"), default)
    if parameters:
        console.print(table)


def _print_tasks(console: Console, tasks: Sequence[Mapping[str, Any]]) -> None:
    console.print(_heading("Tasks", "" if tasks else "none is known before the flow is drawn"))
    table = _grid()
    for task in tasks:
        policy = {
            key: value
            for key, value in task.items()
            if key not in ("name", "origin") and value is not None and value != _USUAL.get(key)
        }
        _add(table, "", task["name"], _options(policy), _dim(task["origin"]))
    if tasks:
        console.print(table)


def summaries_of(outcome: Mapping[str, Any]) -> list[NodeSummary]:
    """Return the node summaries that a run's outcome holds.

    Parameters
    ----------
    outcome : mapping
        As its record tells.
    """
    return [
        NodeSummary(
            node["name"],
            node["mapped"],
            node["width"],
            {_STATES[label]: count for label, count in node["counts"].items()},
            node["seconds"],
        )
        for node in outcome["nodes"]
    ]


def state_of(label: str) -> State:
    """Return the state that a record's word means."""
    return _STATES[label]


def moment(time: datetime | None) -> str:
    """Return a time as people read it, in their own time zone.

    Parameters
    ----------
    time : datetime or None
        With its zone.
    """
    return "" if time is None else f"{time.astimezone():%Y-%m-%d %H:%M:%S}"


def age(time: datetime) -> str:
    """Return how long ago something was, roughly: ``40 s``, ``3 min``, ``5 h``, ``12 d``.

    Parameters
    ----------
    time : datetime
        With its zone.
    """
    seconds = max(0, int((datetime.now(UTC) - time).total_seconds()))
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size:,} {unit}"
    return f"{seconds} s"


def parse_moment(text: str) -> datetime | None:
    """Return the time that a record holds, or None if there is none in it.

    Parameters
    ----------
    text : str
        ISO.
    """
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _signature(parameter: Mapping[str, Any]) -> str:
    text = str(parameter["name"])
    if parameter["annotation"]:
        text += f": {parameter['annotation']}"
    if not parameter["required"]:
        text += f"{' = ' if parameter['annotation'] else '='}{_json(parameter['default'])}"
    return text


def _options(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={_json(value)}" for name, value in values.items())


def _json(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"


def _table(*heads: str) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", pad_edge=False)
    for position, head in enumerate(heads):
        table.add_column(head, no_wrap=position == 0, overflow="fold")
    return table


def _grid() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for width in (0, None, None, None):
        table.add_column(width=width, overflow="fold")
    return table


def _add(table: Table, *cells: Any) -> None:
    """Add a row; texts are taken as they are, for ``list[str]`` is no markup."""
    from rich.text import Text

    table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in cells))


def _heading(text: str, remark: str = "") -> Any:
    from rich.text import Text

    return Text.assemble("\n", (text, "bold"), (f"  {remark}" if remark else "", "dim"))


def _kept_whole(text: str) -> Any:
    from rich.text import Text

    return Text(text, no_wrap=True)


def _dim(text: str) -> Any:
    from rich.text import Text

    return Text(text, style="dim")
