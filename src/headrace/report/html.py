"""Graphs and runs as pieces of HTML, for notebooks and pages. Pure functions from plain values to strings.

Each piece carries its own style and no script, and takes its colours from what surrounds it: text in the
current colour, surfaces as a faint tint, so that it is as readable on a dark page as on a light one. All text
from outside is escaped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from html import escape
from itertools import pairwise
from typing import Any

from headrace.core.state import State
from headrace.core.summary import NodeSummary
from headrace.report.layout import HEIGHT, Box, Layout, lay_out, shortened
from headrace.report.rows import WAITING, duration, fit, progress, share_out, totals

#: how many versions of a flow are shown.
MOST_VERSIONS = 20
#: more rows than this are grouped by task, and at last left out.
MOST_ROWS = 100
#: longer errors than this, and more of them, are cut.
MOST_ERRORS, MOST_ERROR_TEXT = 20, 4000

#: notebooks name the colour that lies behind an output; a page without one gives the browser's own.
_BEHIND = "var(--jp-layout-color0, var(--vscode-editor-background, Canvas))"

_STYLE = f"""<style>
.headrace {{ font: 13px/1.45 system-ui, sans-serif; color: inherit; max-width: 100%; }}
.headrace .hr-head {{ display: flex; flex-wrap: wrap; gap: .3em .9em;
  align-items: baseline; margin: .2em 0 .5em; }}
.headrace .hr-head b {{ font-size: 15px; }}
.headrace .hr-quiet {{ opacity: .68; }}
.headrace .hr-chip {{ display: inline-block; padding: 0 .65em; border-radius: 1em; white-space: nowrap; }}
.headrace .hr-chip i {{ display: inline-block; width: .6em; height: .6em; border-radius: 50%;
  margin-right: .45em; }}
.headrace .hr-scroll {{ overflow: auto; max-height: 56em; }}
.headrace table {{ border-collapse: collapse; margin: 0; font: inherit; color: inherit; border: 0; }}
.headrace th, .headrace td {{ padding: .28em .8em; text-align: left; border: 0; background: none;
  color: inherit; }}
.headrace th {{ font-weight: 600; opacity: .68; border-bottom: 1px solid rgba(128,128,128,.4); }}
.headrace tr + tr td {{ border-top: 1px solid rgba(128,128,128,.16); }}
.headrace .hr-number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.headrace .hr-bar {{ display: flex; width: 13em; height: .6em; border-radius: .3em; overflow: hidden;
  background: rgba(128,128,128,.22); }}
.headrace pre {{ margin: .4em 0; padding: .55em .8em; overflow: auto; max-height: 20em; white-space: pre-wrap;
  border-left: 3px solid {State.FAILED.tone}; background: rgba(214,69,69,.09); color: inherit;
  font: 12px/1.4 ui-monospace, monospace; }}
