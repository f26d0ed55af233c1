import io
import re
import subprocess
import sys

import pytest
from rich.console import Console

from headrace.core.state import State
from headrace.core.summary import NodeSummary
from headrace.report.console import ConsoleObserver, print_outcome

HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def plain(text):
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def terminal(width=100, height=30):
    return Console(
        file=io.StringIO(), force_terminal=True, force_interactive=True, width=width, height=height, color_system=None,
        legacy_windows=False,
    )  # fmt: skip


def file():
    return Console(file=io.StringIO(), force_terminal=False, width=100)


LOAD = NodeSummary("load", False, 1, {State.SUCCESS: 1}, 0.5)
PARSE = NodeSummary("parse", True, 10, {State.SUCCESS: 6, State.FAILED: 1, State.RUNNING: 2, State.PENDING: 1}, 3.0)


def test_a_terminal_shows_a_line_per_node_and_then_the_outcome():
    console = terminal()
    with ConsoleObserver(console) as observer:
        observer.on_start("run-1", "etl", [LOAD, PARSE])
        observer.on_progress([LOAD, PARSE], 1.0)
        observer._live.refresh()
        picture = plain(console.file.getvalue())
        done = PARSE._replace(counts={State.SUCCESS: 9, State.FAILED: 1})
        observer.on_end([LOAD, done], State.FAILED, 2.0)
    assert "8 of 11 task runs done · 2 running · 1 failed" in picture
    assert re.search(r"parse \[map\] .* 7/10 .* 1 failed, 2 running", picture)
    outcome = plain(console.file.getvalue()).splitlines()[-1]
    assert "etl Failed in 2.0 s, 1 of 11 task runs failed" in outcome


@pytest.mark.parametrize(
    ("workers", "told"),
    [((1, 1), "1 worker"), ((0, 1), "0 of 1 worker"), ((3, 8), "3 of 8 workers"), ((4, 2), "4 workers")],
)
def test_workers_are_told_where_there_are_any(workers, told):
    console = terminal()
    with ConsoleObserver(console) as observer:
        observer.on_start("run-1", "etl", [LOAD, PARSE])
        observer.on_workers(*workers)
        observer._live.refresh()
        assert f"1 failed · {told}" in plain(console.file.getvalue())


def test_an_exception_leaves_the_cursor_visible_and_the_last_picture():
    console = terminal()

    def interrupted():
        with ConsoleObserver(console) as observer:
            observer.on_start("run-1", "etl", [LOAD])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    written = console.file.getvalue()
    assert written.rindex(SHOW) > written.rindex(HIDE)
    assert "load" in plain(written)


def test_a_run_that_never_ends_leaves_the_cursor_visible_when_the_process_does():
    code = """
import sys
from rich.console import Console
from headrace.report.console import ConsoleObserver
observer = ConsoleObserver(Console(file=sys.stdout, force_terminal=True, force_interactive=True))
observer.on_start("run-1", "etl", [])
raise SystemExit(3)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert ended.stdout.rindex(SHOW) > ended.stdout.rindex(HIDE)


def test_a_small_terminal_shows_what_is_urgent():
    console = terminal(width=70, height=12)
    nodes = [NodeSummary(f"task_{i}x", True, 5, {State.PENDING: 5}, 0.0) for i in range(100)]
    nodes[50] = nodes[50]._replace(counts={State.RUNNING: 1, State.PENDING: 4})
    with ConsoleObserver(console, outcome=False) as observer:
        observer.on_start("run-1", "wide", nodes)
        observer._live.refresh()
    lines = plain(console.file.getvalue()).split("wide ")[1].splitlines()
    assert any("task_50x [map]" in line and "1 running" in line for line in lines)
    assert "and 93 more: 93 pending" in plain(console.file.getvalue())
    assert max(map(len, lines)) <= 70


def test_a_file_gets_a_line_per_finished_node_and_one_per_interval():
    console, clock = file(), Clock()
    observer = ConsoleObserver(console, interval=10, clock=clock, outcome=False)
    observer.on_start("run-1", "etl", [LOAD, PARSE])
    for second in range(1, 26):
        clock.now = float(second)
        observer.on_progress([LOAD, PARSE], clock.now)
    observer.on_end([LOAD, PARSE], State.FAILED, 26.0)
    assert console.file.getvalue().splitlines() == [
        "etl: run run-1 started, 2 nodes",
        "  ✓ load 1/1 Success in 500 ms",
        "  10.0 s · 8 of 11 task runs done · 2 running · 1 failed",
        "  20.0 s · 8 of 11 task runs done · 2 running · 1 failed",
    ]
    assert "\x1b" not in console.file.getvalue()


def test_the_outcome_names_errors():
    console = file()
    print_outcome(console, [LOAD], State.FAILED, 0.5, errors=["load: ValueError: [bad] page"])
    assert "load: ValueError: [bad] page" in console.file.getvalue()


def test_the_outcome_names_what_was_cached():
    console = file()
    part = PARSE._replace(counts={State.SUCCESS: 7, State.CACHED: 3})
    print_outcome(console, [LOAD._replace(counts={State.CACHED: 1}), part], State.SUCCESS, 0.5)
    first, second, *_ = console.file.getvalue().splitlines()
    assert first.rstrip().endswith("cached")
    assert second.rstrip().endswith("3 cached")


def test_names_are_not_read_as_markup():
    console = file()
    print_outcome(console, [LOAD._replace(name="[red]load[/red]")], State.SUCCESS, 0.5)
    assert "[red]load[/red]" in console.file.getvalue()


def test_the_module_is_light():
    code = "import sys, headrace.report.console; print('rich' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_states_are_told_in_words():
    console = file()
    rows = [
        NodeSummary("load", False, 1, {State.TRIGGER_FAILED: 1}, 0.0),
        NodeSummary("parse", True, 5, {State.TRIGGER_FAILED: 2, State.SUCCESS: 3}, 0.0),
    ]
    print_outcome(console, rows, State.FAILED, 1.0)
    text = console.file.getvalue()
    assert "trigger failed" in text
    assert "2 trigger failed" in text
    assert "triggerfailed" not in text.lower()


def test_what_was_cancelled_did_not_fail():
    console = file()
    row = NodeSummary("parse", True, 5, {State.CANCELLED: 4, State.SUCCESS: 1}, 0.0)
    print_outcome(console, [row], State.CANCELLED, 1.0)
    assert "Cancelled in 1.0 s, 4 of 5 task runs did not succeed" in console.file.getvalue()
