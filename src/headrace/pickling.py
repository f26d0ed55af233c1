"""Pickling of what must travel, with errors that lead to the culprit.

cloudpickle says that a lock cannot be pickled, and not where it was found. When a pickle fails, the object is
taken apart here, along the same ways that a pickle takes, to the smallest part that fails alone; the way to
it is the message.
"""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import functools
import inspect
import io
import pickle
import re
import types
from collections import ChainMap
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeVar

from headrace.advice import advice_for
from headrace.code.imports import imported_by_code, needed_by_code
from headrace.code.references import find, reduce_cached, reference_to
from headrace.core.flow import FlowDefinition
from headrace.core.graph import Graph, NodeSpec
from headrace.core.slots import Const, EachConst, EachOf, Slot, Slotted
from headrace.core.task import Task
from headrace.errors import HeadraceError, MissingModule, NotPicklable

PROTOCOL = 5
_MAX_DEPTH = 16
#: how many parts of one container are looked at; pickling each of them alone takes time.
_MAX_PARTS = 2_000
_LOST_ATTRIBUTE = re.compile(r"Can't get attribute '(?P<name>[^']+)' on (?:<module '(?P<module>[^']+)')?")
_GLOBAL_READS = {"LOAD_GLOBAL", "LOAD_NAME"}

# A dataclass of a script or notebook travels by value, and its fields tell "no default" by the identity of this
# object, which pickles otherwise replace by another one of its type; pydantic then cannot read the class. It is
# told to all pickles of the process, not to ours alone, because Dask's pickles carry values of such classes back,
# and cloudpickle then writes what they hold into the class that is there already.
copyreg.pickle(type(dataclasses.MISSING), lambda _: "MISSING")

Part = tuple[str, Any]
_REFERENCES = ("closure variable", "global variable", "task ", "flow ")


@dataclasses.dataclass
class Met:
    """What a pickle refers to, for whoever sends it elsewhere.

    Attributes
    ----------
    modules : set of str
        Names of the modules that whoever unpickles it, or runs functions in it, may import.
    needed : set of str
        Those of them that functions import, and do not look first whether they are there.
    tracked : list of (class, str)
        Classes that it holds by value, in order, with the identities that it gives them.
    """

    modules: set[str] = dataclasses.field(default_factory=set)
    needed: set[str] = dataclasses.field(default_factory=set)
    tracked: list[tuple[Any, str]] = dataclasses.field(default_factory=list)

    def note(self, obj: Any, reduced: Any) -> None:
        """Note how a module, function, class or type variable was reduced."""
        if isinstance(obj, types.ModuleType):
            self.modules.add(obj.__name__)
        elif isinstance(reduced, str) or reduced is NotImplemented:  # by name
            self.modules.add(obj.__module__ or "")
        elif reduced[0] is find:
            self.modules.add(reduced[1][0])
        elif isinstance(obj, types.FunctionType):
            package = obj.__globals__.get("__package__") or ""
            self.modules |= (found := imported_by_code(obj.__code__, package))
            self.needed |= needed_by_code(obj.__code__, package) if found else found
        elif isinstance(obj, type | TypeVar):
            texts = [argument for argument in reduced[1] if isinstance(argument, str) and len(argument) == _TRACKED]
            if texts and all(known is not obj for known, _ in self.tracked):
                self.tracked.append((obj, texts[-1]))


def dumps(
    obj: Any,
    what: str,
    buffer_callback: Callable[[pickle.PickleBuffer], object] | None = None,
    met: Met | None = None,
) -> bytes:
    """Pickle an object with cloudpickle.

    Parameters
    ----------
    obj : object
        Anything.
    what : str
        What it is, for the message: ``"task 'load'"``.
    buffer_callback : callable, optional
        Takes the buffers, which then are not in the pickle; see ``pickle.Pickler``.
    met : Met, optional
        Receives what the pickle refers to.

    Raises
    ------
    NotPicklable
        If some part of it cannot be pickled; names the path to that part.
    """
    try:
        with io.BytesIO() as file:
            pickler = _pickler()(file, protocol=PROTOCOL, buffer_callback=buffer_callback)
            pickler.met = met
            pickler.dump(obj)
            return file.getvalue()
    except HeadraceError:
        raise
    except Exception as error:
        raise explain(obj, what, error) from error


@functools.cache
def _pickler() -> Any:
    """A cloudpickle that names what can be named (see ``code.references``), and tells of which modules it is.

    It keeps the names of files in code, so that tracebacks show the lines of users' tasks: cloudpickle 3.1.3 puts
    ``<dynamic-code>`` in their place. Sets among constants are in order, because Python's depends on a random seed.
    """
    import cloudpickle

    known = cloudpickle.Pickler.dispatch_table

    def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
        function, args, *rest = known[types.CodeType](code)
        return function, tuple(_constant(code, arg) for arg in args), *rest

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table: ClassVar[Any] = ChainMap({types.CodeType: reduce_code}, known)
        met: Met | None = None

        def reducer_override(self, obj: Any) -> Any:
            if not isinstance(obj, _NAMED):
                return NotImplemented
            found = self._reduced(obj)
            if self.met is not None:
                self.met.note(obj, found)
            return found

        def _reduced(self, obj: Any) -> Any:
            if isinstance(obj, types.ModuleType | types.BuiltinFunctionType):
                return NotImplemented
            if isinstance(obj, TypeVar):
                return known[TypeVar](obj)
            if (found := reference_to(obj)) is not None:
                return found
            return reduce_cached(obj) if isinstance(obj, _Cached) else super().reducer_override(obj)

    return Pickler


