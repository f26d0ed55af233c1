"""Finding the flow in a module."""

from __future__ import annotations

import difflib
from pathlib import Path
from types import ModuleType

from headrace.core.flow import FlowDefinition
from headrace.errors import NotFound


def flows_of(module: ModuleType) -> dict[str, FlowDefinition]:
    """Return the flows of a module, by variable."""
    return {variable: value for variable, value in vars(module).items() if isinstance(value, FlowDefinition)}


def variable_of(module: ModuleType, flow: FlowDefinition) -> str:
    """Return the name of the variable of a module that holds a flow."""
    return next(variable for variable, value in flows_of(module).items() if value is flow)


def pick_flow(module: ModuleType, name: str, place: str) -> FlowDefinition:
    """Return a flow of a module.

    Parameters
    ----------
    module : ModuleType
        Loaded.
    name : str
        Of a variable, or of the flow; empty for the only one.
    place : str
        For messages.

    Raises
    ------
    NotFound
        If it has no such flow; tells which there are.
    """
    flows = flows_of(module)
    by_name = {flow.name: flow for flow in flows.values()}
    if name in flows or name in by_name:
        return flows[name] if name in flows else by_name[name]
    if not flows and getattr(module, "__file__", None) is None and Path(place).is_dir():
        raise NotFound(f"{place} is a folder, not a module; a flow stored there is named with #: {place}#{name}")
    if not flows:
        raise NotFound(f"there is no flow in {place}; write a function with @hr.flow, or a block `with hr.Flow(...)`")
    known = ", ".join(map(repr, flows))
    if name:
        close = difflib.get_close_matches(name, [*flows, *by_name], n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise NotFound(f"there is no flow {name!r} in {place}{hint}; its flows are {known}")
    if len(by_name) == 1:
        return next(iter(by_name.values()))
    raise NotFound(f"{place} does not say which flow is meant, so give {place}:FLOW; its flows are {known}")
