from html.parser import HTMLParser
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.state import State
from headrace.core.summary import NodeSummary
from headrace.report.html import graph_html, run_html
from headrace.report.layout import HEIGHT, MOST_NODES, lay_out

VOID = {"meta", "br"}


class Checker(HTMLParser):
    """Sees whether all tags are closed in order, and keeps the text."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def parsed(html):
    checker = Checker()
    checker.feed(html)
    checker.close()
    assert checker.open == []
    return checker


def node(name, *upstream, task=None, mapped=False):
    return {"name": name, "task": task or name, "mapped": mapped, "upstream": list(upstream)}


def layers(width, depth):
    return [
        node(f"a-{d}-{i}", *([f"a-{d - 1}-{(i + k) % width}" for k in range(3)] if d else []), task="a")
        for d in range(depth)
        for i in range(width)
    ]


def test_a_graph_shows_its_nodes_and_parameters():
    seen = parsed(graph_html("etl", [node("load"), node("clean", "load", mapped=True)], {"day": "monday"}))
    assert {"etl", "load", "clean", "day=monday", "2 nodes"} <= set(seen.text)
    assert seen.seen.count("path") == 2  # a line and its tip
    assert seen.seen.count("rect") == 3  # the mapped one is a stack


def test_everything_from_outside_is_escaped():
    evil = "<script>alert('x')</script>"
    run = run_html(evil, evil, State.FAILED, [NodeSummary(evil, False, 1, {State.FAILED: 1}, 0)], 1.0, [evil])
    graph = graph_html(evil, [node(evil)], {evil: evil})
    assert "script" not in parsed(run).seen
    assert "script" not in parsed(graph).seen
    assert evil in parsed(run).text


def test_a_run_shows_states_failures_and_errors():
    html = run_html(
        "run-1",
        "etl",
        State.FAILED,
        [
            NodeSummary("load", False, 1, {State.SUCCESS: 1}, 0.5),
            NodeSummary("parse", True, 10, {State.SUCCESS: 7, State.FAILED: 2, State.RUNNING: 1}, 61.0),
            NodeSummary("later", True, None, {}, 0.0),
        ],
        12.3,
        ["parse[3]: ValueError: bad page"],
    )
    text = parsed(html).text
    assert {"load", "9/10", "0/?", "1 min 01 s", "2 Failed, 1 Running"} <= set(map(str.strip, text))
    assert "parse[3]: ValueError: bad page" in text


def test_thousands_of_nodes_stay_a_small_picture():
    graphs = [layers(100, 20), [node(f"s{i}", *([f"s{i - 1}"] if i else []), task="s") for i in range(5000)]]
    for nodes in graphs:
        html = graph_html("big", nodes, {})
        parsed(html)
        assert len(html) < 60_000


def test_unlike_nodes_beyond_the_bound_are_counted():
    layout = lay_out([node(f"n{i}") for i in range(1000)])
    assert sum(box.count for box in layout.boxes) + layout.hidden == 1000
    assert layout.hidden > 0


def test_alike_nodes_of_a_level_become_one_box():
    layout = lay_out(layers(100, 5))
    assert [box.label for box in layout.boxes] == ["a \u00d7100"] * 5
    assert len(layout.lines) == 4


def test_a_chain_of_one_task_becomes_one_box():
    layout = lay_out([node(f"s{i}", *([f"s{i - 1}"] if i else []), task="s") for i in range(500)])
    assert [(box.label, box.count) for box in layout.boxes] == [("s \u00d7500", 500)]


def test_long_errors_and_many_of_them_are_cut():
    html = run_html("r", "f", State.FAILED, [], 0.0, ["x" * 1_000_000] * 100)
    assert len(html) < 120_000
    assert "80 more errors" in html


@settings(max_examples=60)
@given(st.data())
def test_boxes_do_not_overlap_and_lines_go_down(data):
    count = data.draw(st.integers(1, 2 * MOST_NODES))
    nodes = []
    for i in range(count):
        chosen = data.draw(st.lists(st.integers(0, i - 1), max_size=3, unique=True)) if i else []
        task = data.draw(st.sampled_from(["t", "u", "v"]))
        nodes.append(node(f"n{i}", *(f"n{j}" for j in chosen), task=task))
    layout = lay_out(nodes)
    assert sum(box.count for box in layout.boxes) + layout.hidden == count
    rows = {}
    for box in layout.boxes:
        rows.setdefault(box.y, []).append(box)
        assert box.width / 2 <= box.x <= layout.width - box.width / 2
        assert box.y + HEIGHT <= layout.height
    for row in rows.values():
        row.sort(key=lambda box: box.x)
        assert all(a.x + a.width / 2 <= b.x - b.width / 2 for a, b in pairwise(row))
    for line in layout.lines:
        assert all(layout.boxes[a].y < layout.boxes[b].y for a, b in pairwise(line))


def test_states_are_told_in_words():
    row = NodeSummary("a", True, 5, {State.TRIGGER_FAILED: 2, State.SUCCESS: 3}, 0.0)
    text = " ".join(parsed(run_html("run-1", "etl", State.FAILED, [row], 1.0, [])).text)
    assert "2 Trigger failed" in text
    assert "TriggerFailed" not in text


def test_short_times_are_text_and_no_tag():
    row = NodeSummary("a", False, 1, {State.SUCCESS: 1}, 1e-4)
    html = run_html("run-1", "etl", State.SUCCESS, [row], 1e-4, [])
    assert html.count("&lt; 1 ms") == 2  # of the run, and of its node
    assert "< 1" not in html


def test_one_node_is_no_plural():
    assert "1 node<" in graph_html("etl", [node("a")], {})
    assert "2 nodes<" in graph_html("etl", [node("a"), node("b", "a")], {})
