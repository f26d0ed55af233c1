"""headrace: flows of Python tasks on Dask, stored at any URL, run on any cluster, without a server.

The names below are the whole public face. They are imported when they are first used, so ``import headrace`` is
quick and needs neither a cluster nor a cloud library.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from headrace._version import __version__

if TYPE_CHECKING:
    from headrace import errors
    from headrace.core.flow import parameter as Parameter  # noqa: N812 - reads as a noun in a flow
    from headrace.core.loops import loop
    from headrace.core.node import flatten, unmapped
    from headrace.core.signals import Fail, Retry, Skip
    from headrace.core.state import State
    from headrace.core.task import Task, task
    from headrace.environments.base import Environment
    from headrace.environments.dask import DaskEnvironment
    from headrace.environments.local import LocalEnvironment
    from headrace.execution.flowrun import FlowRun
    from headrace.flows import Flow, flow
    from headrace.store import Storage

#: public name → (module, name there)
_FACE = {
    "task": ("headrace.core.task", "task"),
    "Task": ("headrace.core.task", "Task"),
    "flow": ("headrace.flows", "flow"),
    "Flow": ("headrace.flows", "Flow"),
    "Parameter": ("headrace.core.flow", "parameter"),
    "loop": ("headrace.core.loops", "loop"),
    "unmapped": ("headrace.core.node", "unmapped"),
    "flatten": ("headrace.core.node", "flatten"),
    "Skip": ("headrace.core.signals", "Skip"),
    "Fail": ("headrace.core.signals", "Fail"),
    "Retry": ("headrace.core.signals", "Retry"),
    "State": ("headrace.core.state", "State"),
    "FlowRun": ("headrace.execution.flowrun", "FlowRun"),
    "Storage": ("headrace.store", "Storage"),
    "Environment": ("headrace.environments.base", "Environment"),
    "LocalEnvironment": ("headrace.environments.local", "LocalEnvironment"),
    "DaskEnvironment": ("headrace.environments.dask", "DaskEnvironment"),
    "errors": ("headrace.errors", None),
}

__all__ = [
    "DaskEnvironment",
    "Environment",
    "Fail",
    "Flow",
    "FlowRun",
    "LocalEnvironment",
    "Parameter",
    "Retry",
    "Skip",
    "State",
    "Storage",
    "Task",
    "__version__",
    "errors",
    "flatten",
    "flow",
    "loop",
    "task",
    "unmapped",
]


def __getattr__(name: str) -> Any:
    if name not in _FACE:
        raise AttributeError(f"module 'headrace' has no attribute {name!r}")
    module, attribute = _FACE[name]
    found = importlib.import_module(module)
    value = getattr(found, attribute) if attribute else found
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
