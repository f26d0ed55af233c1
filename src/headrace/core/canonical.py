"""Canonical texts: what a graph's digest is made of. Equal for equal arguments, in every process."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from typing import Any

from headrace.core.slots import PLAIN, Const, EachConst, EachOf, How, ParameterRef, Ref, Slot, Slotted
from headrace.core.task import Task

quoted = json.encoder.encode_basestring_ascii


def text_of(slot: Slot) -> str:
    """A slot's canonical form as JSON; that of the most common slots is written directly, which is much quicker."""
    if isinstance(slot, Ref):
        node, path, how = slot
        if not path and how is How.WHOLE:
            return f'["Ref", {node}, ["tuple"], 0]'
    elif isinstance(slot, Const):
        value = slot.value
        if type(value) is int:
            return f'["Const", {value}]'
        if type(value) is str:
            return f'["Const", {quoted(value)}]'
    return json.dumps(_canonical(slot))


def options_text(task: Task[..., Any]) -> str:
    """A task's options other than defaults, so that options that future versions add change no digest."""
    options = ((field, getattr(task.policy, field.name)) for field in fields(task.policy))
    return json.dumps({field.name: _canonical(value) for field, value in options if value != field.default})


def _canonical(value: Any) -> Any:
    """Plain data that is equal for equal arguments, in every process."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (Ref, ParameterRef)):
        return [type(value).__name__, value[0], _canonical(value.path), int(value.how)]
    if isinstance(value, Slotted):
        return [value.kind.__name__, _canonical(value.items), _canonical(value.keys)]
    if isinstance(value, (Const, EachConst, EachOf)):
        return [type(value).__name__, _canonical(value[0])]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", hashlib.sha256(value).hexdigest()]
    if isinstance(value, range):
        return ["range", value.start, value.stop, value.step]
    if isinstance(value, (list, tuple)):
        items = value if PLAIN.issuperset(map(type, value)) else map(_canonical, value)
        return [type(value).__name__, *items]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(json.dumps(_canonical(item)) for item in value)]
    if isinstance(value, dict):
        return ["dict", *([_canonical(key), _canonical(item)] for key, item in value.items())]
    if isinstance(value, type) or hasattr(value, "__qualname__"):
        return ["named", f"{value.__module__}:{value.__qualname__}"]
    return ["object", f"{type(value).__module__}:{type(value).__qualname__}"]
