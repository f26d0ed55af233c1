"""Nodes as users hold them while a flow is drawn: names for values that only a run will know."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NoReturn

from headrace.core.annotations import outputs_of
from headrace.core.slots import How, ParameterRef, Placeholder, Ref, SecretRef
from headrace.errors import NodeUsedAsValue


class Later(Placeholder):
    """Stands for a value that only a run will know; every use of it as a value says what to write instead."""

    __slots__ = ()

    def _label(self) -> str:
        raise NotImplementedError

    def _refuse(self, what: str, instead: str) -> NoReturn:
        raise NodeUsedAsValue(
            f"{what} uses {self._label()} as a value, but while a flow is drawn its value is not known yet; {instead}"
        )

    def __bool__(self) -> bool:
        self._refuse(
            "`if`, `and`, `or` or `not`",
            "draw what depends on it in a block `with hr.case(node):`, decide inside a task, or make it a parameter of "
            "the flow",
        )

    def __len__(self) -> int:
        self._refuse("`len(...)`", "take the length inside a task; `.map(...)` needs no length")

    def __index__(self) -> int:
        self._refuse("`range(...)` or an index", "make the number a parameter of the flow, or return the list "
                     "from a task and use `.map(...)`")  # fmt: skip

    def __int__(self) -> int:
        self._refuse("`int(...)`", "convert inside a task")

    def __float__(self) -> float:
        self._refuse("`float(...)`", "convert inside a task")

    def __contains__(self, item: object) -> bool:
        self._refuse("`in`", "look for it inside a task")

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: the value is not known yet."""
        self._refuse("a call", "call it inside a task that receives it")

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("_"):  # probes by copy, pickle, IPython and others must get their AttributeError
            raise AttributeError(name)
        self._refuse(f"`.{name}`", f"write a task that receives it and returns its .{name}")

    def __setitem__(self, key: Any, value: Any) -> NoReturn:
        self._refuse("an assignment to an item", "write a task that receives it and returns the changed value")

    def __delitem__(self, key: Any) -> NoReturn:
        self._refuse("a deletion of an item", "write a task that receives it and returns the changed value")

    def __format__(self, spec: str) -> NoReturn:
        self._refuse("an f-string or `format`", "make the text inside a task (to print the node itself: `{node!r}`)")

    def __reduce__(self) -> NoReturn:
        self._refuse(
            "a copy or pickle",
            "a node may stand alone or in lists, tuples, sets, dicts and dataclasses, but not inside other objects",
        )

    def __enter__(self) -> NoReturn:
        self._refuse("`with`", "open it inside the task that uses it")

    def __exit__(self, *exc: object) -> None:
        raise AssertionError("never entered")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Later):
            return self is other
        return self._refuse(
            "a comparison",
            "draw what depends on it in a block `with hr.case(node, value):`, or compare inside a task",
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return id(self)


def _refusing(symbol: str) -> Any:
    def method(self: Later, *others: object) -> NoReturn:
        self._refuse(f"`{symbol}`", "write a task that computes it, e.g. `@hr.task def add(a, b): return a + b`")

    return method


for _symbol, _names in {
    "+": ("add", "radd", "iadd", "pos"),
    "-": ("sub", "rsub", "isub", "neg"),
    "*": ("mul", "rmul", "imul"),
    "/": ("truediv", "rtruediv", "itruediv"),
    "//": ("floordiv", "rfloordiv", "ifloordiv"),
    "%": ("mod", "rmod", "imod"),
    "**": ("pow", "rpow", "ipow"),
    "@": ("matmul", "rmatmul", "imatmul"),
    "&": ("and", "rand", "iand"),
    "|": ("or", "ror", "ior"),
    "^": ("xor", "rxor", "ixor"),
    "~": ("invert",),
    "<<": ("lshift", "rlshift"),
    ">>": ("rshift", "rrshift"),
    "<": ("lt",),
    "<=": ("le",),
    ">": ("gt",),
    ">=": ("ge",),
    "abs(...)": ("abs",),
    "round(...)": ("round",),
    "divmod(...)": ("divmod", "rdivmod"),
}.items():
    for _name in _names:
        setattr(Later, f"__{_name}__", _refusing(_symbol))


class Node(Later):
    """A task's place in a flow.

    Give it to other tasks, index it (``node["key"]``, ``node[0]``) to give a part of its value, or unpack it if
    its task says ``nout``.
    """

    __slots__ = ("_drawing", "_index", "_path")

    def __init__(self, drawing: Any, index: int, path: tuple[Any, ...] = ()) -> None:
        self._drawing = drawing
        self._index = index
        self._path = path

    @property
    def name(self) -> str:
        """Its name in the flow."""
        return str(self._drawing.nodes[self._index].name)

    def _label(self) -> str:
        return f"node {self.name!r}"

    def _slot(self, how: How) -> Ref:
        return Ref(self._index, self._path, how)

    def __repr__(self) -> str:
        return f"<Node {self.name}{''.join(f'[{key!r}]' for key in self._path)}>"

    def __getitem__(self, key: Any) -> Node:
        if isinstance(key, Placeholder):
            self._refuse("an index that is itself a node", "write a task that receives both")
        return Node(self._drawing, self._index, (*self._path, key))

    def __iter__(self) -> Iterator[Node]:
        spec = self._drawing.nodes[self._index]
        nout = outputs_of(spec.task.function, self._path) if self._path else spec.task.policy.nout
        if nout is None:
            self._refuse(
                "`for ... in` or unpacking",
                "use `task.map(node)` to run a task per element, or say how many outputs there are: @hr.task(nout=2), "
                "or `-> tuple[int, str]` where the function is defined",
            )
        if spec.mapped:
            self._refuse("unpacking", "it is mapped, so its value is a list of children; unpack inside a task")
        return iter([self[position] for position in range(nout)])

    def set_upstream(self, *nodes: Node) -> None:
        """Make this node wait for others without receiving their values.

        Parameters
        ----------
        *nodes : Node
            Nodes of the same flow.
        """
        self._drawing.add_upstream(self._index, nodes)


class ParameterNode(Later):
    """A parameter of a flow that is built by hand; its value arrives when a run starts."""

    __slots__ = ("_drawing", "_name", "_path")

    def __init__(self, drawing: Any, name: str, path: tuple[Any, ...] = ()) -> None:
        self._drawing = drawing
        self._name = name
        self._path = path

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self._name

    def _label(self) -> str:
        return f"parameter {self._name!r}"

    def _slot(self, how: How) -> ParameterRef:
        return ParameterRef(self._name, self._path, how)

    def __repr__(self) -> str:
        return f"<Parameter {self._name}{''.join(f'[{key!r}]' for key in self._path)}>"

    def __getitem__(self, key: Any) -> ParameterNode:
        if isinstance(key, Placeholder):
            self._refuse("an index that is itself a node", "write a task that receives both")
        return ParameterNode(self._drawing, self._name, (*self._path, key))

    def __iter__(self) -> Iterator[Any]:
        self._refuse("`for ... in` or unpacking", "use `task.map(parameter)`, or draw the flow with @hr.flow, where "
                     "parameters have their values")  # fmt: skip


class Ended(Placeholder):
    """How a node ended, where a task asks for that beside, or in place of, its value.

    Parameters
    ----------
    node : node or parameter
        Of a mapped one, the states of all children.
    """

    __slots__ = ("node",)

    def __init__(self, node: Later) -> None:
        self.node = node

    def _slot(self, how: How) -> Ref | ParameterRef | SecretRef:
        return self.node._slot(How.STATE)


class unmapped:  # noqa: N801 - a word of the flow language, used like a function
    """Give a value whole to every child of a mapped node.

    Parameters
    ----------
    value : object
        A constant, a node, or a container of both.
    """

    def __init__(self, value: Any) -> None:
        self.value = value


class flatten:  # noqa: N801 - a word of the flow language, used like a function
    """Map over the elements of the elements.

    Parameters
    ----------
    value : sequence of sequences, node, or flatten
        A constant, a node whose value is a sequence of sequences, or a mapped node whose children return sequences.
        ``flatten(flatten(...))`` goes one level deeper.
    """

    def __init__(self, value: Any) -> None:
        self.value = value
