"""Whether a run would find what it needs: its code, its secrets, workers for its tasks, and where these keep values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from headrace.core.plan import Plan
from headrace.core.slots import Const, secrets
from headrace.environments.checks.places import Place, visit
from headrace.environments.checks.sites import Site, who
from headrace.errors import HeadraceError, NoSuchWorker
from headrace.execution.base import Executor
from headrace.execution.kept import places_of
from headrace.execution.runner import PreparedRun
from headrace.execution.secrets import lacking
from headrace.storage.files import normal_url
from headrace.storage.findings import ERROR, NOTE, Finding, finding_of
from headrace.storage.run_ids import new_run_id
from headrace.storage.spec import StorageSpec


def loads(executor: Executor, prepared: PreparedRun) -> list[Finding]:
    """Bring code and plan to where tasks run, as a run does, and take them away; executes nothing.

    Parameters
    ----------
    executor : Executor
        Not started.
    prepared : PreparedRun
        The run that could begin.

    Returns
    -------
    list of Finding
        Why it does not load, and which of its tasks no worker may execute.
    """
    found = []
    executor.code = prepared.code
    bare = Plan([], [], Const(None))  # no constants travel, and each task's claims are looked at below, not the first's
    try:
        try:
            executor.start(new_run_id(), prepared.plan_bytes, bare)
        except (HeadraceError, ImportError) as error:
            found.append(finding_of(error, f"flow {prepared.plan.flow!r}"))
        for task in prepared.plan.tasks:
            try:
                executor.check([task])
            except NoSuchWorker as error:
                found.append(finding_of(error, f"task {task.name!r}"))
    finally:
        executor.finish()
        executor.release()
    return found


def know_secrets(site: Site, plan: Plan) -> list[Finding]:
    """Return which secrets are lacking where tasks run that are given them."""
    wanted: dict[str, set[str]] = {}
    for node in plan.nodes:
        for name in {ref.name for slot in node.slots() for ref in secrets(slot)}:
            wanted.setdefault(name, set()).update(site.able(plan.tasks[node.task].policy))
    there = site.ask(lacking, sorted(wanted)) if wanted else {}
    found = []
    for name, able in wanted.items():
        errors = {address: there[address][name] for address in able if name in _answer(there.get(address))}
        if errors:
            told = finding_of(next(iter(errors.values())), f"secret {name!r}")
            found.append(replace(told, message=f"is not known on {who(sorted(errors), there)}: {told.message}"))
    return found


def _answer(answer: Any) -> dict[str, Any]:
    return answer if isinstance(answer, dict) else {}  # one that did not answer is told of elsewhere


def needed_places(site: Site, plan: Plan) -> list[tuple[Place, list[str]] | Finding]:
    """Return where tasks keep values, with the workers that need it; or a finding that tells why that is not known."""
    known: dict[str, tuple[Place, set[str]]] = {}
    found: list[tuple[Place, list[str]] | Finding] = []
    for policy, where in places_of(plan):
        what, able = f"target of task {policy.name!r}", site.able(policy)
        spec = _resolved(site, what, where, able) if isinstance(where, str) else where
        if isinstance(spec, Finding):
            found.append(spec)
        elif able:
            known.setdefault(spec.url, (Place(what, spec, here=False), set()))[1].update(able)
    return found + [(place, sorted(able)) for place, able in known.values()]


def _resolved(site: Site, what: str, folder: str, workers: list[str]) -> StorageSpec | Finding:
    """Where a path leads that is meant as the workers have it."""
    if not folder:
        return Finding(NOTE, what, "lies where a function says, when the task runs, so it was not tried", "nothing")
    urls = {str(url) for url in site.ask(normal_url, folder, of=workers).values()} if workers else {folder}
    if len(urls) > 1:
        some = ", ".join(sorted(urls)[:3])
        return Finding(ERROR, what, f"leads to {some} on different workers", "give a whole path, or a URL")
    return StorageSpec(urls.pop())


def tried(site: Site, place: Place, workers: list[str]) -> list[Finding]:
    """Return what is wrong with a place, when the credentials are there that come with a run."""
    try:
        with site.carrying(place.spec):
            return visit(place, site, workers)
    except HeadraceError as error:
        return [finding_of(error, place.what)]
