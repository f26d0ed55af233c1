"""The outcome of a run as plain data: what its storage keeps when the cluster is gone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from headrace.core.events import Failure
from headrace.core.state import State
from headrace.errors import HeadraceError
from headrace.execution.flowrun import FlowRun

#: Largest pickled result that is kept with the outcome.
SMALL = 1 << 16
#: How many errors are kept with their tracebacks; their number is always kept.
MOST_ERRORS = 100


def outcome_of(
    run: FlowRun, pack: Callable[[Any], bytes], trouble: Failure | None = None
) -> tuple[dict[str, Any], bytes | None]:
    """Describe how a run ended.

    Parameters
    ----------
    run : FlowRun
        That is over.
    pack : callable
        Makes bytes of the result, as the run's record keeps it.
    trouble : Failure, optional
        What kept it from an end of its own.

    Returns
    -------
    outcome : dict
        Plain JSON data: state, elapsed seconds, per-node counts and durations, errors with traceback.
    result : bytes or None
        The flow's result, packed, if the run succeeded and it is small.
    """
    nodes = [
        {
            "name": summary.name,
            "mapped": summary.mapped,
            "width": summary.width,
            "state": summary.state.label,
            "counts": {state.label: count for state, count in summary.counts.items()},
            "seconds": round(summary.seconds, 6),
        }
        for summary in run.summaries()
    ]
    failures: list[tuple[str | None, Failure]] = [*run.failures().items()]
    if trouble is not None:
        failures.insert(0, (None, trouble))
    errors = [
        {
            "node": label,
            "type": failure.type_name,
            "message": failure.message,
            "traceback": failure.traceback,
        }
        for label, failure in failures[:MOST_ERRORS]
    ]
    outcome = {
        "state": run.state.label,
        "elapsed": round(run.elapsed, 6),
        "nodes": nodes,
        "errors": errors,
        "n_errors": len(failures),
    }
    return outcome, _small_result(run, pack) if run.state is State.SUCCESS else None


def _small_result(run: FlowRun, pack: Callable[[Any], bytes]) -> bytes | None:
    """The result, if bringing and keeping it costs little."""
    try:
        found = run.result_if_small(SMALL)
        data = pack(found[0]) if found is not None else None
    except (HeadraceError, TypeError, AttributeError, ValueError, OSError):
        return None  # e.g. it cannot be packed: then it stays where it is, and `run.result()` says so
    return data if data is not None and len(data) <= SMALL else None
