"""What the annotations of a function mean: types in place of their names."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any


def resolve(annotation: Any, function: Callable[..., Any] | None) -> Any:
    """Return the type that an annotation names, where it stands as a text or holds one.

    Parameters
    ----------
    annotation : object
        As ``inspect.signature`` tells it.
    function : callable, optional
        Where names are looked up: in its closure, then in its module.

    Raises
    ------
    Exception
        Whatever evaluating it raises: mostly `NameError`.
    """
    scope, local = _names_of(function)
    holder = types.SimpleNamespace(__annotations__={"x": annotation})
    return typing.get_type_hints(holder, scope, local, include_extras=True)["x"]


def resolved_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return a function's signature with types for annotations; those that cannot be resolved stay as they are.

    Parameters
    ----------
    function : callable
        Any.
    """
    signature = inspect.signature(function)

    def resolved(annotation: Any) -> Any:
        if annotation is inspect.Parameter.empty:
            return annotation
        try:
            return resolve(annotation, function)
        except Exception:  # noqa: BLE001 - an annotation is an expression: it can raise anything
            return annotation

    return signature.replace(
        parameters=[each.replace(annotation=resolved(each.annotation)) for each in signature.parameters.values()],
        return_annotation=resolved(signature.return_annotation),
    )


def _names_of(function: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The globals and the closure of what was written as a function."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function) if function is not None else None
    if not isinstance(function, types.FunctionType):
        function = getattr(function, "__func__", None) or inspect.getattr_static(type(function), "__call__", None)
    if not isinstance(function, types.FunctionType):
        return {}, {}
    local = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            local[name] = cell.cell_contents
        except ValueError:  # the cell is empty: the variable has no value yet
            continue
    return function.__globals__, local
