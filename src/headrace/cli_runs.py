"""A run as a terminal shows it: live progress, what failed, what came of it; and runs that others drive."""

from __future__ import annotations

import reprlib
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any

from headrace import cli_support as support
from headrace.errors import HeadraceError, RunError

if TYPE_CHECKING:
    from headrace.environments.base import Environment
    from headrace.execution.flowrun import FlowRun
    from headrace.storage.runs import RunRecord
    from headrace.store import Storage

#: How many failures are shown with their traceback, and how many lines of each.
MOST_ERRORS, MOST_LINES = 3, 24
#: Bytes up to which a result is brought here to be shown, and characters of it.
SMALL, SHORT = 1 << 16, 500
#: Seconds between two looks at the log of a run that is followed.
FOLLOW = 1.0
#: Seconds that a driver has to say its last words, when its run has ended: it takes down its cluster first.
LATE = 10.0
#: Characters by which it is found what was told of a log whose beginning is gone.
KNOWN = 1000
_SHORT = reprlib.Repr()
_SHORT.maxdict = _SHORT.maxlist = _SHORT.maxtuple = _SHORT.maxset = 20
_SHORT.maxstring, _SHORT.maxother = 200, SHORT


def run_shown(
    environment: Environment,
    store: Storage,
    location: str,
    values: Mapping[str, Any],
    *,
    strings: bool = False,
    run_id: str | None = None,
) -> FlowRun:
    """Run a flow with live progress, the outcome, and what failed.

    Parameters
    ----------
    environment : Environment
        Where.
    store : Storage
        Where the flow lies.
    location : str
        Which flow.
    values : mapping
        Parameters.
    strings : bool, default False
        Whether they are texts.
    run_id : str, optional
        Default: made from the time.
    """
    from headrace import parameters
    from headrace.core.state import State
    from headrace.report.console import ConsoleObserver
    from headrace.report.ending import early_end

    # Told before a cluster is brought up in vain.
    parameters.validate(store.load(location), values, strings=strings)
    told = support.err_console().status(f"bringing up {environment!r} …", spinner="dots")
    with nullcontext() if environment.tells_setup else told:  # a terminal has one live line
        environment.setup(store)
    with ConsoleObserver() as observer:
        try:
            run = environment.execute(store, location, values, observers=[observer], strings=strings, run_id=run_id)
        except KeyboardInterrupt as error:
            ended: FlowRun | None = getattr(error, "run", None)
            for line in early_end(ended.summaries()) if ended is not None else ():
                support.remark(line)
            raise
    if run.state is State.TIMED_OUT:
        for line in (str(run.error), *early_end(run.summaries())):
            support.remark(line)
    failures = run.failures()
    print_errors([(label, it.type_name, it.message, it.traceback) for label, it in failures.items()])
    if sys.stderr.isatty():
        support.remark("")  # between how it went and what came of it
    return run


def exit_code(run: FlowRun) -> int:
    """Return 0 only for a run that succeeded."""
    from headrace.core.state import State

    return 0 if run.state is State.SUCCESS else 1


def error_of(row: Mapping[str, Any]) -> tuple[str, str, str, str]:
    """Return what is to be shown of an error in an outcome: of one of ours that is no task's, only what it says."""
    says_all = row["node"] is None and row["type"].startswith("headrace.errors.")
    return row["node"] or "the run", row["type"], row["message"], "" if says_all else row["traceback"]


def print_errors(errors: Sequence[tuple[str, str, str, str]]) -> None:
    """Print errors of task runs with their tracebacks: of one task, each type of error once.

    Parameters
    ----------
    errors : sequence of (label, type, message, traceback)
        In the order of the flow.
    """
    from rich.text import Text

    alike: dict[tuple[str, str], list[tuple[str, str, str]]] = {}
    for label, kind, message, trace in errors:
        alike.setdefault((label.partition("[")[0], kind), []).append((label, message, trace))
    out = support.err_console()
    for place, ((_, kind), found) in enumerate(alike.items()):
        if place == MOST_ERRORS:
            out.print(Text(f"\n… and {len(alike) - place:,} more kinds of errors", style="dim"))
            break
        label, message, trace = found[0]
        more = f" and {len(found) - 1:,} more like it" if len(found) > 1 else ""
        told = f"{kind}: {message}" if message else kind
        out.print(Text.assemble("\n", (label, "bold"), f"{more} failed with ", (told, "red")), soft_wrap=True)
        for line in _shortened(trace):
            out.print(Text(f"  {line}", style="dim"), soft_wrap=True)


