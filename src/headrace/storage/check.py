"""Whether flows load and draw in a fresh interpreter: ``python -m headrace.storage.check``.

The parent writes, for each flow, one line with location and length, then the object's bytes; the child
answers with one JSON list. One child checks all flows of a build: starting Python costs more than the checks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from headrace import errors, parameters
from headrace.code.bundle import open_bundle
from headrace.code.space import active
from headrace.core.flow import unstable
from headrace.errors import FlowError, HeadraceError
from headrace.storage import sources
from headrace.storage.capture import Captured, load_example, open_flow

#: seconds after which a flow's imports count as stuck.
DEADLINE = 120.0


def check_in_fresh_interpreter(flows: Sequence[Captured]) -> None:
    """Load each flow in a new process, and draw it there if it was drawn here.

    Parameters
    ----------
    flows : sequence of Captured
        Which flows.

    Raises
    ------
    MissingModule, UnstableFlow, FlowError
        The first flow's error, if one does not load, or draws another graph than here.
    """
    if not flows:
        return
    names = ", ".join(repr(flow.name) for flow in flows)
    with tempfile.TemporaryFile() as output:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "headrace.storage.check"],
                input=b"".join(_frames(flows)),
                stdout=output,
                stderr=subprocess.PIPE,
                env=_environment(),
                timeout=DEADLINE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise FlowError(
                f"flow {names} did not load in a fresh interpreter within {DEADLINE:.0f} s; look for code at "
                "the top of its modules that waits, and move it into tasks"
            ) from None
        output.seek(0)
        answer = output.read()
    if done.returncode != 0:
        tail = done.stderr.decode(errors="replace").strip()[-2000:]
        raise FlowError(
            f"flow {names}: the fresh interpreter that was to load it ended with code {done.returncode}: {tail}"
        )
    for verdict in json.loads(answer):
        if verdict is not None:
            raise _rebuilt(verdict)


def _frames(flows: Iterable[Captured]) -> Iterable[bytes]:
    for flow in flows:
        code = flow.bundle.data if flow.bundle is not None else b""
        yield json.dumps([flow.location, len(flow.data), len(code)]).encode() + b"\n"
        yield flow.data
        yield code


def _environment() -> dict[str, str]:
    # Another hash seed makes flows that loop over sets of texts draw another order. This package must be
    # found even where it was put on the path by hand; last, so that it hides nothing.
    environment = dict(os.environ)
    environment["PYTHONHASHSEED"] = "2" if environment.get("PYTHONHASHSEED") == "1" else "1"
    root = str(Path(__file__).parents[2])
    before = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = f"{before}{os.pathsep}{root}" if before else root
    return environment


def _rebuilt(verdict: dict[str, Any]) -> HeadraceError:
    cls = getattr(errors, verdict["error"])
    return cls(verdict["message"], **verdict["facts"])  # type: ignore[no-any-return]


def check_one(location: str, data: bytes, code: bytes) -> dict[str, Any] | None:
    """Check one flow, in this process.

    Parameters
    ----------
    location : str
        For messages.
    data : bytes
        Its object.
    code : bytes
        Its bundle; empty if it has none.

    Returns
    -------
    dict or None
        None if all is well; else the error as JSON data.
    """
    name = location
    try:
        envelope = open_flow(data, location)
        name = envelope.header["name"]
        named = sources.code_of(envelope.header)
        bundle = open_bundle(code, **named, where=location) if named is not None else None
        flow = sources.load(envelope, bundle)
        with active(bundle):
            parameters.resolved_annotations(flow)  # a class that travelled may have lost what its fields name
            # The graph of a flow whose code lies elsewhere was compared when it was loaded.
            example = load_example(envelope) if sources.kind_of(envelope.header) == sources.PICKLE else None
            if example is not None:
                _check_digest(name, flow.draw(example).digest(), envelope.header["digest"])
    except HeadraceError as error:
        facts = {key: value for key, value in error.facts.items() if isinstance(value, (str, int))}
        return {"error": type(error).__name__, "message": _named(name, str(error)), "facts": facts}
    except Exception as error:  # noqa: BLE001 - whatever the flow's own code raises is the answer
        told = f"{type(error).__name__}: {error}"
        message = f"flow {name!r} does not load in a fresh interpreter, although it works here ({told})"
        return {"error": "FlowError", "message": message, "facts": {}}
    return None


def _check_digest(name: str, here: str, expected: str) -> None:
    if here != expected:
        raise unstable(name, "draws another graph in a fresh interpreter than here, for the same parameters")


def _named(name: str, message: str) -> str:
    return message if repr(name) in message else f"flow {name!r}: {message}"


def answer(source: BinaryIO) -> list[dict[str, Any] | None]:
    """Check all flows that a stream holds.

    Parameters
    ----------
    source : binary file
        As the parent writes it.
    """
    verdicts = []
    while line := source.readline():
        location, length, length_of_code = json.loads(line)
        verdicts.append(check_one(location, source.read(length), source.read(length_of_code)))
    return verdicts


def main() -> None:
    """Answer on standard output, where nothing that the flows print may get in between."""
    channel = os.dup(1)
    os.dup2(2, 1)
    verdicts = answer(sys.stdin.buffer)
    with open(channel, "w", encoding="utf-8") as output:
        json.dump(verdicts, output)


if __name__ == "__main__":
    main()
