"""What the commands share: errors as paragraphs, ``KEY=VALUE`` texts, storages and environments as typed."""

from __future__ import annotations

import contextlib
import difflib
import json
import logging
import os
import re
import shlex
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from headrace.errors import AlreadyExists, HeadraceError, NotFound, PreflightWarning, SetupError, StorageError

if TYPE_CHECKING:
    from rich.console import Console

    from headrace.environments.base import Environment
    from headrace.flows import Flow
    from headrace.loading import Target
    from headrace.store import Storage

#: Seconds within which a scheduler that is said to be there must answer.
DEADLINE = 10.0

_HERE = str(Path(__file__).parent)
#: typer brings its own click, or uses click's; either way this is the base of errors in what was typed.
_UsageError: Any = typer.BadParameter.__mro__[1]


class Commands(TyperGroup):
    """Turns errors into one paragraph and an exit code, for all commands alike."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--traceback`` at any place: one adds it to the end, after a command has failed."""
        if "--traceback" in args:
            args = ["--traceback", *(arg for arg in args if arg != "--traceback")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except KeyboardInterrupt as error:
            from headrace.execution.signals import Terminated

            complain("interrupted")
            raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None
        except Exception as error:  # noqa: BLE001 - of whatever happens, the user is told in a paragraph
            if isinstance(error, _UsageError):
                told = error.format_message()
                asked = error.ctx.command_path if error.ctx is not None else ctx.command_path
                complain(f"{told.rstrip('.')}{_hint(told)} ({asked} --help tells more)")
            else:
                if ctx.params.get("traceback"):
                    traceback.print_exception(error)
                complain(_paragraph(error))
            raise typer.Exit(2) from None


def _hint(told: str) -> str:
    stray = re.search(r"unexpected extra arguments?.*?\((\w+=\S*)", told)
    return f"; a parameter is given with -p, as in -p {stray[1].rstrip(')')}" if stray else ""


def _paragraph(error: Exception) -> str:
    if isinstance(error, HeadraceError):
        return str(error)
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(_HERE)]
    where = f" (line {frames[-1].lineno} of {frames[-1].filename})" if frames else ""
    return f"{type(error).__name__}: {error}{where}; --traceback shows more"


def complain(text: str) -> None:
    """Write an error to standard error, as a paragraph."""
    err_console().print(f"headrace: {text}", soft_wrap=True, style="red" if sys.stderr.isatty() else None)


def remark(text: str) -> None:
    """Write what is for people only to standard error."""
    err_console().print(text, soft_wrap=True)


def console() -> Console:
    """Return standard output; what is read by machine is not cut to a width."""
    from rich.console import Console

    return Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)


def err_console() -> Console:
    """Return standard error."""
    from rich.console import Console

    return Console(stderr=True, markup=False, highlight=False, emoji=False)


# -- what was typed ----------------------------------------------------------------------------------------------


def pairs(texts: Sequence[str] | None, option: str) -> dict[str, str]:
    """Take ``KEY=VALUE`` texts apart.

    Parameters
    ----------
    texts : sequence of str or None
        As typed.
    option : str
        For messages.
    """
    found: dict[str, str] = {}
    for text in texts or ():
        key, mark, value = text.partition("=")
        if not mark or not key.strip():
            raise typer.BadParameter(f"{option} takes KEY=VALUE, got {text!r}")
        if key.strip() in found:
            raise typer.BadParameter(f"{option} {key.strip()} is given twice")
        found[key.strip()] = value
    return found


def json_pairs(texts: Sequence[str] | None, option: str) -> dict[str, Any]:
    """Take ``KEY=VALUE`` texts apart; values are JSON if they can be, and else texts.

    Parameters
    ----------
    texts : sequence of str or None
        As typed.
    option : str
        For messages.
    """
    found: dict[str, Any] = dict(pairs(texts, option))
    for key, text in found.items():
        with contextlib.suppress(ValueError):
            found[key] = json.loads(text)
    return found


