"""Parameters of a flow: checked and converted to what the flow function's annotations say.

pydantic does the conversion, and is imported when the first parameter is checked.
"""

from __future__ import annotations

import contextlib
import difflib
import inspect
import json
import re
import reprlib
import typing
import warnings
from collections.abc import Mapping
from typing import Any

from headrace.core.annotations import resolve
from headrace.core.flow import FlowDefinition
from headrace.core.secret import Secret, secret_json, with_secrets
from headrace.core.slots import contains_placeholder
from headrace.errors import ParameterError

_EMPTY = inspect.Parameter.empty
_SHORT = reprlib.Repr()
#: Bytes of parameters that fit into an environment variable everywhere.
MOST_BYTES = 100_000
#: annotations of which everybody knows what they mean; asking pydantic takes a clean interpreter 0.07 s.
_PLAIN = (Any, bool, bytes, dict, float, int, list, set, str, tuple)
_SHORT.maxstring = _SHORT.maxother = 60


def validate(flow: FlowDefinition, given: Mapping[str, Any], *, strings: bool = False) -> dict[str, Any]:
    """Return the values of all parameters of a flow: those given, converted, and defaults for the rest.

    Conversion is lenient: ``"3"`` becomes ``3`` where an ``int`` is expected, an ISO text a date. Defaults
    are taken as they are. Parameters without an annotation take anything. A secret passes for any annotation, and a
    container with secrets inside is taken as it is.

    Parameters
    ----------
    flow : FlowDefinition
        Whose signature declares the parameters.
    given : mapping
        By name.
    strings : bool, default False
        Whether values come as texts, from a command line: they are read as JSON where the annotation is not a
        text.

    Raises
    ------
    ParameterError
        If one is unknown, missing or of the wrong type, or has an annotation that tells no type. One error names
        them all.
    """
    declared = flow.signature.parameters
    annotations = resolved_annotations(flow)
    problems = [_unknown(name, declared) for name in given if name not in declared]
    values: dict[str, Any] = {}
    for name, parameter in declared.items():
        if name in given:
            try:
                values[name] = _convert(given[name], annotations[name], strings=strings)
            except ValueError as error:
                problems.append(_wrong(name, given[name], annotations[name], error))
        elif parameter.default is _EMPTY:
            problems.append(f"parameter {name!r} ({annotation_text(annotations[name])}) is missing")
        else:
            values[name] = parameter.default
    if problems:
        numbered = [f"({position}) {problem}" for position, problem in enumerate(problems, 1)]
        text = problems[0] if len(problems) == 1 else "; ".join(numbered)
        raise ParameterError(f"flow {flow.name!r}: {text}", flow=flow.name, problems=problems)
    return values


def example_values(flow: FlowDefinition, example: Mapping[str, Any] | None = None) -> dict[str, Any] | None:
    """Return values to draw a flow with when nobody runs it: its defaults, overridden by an example.

    Parameters
    ----------
    flow : FlowDefinition
        The flow.
    example : mapping, optional
        Values by name; checked like those of a run.

    Returns
    -------
    dict or None
        None if a parameter has neither a default nor an example.
    """
    example = example or {}
    for name, parameter in flow.signature.parameters.items():
        if parameter.default is _EMPTY and name not in example:
            if example:  # check what was given all the same
                _check_known(flow, example)
            return None
    return validate(flow, example)


def _check_known(flow: FlowDefinition, given: Mapping[str, Any]) -> None:
    declared = flow.signature.parameters
    problems = [_unknown(name, declared) for name in given if name not in declared]
    if problems:
        raise ParameterError(f"flow {flow.name!r}: {'; '.join(problems)}", flow=flow.name, problems=problems)


