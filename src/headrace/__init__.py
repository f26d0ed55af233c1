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
    from headrace.core.control import case, decide_by, filter, merge, switch  # noqa: A004 - words of the flow language
    from headrace.core.flow import parameter as Parameter  # noqa: N812 - reads as a noun in a flow
    from headrace.core.loops import loop
    from headrace.core.node import flatten, unmapped
    from headrace.core.resource import Resource, resource
    from headrace.core.rules import some_failed, some_successful
    from headrace.core.secret import Secret
    from headrace.core.signals import Fail, Retry, Skip
    from headrace.core.state import State
    from headrace.core.summary import Observer
    from headrace.core.task import Task, task
    from headrace.environments.base import Environment
    from headrace.environments.dask import DaskEnvironment
    from headrace.environments.local import LocalEnvironment
    from headrace.execution.backoff import exponential
    from headrace.execution.context import Context, context
    from headrace.execution.flowrun import FlowRun
    from headrace.execution.hooks import Change
    from headrace.execution.inside import get_client
    from headrace.flows import Flow, flow
    from headrace.storage.findings import Finding
    from headrace.store import Storage
    from headrace.targets import Target

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
    "case": ("headrace.core.control", "case"),
    "switch": ("headrace.core.control", "switch"),
    "merge": ("headrace.core.control", "merge"),
    "filter": ("headrace.core.control", "filter"),
    "decide_by": ("headrace.core.control", "decide_by"),
    "some_failed": ("headrace.core.rules", "some_failed"),
    "some_successful": ("headrace.core.rules", "some_successful"),
    "Secret": ("headrace.execution.secrets", "Secret"),  # with what looks it up
    "Skip": ("headrace.core.signals", "Skip"),
    "Fail": ("headrace.core.signals", "Fail"),
    "Retry": ("headrace.core.signals", "Retry"),
    "Resource": ("headrace.core.resource", "Resource"),
    "resource": ("headrace.core.resource", "resource"),
    "State": ("headrace.core.state", "State"),
    "exponential": ("headrace.execution.backoff", "exponential"),
    "Context": ("headrace.execution.context", "Context"),
    "context": ("headrace.execution.context", "context"),
    "Change": ("headrace.execution.hooks", "Change"),
    "Observer": ("headrace.core.summary", "Observer"),
    "FlowRun": ("headrace.execution.flowrun", "FlowRun"),
    "get_client": ("headrace.execution.inside", "get_client"),
    "Storage": ("headrace.store", "Storage"),
    "Finding": ("headrace.storage.findings", "Finding"),
    "Environment": ("headrace.environments.base", "Environment"),
    "LocalEnvironment": ("headrace.environments.local", "LocalEnvironment"),
    "DaskEnvironment": ("headrace.environments.dask", "DaskEnvironment"),
    "Target": ("headrace.targets", "Target"),
    "errors": ("headrace.errors", None),
}

__all__ = [
    "Change",
    "Context",
    "DaskEnvironment",
    "Environment",
    "Finding",
    "Fail",
    "Flow",
    "FlowRun",
    "LocalEnvironment",
    "Observer",
    "Parameter",
    "Resource",
    "Retry",
    "Secret",
    "Skip",
    "State",
    "Storage",
    "Target",
    "Task",
    "__version__",
    "case",
    "context",
    "decide_by",
    "errors",
    "exponential",
    "filter",
    "flatten",
    "flow",
    "get_client",
    "loop",
    "merge",
    "resource",
    "some_failed",
    "some_successful",
    "switch",
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