#: how many characters cloudpickle's identities of classes have.
_TRACKED = 32
_Cached: Any = type(functools.lru_cache(len))
_NAMED = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType, TypeVar, _Cached)


class _Ordered(frozenset[Any]):
    """A set that is pickled as a plain one, in an order that does not depend on the process."""

    def __reduce__(self) -> tuple[Any, ...]:
        return frozenset, (sorted(self, key=lambda item: (type(item).__name__, repr(item))),)


def _constant(code: types.CodeType, arg: Any) -> Any:
    if arg is code.co_consts:
        return tuple(_Ordered(each) if type(each) is frozenset else each for each in arg)
    return code.co_filename if arg == "<dynamic-code>" else arg


def loads(data: bytes | memoryview, what: str, buffers: Iterable[Any] = ()) -> Any:
    """Unpickle, and say what is missing if code is.

    Parameters
    ----------
    data : bytes or memoryview
        Trusted: unpickling runs code.
    what : str
        What it is, for the message.
    buffers : iterable of buffer, default ()
        What is not in the pickle.

    Raises
    ------
    MissingModule
        If a module, or a name in it, that the pickle refers to is not there.
    """
    try:
        return pickle.loads(data, buffers=buffers)
    except ImportError as error:
        raise missing_module(error.name or "?", what, str(error)) from error
    except AttributeError as error:
        match = _LOST_ATTRIBUTE.search(str(error))
        if match is None:
            raise
        raise missing_module(match["module"] or "?", what, str(error)) from error


def missing_module(module: str, what: str, told: str) -> MissingModule:
    """Return the error for code that is not where it is needed."""
    return MissingModule(
        f"{what} needs module {module!r}, which cannot be imported here as it was where it was pickled "
        f"({told}); install it where the flow runs. Modules of one's own travel with the flow, but not those that have "
        "no source file, and no packages with compiled code",
        module=module,
    )


def explain(obj: Any, what: str, error: Exception) -> NotPicklable:
    """Return the error that names the path to the part that cannot be pickled.

    Parameters
    ----------
    obj : object
        What failed.
    what : str
        Its name, the beginning of the path.
    error : Exception
        What cloudpickle raised for the whole.
    """
    steps, passed, cause = _find(obj, error)
    culprit = passed[-1]
    steps = _from_task_on([what, *steps])
    path = " → ".join(steps)
    told = str(cause).strip().splitlines()[0] if str(cause).strip() else type(cause).__name__
    kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}".removeprefix("builtins.")
    return NotPicklable(
        f"cannot pickle {what}: {path} is of type {kind}, which cannot travel to a storage or a worker "
        f"({told}); {advice_for(passed)}",
        path=path,
    )


def _from_task_on(steps: list[str]) -> list[str]:
    """Begin at the last task named: how the flow refers to it is of no help."""
    starts = [position for position, step in enumerate(steps) if step.startswith("task ")]
    return steps[starts[-1] :] if starts else steps


def _find(obj: Any, error: Exception) -> tuple[list[str], list[Any], Exception]:
    """The way to the smallest part that fails, what is passed on it up to that part, and its own error."""
    steps: list[str] = []
    passed = [obj]
    seen = {id(obj)}
    while len(steps) < _MAX_DEPTH:
        for label, part in parts_of(obj):
            if id(part) in seen:
                continue
            failure = _failure(part)
            if failure is not None:
                steps.append(label)
                seen.add(id(part))
                obj, error = part, failure
                passed.append(part)
                break
        else:
            break
    return steps, passed, error


def _failure(obj: Any) -> Exception | None:
    import cloudpickle

    try:
        cloudpickle.dumps(obj, protocol=PROTOCOL)
    except Exception as error:  # noqa: BLE001 - any failure to pickle is the answer
        return error
    return None


def parts_of(obj: Any) -> Iterator[Part]:
    """Yield the parts of an object that its pickle holds, each with words that say where it is; of many, the first.

    Parameters
    ----------
    obj : object
        Anything.
    """
    try:
        for position, part in enumerate(_parts(obj)):
            if position >= _MAX_PARTS:
                return
            yield part
    except Exception:  # noqa: BLE001 - the object's own hooks failed: then it is itself the culprit
        return


