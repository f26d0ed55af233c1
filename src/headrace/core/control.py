"""Control flow while drawing: which parts of a graph run, and what is taken from those that did.

Both sides of a decision are drawn, and the run skips one. A block ``with case(node, value):`` begins with a node of its
own, the *gate*, which compares and, if the case does not hold, ends as Skipped. What is drawn in the block and would
not be skipped with it anyway has it among its ``gates``: what a gate refuses does not run, whatever its trigger says.

``merge`` and ``filter`` choose by the states of what they are given, not by its values: to them, None and an exception
are values like others where a task returned them.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from headrace.core.drawing import current_drawing
from headrace.core.graph import GraphDrawing
from headrace.core.node import Ended, Later, Node
from headrace.core.policy import Policy
from headrace.core.signals import Skip
from headrace.core.slots import contains_placeholder
from headrace.core.state import GOOD, State
from headrace.core.task import Task
from headrace.errors import FlowError

# -- what runs ---------------------------------------------------------------------------------------------------


def _equals(value: Any, expected: Any) -> None:
    if not value == expected:
        raise Skip("the case does not hold")


def _is_true(value: Any) -> None:
    if not value:
        raise Skip("the case does not hold")


def _fits(value: Any, predicate: Callable[[Any], object]) -> None:
    if not predicate(value):
        raise Skip("the case does not hold")


def _is_none_of(value: Any, *expected: Any) -> None:
    if any(value == one for one in expected):
        raise Skip("another case holds")


def _same(value: Any) -> Any:
    return value


def _first_taken(values: list[Any], states: list[State | list[State]]) -> Any:
    for value, state in zip(values, states, strict=True):
        if set(state if isinstance(state, list) else [state]) != {State.SKIPPED}:
            return value
    raise Skip("all branches were skipped")


def _kept(values: Any, states: State | list[State], keep: Callable[[Any], object] | None) -> list[Any]:
    if isinstance(states, list):
        values = itertools.compress(values, [state in GOOD for state in states])
    elif states == State.SKIPPED:  # a map that got no width, because what it maps over was skipped
        raise Skip("there is nothing to filter")
    elif states not in GOOD:
        raise values[0]
    return [value for value in values if (value is not None if keep is None else keep(value))]


_CASE = {function: Task(function, Policy(name="case")) for function in (_equals, _is_true, _fits)}
_DEFAULT = Task(_is_none_of, Policy(name="default"))
_BRANCH = Task(_same, Policy(name="branch"))
_MERGE = Task(_first_taken, Policy(name="merge", skip_on_upstream_skip=False))
_FILTER = Task(_kept, Policy(name="filter"))
_FILTER_CHILDREN = Task(_kept, Policy(name="filter", trigger="all_finished", skip_on_upstream_skip=False))
_TRUE = object()  # as no value at all


def _drawing(word: str) -> GraphDrawing:
    drawing = current_drawing()
    if not isinstance(drawing, GraphDrawing):
        raise FlowError(f"{word}(...) has a meaning while a flow is drawn only; use it inside a function with @hr.flow")
    return drawing


# -- the words ---------------------------------------------------------------------------------------------------


@contextmanager
def case(node: Any, value: Any = _TRUE) -> Iterator[None]:
    """Draw what runs in one case only.

    What is drawn in the block is skipped if the case does not hold: also tasks whose trigger would let them run. If the
    node itself is skipped, so is all in the block; if it failed, what is in the block ends as TriggerFailed.

    Parameters
    ----------
    node : node
        What the decision is about.
    value : object, optional
        The case holds if the node's value equals this one, which may be a node, too. If this is a function (not a
        class), the case holds if the function says so of the node's value. Without it, if the node's value is true.

    Examples
    --------
    In a function with ``@hr.flow``::

        with hr.case(kind, "image"):
            small = shrink(file)
        with hr.case(kind, "text"):
            short = summarize(file)
        store(hr.merge(small, short))
    """
    drawing = _drawing("hr.case")
    if value is _TRUE:
        gate = drawing.add_call(_CASE[_is_true], (node,), {}, mapped=False)
    else:
        predicate = callable(value) and not isinstance(value, (Later, type))
        gate = drawing.add_call(_CASE[_fits if predicate else _equals], (node, value), {}, mapped=False)
    with drawing.case(gate._index):
        yield


def merge(*branches: Any) -> Any:
    """Return a node for the value of the first branch that was not skipped.

    It is skipped if all branches were, and does not run (TriggerFailed) if one of them failed.

    Parameters
    ----------
    *branches : node or object
        A mapped node counts as skipped if all of its children were. A constant is never skipped, so it may be the last
        as a default.
    """
    drawing = _drawing("hr.merge")
    if not branches:
        raise FlowError("hr.merge() needs at least one branch")
    for branch in branches:
        if not isinstance(branch, Later) and contains_placeholder(branch):
            kind = type(branch).__name__
            raise FlowError(
                f"hr.merge(...) got a {kind} with nodes inside, of which some may be skipped and others not; give it "
                f"each branch as one node: that of a task in the branch which makes the {kind}"
            )
    states = [Ended(branch) if isinstance(branch, Later) else State.SUCCESS for branch in branches]
    return drawing.add_call(_MERGE, (list(branches), states), {}, mapped=False)


def switch(node: Any, branches: Mapping[Any, Callable[[], Any]], *, default: Any = None) -> Any:
    """Draw several branches, of which the one for the node's value runs, and return a node for what it returns.

    Parameters
    ----------
    node : node
        What the decision is about.
    branches : mapping of object to callable
        By value: a function that draws the branch, called without arguments, and returns a node, a container of nodes,
        or a constant. A task without parameters is such a function.
    default : callable, optional
        Draws what runs if the node has none of these values. Without it, what ``switch`` returns is skipped then.
    """
    drawing = _drawing("hr.switch")
    for value, branch in [*branches.items(), *([("default", default)] if default is not None else [])]:
        if isinstance(branch, Later) or not callable(branch):
            raise FlowError(
                f"hr.switch(...): the branch for {value!r} must be a function that draws it, such as "
                f"`lambda: load(day)`, because what is drawn before runs in any case; got {branch!r}"
            )
    taken = []
    for value, branch in branches.items():
        with case(node, value):
            taken.append(_end_of(branch, drawing))
    if default is not None:
        gate = drawing.add_call(_DEFAULT, (node, *branches), {}, mapped=False)
        with drawing.case(gate._index):
            taken.append(_end_of(default, drawing))
    return merge(*taken)


def _end_of(branch: Callable[[], Any], drawing: GraphDrawing) -> Node:
    """Draw a branch and return a node that is skipped if the branch is."""
    first = len(drawing.nodes)
    end = branch()
    if isinstance(end, Node) and end._drawing is drawing and end._index >= first:
        return end
    return drawing.add_call(_BRANCH, (end,), {}, mapped=False)


def filter(node: Any, keep: Callable[[Any], object] | None = None) -> Any:  # noqa: A001 - a word of the flow language
    """Return a node for the list of values that are worth going on with.

    Of a mapped node, children that failed or were skipped are left out, whatever their values: so one failed child
    stops neither its siblings nor what follows, and does not fail the run. What all children need is another matter: if
    that failed, or the list itself, so does this.

    Parameters
    ----------
    node : node
        Mapped, or with a list for its value.
    keep : callable, optional
        Says of a value whether it is kept. Default: whether it is not None.
    """
    drawing = _drawing("hr.filter")
    whole = isinstance(node, Node) and node._drawing is drawing and not node._path
    mapped = (
        isinstance(node, Node) and drawing.nodes[node._index].mapped and (whole or isinstance(node._path[0], slice))
    )
    states = Ended(node) if isinstance(node, Later) else State.SUCCESS
    found = drawing.add_call(_FILTER_CHILDREN if mapped else _FILTER, (node, states, keep), {}, mapped=False)
    if mapped:
        spec = drawing.nodes[found._index]
        spec.gates = tuple(sorted({*spec.gates, *drawing.shared_sources(node._index)}))
    return found


def decide_by(*nodes: Any) -> None:
    """Say which nodes decide whether a run of the flow that is drawn succeeds.

    Without that, these are the nodes that are returned, and those that no other node waits for. Several calls add up.
    In a flow that is called by another flow it says nothing about that one's runs.

    Parameters
    ----------
    *nodes : node
        If one of them fails, so does the run; a failure of any other does not matter.
    """
    drawing = _drawing("hr.decide_by")
    for node in nodes:
        if not isinstance(node, Node) or node._drawing is not drawing:
            raise FlowError(f"hr.decide_by(...) needs nodes of the flow that is being drawn, got {node!r}")
    if not nodes:
        raise FlowError("hr.decide_by() needs at least one node, or any run would succeed")
    drawing.deciding = {*(drawing.deciding or ()), *(node._index for node in nodes)}
