from __future__ import annotations

import pytest

import headrace as hr
from headrace.core.slots import Const, EachConst
from headrace.errors import FlowError, ParameterError


@hr.task
def one(*values):
    return values


@pytest.mark.parametrize("name", ["a", "etl", "Etl 2", "a.b-c_d", "9", "x" * 100])
def test_names_that_can_be(name):
    assert hr.Flow(name).name == name


@pytest.mark.parametrize("name", ["", "a/b", "../up", ".hidden", " a", "-a", "ü", "a\n", "x" * 101, None, 5, "a\\b"])
def test_names_that_cannot_be(name):
    with pytest.raises(FlowError, match="a flow cannot be named"):
        hr.Flow(name)


@pytest.mark.parametrize("function", [lambda *xs: one(), lambda **xs: one(), lambda x, /: one(x)])
def test_parameters_without_a_fixed_name_are_refused(function):
    with pytest.raises(FlowError, match="has no fixed name; flows take named parameters only"):
        hr.flow(name="f")(function)


def built(*, returns=None):
    with hr.Flow("built") as flow:
        p = hr.Parameter("p", list[int])
        q = hr.Parameter("q", int, 7)
        node = one(p, q)
        one.map(p, hr.unmapped(p[0]))
        if returns is not None:
            flow.returns(returns(node, p, q))
    return flow


def test_parameters_take_their_places_when_the_flow_is_drawn():
    graph = built().graph(p=["1", 2])
    assert graph.nodes[0].args == (Const([1, 2]), Const(7))
    assert graph.nodes[1].args == (EachConst([1, 2]), Const(1))


def test_drawing_a_built_flow_leaves_it_as_it_was():
    flow = built()
    assert flow.graph(p=[1]).digest() == flow.graph(p=[1]).digest() != flow.graph(p=[2]).digest()


def test_what_a_built_flow_returns():
    assert set(built().graph(p=[1]).result.keys) == {"one", "one-2"}
    assert built(returns=lambda node, p, q: [q, {"p": p[0]}]).graph(p=[4]).result == Const([7, {"p": 4}])


@pytest.mark.parametrize(
    ("parameters", "told"),
    [
        ({}, "'p'.*(missing|required)|(missing|required).*'p'"),
        ({"p": [1], "z": 1}, "'z'"),
        ({"p": "text"}, "'p'"),
    ],
)
def test_wrong_parameters_are_named(parameters, told):
    with pytest.raises(ParameterError, match=told):
        built().graph(**parameters)


def test_a_part_that_a_parameter_does_not_have():
    with pytest.raises(FlowError, match=r"p\[0\], which the given parameter 'p' does not have"):
        built().graph(p=[])


def test_misuse_of_the_block():
    flow = built()
    with pytest.raises(FlowError, match="is built already"), flow:
        pass
    with pytest.raises(FlowError, match=r"call returns\(...\) inside its `with` block"):
        flow.returns(1)
    with hr.Flow("f"):
        one(hr.Parameter("p"))
        with pytest.raises(FlowError, match="has a parameter 'p' already"):
            hr.Parameter("p")
    with pytest.raises(FlowError, match=r"belongs inside `with hr\.Flow"):
        hr.Parameter("p")
    with pytest.raises(FlowError, match="cannot be built while another flow is drawn"), hr.Flow("f"), hr.Flow("g"):
        pass
    with pytest.raises(FlowError, match="drew no node"), hr.Flow("f"):
        pass
    with pytest.raises(FlowError, match="has no graph"):
        hr.Flow("f").graph()
    with pytest.raises(FlowError, match="drawn by a function"), hr.flow(name="f")(lambda: one()):
        pass


def test_an_error_inside_the_block_ends_the_drawing():
    with pytest.raises(ZeroDivisionError), hr.Flow("f"):
        1 / 0  # noqa: B018
    assert one(1) == (1,)
