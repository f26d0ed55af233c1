"""Tasks with a target: what is there already is read, what is not is made and written.

Values are looked at before they are written, and when they are read, because they outlive the run. A URL is shown and
stored, so it is made of the names of secrets, which refuse to be texts.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from headrace.core.bound import Bound
from headrace.core.naming import arguments_by_name, label
from headrace.core.plan import Plan
from headrace.core.policy import Policy
from headrace.core.secret import Secret
from headrace.core.signals import Found
from headrace.core.slots import contains_placeholder
from headrace.errors import FlowError, NodeUsedAsValue, SecretNotFound, SecretReturned
from headrace.execution.context import context
from headrace.execution.secrets import refusal, resolve, reveals
from headrace.execution.sound import check
from headrace.targets import Target, Whereabouts

Call = Callable[[Any, int], Any]


class Node(Protocol):
    """A node as a worker holds it, as far as it matters here."""

    plan: Plan
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
    target = _target(node.policy.target, node.plan)
    secrets: set[str] = set()  # names of those that were given

    def stand_in(name: str) -> Secret:
        secrets.add(name)
        return Secret(name)

    args, kwargs = node.getters(stand_in)

    def url_for(source: Any, child: int) -> str:
        positional = [get(source, child) for get in args]
        named = {key: get(source, child) for key, get in kwargs.items()}
        return _url(target, arguments_by_name(node.function, positional, named))

    def find(url: str) -> None:
        found = target.read(url)
        if found is not None:
            raise Found(_opened(found[0], url, secrets))

    def write(url: str, value: Any) -> Any:
        written = target.write(url, value)
        return value if written is value else _opened(written, url, secrets)  # another writer was first

    def keep(source: Any, child: int) -> Any:
        url = url_for(source, child)
        find(url)
        return write(url, _checked(node, source, call(source, child)))

    async def keep_awaited(source: Any, child: int) -> Any:
        url = url_for(source, child)
        find(url)
        return write(url, _checked(node, source, await call(source, child)))

    return keep_awaited if node.awaits else keep


def check_targets(plan: Plan) -> None:
    """Refuse, before a run begins, targets that would hold pickles where there shall be none.

    Raises
    ------
    PickleRefused
        If a task has one.
    """
    for task in () if plan.pickles else plan.tasks:
        if task.policy.target is not None:
            _target(task.policy.target, plan)


def places_of(plan: Plan) -> list[tuple[Policy, Whereabouts]]:
    """Return, of each task with a target, where its values lie, as far as that is known."""
    policies = [task.policy for task in plan.tasks if task.policy.target is not None]
    return [(policy, _target(policy.target, plan).whereabouts) for policy in policies]


def _target(given: Any, plan: Plan) -> Target:
    target = given if isinstance(given, Target) else Target(given)
    if plan.signing is not None:
        target = target.signed(plan.signing)
    return target if plan.pickles else target.without_pickles()


def _url(target: Target, arguments: Mapping[str, Any]) -> str:
    """Where a value is kept; arguments go before parameters, and these before facts of the run."""
    here = context()
    facts = {"run_id": here.run_id, "flow_name": here.flow_name, "task_name": here.task_name, "index": here.index}
    names = {**facts, **here.parameters, **arguments}
    try:
        url = target.url_for(names)
        if not reveals(url):
            return url
    except NodeUsedAsValue:
        pass
    secret = ", ".join(name for name, value in names.items() if contains_placeholder(value)) or "no argument"
    raise FlowError(
        f"{target!r} of task {here.task_name!r} would have the text of a secret in its URL, which is shown and "
        f"stored; secret here: {secret}; make the URL of something else"
    )


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
    check(value, f"the value of task {label(here.task_name, here.index)!r}")
    return value


def _opened(value: Any, url: str, secrets: Collection[str]) -> Any:
    """Return a value that was read, unless a secret was written there: one that is known, or of these names."""
    for name in secrets:
        with suppress(SecretNotFound):  # then the value is still good for those who may only read it
            resolve(name)
    if reveals(value):
        here = context()
        raise SecretReturned(
            f"what lies at {url}, the target of task {label(here.task_name, here.index)}, holds the text of a secret, "
            "and what tasks return is stored and sent; remove it there, and let no task write it",
            task=label(here.task_name, here.index),
        )
    return value
