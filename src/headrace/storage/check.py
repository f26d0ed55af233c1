"""Whether flows load and draw in a fresh interpreter: what runs there, ``python -m headrace.storage.check``.

The parent (``storage.preflight``) writes, for each flow, one line with location, lengths and the modules of others that
it may import, then the bytes of its object and bundle; the child answers with one JSON object when there is nothing
more to read. It is started before there is something to check, so it first loads the modules that it is given, which
every flow needs, and then waits.

It runs in an empty folder, and flows that travel as pickles find neither that nor the folders that the user has put on
``PYTHONPATH``: what lies there travels in the bundle, or is missing elsewhere, too.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import select
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

from headrace import parameters
from headrace.code.bundle import open_bundle
from headrace.code.space import active
from headrace.core.flow import unstable
from headrace.errors import HeadraceError
from headrace.storage import sources
from headrace.storage.capture import load_example, open_flow
from headrace.storage.envelope import versions
from headrace.storage.packages import findings_about

#: Seconds after which a child that is given nothing to check ends; a build that comes later starts another.
IDLE = 30.0
#: Seconds between looks at whether the parent is still there: a child that hangs in an import must not outlive it.
LOOK = 0.5
#: What the user has put there; this package's own root is the last, see ``storage.preflight``.
_PYTHONPATH = tuple(os.environ.get("PYTHONPATH", "").split(os.pathsep)[:-1])


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
        named, kind = sources.code_of(envelope.header), sources.kind_of(envelope.header)
        bundle = open_bundle(code, **named, where=location) if named is not None else None
        with nullcontext() if kind == sources.MODULE else _away_from_home():
            flow = sources.load(envelope, bundle)
            with active(bundle):
                parameters.resolved_annotations(flow)  # a class that travelled may have lost what its fields name
                # Of a flow by name, the graph was compared when it was loaded.
                example = load_example(envelope) if kind == sources.PICKLE else None
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


@contextmanager
def _away_from_home() -> Iterator[None]:
    """Take the folders of ``PYTHONPATH`` off the path, but for folders of packages, which others can have, too."""
    before = sys.path[:]
    homes = {entry for entry in _PYTHONPATH if not any(Path(entry).glob("*.dist-info"))}
    sys.path[:] = [entry for entry in sys.path if entry not in homes]
    try:
        yield
    finally:
        sys.path[:] = before


def _check_digest(name: str, here: str, expected: str) -> None:
    if here != expected:
        raise unstable(name, "draws another graph in a fresh interpreter than here, for the same parameters")


def _named(name: str, message: str) -> str:
    return message if repr(name) in message else f"flow {name!r}: {message}"


def answer(source: BinaryIO) -> dict[str, Any]:
    """Check all flows that a stream holds.

    Parameters
    ----------
    source : binary file
        As the parent writes it.
    """
    verdicts, before, names = [], set(map(_top, sys.modules)), set()
    while line := source.readline():
        location, length, length_of_code, imports = json.loads(line)
        names.update(imports)
        verdicts.append(check_one(location, source.read(length), source.read(length_of_code)))
    loaded = [module for name, module in list(sys.modules.items()) if _top(name) not in before]
    return {"verdicts": verdicts, "findings": [dataclasses.asdict(each) for each in findings_about(loaded, names)]}


def main() -> None:
    """Answer on standard output, where nothing that the flows print may get in between."""
    channel = os.dup(1)
    os.dup2(2, 1)
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    _warm_up(sys.argv[1:])
    if not select.select([sys.stdin], [], [], IDLE)[0]:
        return
    found = answer(sys.stdin.buffer)
    with open(channel, "w", encoding="utf-8") as output:
        json.dump(found, output)


def _top(module: str) -> str:
    return module.partition(".")[0]


def _warm_up(modules: list[str]) -> None:
    """Do what is done once in a process, and would else be done while somebody waits."""
    import cloudpickle  # noqa: F401
    from pydantic import TypeAdapter

    for name in modules:
        importlib.import_module(name)
    TypeAdapter(int)
    versions()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK)
    shutil.rmtree(Path.cwd().parent, ignore_errors=True)  # its folder, which nobody else removes now
    os._exit(1)


if __name__ == "__main__":
    main()
