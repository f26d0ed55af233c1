"""When what is checked, and what comes of it.

Three moments, by what they may cost:

* **A set-up** looks at what any run needs: processes of fitting software. One round trip, which tells all: also what
  the workers have installed, so that no run need ask.
* **A run** asks nobody, but for one kind: if a task keeps values in a folder or a storage, these are tried, once per
  set-up, because a folder that is not shared would give no error, and lose the values.
* **A check** is asked for, so it tries everything anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from headrace.core.secret import with_secrets
from headrace.environments.checks import facts
from headrace.environments.checks.places import Place, visit
from headrace.environments.checks.runs import know_secrets, loads, needed_places, tried
from headrace.environments.checks.sites import Cluster, Site, Told
from headrace.environments.checks.software import about_cluster, about_packages
from headrace.errors import HeadraceError, ParameterError, SetupError
from headrace.execution.base import Executor
from headrace.execution.kept import places_of
from headrace.execution.runner import PreparedRun
from headrace.storage.findings import ERROR, NOTE, WARNING, Finding, distinct, finding_of
from headrace.store import Storage


def examine(
    site: Site,
    executor: Callable[[], Executor],
    storage: Storage,
    flow: str | None = None,
    parameters: Mapping[str, Any] | None = None,
    *,
    strings: bool = False,
) -> Sequence[Finding]:
    """Return what is wrong with a storage, and with a flow in it, where tasks run. Executes no task.

    Parameters
    ----------
    site : Site
        Where tasks run.
    executor : callable
        Returns what would execute a run.
    storage : Storage
        Which.
    flow : str, optional
        What ``Storage.resolve`` takes.
    parameters, strings
        As for a run; default: what the flow was drawn for when it was stored.
    """
    place = Place(f"storage {storage.url}", storage.spec)
    if flow is None:
        return distinct(tried(site, place, site.everyone()))
    try:
        location = storage.resolve(flow)
        runner = storage.get_runner(location)
        values = parameters or _example(storage.manifest(location))
    except HeadraceError as error:
        return [finding_of(error, f"flow {flow!r}")]
    what = f"flow {runner.flow.name!r}"
    found = about_packages(runner.imports, site.told())
    try:
        prepared = runner.prepare(values, strings=strings and bool(parameters))
    except ParameterError as error:
        undrawn = finding_of(error, what, ERROR if parameters else WARNING)
        undrawn = replace(undrawn, remedy="give parameters, so that its tasks can be looked at")
        return distinct([undrawn, *found, *tried(site, place, site.everyone())])
    except HeadraceError as error:
        return distinct([finding_of(error, what), *found])
    found += [*loads(executor(), prepared), *know_secrets(site, prepared.plan)]
    needed = needed_places(site, prepared.plan)
    for each in needed:
        found += [each] if isinstance(each, Finding) else tried(site, *each)
    if not any(isinstance(each, tuple) and each[0].spec.url == storage.url for each in needed):
        found += visit(place, site, []) or map(_not_needed, tried(site, place, site.everyone()))
    return distinct(found)


def _example(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Values for those parameters that have no default: those that it was stored with."""
    example = with_secrets(manifest["example"] or {})
    return {row["name"]: example[row["name"]] for row in manifest["parameters"] if row["required"] and example}


def _not_needed(found: Finding) -> Finding:
    """What workers cannot do, of a storage that only the process needs that drives a run."""
    told = f"{found.message} (no task of this flow keeps values there, so it runs all the same)"
    return replace(found, level=NOTE, message=told)


class Inspection:
    """What is known of one cluster, as long as it is set up.

    Parameters
    ----------
    site : Cluster
        Which.
    name : str
        Of the cluster, for messages.
    """

    def __init__(self, site: Cluster, name: str) -> None:
        self.site = site
        self._name = name
        self._told: Told | None = None
        self._flows: set[str] = set()  # locations of those that were looked at
        self._places: set[str] = set()

    def look(self) -> list[Finding]:
        """Have all processes tell of themselves, and return what is wrong with them."""
        self._told = self.site.told()
        return about_cluster(facts.facts(), self._told)

    def refuse(self, found: Sequence[Finding]) -> None:
        """Raise an error that names all findings that are errors.

        Raises
        ------
        SetupError
            If there is one.
        """
        errors = [each for each in found if each.level == ERROR]
        if errors:
            told = "".join(f"\n- {each}" for each in errors) if len(errors) > 1 else f" {errors[0]}"
            raise SetupError(f"the cluster {self._name!r} cannot run this:{told}", findings=tuple(found))

    def admit(self, prepared: PreparedRun) -> list[Finding]:
        """Return what may go wrong with a run, as far as that costs it nothing, and was not told before.

        Raises
        ------
        SetupError
            If it would lose values.
        """
        found: list[Finding] = []
        location = prepared.facts["location"]
        if location not in self._flows and self._told is not None:
            self._flows.add(location)
            found += about_packages(prepared.imports, self._told)
        where = {str(where) for _, where in places_of(prepared.plan)}
        if not where <= self._places:
            found += self._try_targets(prepared)
            self._places |= where  # only now: what was refused is tried again
        return found

    def _try_targets(self, prepared: PreparedRun) -> list[Finding]:
        """Try the folders and storages in which tasks keep values."""
        self.site.refresh()
        found: list[Finding] = []
        for each in needed_places(self.site, prepared.plan):
            if isinstance(each, Finding):
                found += [each]
                continue
            place, workers = each
            wrong = tried(self.site, place, workers)
            # Of a store, the task itself will say what is wrong, if it is: what it needs may all be there already.
            silent = place.is_local or place.spec.url.startswith("memory:")
            found += wrong if silent else [replace(mild, level=WARNING) for mild in wrong if mild.level == ERROR]
        self.refuse(found)
        return found