def describe(flow: FlowDefinition) -> list[dict[str, Any]]:
    """Return the parameters as JSON data.

    Parameters
    ----------
    flow : FlowDefinition
        The flow.

    Returns
    -------
    list of dict
        ``name``, ``annotation`` (text or None), ``required``, ``default`` (JSON, or the repr of what has no
        JSON form; None if required), ``schema`` (JSON schema or None).
    """
    annotations = resolved_annotations(flow)
    return [
        {
            "name": name,
            "annotation": None if parameter.annotation is _EMPTY else annotation_text(parameter.annotation),
            "required": parameter.default is _EMPTY,
            "default": None if parameter.default is _EMPTY else to_json({"": parameter.default})[""],
            "schema": _schema(annotations[name]),
        }
        for name, parameter in flow.signature.parameters.items()
    ]


def to_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return parameter values as JSON data; what has no JSON form becomes its repr.

    Parameters
    ----------
    values : mapping
        By name.
    """
    return {str(name): _json_of(value) for name, value in values.items()}


def from_json(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what ``to_json`` returned as values to run with: secrets in the place of their JSON form.

    Parameters
    ----------
    data : mapping
        By name.
    """
    return {name: with_secrets(value) for name, value in data.items()}


def portable(flow: FlowDefinition, given: Mapping[str, Any], *, strings: bool = False) -> dict[str, Any]:
    """Return parameter values as JSON data from which another process makes the same values.

    Parameters
    ----------
    flow : FlowDefinition
        Whose parameters they are.
    given : mapping
        By name; what is left out has a default there, too.
    strings : bool, default False
        As for `validate`.

    Raises
    ------
    ParameterError
        If one has no such form, or they are too long.
    """
    values = {name: value for name, value in validate(flow, given, strings=strings).items() if name in given}
    data = to_json(values)
    there = validate(flow, {**given, **from_json(data)})
    lost = [name for name, value in values.items() if not _is_same(value, there[name])]
    if lost:
        first = values[lost[0]]
        raise ParameterError(
            f"flow {flow.name!r}: {', '.join(map(repr, lost))} cannot be given to another process, because a "
            f"{type(first).__name__} has no JSON form from which it can be made again; annotate the parameter with its "
            "type if it is one that pydantic knows, or write the value to a file and give its address",
            flow=flow.name,
            problems=lost,
        )
    if (size := len(json.dumps(data))) > MOST_BYTES:
        raise ParameterError(
            f"flow {flow.name!r}: its parameters are {size:,} bytes long as JSON, and {MOST_BYTES:,} can be given to "
            "another process; write the largest to a file and give its address",
            flow=flow.name,
        )
    return data


def _is_same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    try:
        return bool(one == other) or repr(one) == repr(other)  # not a number is not equal to itself
    except Exception:  # noqa: BLE001 - arrays and the like answer with an array, or an error
        return False


def _json_of(value: Any) -> Any:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        plain = to_jsonable_python(value, inf_nan_mode="strings", fallback=_secret_or_repr)
        json.dumps(plain, allow_nan=False)
    except (PydanticSerializationError, TypeError, ValueError, RecursionError):
        return _plain_repr(value)
    return plain


def _secret_or_repr(value: Any) -> Any:
    return secret_json(value) if isinstance(value, Secret) else _plain_repr(value)


def _plain_repr(value: Any) -> str:
    # Addresses would make two captures of one flow differ.
    return re.sub(r" at 0x[0-9a-fA-F]+", "", _SHORT.repr(value))


def resolved_annotations(flow: FlowDefinition) -> dict[str, Any]:
    """Return each parameter's annotation as a type; ``Any`` where there is none.

    Parameters
    ----------
    flow : FlowDefinition
        The flow.

    Raises
    ------
    ParameterError
        If nobody can tell what an annotation means, so that values could be neither checked nor converted.
    """
    found: dict[str, Any] = {}
    problems = []
    for name, parameter in flow.signature.parameters.items():
        annotation = found[name] = Any if parameter.annotation is _EMPTY else parameter.annotation
        if any(annotation is plain for plain in _PLAIN):
            continue
        try:
            _adapter(resolve(annotation, flow.function) if isinstance(annotation, str) else annotation)
        except Exception as error:  # noqa: BLE001 - an annotation is an expression: it can raise anything
            problems.append(_meaningless(name, annotation, error))
    if problems:
        raise ParameterError(f"flow {flow.name!r}: {'; '.join(problems)}", flow=flow.name, problems=problems)
    return found


