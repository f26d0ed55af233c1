"""Functions and classes of modules as names, so that a pickle need not hold them and they keep their module's state.

pickle names a function only if ``module.name`` is that very object. Under a decorator it is not, but can be reached
from there: ``module.name.function``, ``module.name.__wrapped__``. Nor is it after its module was loaded again, when
others still hold the older one.
"""

from __future__ import annotations

import functools
import importlib
import sys
import types
from collections.abc import Callable
from typing import Any

from headrace.code.loaded import named_as

#: Where decorators leave what they decorate.
_INNER = ("function", "__wrapped__")
_DEEPEST = 8

Reference = tuple[Callable[..., Any], tuple[str, str, int]]


def reference_to(obj: Any) -> Reference | None:
    """Return how to find a function or class of a module by name, where pickle by itself cannot.

    Parameters
    ----------
    obj : object
        A function, a class, or what else has a module and a name.

    Returns
    -------
    (callable, tuple) or None
        As ``__reduce__`` returns it; None if it is not of a module, or pickle itself finds it.
    """
    was = named_as(obj)
    module_name, name = was if was is not None else (getattr(obj, "__module__", None), getattr(obj, "__qualname__", ""))
    if not isinstance(module_name, str) or module_name in ("__main__", "__mp_main__", "builtins"):
        return None
    module = sys.modules.get(module_name)
    if module is None or not name or "<" in name:
        return None
    current = _get(module, name, None)
    if current is obj or current is None:
        return None
    depth = _depth_of(obj, current)
    if depth is None and was is not None and isinstance(current, types.FunctionType | type):
        depth = 0  # an older self
    return None if depth is None else (find, (module_name, name, depth))


def _depth_of(obj: Any, current: Any) -> int | None:
    for depth in range(1, _DEEPEST):
        current = _inside(current)
        if current is obj:
            return depth
        if current is None:
            break
    return None


def _inside(decorated: Any) -> Any:
    own = getattr(decorated, "__dict__", {})
    return next((own[name] for name in _INNER if own.get(name) is not None), None)


def _get(module: types.ModuleType, name: str, default: Any) -> Any:
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, _NOTHING)
        if found is _NOTHING:
            return default
    return found


_NOTHING = object()


def reduce_cached(obj: Any) -> Any:
    """Reduce a function under ``functools.lru_cache``: pickle would name it, even where nobody can find the name.

    Parameters
    ----------
    obj : object
        Such a function.
    """
    module = sys.modules.get(obj.__module__ or "")
    if module is not None and obj.__module__ != "__main__" and _get(module, obj.__qualname__, None) is obj:
        return obj.__qualname__
    return cached, (obj.__wrapped__, *obj.cache_parameters().values())


def cached(function: Callable[..., Any], maxsize: int | None, typed: bool) -> Any:
    """Put a function under a cache that is empty yet."""
    return functools.lru_cache(maxsize, typed)(function)


def find(module_name: str, name: str, depth: int) -> Any:
    """Return what a reference stands for.

    Parameters
    ----------
    module_name, name : str
        Where it is.
    depth : int
        How many decorators to take off.

    Raises
    ------
    ImportError, AttributeError
        If it is not there; in the words of pickle.
    """
    module = importlib.import_module(module_name)
    found = _get(module, name, _NOTHING)
    for _ in range(depth):
        found = _inside(found)
    if found is None or found is _NOTHING:
        raise AttributeError(f"Can't get attribute {name!r} on {module!r}")
    return found
