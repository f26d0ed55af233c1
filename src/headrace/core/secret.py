"""Secrets as a flow knows them: names. What a name stands for is looked up where a task runs, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from headrace.core.drawing import current_drawing
from headrace.core.node import Later
from headrace.core.slots import How, SecretRef
from headrace.errors import FlowError, NodeUsedAsValue

#: The key of a secret's JSON form: ``{"$secret": "NAME"}``.
JSON_KEY = "$secret"

#: Looks a value up by name; set by what may read the environment and files (``execution.secrets``).
_LOOK_UP: list[Callable[[str], str]] = []


def look_up_by(function: Callable[[str], str]) -> None:
    """Say how ``Secret.get`` finds values in this process."""
    _LOOK_UP[:] = [function]


class _Secret(Later):
    """The name of a text that must not be written down: a password, a token.

    As an argument of a task, a parameter of a flow, or the default of either, it stands for the text; the task
    receives that. It is looked up on the worker when the task runs: the environment variable ``NAME``, then the
    file ``NAME`` in the folder ``$HEADRACE_SECRETS`` (default ``/run/secrets``), then what the entry points of the
    group ``headrace.secrets`` find. Nothing but the name is stored or sent.

    Parameters
    ----------
    name : str
        Of the environment variable, of the file, or whatever a provider knows it by.

    Examples
    --------
    >>> Secret("DB_PASSWORD")
    Secret('DB_PASSWORD')
    """

    __slots__ = ("name",)
    name: str

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise FlowError(f"a secret needs a name, as in hr.Secret('DB_PASSWORD'), got a {type(name).__name__}")
        object.__setattr__(self, "name", name)

    def get(self) -> str:
        """Look the text up, in this process.

        Raises
        ------
        SecretNotFound
            If it is nowhere; says where was looked.
        NodeUsedAsValue
            While a flow is drawn: what is drawn is stored and sent.
        """
        if current_drawing() is not None:
            self._refuse("`.get()`")
        return _LOOK_UP[0](self.name)

    def _refuse(self, what: str, instead: str = "") -> NoReturn:  # whatever is done with it, one thing helps
        raise NodeUsedAsValue(
            f"{what} uses the secret {self.name!r} as a value, but it is only a name, and a task receives the text in "
            f"its place; give it to a task as an argument, or call hr.Secret({self.name!r}).get() inside the task"
        )

    def _slot(self, how: How) -> SecretRef:
        if how is not How.WHOLE:
            raise FlowError(
                f"cannot map over {self!r}, which is one text; wrap it in hr.unmapped(...) to give it to every child"
            )
        return SecretRef(self.name)

    def __repr__(self) -> str:
        return f"Secret({self.name!r})"

    def __str__(self) -> str:
        self._refuse("`str(...)`")

    def __getitem__(self, key: Any) -> NoReturn:
        self._refuse("an index")

    def __iter__(self) -> NoReturn:
        self._refuse("`for ... in` or unpacking")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, _Secret):
            return self.name == other.name
        return super().__eq__(other)

    def __hash__(self) -> int:
        return hash((_Secret, self.name))

    def __reduce__(self) -> tuple[Any, ...]:  # type: ignore[override]
        return _Secret, (self.name,)


_Secret.__name__ = _Secret.__qualname__ = "Secret"

if TYPE_CHECKING:

    class Secret(str):  # to checkers, the text that a task receives, so that it fits parameters of that type
        """See above."""

        name: str

        def get(self) -> str:
            """Look the text up, in this process."""

else:
    Secret = _Secret


def secret_json(secret: Secret) -> dict[str, str]:
    """Return a secret's JSON form."""
    return {JSON_KEY: secret.name}


def with_secrets(data: Any) -> Any:
    """Return JSON data with secrets in the place of their JSON forms.

    Parameters
    ----------
    data : object
        As ``json.loads`` returned it.
    """
    if isinstance(data, dict):
        if data.keys() == {JSON_KEY}:
            return Secret(data[JSON_KEY])
        return {key: with_secrets(value) for key, value in data.items()}
    return [with_secrets(value) for value in data] if isinstance(data, list) else data
