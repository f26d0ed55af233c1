"""What the header of a flow's object must tell, and of which kinds: it is checked once, when the object is opened.

So whoever reads a manifest need not expect that something is missing. What later versions add is let through.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

_Test = Callable[[Any], bool]


def wrong_in(header: Mapping[str, Any]) -> list[str]:
    """Return the names of what a flow's header tells not as headrace does, or does not tell.

    Parameters
    ----------
    header : mapping
        JSON data.
    """
    wrong = [name for name, test in _ALWAYS.items() if name not in header or not test(header[name])]
    wrong += [name for name, test in _MAYBE.items() if not test(header.get(name))]
    if not wrong and len({header[name] is None for name in ("example", "graph", "digest")}) > 1:
        wrong = ["example", "graph", "digest"]  # a graph is drawn for an example, and has a digest
    return wrong


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _flag(value: Any) -> bool:
    return isinstance(value, bool)


def _anything(value: Any) -> bool:
    return True


def _or_none(test: _Test) -> _Test:
    return lambda value: value is None or test(value)


def _list_of(test: _Test) -> _Test:
    return lambda value: isinstance(value, list) and all(map(test, value))


def _object(**tests: _Test) -> _Test:
    """A test for a JSON object that has these names; others may be there, too."""
    return lambda value: (
        isinstance(value, dict) and all(name in value and test(value[name]) for name, test in tests.items())
    )


_texts = _list_of(_text)
_json_object = _object()
_code = _or_none(_object(sha256=_text, modules=_texts))
_nodes = _list_of(_object(name=_text, task=_text, mapped=_flag, upstream=_texts))


def _packages(value: Any) -> bool:
    """Names of packages, and their versions, of which a broken installation has none."""
    return isinstance(value, dict) and all(map(_or_none(_text), value.values()))


def _graph(value: Any) -> bool:
    """Nodes, each of which names others as its upstream."""
    if not _nodes(value):
        return False
    names = {node["name"] for node in value}
    return len(names) == len(value) and all(names.issuperset(node["upstream"]) for node in value)


def _source(value: Any) -> bool:
    """Where code lies that is no pickle. What is of another kind is from a later headrace, as who loads it says."""
    if not (isinstance(value, dict) and _text(value.get("kind")) and _code(value.get("code"))):
        return False
    return value["kind"] != "pickle" and any(test(value) for test in _SOURCES.get(value["kind"], (_anything,)))


_SOURCES: dict[str, tuple[_Test, ...]] = {
    "module": (_object(module=_text, name=_text, distributions=_packages),),
    "script": (
        _object(url=_text, sha256=_text, name=_text),
        _object(repository=_text, commit=_text, path=_text, name=_text),
    ),
}


_ALWAYS: dict[str, _Test] = {
    "name": _text,
    "origin": _text,
    "content": _text,
    "parameters": _list_of(_object(name=_text, annotation=_or_none(_text), required=_flag, default=_anything)),
    "tasks": _list_of(_object(name=_text, origin=_text)),
    "example": _or_none(_json_object),
    "graph": _or_none(_graph),
    "digest": _or_none(_text),
}
_MAYBE: dict[str, _Test] = {
    "doc": _or_none(_text),
    "environment": _or_none(_json_object),
    "imports": _or_none(_packages),
    "code": _code,
    "source": _or_none(_source),
}