def _shortened(trace: str) -> list[str]:
    lines = trace.rstrip().splitlines()
    if len(lines) <= MOST_LINES:
        return lines
    return [*lines[:4], f"  … {len(lines) - MOST_LINES:,} lines …", *lines[4 - MOST_LINES :]]


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one below the other, to standard output."""
    from rich.text import Text

    out, width = support.console(), max(map(len, facts))
    for name, value in facts.items():
        out.print(Text.assemble((f"{name:<{width}}  ", "dim"), value), soft_wrap=True)


def short_result(run: FlowRun) -> str:
    """Return what the flow returned as a short text, without bringing a large value here for it."""
    from headrace.errors import ValueReleased

    try:
        found = run.result_if_small(SMALL)
    except ValueReleased as error:
        return f"not kept: {error}"
    if found is None:
        return f"larger than {SMALL // 1024} kB, so it was not brought here; let the last task write it somewhere"
    text = _SHORT.repr(found[0])
    text = text if len(text) <= SHORT else f"{text[: SHORT - 1]}…"
    return f"\n{text}" if "\n" in text else text


def record_of(store: Storage, run: FlowRun) -> str:
    """Tell where the record of a run lies."""
    if store.url.startswith("memory:"):
        return "not kept; --storage URL keeps the flow and the run"
    if not store.files.writable:
        return f"not kept; {store.url} is read only"
    return f"{store.url}/runs/{run.run_id}"


# -- runs that another process drives ----------------------------------------------------------------------------


def detach(environment: Environment, store: Storage, location: str, values: Mapping[str, Any]) -> None:
    """Have a run go on without this process, and tell how to look at it."""
    from headrace.errors import StorageError

    if store.url.startswith("memory:"):
        raise StorageError(
            "a flow from code is kept by this process, where no other finds it; say where it shall lie: --storage URL"
        )
    record = environment.execute(store, location, values, strings=True, detach=True)
    print_facts({"run": record.run_id, "record": record.url})
    where = f"{support.quoted(store.url)} {record.run_id}"
    support.remark(
        f"it goes on by itself; follow it with\n  headrace wait {where}\nand end it with\n  headrace cancel {where}"
    )


@contextmanager
def recorded(store: Storage, run_id: str | None) -> Iterator[None]:
    """See to it that a launched run ends in its record, also if it cannot begin."""
    from headrace.core.state import State
    from headrace.execution.failure import capture

    try:
        with support.ended_by_signals():
            yield
    except BaseException as error:
        if run_id is not None:
            state = State.CANCELLED if isinstance(error, KeyboardInterrupt) else State.CRASHED
            failure, _ = capture(error)
            with suppress(HeadraceError):  # what happened is told anyway; and most runs are not launched
                record = store.get_run(run_id)
                record.stop_before_begin(state, failure.type_name, failure.message, failure.traceback)
        raise


def last_words(run_id: str, state: object) -> str:
    """What a driver says when all is done, behind the outcome and what went wrong."""
    return f"{run_id} {state}"


def _new_in(said: str, told: str) -> str:
    """What a log says that was not told yet; of a long one, there may be no more than its end."""
    if said.startswith(told):
        return said[len(told) :]
    known = told[-KNOWN:]
    return said[said.rindex(known) + len(known) :] if known in said else said


def follow(record: RunRecord) -> bool:
    """Print what the driver of a run says, until the run has ended, and return whether it has said how it ended."""
    told, left = "", 0.0 if record.done else LATE
    while True:
        ended = record.done
        try:
            said = record.logs()
        except HeadraceError as error:
            support.remark(str(error))
            record.wait()
            return False
        sys.stderr.write(_new_in(said, told))
        sys.stderr.flush()
        told = said
        complete = ended and told.rstrip().endswith(last_words(record.run_id, record.state))
        if complete or (ended and left <= 0):
            return complete
        if ended:
            left -= FOLLOW
            time.sleep(FOLLOW)
            continue
        try:
            record.wait(FOLLOW)
        except RunError:
            if not record.done:  # then its record tells
                raise
            left = 0.0