def values_of(texts: Sequence[str] | None, secrets: Sequence[str] | None) -> dict[str, Any]:
    """Return parameter values as typed: texts of ``-p``, and secrets of ``--secret``, by name.

    Parameters
    ----------
    texts, secrets : sequence of str or None
        As typed.
    """
    from headrace.core.secret import Secret

    values: dict[str, Any] = dict(pairs(texts, "-p"))
    for key, name in pairs(secrets, "--secret").items():
        if key in values:
            raise typer.BadParameter(f"{key} is given twice, by -p and by --secret")
        values[key] = Secret(name)
    return values


def variable(name: str) -> Any:
    """Return the JSON object in an environment variable; None if it is not set.

    Parameters
    ----------
    name : str
        Of the variable.
    """
    text = os.environ.get(name)
    if not text:
        return None
    try:
        found = json.loads(text)
    except ValueError as error:
        # The text itself may hold secrets, so it is not shown.
        raise StorageError(f"the environment variable {name} does not hold JSON: {error}") from None
    if not isinstance(found, dict):
        raise StorageError(f"the environment variable {name} must hold a JSON object, got a {type(found).__name__}")
    return found


def quoted(text: str) -> str:
    """Return a text as a shell takes it; ``#`` inside a word needs no quotes."""
    return text if shlex.quote(text.replace("#", "_")) == text.replace("#", "_") else shlex.quote(text)


# -- storages ----------------------------------------------------------------------------------------------------


def storage_of(url: str, options: Sequence[str] | None, *, must_exist: bool = False) -> Storage:
    """Open the storage at a URL.

    Parameters
    ----------
    url : str
        As typed.
    options : sequence of str or None
        Texts of ``--storage-option``, over ``HEADRACE_STORAGE_OPTIONS``.
    must_exist : bool, default False
        Whether a local folder that is not there is an error: of what is only looked at, a typing error.
    """
    from headrace.store import STORAGE_OPTIONS_VARIABLE, Storage

    given = json_pairs(options, "--storage-option")
    store = Storage(url, {**(variable(STORAGE_OPTIONS_VARIABLE) or {}), **given})
    folder = store.url.removeprefix("file://")
    if must_exist and folder != store.url and not Path(folder).is_dir():
        raise NotFound(f"there is no folder {folder}")
    return store


def private_storage() -> Storage:
    """Return a storage that ends with this process."""
    from headrace.storage.media import private_memory
    from headrace.store import Storage

    return Storage("memory://run", name="run", filesystem=private_memory(), signing_keys=())


def stored_flow(target: Target, options: Sequence[str] | None) -> tuple[Storage, str]:
    """Find the flow that a target names in a storage; without a name, the only one there.

    Parameters
    ----------
    target : Target
        Not code.
    options : sequence of str or None
        Of the storage.
    """
    store = storage_of(target.place, options, must_exist=True)
    if target.flow:
        return store, store.resolve(target.flow)
    flows = store.flows
    if len(flows) == 1:
        return store, next(iter(flows.values()))
    known = ", ".join(map(repr, flows)) or "none yet"
    raise NotFound(f"{target.place} does not say which flow is meant, so give {target.place}#FLOW; known are {known}")


def flow_of(text: str, url: str | None, options: Sequence[str] | None) -> tuple[Storage, str, Environment | None]:
    """Find what is to be run: its storage, its location, and the environment that it carries, if it does.

    Parameters
    ----------
    text : str
        As typed: a flow in a storage, or from code.
    url : str or None
        A storage for a flow from code.
    options : sequence of str or None
        Of the storage.
    """
    from headrace.loading import load_flow, parse_target

    found = parse_target(text)
    if found.is_code:
        flow = load_flow(found)
        return *code_flow(flow, url, options), flow.environment
    if url is not None:
        raise typer.BadParameter(f"--storage is for flows from code, and {text!r} names one in a storage")
    store, location = stored_flow(found, options)
    return store, location, own_environment(store.manifest(location))


