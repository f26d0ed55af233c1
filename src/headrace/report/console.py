"""A run in the terminal: one line per task while it runs, and a table at the end.

The driver tells the observer about progress and must not be held up, so ``on_progress`` only keeps what it is
given; drawing happens on rich's own refresh thread. rich itself is imported when the first run starts.
"""

from __future__ import annotations

import atexit
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.core.state import State
from headrace.core.summary import NodeSummary, Observer
from headrace.report.rows import WAITING, duration, fit, progress, share_out, totals

if TYPE_CHECKING:
    from types import TracebackType

    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.text import Text

#: glyphs for terminals that can show them, and for those that cannot.
_GLYPHS: dict[State, tuple[str, str]] = {
    State.PENDING: ("·", "."),
    State.READY: ("·", "."),
    State.RUNNING: ("●", "*"),
    State.RETRYING: ("↻", "~"),
    State.SUCCESS: ("✓", "+"),
    State.CACHED: ("✓", "+"),
    State.FAILED: ("✗", "x"),
    State.TRIGGER_FAILED: ("⊘", "x"),
    State.SKIPPED: ("↷", "-"),
    State.CANCELLED: ("■", "c"),
    State.CRASHED: ("✗", "X"),
    State.TIMED_OUT: ("✗", "t"),
}
_SPIN = ("◐", "◓", "◑", "◒")

#: more nodes than this are grouped by task, as far as the terminal's height needs it.
MOST_ROWS = 30


