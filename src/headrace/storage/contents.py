"""What a flow brings along that it had better not: large constants, and credentials."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from headrace import pickling
from headrace.core.flow import FlowDefinition
from headrace.errors import FlowError, HeadraceError
from headrace.redaction import exposes
from headrace.storage.capture import Captured, pickle_flow
from headrace.storage.findings import WARNING, Finding

#: bytes; what is larger makes each start of a run slower, and lies in the storage with each version of the flow.
LARGE = 1 << 20
#: how many large parts of one flow are told.
MOST = 5
_DEEPEST = 16
#: parts that only whoever wrote the type knows.
_INNARDS = ("constructor argument", "its state")


def refuse_secrets(flow: FlowDefinition | str, captured: Captured) -> None:
    """Refuse a flow that holds a credential or a secret that this process knows.

    Parameters
    ----------
    flow : FlowDefinition or str
        The flow, or what names it.
    captured : Captured
        Its object, as it would be stored.

    Raises
    ------
    FlowError
        Names the way to it.
    """
    if not exposes(captured.data):
        return
    what = f"flow {captured.name!r}"
    ways = _ways(flow, what, exposes) if isinstance(flow, FlowDefinition) else iter(())
    path, part = next(ways, (what, flow))
    raise FlowError(
        f"{what} cannot be stored: {path} (of type {type(part).__qualname__}) has the text of a secret, or "
        "of a credential of a storage, that this process uses; create it inside the task, with hr.Secret('NAME') for "
        "the text, or let the workers find credentials themselves",
        path=path,
    )


def secrets_in_code(captured: Captured) -> list[Finding]:
    """Return the source files that travel with a flow and hold a credential or a secret that this process knows.

    Parameters
    ----------
    captured : Captured
        The flow's object, and its bundle.
    """
    bundle = captured.bundle
    if bundle is None or not exposes(bundle.data):  # it is not compressed
        return []
    files = ((path, data) for unit in bundle.units.values() for path, data in unit.files.items())
    return [
        Finding(
            WARNING,
            f"flow {captured.name!r} → {path}",
            "is stored with the flow, and has the text of a secret, or of a credential of a storage, in it",
            "take it out of the source, and read it from the environment, or use hr.Secret('NAME')",
        )
        for path, data in files
        if exposes(data)
    ]


def not_installed(captured: Captured) -> list[Finding]:
    """Return what a flow needs when it runs, and what is not installed here, where its check would not notice.

    Parameters
    ----------
    captured : Captured
        The flow's object.
    """
    return [
        Finding(
            WARNING,
            f"flow {captured.name!r}",
            f"imports {module!r} when it runs, and there is no module of that name here",
            "see to it that it is installed where the flow runs; install it here, too, and its version is written down",
        )
        for module in captured.lacking
    ]


def large_parts(flow: FlowDefinition | str, captured: Captured) -> list[Finding]:
    """Return the large constants of a flow.

    Parameters
    ----------
    flow : FlowDefinition or str
        The flow, or what names it: then, none of it is stored.
    captured : Captured
        Its object: if that is small, there is none, and nothing is looked at.
    """
    if len(captured.data) < LARGE or isinstance(flow, str):
        return []
    found = []
    for path, part in _ways(flow, f"flow {flow.name!r}", lambda data: len(data) >= LARGE):
        size = _size_of(part)
        found.append(
            Finding(
                WARNING,
                path,
                f"is a {type(part).__qualname__} of {size / 1e6:,.1f} MB, stored with each version of the flow and "
                "sent in each run",
                "let a task load it where it is needed, or give its URL as a parameter",
            )
        )
        if len(found) == MOST:
            break
    return found


def _size_of(part: Any) -> int:
    return len(pickling.dumps(part, "a part of a flow"))


def _ways(flow: FlowDefinition, what: str, test: Callable[[bytes], bool]) -> Iterator[tuple[str, Any]]:
    """The ways to the smallest parts whose pickles pass a test, and these parts."""
    seen: set[int] = set()

    def walk(obj: Any, steps: list[str]) -> Iterator[tuple[str, Any]]:
        deeper = False
        if len(steps) < _DEEPEST:
            for label, part in pickling.parts_of(obj):
                if label.startswith(_INNARDS) or id(part) in seen or not _passes(part, test):
                    continue
                seen.add(id(part))
                deeper = True
                yield from walk(part, [*steps, label])
        if not deeper and steps:
            yield " → ".join([what, *steps]), obj

    return walk(flow, [])


def _passes(part: Any, test: Callable[[bytes], bool]) -> bool:
    try:
        whole = isinstance(part, FlowDefinition)
        return test(pickle_flow(part, pickling.Met()) if whole else pickling.dumps(part, "a part of a flow"))
    except HeadraceError:
        return False