def _parts(obj: Any) -> Iterator[Part]:
    """The parts of an object that its pickle holds, with words that say where each is found."""
    if isinstance(obj, FlowDefinition):
        yield from _flow_parts(obj)
    elif isinstance(obj, Task):
        yield from _parts(obj.function)
    elif isinstance(obj, types.FunctionType):
        yield from _function_parts(obj)
    elif isinstance(obj, types.MethodType):
        yield "the object it is bound to", obj.__self__
        yield "function", obj.__func__
    elif isinstance(obj, functools.partial):
        yield from _labelled("function", obj.func)
        yield from ((f"argument {position}", value) for position, value in enumerate(obj.args, 1))
        yield from ((f"argument {name!r}", value) for name, value in obj.keywords.items())
    elif isinstance(obj, dict):
        yield from _dict_parts(obj)
    elif isinstance(obj, (list, tuple)):
        yield from ((f"[{position}]", value) for position, value in enumerate(obj))
    elif isinstance(obj, (set, frozenset)):
        yield from (("an element", value) for value in obj)
    elif isinstance(obj, type):
        yield from ((f"attribute {name!r}", value) for name, value in vars(obj).items())
    else:
        yield from _object_parts(obj)


def _labelled(label: str, value: Any) -> Iterator[Part]:
    if isinstance(value, Task):
        yield f"task {value.name!r}", value
    elif isinstance(value, FlowDefinition):
        yield f"flow {value.name!r}", value
    else:
        yield label, value


def _dict_parts(items: dict[Any, Any]) -> Iterator[Part]:
    for key, value in items.items():
        yield from _labelled(f"[{key!r}]", value)
        yield f"key {key!r}", key


def _flow_parts(flow: FlowDefinition) -> Iterator[Part]:
    if flow.function is not None:
        yield from _parts(flow.function)
    for name, parameter in flow.own_parameters.items():
        yield f"default of parameter {name!r}", parameter.default
        yield f"annotation of parameter {name!r}", parameter.annotation
    if isinstance(flow.built, Graph):
        yield from _graph_parts(flow.built)
    yield from _state_parts({k: v for k, v in flow.__getstate__().items() if k not in ("function", "built")})


def _graph_parts(graph: Graph) -> Iterator[Part]:
    for node in graph.nodes:
        yield from _labelled("task", node.task)
        yield from _node_parts(node)
    yield from _slot_parts("the returned value", graph.result)


def _node_parts(node: NodeSpec) -> Iterator[Part]:
    for position, slot in enumerate(node.args, 1):
        yield from _slot_parts(f"argument {position} of node {node.name!r}", slot)
    for name, slot in node.kwargs.items():
        yield from _slot_parts(f"argument {name!r} of node {node.name!r}", slot)


def _slot_parts(label: str, slot: Slot) -> Iterator[Part]:
    """Constants, without the wrappers that the user never saw."""
    if isinstance(slot, (Const, EachConst)):
        yield label, slot[0]
    elif isinstance(slot, (Slotted, EachOf)):
        for item in slot.items:
            yield from _slot_parts(label, item)


def _function_parts(function: types.FunctionType) -> Iterator[Part]:
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
        try:
            yield from _labelled(f"closure variable {name!r}", cell.cell_contents)
        except ValueError:  # the cell is empty: the variable has no value yet
            continue
    for name in _global_names(function.__code__):
        if name in function.__globals__:
            yield from _labelled(f"global variable {name!r}", function.__globals__[name])
    yield from ((f"default value {value!r:.60}", value) for value in function.__defaults__ or ())
    yield from ((f"default of {name!r}", value) for name, value in (function.__kwdefaults__ or {}).items())
    yield from ((f"annotation of {name!r}", value) for name, value in function.__annotations__.items())
    yield from _state_parts(function.__dict__)


def references(function: Any) -> list[Any]:
    """Return the values of a function's closure variables and of the globals that it reads.

    Parameters
    ----------
    function : object
        What is not a Python function has none.
    """
    function = inspect.unwrap(function) if callable(function) else function
    if not isinstance(function, types.FunctionType):
        return []
    return [value for label, value in _function_parts(function) if label.startswith(_REFERENCES)]


def _global_names(code: types.CodeType) -> list[str]:
    """Names of globals that a function and the functions inside it read, in order."""
    names = {str(step.argval): None for step in dis.get_instructions(code) if step.opname in _GLOBAL_READS}
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            names.update(dict.fromkeys(_global_names(constant)))
    return list(names)


def _object_parts(obj: Any) -> Iterator[Part]:
    """What the object itself says that its pickle holds."""
    reduced = obj.__reduce_ex__(PROTOCOL)
    if isinstance(reduced, str):
        return
    state = reduced[2] if len(reduced) > 2 else None
    for part in state if isinstance(state, tuple) else (state,):
        if isinstance(part, dict):
            yield from _state_parts(part)
        elif part is not None:
            yield "its state", part
    yield from ((f"constructor argument {position}", value) for position, value in enumerate(reduced[1], 1))
    for items in reduced[3:5]:
        yield from ((f"[{position}]", value) for position, value in enumerate(items or ()))


def _state_parts(state: dict[str, Any]) -> Iterator[Part]:
    for name, value in state.items():
        yield from _labelled(f"attribute {name!r}", value)
