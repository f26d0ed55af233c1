"""What the annotations of a function mean: types in place of their names."""

from __future__ import annotations

import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any


def resolve(
    annotation: Any, function: Callable[..., Any] | None, strangers: Mapping[str, Any] = MappingProxyType({})
) -> Any:
    """Return the type that an annotation names, where it stands as a text or holds one.

    Parameters
    ----------
    annotation : object
        As ``inspect.signature`` tells it.
    function : callable, optional
        Where names are looked up: in its closure, then in its module.
    strangers : mapping, optional
        What stands for names that are not found there.

    Raises
    ------
    Exception
        Whatever evaluating it raises: mostly `NameError`.
    """
    scope, local = _names_of(function)
    holder = types.SimpleNamespace(__annotations__={"x": annotation})
    return typing.get_type_hints(holder, scope, {**strangers, **local}, include_extras=True)["x"]


def outputs_of(function: Callable[..., Any], path: tuple[Any, ...] = ()) -> int | None:
    """Return how many outputs a function has, as the annotation of what it returns tells.

    Parameters
    ----------
    function : callable
        Any.
    path : tuple, default ()
        Asks for a part of what it returns: ``[key]`` for each key.

    Returns
    -------
    int or None
        None if it is not a tuple of known length, or nobody can tell. Names that exist for type checkers only are
        no hindrance.
    """
    told = getattr(inspect.unwrap(function), "__annotations__", {}).get("return")
    for key in (*path, None):
        parts = _parts_of(_resolved_somehow(told, function)) if told is not None else ()
        told = parts[key] if type(key) is int and -len(parts) <= key < len(parts) else None
    return len(parts) or None


def _parts_of(kind: Any) -> tuple[Any, ...]:
    """The types of a tuple's elements; none if it is no tuple, or of any length."""
    if isinstance(kind, type) and hasattr(kind, "_fields"):  # a named tuple
        return tuple(getattr(kind, "__annotations__", {}).get(name) for name in kind._fields)
    parts = typing.get_args(kind)
    return parts if typing.get_origin(kind) is tuple and Ellipsis not in parts else ()


def _resolved_somehow(annotation: Any, function: Callable[..., Any]) -> Any:
    """The type that an annotation names, with a stand-in for each name that is not known."""
    strangers: dict[str, Any] = {}
    while True:
        try:
            return resolve(annotation, function, strangers)
        except NameError as error:
            if error.name is None or error.name in strangers:
                return None
            strangers[error.name] = _Stranger
        except Exception:  # noqa: BLE001 - an annotation is an expression: it can raise anything
            return None


class _Any(type):
    def __getattr__(cls, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __getitem__(cls, key: object) -> type:
        return cls


class _Stranger(metaclass=_Any):
    """Stands for a type whose name is known to type checkers only, and for all that is in it."""


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
