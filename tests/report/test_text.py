from hypothesis import given
from hypothesis import strategies as st

from headrace.report.text import graph_tree


def node(name, *upstream, mapped=False):
    return {"name": name, "task": name.partition("-")[0], "mapped": mapped, "upstream": list(upstream)}


def test_a_tree_shows_consumers_below_and_repeats_nothing():
    tree = graph_tree(
        [
            node("load"),
            node("fit", "load", mapped=True),
            node("best", "fit"),
            node("plot", "load", "best"),
            node("other"),
        ]
    )
    assert tree.splitlines() == [
        "load",
        "├─ fit [map]",
        "│  └─ best",
        "│     └─ plot",
        "└─ plot (above)",
        "other",
    ]


def test_an_empty_graph_is_an_empty_text():
    assert graph_tree([]) == ""


def test_a_long_chain_goes_on_at_the_margin():
    lines = graph_tree([node(f"s-{i}", *([f"s-{i - 1}"] if i else [])) for i in range(500)]).splitlines()
    assert max(map(len, lines)) < 100
    assert {line.split()[-1] for line in lines if "(" not in line} <= {f"s-{i}" for i in range(500)}
    assert "s-25 (continued)" in lines


def test_many_lines_are_cut_and_counted():
    lines = graph_tree([node(f"n{i}") for i in range(100)], limit=10).splitlines()
    assert len(lines) == 11
    assert lines[-1] == "… 89 more nodes" or lines[-1] == "… 90 more nodes"


@given(st.data())
def test_each_node_is_drawn_in_full_exactly_once(data):
    count = data.draw(st.integers(1, 70))
    nodes = []
    for i in range(count):
        near = st.lists(st.integers(max(0, i - 3), i - 1), max_size=3, unique=True) if i else st.just([])
        nodes.append(node(f"n{i}", *(f"n{j}" for j in data.draw(near))))
    lines = graph_tree(nodes).splitlines()
    full = [line for line in lines if not line.endswith((" (above)", " (below)"))]
    names = [line.removesuffix(" (continued)").split()[-1] for line in full]
    assert sorted(names) == sorted(n["name"] for n in nodes)
