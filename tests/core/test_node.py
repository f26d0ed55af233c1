"""A node is not a value: each use of it as one says what to write instead."""

from __future__ import annotations

import copy
import math
import operator
import pickle

import pytest

import headrace as hr
from headrace.errors import FlowError, NodeUsedAsValue


@hr.task
def load():
    return [1]


@hr.task(nout=2)
def both():
    return 1, 2


def in_flow(use):
    """Use a node while a flow is drawn."""

    @hr.flow(name="using")
    def using():
        use(load())

    using.graph()


BINARY = """add sub mul truediv floordiv mod pow matmul and_ or_ xor lshift rshift lt le gt ge eq ne""".split()  # noqa: SIM905 - a list of words
AUGMENTED = """iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor ilshift irshift""".split()  # noqa: SIM905 - a list of words


@pytest.mark.parametrize("name", BINARY + AUGMENTED)
def test_operators(name):
    function = getattr(operator, name)
    with pytest.raises(NodeUsedAsValue, match=r"node 'load'.*task"):
        in_flow(lambda node: function(node, 3))


@pytest.mark.parametrize("name", BINARY)
def test_reflected_operators(name):
    function = getattr(operator, name)
    with pytest.raises(NodeUsedAsValue, match=r"node 'load'.*task"):
        in_flow(lambda node: function(3, node))


def loop(node):
    for _ in node:
        pass


def unpack(node):
    _, _ = node


def branch(node):
    if node:
        pass


def with_statement(node):
    with node:
        pass


def set_item(node):
    node["k"] = 1


def delete_item(node):
    del node["k"]


@pytest.mark.parametrize(
    ("use", "instead"),
    [
        (branch, r"in a block `with hr.case\(node\):`, decide inside a task, or make it a parameter"),
        (lambda node: node == 3, r"in a block `with hr.case\(node, value\):`"),
        (lambda node: not node, "decide inside a task"),
        (lambda node: node and 1, "decide inside a task"),
        (loop, r"use `task.map\(node\)`.*nout=2"),
        (unpack, "nout=2"),
        (list, "task.map"),
        (sum, "task.map"),
        (len, "take the length inside a task"),
        (range, "make the number a parameter of the flow"),
        (lambda node: [1, 2][node], "make the number a parameter"),
        (int, "convert inside a task"),
        (float, "convert inside a task"),
        (math.sqrt, "convert inside a task"),
        (lambda node: 3 in node, "look for it inside a task"),
        (lambda node: node.columns, "write a task that receives it and returns its .columns"),
        (lambda node: node.sum(), "write a task that receives it and returns its .sum"),
        (lambda node: node(), "call it inside a task"),
        (lambda node: node[node], "write a task that receives both"),
        (lambda node: f"{node}", r"make the text inside a task.*\{node!r\}"),
        (lambda node: f"{node:>4}", "make the text inside a task"),
        (lambda node: -node, "write a task that computes it"),
        (lambda node: +node, "write a task that computes it"),
        (lambda node: ~node, "write a task that computes it"),
        (abs, "write a task that computes it"),
        (round, "write a task that computes it"),
        (lambda node: divmod(node, 2), "write a task that computes it"),
        (lambda node: divmod(2, node), "write a task that computes it"),
        (with_statement, "open it inside the task"),
        (set_item, "returns the changed value"),
        (delete_item, "returns the changed value"),
        (copy.copy, "not inside other objects"),
        (copy.deepcopy, "not inside other objects"),
        (pickle.dumps, "not inside other objects"),
    ],
)
def test_other_uses(use, instead):
    with pytest.raises(NodeUsedAsValue, match=f"node 'load' as a value.*{instead}") as caught:
        in_flow(use)
    assert isinstance(caught.value, FlowError)
    assert isinstance(caught.value, TypeError)


@pytest.mark.parametrize("use", [branch, loop, len, range, lambda p: p + 1, lambda p: p.real, lambda p: p[p]])
def test_parameters_of_flows_built_by_hand_are_no_values_either(use):
    with pytest.raises(NodeUsedAsValue, match="parameter 'p'"), hr.Flow("built"):
        use(hr.Parameter("p"))


def test_what_a_node_can_do():
    def use(node):
        assert node.name == "load"
        assert node == node
        assert node != load()
        assert node in [load(), node]
        assert {node: 1}[node] == 1
        assert repr(node["k"][0]) == "<Node load['k'][0]>"
        assert not hasattr(node, "__array__")

    in_flow(use)


def test_unpacking_with_nout():
    def use(_):
        first, second = both()
        assert [repr(first), repr(second)] == ["<Node both[0]>", "<Node both[1]>"]
        assert len([*both()]) == 2
        with pytest.raises(NodeUsedAsValue, match="nout"):
            list(both()[0])
        with pytest.raises(NodeUsedAsValue, match="unpack inside a task"):
            list(mapped_both.map([1]))

    @hr.task(nout=2)
    def mapped_both(x):
        return x, x

    in_flow(use)


def test_set_upstream_orders_nodes():
    @hr.flow
    def ordered():
        first, second = load(), load()
        first.set_upstream(second)

    assert ordered.graph().describe()[0]["upstream"] == ["load-2"]
