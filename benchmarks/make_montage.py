"""Make ``montage.json`` again: ``python -m benchmarks.make_montage``. Needs the package ``wfcommons``.

WfCommons ("WfCommons: A Framework for Enabling Scientific Workflow Research and Development", Coleman et al., 2022)
draws instances after what was recorded of real executions. The seed is fixed, so the same version makes the same file.
"""

from __future__ import annotations

import json
import random
from graphlib import TopologicalSorter
from importlib.metadata import version
from typing import Any

from benchmarks.montage import FILE
from benchmarks.shapes import SEED

TASKS = 1_000


def instance() -> dict[str, Any]:
    """Draw the instance and return it as JSON data, parents before children."""
    import numpy as np
    from wfcommons import WorkflowGenerator
    from wfcommons.wfchef.recipes import MontageRecipe

    random.seed(SEED)
    np.random.seed(SEED)  # what wfcommons draws from
    workflow = WorkflowGenerator(MontageRecipe.from_num_tasks(TASKS)).build_workflow()
    order = list(TopologicalSorter({name: sorted(workflow.predecessors(name)) for name in workflow}).static_order())
    number = {name: at for at, name in enumerate(order)}
    kinds = sorted({task.program for task in workflow.tasks.values()})
    rows = []
    for name in order:
        task = workflow.tasks[name]
        rows.append([kinds.index(task.program), task.runtime, sorted(map(number.get, workflow.predecessors(name)))])
    return {"made by": f"wfcommons {version('wfcommons')}, MontageRecipe, seed {SEED}", "kinds": kinds, "tasks": rows}


def text(data: dict[str, Any]) -> str:
    """Return it as JSON, one task per line."""
    rows = ",\n".join(json.dumps(row, separators=(",", ":")) for row in data["tasks"])
    head = json.dumps({key: value for key, value in data.items() if key != "tasks"})
    return f'{head[:-1]}, "tasks": [\n{rows}\n]}}\n'


def main() -> None:
    """Write the file."""
    FILE.write_text(text(instance()))
    print(f"written to {FILE}")


if __name__ == "__main__":
    main()