.headrace svg {{ display: block; }}
.headrace svg text {{ font: 12.5px system-ui, sans-serif; fill: currentColor; text-anchor: middle; }}
.headrace svg rect {{ fill: {_BEHIND}; stroke: currentColor; stroke-opacity: .5; }}
.headrace svg .hr-mapped {{ stroke: #2f80ed; stroke-opacity: .95; }}
.headrace svg path {{ fill: none; stroke: currentColor; stroke-opacity: .38; stroke-width: 1.4; }}
.headrace svg .hr-tip {{ fill: currentColor; stroke: none; fill-opacity: .5; }}
</style>"""


def graph_html(name: str, nodes: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]) -> str:
    """Return a flow's graph as a picture, drawn from the top down.

    Parameters
    ----------
    name : str
        The flow's name.
    nodes : sequence of mapping
        As ``Graph.describe()`` gives them: name, task, mapped, upstream.
    parameters : mapping
        The flow's parameters; their values are shown as they print.
    """
    layout = lay_out(nodes)
    shown = ", ".join(f"{key}={_cut(str(value), 80)}" for key, value in parameters.items())
    count = "1 node" if len(nodes) == 1 else f"{len(nodes):,} nodes"
    head = [f"<b>{escape(name)}</b>", f'<span class="hr-quiet">{count}</span>']
    if shown:
        head.append(f"<code>{escape(_cut(shown, 600))}</code>")
    if any(node["mapped"] for node in nodes):
        head.append('<span class="hr-quiet">stacked: one child per element</span>')
    rest = f'<div class="hr-quiet">… {layout.hidden:,} more nodes</div>' if layout.hidden else ""
    return (
        f'<div class="headrace">{_STYLE}<div class="hr-head">{"".join(head)}</div>'
        f'<div class="hr-scroll">{_svg(layout)}</div>{rest}</div>'
    )


def _svg(layout: Layout) -> str:
    width, height = f"{layout.width:.0f}", f"{layout.height:.0f}"
    parts = [f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img">']
    parts += [_line(layout.boxes, line) for line in layout.lines]
    parts += [_box(box) for box in layout.boxes if box.count]
    return "".join([*parts, "</svg>"])


def _line(boxes: Sequence[Box], line: Sequence[int]) -> str:
    """Draw one edge as a smooth curve through its bends, with a tip."""
    points = [(boxes[line[0]].x, boxes[line[0]].y + HEIGHT)]
    for at in line[1:-1]:
        points += [(boxes[at].x, boxes[at].y), (boxes[at].x, boxes[at].y + HEIGHT)]
    end = boxes[line[-1]]
    points.append((end.x, end.y - 5))
    path = f"M{points[0][0]:.0f} {points[0][1]:.0f}"
    for (x, y), (to_x, to_y) in pairwise(points):
        middle = (y + to_y) / 2
        path += f"C{x:.0f} {middle:.0f} {to_x:.0f} {middle:.0f} {to_x:.0f} {to_y:.0f}"
    tip = f'<path class="hr-tip" d="M{end.x - 4:.0f} {end.y - 7:.0f}h8l-4 7z"/>'
    return f'<path d="{path}"/>{tip}'


def _box(box: Box) -> str:
    left, kind = box.x - box.width / 2, ' class="hr-mapped"' if box.mapped else ""
    size = f'width="{box.width:.0f}" height="{HEIGHT:.0f}" rx="7"'
    # A mapped node looks like a stack of cards.
    sheets = [4, 0] if box.mapped or box.count > 1 else [0]
    cards = "".join(f'<rect{kind} x="{left + off:.0f}" y="{box.y + off:.0f}" {size}/>' for off in sheets)
    label = escape(shortened(box.label))
    text = f'<text x="{box.x:.0f}" y="{box.y + HEIGHT / 2 + 4.5:.0f}">{label}</text>'
    return f"<g><title>{escape(box.label)}</title>{cards}{text}</g>"


def stored_flow_html(
    manifest: Mapping[str, Any], where: str, versions: Sequence[tuple[int, Sequence[str], datetime, str, bool]]
) -> str:
    """Return a stored flow as its picture, and a table of its versions below.

    Parameters
    ----------
    manifest : mapping
        Of the version that is shown.
    where : str
        Where that one lies.
    versions : sequence of (number, labels, time, digest, whether it is the one that is shown)
        Newest first.
    """
    values = manifest.get("example")
    declared = {row["name"]: row["annotation"] for row in manifest["parameters"]}
    picture = graph_html(manifest["name"], manifest.get("graph") or [], declared if values is None else values)
    rows = "".join(
        f'<tr><td class="hr-number">{f"<b>{number}</b>" if is_shown else number}</td>'
        f"<td>{escape(', '.join(labels))}</td><td>{time.astimezone():%Y-%m-%d %H:%M:%S}</td>"
        f"<td><code>{escape(digest)}</code></td></tr>"
        for number, labels, time, digest, is_shown in versions[:MOST_VERSIONS]
    )
    hidden = len(versions) - MOST_VERSIONS
    rest = f'<div class="hr-quiet">… {hidden:,} older versions</div>' if hidden > 0 else ""
    head = '<tr><th class="hr-number">Version</th><th>Labels</th><th>Stored</th><th>Digest</th></tr>'
    table = f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>" if versions else ""
    return f'{picture}<div class="headrace"><div class="hr-quiet">{escape(where)}</div>{table}{rest}</div>'


def run_html(
    run_id: str,
    flow_name: str,
    state: State,
    summaries: Sequence[NodeSummary],
    elapsed: float,
    errors: Sequence[str],
) -> str:
    """Return a run as a table: per node its state, how far it is, and the time spent.

    Parameters
    ----------
    run_id, flow_name : str
        What ran.
    state : State
        Where the run stands.
    summaries : sequence of NodeSummary
        One per node.
    elapsed : float
        Seconds since the run started, or from its start to its end.
    errors : sequence of str
        Shown below the table, in full up to a bound.
    """
    whole = totals(summaries)
    rows, rest = fit(summaries, MOST_ROWS)
    facts = f"{whole.done:,} of {whole.width:,}{'' if whole.exact else '+'} task runs in {duration(elapsed)}"
    if elapsed > 0 and whole.seconds >= max(0.05 * elapsed, 0.001):
        facts += f", {duration(whole.seconds)} of work"
    head = (
        f"<b>{escape(flow_name)}</b>{_chip(state)}<span>{escape(facts)}</span>"
        f'<span class="hr-quiet">run {escape(run_id)}</span>'
    )
    columns = (
        '<tr><th>Node</th><th>State</th><th>Progress</th><th class="hr-number">Done</th>'
        '<th class="hr-number">Time in tasks</th></tr>'
    )
    more = f'<div class="hr-quiet">… {escape(rest)}</div>' if rest else ""
    return (
        f'<div class="headrace">{_STYLE}<div class="hr-head">{head}</div>'
        f'<div class="hr-scroll"><table><thead>{columns}</thead>'
        f"<tbody>{''.join(map(_row, rows))}</tbody></table></div>{more}{_errors(errors)}</div>"
    )


def _row(row: NodeSummary) -> str:
    others = [
        f"{count:,} {state.words}"
        for state, count in sorted(row.counts.items(), reverse=True)
        if row.width != 1 and state != State.SUCCESS and state not in WAITING
    ]
    note = f' <span class="hr-quiet">{escape(", ".join(others))}</span>' if others else ""
    mapped = ' <span class="hr-quiet">[map]</span>' if row.mapped else ""
    bar = "".join(
        f'<span style="width:{share / 2:g}%;background:{state.tone}"></span>'
        for state, share in share_out(row.counts, row.width, 200)
    )
    spent = escape(duration(row.seconds)) if row.seconds else ""
    return (
        f"<tr><td>{escape(_cut(row.name, 80))}{mapped}</td><td>{_chip(row.state)}{note}</td>"
        f'<td><div class="hr-bar">{bar}</div></td><td class="hr-number">{progress(row)}</td>'
        f'<td class="hr-number">{spent}</td></tr>'
    )


def _chip(state: State) -> str:
    """A state's word on a tint of its colour; the text keeps the page's colour, so it is readable on any."""
    return (
        f'<span class="hr-chip" style="background:{state.tone}2b"><i style="background:{state.tone}"></i>'
        f"{state.words}</span>"
    )


def _errors(errors: Sequence[str]) -> str:
    shown = "".join(f"<pre>{escape(_cut(error, MOST_ERROR_TEXT))}</pre>" for error in errors[:MOST_ERRORS])
    hidden = len(errors) - MOST_ERRORS
    return shown + (f'<div class="hr-quiet">… {hidden:,} more errors</div>' if hidden > 0 else "")


def _cut(text: str, most: int) -> str:
    """Shorten a text in its middle: the ends of a name, and of a traceback, say most."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[len(text) - half :]}"
