"""Tasks with a target: what is there already is read, what is not is made and written.

A URL is shown and stored, so it is made of the names of secrets, which refuse to be texts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from headrace.core.bound import Bound
from headrace.core.naming import arguments_by_name, label
from headrace.core.policy import Policy
from headrace.core.secret import Secret
from headrace.core.signals import Found
from headrace.core.slots import contains_placeholder
from headrace.errors import FlowError, NodeUsedAsValue
from headrace.execution.context import context
from headrace.execution.secrets import refusal, reveals
from headrace.targets import Target

Call = Callable[[Any, int], Any]


class Node(Protocol):
    """A node as a worker holds it, as far as it matters here."""

    policy: Policy
    awaits: bool
    function: Callable[..., Any]

    def getters(self, secret: Callable[[str], Any]) -> tuple[Sequence[Call], Mapping[str, Call]]:
        """What fetches the arguments of a task run."""


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
    args, kwargs = node.getters(Secret)

    def url_for(source: Any, child: int) -> str:
        positional = [get(source, child) for get in args]
        named = {key: get(source, child) for key, get in kwargs.items()}
        return _url(target, arguments_by_name(node.function, positional, named))

    def keep(source: Any, child: int) -> Any:
        url = url_for(source, child)
        found = target.read(url)
        if found is not None:
            raise Found(found[0])
        return target.write(url, _checked(node, source, call(source, child)))

    async def keep_awaited(source: Any, child: int) -> Any:
        url = url_for(source, child)
        found = target.read(url)
        if found is not None:
            raise Found(found[0])
        return target.write(url, _checked(node, source, await call(source, child)))

    return keep_awaited if node.awaits else keep


def _url(target: Target, arguments: Mapping[str, Any]) -> str:
    """Where a value is kept; arguments go before parameters, and these before facts of the run."""
    here = context()
    facts = {"run_id": here.run_id, "flow_name": here.flow_name, "task_name": here.task_name, "index": here.index}
    names = {**facts, **here.parameters, **arguments}
    try:
        return target.url_for(names)
    except NodeUsedAsValue:
        secret = ", ".join(name for name, value in names.items() if contains_placeholder(value))
        raise FlowError(
            f"{target!r} of task {here.task_name!r} would have the text of a secret in its URL, which is shown and "
            f"stored; secret here: {secret}; make the URL of something else"
        ) from None


def _checked(node: Node, source: Any, value: Any) -> Any:
    """Return a value that may be written; who looks at values otherwise does so when it would be too late."""
    here = context()
    if type(value) is Bound:
        raise FlowError(
            f"task {node.policy.name!r} has a target and returned a flow, {value.name!r}, whose result is not known "
            "yet; give the target to the task in that flow that makes the result"
        )
    if source.confided and reveals(value):
        raise refusal(label(here.task_name, here.index))
    return value