def store_flow(
    store: Storage,
    flow: Flow | str,
    *,
    replace: bool = False,
    example: Mapping[str, Any] | None = None,
    source: str | None = None,
) -> str:
    """Store a flow, and return its location.

    Parameters
    ----------
    store : Storage
        Where.
    flow : Flow or str
        Which.
    replace : bool, default False
        Whether it may take the name of a flow of other code.
    example : mapping, optional
        Parameter values to draw the manifest's graph for.
    source : str, optional
        As for ``Storage.add_flow``.
    """
    try:
        location = store.add_flow(flow, replace=replace, example=example, source=source)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PreflightWarning)  # told below, with the rest
            store.build()
    except AlreadyExists as error:
        if "origin" not in error.facts:
            raise
        raise AlreadyExists(
            f"the name {error.facts['flow']!r} belongs in {store.url} to the flow of {error.facts['origin']}, and this "
            f"one is of {error.facts['asked']}; give it another name, or take the name over with headrace add --replace"
        ) from error
    for finding in store.findings:
        remark(f"{finding.level}: {finding}")
    return location


def code_flow(flow: Flow, url: str | None, options: Sequence[str] | None) -> tuple[Storage, str]:
    """Put a flow from code where it can be executed from.

    Parameters
    ----------
    flow : Flow
        As loaded.
    url : str or None
        A storage to keep it and the record of the run in. Default: the flow's own, else this process.
    options : sequence of str or None
        Of the storage.
    """
    if url is None and flow.storage is None:
        if options:
            raise typer.BadParameter("--storage-option needs --storage URL, for the flow comes from code")
        store = private_storage()
        return store, store.add_flow(flow)
    store = storage_of(url, options) if url is not None else flow.storage  # type: ignore[assignment]
    return store, store_flow(store, flow)


# -- environments ------------------------------------------------------------------------------------------------


def own_environment(manifest: Mapping[str, Any]) -> Environment | None:
    """Return the environment that a stored flow carries, if it carries one."""
    from headrace.environments.base import Environment

    data = manifest.get("environment")
    return None if data is None else Environment.deserialize(data)


def environment_of(on: str | None, options: Sequence[str] | None, own: Environment | None = None) -> Environment:
    """Return the environment that ``--on`` and ``--option`` mean.

    Parameters
    ----------
    on : str or None
        As typed.
    options : sequence of str or None
        Texts of ``--option``. Without ``--on``, they hold over those of the flow's own environment.
    own : Environment, optional
        The flow's.
    """
    from headrace.environments.addresses import is_address
    from headrace.environments.clusters import KINDS
    from headrace.environments.dask import DaskEnvironment
    from headrace.environments.local import LocalEnvironment

    given = json_pairs(options, "--option")
    if "cluster" in given:
        raise typer.BadParameter("--option cluster is what --on says; give --on WHERE")
    if on is None and own is not None:
        return _with(own, given) if given else own
    on = on or ("local" if given else "inline")
    if on == "inline":
        return _with(LocalEnvironment(), given)
    if is_address(on):
        given = {"deadline": DEADLINE, **given}
    elif on not in KINDS and "." not in on and ":" not in on:
        known = ["inline", *KINDS]
        close = difflib.get_close_matches(on, known, n=1)
        raise SetupError(
            f"unknown place {on!r} to run on{f' (did you mean {close[0]!r}?)' if close else ''}; give "
            f"{', '.join(map(repr, known))}, an address like tcp://host:8786, or the import path of a Dask cluster "
            "class like dask_jobqueue.SLURMCluster"
        )
    return DaskEnvironment(on, **given)


def _with(environment: Environment, given: dict[str, Any]) -> Environment:
    """An environment with other options."""
    for name in given.keys() & {"type", "options"}:  # which belong to how it is written down
        raise typer.BadParameter(f"--option {name} is no option of {environment!r}; give its options one by one")
    return environment.deserialize({**environment.serialize(), **given})


@contextmanager
def up(environment: Environment) -> Iterator[Environment]:
    """Close an environment at the end of the block, also when the process is asked to end meanwhile.

    Parameters
    ----------
    environment : Environment
        Not set up yet.
    """
    with ended_by_signals(), environment:
        try:
            yield environment
        except KeyboardInterrupt:
            # Dask's warnings about what it must kill now are no news to who has just asked for it.
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
            raise


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Unwind at SIGTERM and SIGHUP during the block, as at Ctrl-C."""
    from headrace.execution.signals import terminate

    before = {}
    # Only the main thread may; there is no other one but where a test calls a command from it.
    with contextlib.suppress(ValueError):
        before = {number: signal.signal(number, terminate) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