def _meaningless(name: str, annotation: Any, error: Exception) -> str:
    told = str(error).strip().partition("\n")[0].rstrip(".")
    begin = f"the annotation {annotation_text(annotation)} of parameter {name!r}"
    free = "or leave the annotation out, and any value is taken as it is"
    if isinstance(annotation, str):
        return (
            f"{begin} tells no type ({type(error).__name__}: {told}); import or define what it names at the top level "
            f"of the flow's module, not below `if TYPE_CHECKING:` nor inside a function, {free}"
        )
    if isinstance(error, NameError) or getattr(error, "code", None) == "class-not-fully-defined":
        return (
            f"{begin} refers to types that cannot be found here ({told}); if it is a class of a script or notebook, "
            f"define it without `from __future__ import annotations` or in a module that the flow imports, {free}"
        )
    return f"values cannot be checked by {begin} ({told}); change it, {free}"


def annotation_text(annotation: Any) -> str:
    """Return an annotation as its author would write it.

    Parameters
    ----------
    annotation : object
        A type, a form of ``typing``, or a text.
    """
    if annotation is Any:
        return "any value"
    if isinstance(annotation, str):
        return annotation
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__qualname__
    return str(annotation).replace("typing.", "").replace("datetime.", "")


def _adapter(annotation: Any) -> Any:
    """A pydantic adapter.

    Raises
    ------
    PydanticUserError, TypeError, NameError
        If the annotation names a type that pydantic knows, and cannot make out.
    """
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter

    try:
        adapter = TypeAdapter(annotation)
        if not getattr(adapter, "pydantic_complete", True):  # since 2.10 it would complain at the first value only
            adapter.rebuild()
        return adapter
    except PydanticSchemaGenerationError:  # types that pydantic does not know are checked with isinstance
        with warnings.catch_warnings():  # what is no type at all takes anything: documented, so not worth a word
            warnings.simplefilter("ignore")
            return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))


def _convert(value: Any, annotation: Any, *, strings: bool) -> Any:
    """Convert one value; pydantic's ``ValidationError`` is a ``ValueError``."""
    if contains_placeholder(value):
        return value
    adapter = _adapter(annotation)
    if not strings or not isinstance(value, str) or annotation is str:
        return adapter.validate_python(value)
    try:
        parsed = with_secrets(json.loads(value))
    except ValueError:
        return adapter.validate_python(value)
    if contains_placeholder(parsed):
        return parsed
    try:
        return adapter.validate_python(parsed)
    except ValueError:
        # A bare word that happens to be JSON: "3" for a name, "2026" for a year in a text.
        if isinstance(parsed, (list, dict)):
            with contextlib.suppress(ValueError):
                return adapter.validate_python(value)
            raise
    return adapter.validate_python(value)


def _schema(annotation: Any) -> dict[str, Any] | None:
    try:
        schema = _adapter(annotation).json_schema()
        json.dumps(schema)
    except Exception:  # noqa: BLE001 - a schema is an extra; many types have none
        return None
    return dict(schema)


def _unknown(name: str, declared: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(name), declared, n=1)
    known = ", ".join(map(repr, declared)) or "none: this flow takes no parameters"
    return f"unknown parameter {name!r}{f' (did you mean {close[0]!r}?)' if close else ''}; known are {known}"


def _wrong(name: str, value: Any, annotation: Any, error: ValueError) -> str:
    details = getattr(error, "errors", None)
    if details is None:
        reason = str(error)
    else:
        first = details(include_url=False, include_context=False, include_input=False)[0]
        place = "".join(f"[{part!r}]" for part in first["loc"])
        reason = f"{f'at {place}: ' if place else ''}{first['msg']}"
    return (
        f"parameter {name!r} was given {_SHORT.repr(value)} of type {type(value).__name__}, "
        f"expected {annotation_text(annotation)} ({reason})"
    )
