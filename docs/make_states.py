"""Write docs/states.md from the table of moves in headrace.core.state."""

from pathlib import Path

from headrace.core.state import LABELS, MOVES, RUN_MOVES, State

MEANING = {
    State.PENDING: "waits for other task runs",
    State.READY: "waits for a thread",
    State.RUNNING: "is in a batch that an executor has",
    State.RETRYING: "failed, and waits until its next attempt is due; holds no worker",
    State.SUCCESS: "returned a value",
    State.FAILED: "raised an exception in its last attempt",
    State.TRIGGER_FAILED: "did not run, because how its upstream ended does not satisfy its trigger",
    State.SKIPPED: "did not run, because an upstream was skipped, or said so itself",
    State.CANCELLED: "was stopped, or not started, because the run was cancelled",
    State.CRASHED: "the process that ran it died, each time it was tried",
    State.CACHED: "was not executed, because its target was there",
    State.TIMED_OUT: "took longer than its timeout in its last attempt",
}


def diagram(moves: dict[State, frozenset[State]]) -> str:
    """The moves as a Mermaid state diagram."""
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.PENDING.label}"]
    lines += [f"    {a.label} --> {b.label}" for a in State if a in moves for b in sorted(moves[a])]
    lines += [f"    {state.label} --> [*]" for state in State if state in moves and not moves[state]]
    return "\n".join([*lines, "```"])


def page() -> str:
    """The whole page."""
    rows = [f"| {LABELS[state][0]} | {MEANING[state]} |" for state in State]
    return "\n".join(
        [
            "# States",
            "",
            "Written by `python docs/make_states.py` from the table in `headrace/core/state.py`; do not edit.",
            "",
            "| state | a task run that … |",
            "|---|---|",
            *rows,
            "",
            "## A task run",
            "",
            diagram(MOVES),
            "",
            "## A run",
            "",
            diagram(RUN_MOVES),
            "",
        ]
    )


if __name__ == "__main__":
    Path(__file__).with_name("states.md").write_text(page())