class ConsoleObserver(Observer):
    """Show a run in the terminal; where there is none, write a plain line now and then.

    Use it in a ``with`` block around the run, so that an exception leaves the terminal as it was.

    Parameters
    ----------
    console : rich.console.Console, optional
        Where to write. Default: standard error, so that standard output keeps what a command answers.
    outcome : bool, default True
        Whether to print the outcome as a table when the run ends.
    interval : float, default 10.0
        Seconds between two plain lines, where there is no terminal.
    clock : callable, default time.monotonic
        Tells seconds; given by tests.
    """

    def __init__(
        self,
        console: Console | None = None,
        *,
        outcome: bool = True,
        interval: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._outcome = outcome
        self._interval = interval
        self._clock = clock
        self._live: Live | None = None
        self._heading = ""
        self._nodes: Sequence[NodeSummary] = ()
        self._workers: tuple[int, int] | None = None  # how many there are and are wanted
        self._fitted: tuple[Sequence[NodeSummary] | None, int, tuple[list[NodeSummary], str]] = (
            None,
            0,
            ([], ""),
        )
        self._started = 0.0
        self._said = 0.0
        self._named: set[str] = set()

    def __enter__(self) -> ConsoleObserver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop drawing and give the terminal back, with the last picture left on it. May be called twice."""
        live, self._live = self._live, None
        if live is not None:
            live.stop()
            atexit.unregister(self.close)

    # -- the observer ----------------------------------------------------------------------------------------

    def on_start(self, run_id: str, flow_name: str, nodes: Sequence[NodeSummary]) -> None:
        """Begin to draw."""
        from rich.console import Console
        from rich.live import Live

        self.close()
        if self._console is None:
            self._console = Console(stderr=True)
        self._heading, self._nodes, self._named, self._workers = flow_name, nodes, set(), None
        self._started = self._said = self._clock()
        if not self._console.is_interactive:
            what = "1 node" if len(nodes) == 1 else f"{len(nodes):,} nodes"
            self._console.out(f"{flow_name}: run {run_id} started, {what}", highlight=False)
            return
        self._live = Live(
            get_renderable=self._picture,
            console=self._console,
            refresh_per_second=6,
            transient=False,
            # What tasks print belongs above the picture, unless somebody reads standard output by machine.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=sys.stderr.isatty(),
        )
        atexit.register(self.close)  # for runs outside a `with` block that end in an exception
        self._live.start()

    def on_progress(self, nodes: Sequence[NodeSummary], elapsed: float) -> None:
        """Keep what the next picture shows."""
        self._nodes = nodes
        if self._live is None:
            self._say(elapsed)

    def on_workers(self, present: int, wanted: int) -> None:
        """Keep what the next picture shows."""
        self._workers = present, wanted

    def on_end(self, nodes: Sequence[NodeSummary], state: State, elapsed: float) -> None:
        """Replace the picture by the outcome."""
        self._nodes = nodes
        if self._live is not None:
            self._live.transient = self._outcome
        else:
            self._say(elapsed)
        self.close()
        if self._outcome and self._console is not None:
            print_outcome(self._console, nodes, state, elapsed, heading=self._heading)

    # -- without a terminal ----------------------------------------------------------------------------------

    def _say(self, elapsed: float) -> None:
        """Write a line for each node that got done, and how far the whole run is once in an interval."""
        console = self._console
        if console is None:
            return
        if len(self._nodes) <= MOST_ROWS:
            for node in self._nodes:
                if node.done == node.width and node.name not in self._named:
                    self._named.add(node.name)
                    glyph = _glyph(node.state, console)
                    line = f"  {glyph} {_label(node)} {progress(node)} {node.state} in {duration(node.seconds)}"
                    console.out(line, highlight=False)
        now = self._clock()
        if now - self._said >= self._interval:
            self._said = now
            console.out(f"  {_sentence(self._nodes, elapsed, self._workers)}", highlight=False)

    # -- in a terminal ---------------------------------------------------------------------------------------

    def _picture(self) -> RenderableType:
        """Draw the newest summaries; called by rich's refresh thread."""
        from rich.console import Group
        from rich.text import Text

        console = self._console
        assert console is not None
        room = max(3, min(MOST_ROWS, console.size.height - 5))
        nodes = self._nodes
        if self._fitted[0] is not nodes or self._fitted[1] != room:
            self._fitted = (nodes, room, fit(nodes, room))
        rows, rest = self._fitted[2]
        elapsed = self._clock() - self._started
        sentence = _sentence(nodes, elapsed, self._workers)
        parts: list[RenderableType] = [
            Text.assemble((f" {self._heading}", "bold"), (f"  {sentence}", "dim"), no_wrap=True),
            _table(rows, console, spin=int(elapsed * 6)),
        ]
        if rest:
            parts.append(Text(f"  … {rest}", style="dim"))
        return Group(*parts)


def print_outcome(
    console: Console,
    summaries: Sequence[NodeSummary],
    state: State,
    elapsed: float,
    *,
    errors: Sequence[str] = (),
    heading: str = "",
) -> None:
    """Print how a run ended: one row per node, and a line about the whole.

    Parameters
    ----------
    console : rich.console.Console
        Where to print.
    summaries : sequence of NodeSummary
        One per node.
    state : State
        The run's state.
    elapsed : float
        Seconds from the start to the end of the run.
    errors : sequence of str
        One line per error that deserves to be seen.
    heading : str
        The flow's name.
    """
    from rich.text import Text

    rows, rest = fit(summaries, 2 * MOST_ROWS)
    console.print(_table(rows, console))
    if rest:
        console.print(Text(f"  … {rest}", style="dim"))
    for error in errors:
        console.print(Text.assemble((f"  {_glyph(State.FAILED, console)} ", State.FAILED.tone), error))
    sum_up = totals(summaries)
    what = f"{heading} " if heading else ""
    line = Text.assemble((f" {_glyph(state, console)} {what}{state.words}", f"bold {state.tone}"))
    line.append(f" in {duration(elapsed)}")
    if sum_up.failures:
        what = "did not succeed" if state is State.CANCELLED else "failed"
        line.append(f", {sum_up.failures:,} of {sum_up.width:,} task runs {what}", style=state.tone)
    else:
        line.append(f", {sum_up.done:,} task runs")
    if elapsed > 0 and sum_up.seconds >= max(0.05 * elapsed, 0.001):
        line.append(f", {duration(sum_up.seconds)} of work ({sum_up.seconds / elapsed:.1f} at a time)", style="dim")
    console.print(line)


def _table(rows: Sequence[NodeSummary], console: Console, spin: int | None = None) -> Any:
    """Lay the rows out; with ``spin``, for a picture that moves."""
    from rich.table import Table
    from rich.text import Text

    cells = 30 if console.width >= 100 else 20 if console.width >= 80 else 8
    table = Table.grid(padding=(0, 1))
    table.add_column(width=2, justify="right")
    table.add_column(no_wrap=True, overflow="ellipsis", max_width=max(12, console.width - cells - 40))
    table.add_column(width=cells)
    table.add_column(min_width=7, justify="right", no_wrap=True)
    table.add_column(min_width=8, justify="right", no_wrap=True)  # fixed, or the columns dance as times grow
    table.add_column(no_wrap=True)
    for row in rows:
        state, running = row.state, row.counts.get(State.RUNNING, 0)
        glyph = _glyph(state, console)
        if spin is not None and running and not console.options.ascii_only:
            glyph = _SPIN[spin % len(_SPIN)]
        name = Text(row.name, style="dim" if state in WAITING else "")
        if row.mapped:
            name.append(" [map]", style="dim")
        table.add_row(
            Text(glyph, style=state.tone),
            name,
            _bar(row, cells, console),
            progress(row) if row.width is None or row.width > 1 or row.mapped else "",
            Text(duration(row.seconds) if row.seconds else "", style="dim"),
            _remark(row, running),
        )
    return table


def _remark(row: NodeSummary, running: int) -> Text:
    """What is worth a word beside the bar: failures in red, else how many are running or waiting to retry."""
    from rich.text import Text

    remark = Text()
    parts = [
        (f"{count:,} {'' if row.width == 1 else state.words.lower()}".strip(), state.tone)
        for state, count in sorted(row.counts.items(), reverse=True)
        if state.is_failure or state in (State.SKIPPED, State.CACHED, State.RETRYING)
    ]
    if row.width == 1 and parts:
        parts = [(row.state.words.lower(), row.state.tone)]
    if running and row.width != 1:
        parts.append((f"{running:,} running", State.RUNNING.tone))
    for text, tone in parts:
        remark.append(", " if remark else "").append(text, style=tone)
    return remark


def _bar(row: NodeSummary, cells: int, console: Console) -> Text:
    from rich.text import Text

    stroke = "#" if console.options.ascii_only else "━"
    bar = Text()
    for state, share in share_out(row.counts, row.width, cells):
        bar.append(stroke * share, style=state.tone)
    rest = "-" if console.options.ascii_only else "─"
    return bar.append(rest * (cells - len(bar)), style="bright_black")


def _glyph(state: State, console: Console) -> str:
    return _GLYPHS[state][console.options.ascii_only]


def _label(node: NodeSummary) -> str:
    return f"{node.name} [map]" if node.mapped else node.name


def _sentence(nodes: Sequence[NodeSummary], elapsed: float, workers: tuple[int, int] | None = None) -> str:
    """How far the whole run is, in words."""
    whole = totals(nodes)
    parts = [
        f"{duration(elapsed)}",
        f"{whole.done:,} of {whole.width:,}{'' if whole.exact else '+'} task runs done",
    ]
    if whole.running:
        parts.append(f"{whole.running:,} running")
    if whole.failures:
        parts.append(f"{whole.failures:,} failed")
    if workers is not None:
        present, wanted = workers
        number = f"{present:,} of {wanted:,}" if present < wanted else f"{present:,}"
        parts.append(f"{number} {'worker' if max(workers) == 1 else 'workers'}")
    return " · ".join(parts)
