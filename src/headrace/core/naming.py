"""Names of task runs for people: ``run_name``, a text over a task's arguments or a function of them."""

from __future__ import annotations

import inspect
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from headrace.core.policy import Policy
from headrace.errors import FlowError


def label(node: str, child: int | None) -> str:
    """``node``, or ``node[child]`` of a mapped one."""
    return node if child is None else f"{node}[{child}]"


def check_run_name(policy: Policy, signature: inspect.Signature | None) -> None:
    """Refuse a text that names what the task does not take.

    Parameters
    ----------
    policy : Policy
        The task's.
    signature : inspect.Signature or None
        Of its function; None if it has none.

    Raises
    ------
    FlowError
        If it could never be filled in.
    """
    template = policy.run_name
    if not isinstance(template, str) or signature is None:
        return
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise FlowError(f"task {policy.name!r}: run_name={template!r} is not a template: {error}") from None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values()):
        return
    for field in fields:
        name = field.partition(".")[0].partition("[")[0]
        if name not in signature.parameters:
            raise FlowError(
                f"task {policy.name!r}: run_name={template!r} names {name!r}, which the task does not take; it takes "
                f"{', '.join(signature.parameters) or 'nothing'}"
            )


def check_map_target(policy: Policy, signature: inspect.Signature | None, mapped: Collection[int | str]) -> None:
    """Refuse a target whose text is the same for all children of a map, so that all would get the first one's value.

    Parameters
    ----------
    policy : Policy
        The task's.
    signature : inspect.Signature or None
        Of its function; None if it has none.
    mapped : collection of int or str
        Which arguments are mapped over, by position or keyword.

    Raises
    ------
    FlowError
        If it names nothing in which children differ.
    """
    template = getattr(policy.target, "url", policy.target)
    if not isinstance(template, str) or signature is None:
        return
    places = [name for name, each in signature.parameters.items() if each.kind <= each.VAR_POSITIONAL]
    differ = {"index", *(key if isinstance(key, str) else places[min(key, len(places) - 1)] for key in mapped)}
    try:
        named = _names_in(template)
    except ValueError:
        return  # it cannot be filled in, which the task run says
    if named.isdisjoint(differ):
        raise FlowError(
            f"task {policy.name!r} is mapped and has the target {template!r}, which is the same for all its children, "
            f"so that all would get the first one's value; name what differs: {{{'} or {'.join(sorted(differ))}}}"
        )


def _names_in(template: str) -> set[str]:
    """What stands in braces, also in those of formats, without what is taken of it."""
    found: set[str] = set()
    for _, field, spec, _ in string.Formatter().parse(template):
        if field is not None:
            found |= {field.partition(".")[0].partition("[")[0], *_names_in(spec or "")}
    return found


def name_run(
    name: str | Callable[..., str],
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> str:
    """Name a task run.

    Parameters
    ----------
    name : str or callable
        The task's ``run_name``.
    function : callable
        The task's function, whose signature names the arguments.
    args, kwargs : sequence and mapping
        What it is called with.
    """
    if not isinstance(name, str):
        return str(name(*args, **kwargs))
    return name.format(**arguments_by_name(function, args, kwargs))


def arguments_by_name(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's arguments by the names of the function's parameters, with defaults.

    Parameters
    ----------
    function : callable
        What is called.
    args, kwargs : sequence and mapping
        With what.
    """
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    named = dict(bound.arguments)
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(named.pop(parameter.name))
    return named
