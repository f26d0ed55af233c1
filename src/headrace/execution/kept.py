"""Tasks with a target: what is there already is read, what is not is made and written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace.core.bound import Bound
from headrace.core.naming import arguments_by_name
from headrace.core.policy import Policy
from headrace.core.signals import Found
from headrace.errors import FlowError
from headrace.execution.context import context
from headrace.targets import Target

Call = Callable[[Any, int], Any]


class Node(Protocol):
    """A node as a worker holds it, as far as it matters here."""

    policy: Policy
    awaits: bool
    function: Callable[..., Any]

    def arguments(self, source: Any, child: int) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """What a task run is called with."""


def kept(node: Node, call: Call) -> Call:
    """Look for the value of each call where the task keeps it, and keep it there.

    Parameters
    ----------
    node : LoadedNode
        Whose calls.
    call : callable
        ``call(source, child)``; where the source is an ``Execution``.
    """
    if node.policy.target is None:
        return call
    given = node.policy.target
    target = given if isinstance(given, Target) else Target(given)

    def keep(source: Any, child: int) -> Any:
        url = target.url_for(_names(node, source, child))
        found = target.read(url)
        if found is not None:
            raise Found(found[0])
        return target.write(url, _value(node, call(source, child)))

    async def keep_awaited(source: Any, child: int) -> Any:
        url = target.url_for(_names(node, source, child))
        found = target.read(url)
        if found is not None:
            raise Found(found[0])
        return target.write(url, _value(node, await call(source, child)))

    return keep_awaited if node.awaits else keep


def _value(node: Node, value: Any) -> Any:
    if type(value) is Bound:
        raise FlowError(
            f"task {node.policy.name!r} has a target and returned a flow, {value.name!r}, whose result is not known "
            "yet; give the target to the task in that flow that makes the result"
        )
    return value


def _names(node: Node, source: Any, child: int) -> dict[str, Any]:
    """What a target's URL may name; arguments before parameters before facts of the run."""
    here = context()
    args, kwargs = node.arguments(source, child)
    facts = {"run_id": here.run_id, "flow_name": here.flow_name, "task_name": here.task_name, "index": here.index}
    return {**facts, **here.parameters, **arguments_by_name(node.function, args, kwargs)}
