"""``headrace clusters``: what headrace has running on Kubernetes, and what was left over there."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace import cli_arguments as typed
from headrace import cli_support as support
from headrace.errors import EnvelopeError, KubernetesError, NotFound

if TYPE_CHECKING:
    from headrace.environments.kubernetes.orphans import Made, Stray
    from headrace.environments.kubernetes.spec import KubernetesSpec
    from headrace.storage.runs import RunRecord

#: How many runs of a storage are asked where they ran.
RUNS = 100


def clusters(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="URL_OR_CONTEXT",
            show_default=False,
            help="A context of the kubeconfig, or a storage: then, where its last runs have had clusters. Default: the "
            "current context.",
        ),
    ] = None,
    namespace: Annotated[
        str | None, typer.Option("--namespace", help="Look there. Default: the namespace of the context.")
    ] = None,
    everywhere: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Look into all namespaces.")] = False,
    reap: Annotated[bool, typer.Option("--reap", help="Remove those that nobody uses any more.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --reap: do not ask.")] = False,
    storage_option: typed.StorageOptions = None,
) -> None:
    """List the Dask clusters that headrace made on Kubernetes, and remove those that were left over."""
    from headrace.environments.kubernetes import orphans
    from headrace.environments.kubernetes.api import Api
    from headrace.report.clusters import print_clusters

    looked: dict[str, None] = {}
    found: dict[str, tuple[KubernetesSpec, Made]] = {}
    left: dict[str, tuple[KubernetesSpec, Made | Stray]] = {}
    unseen = []
    for spec in _specs(where, namespace, storage_option):
        try:
            api = Api(spec)
            clusters = orphans.made(api, everywhere=everywhere)
            strays = orphans.strays(api, everywhere=everywhere)
        except KubernetesError as error:  # a storage may know of places that are gone, or of others' only
            unseen.append(str(error))
            continue
        looked[f"{'any namespace' if everywhere else f'namespace {api.namespace!r}'} at {api.server}"] = None
        found |= {each.uid: (spec, each) for each in clusters}
        left |= {each.uid: (spec, each) for each in clusters if each.orphan}
        left |= {each.uid: (spec, each) for each in strays}
    if looked and not found:
        support.remark(f"no clusters that headrace made in {', '.join(looked)}")
    elif found:
        print_clusters(
            support.console(),
            [
                (each.name, each.namespace, each.created, each.workers, each.creator, each.seen, each.orphan)
                for _, each in found.values()
            ],
        )
    for why in unseen:
        support.complain(why)
    _reap([*left.values()], reap=reap, yes=yes, any_found=bool(found))
    if unseen:
        raise typer.Exit(2)


def _reap(left: list[tuple[KubernetesSpec, Made | Stray]], *, reap: bool, yes: bool, any_found: bool) -> None:
    """Remove what was left over, if that was asked for."""
    from headrace.environments.kubernetes import orphans

    if not reap:
        if left:
            support.remark(f"{_counted(left)} left over; --reap removes what nobody uses any more")
        return
    if not left:
        if any_found:
            support.remark("nothing was left over")
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"remove {_counted(left)}?")):
        raise typer.BadParameter("nothing was removed; --yes says that it shall be, where nobody can be asked")
    done = []
    for spec, each in left:
        try:
            orphans.reap(spec, each)
        except KubernetesError as error:  # others may be removable
            support.complain(str(error))
        else:
            done.append((spec, each))
    support.remark(f"removed {_counted(done)}")
    if len(done) < len(left):
        raise typer.Exit(1)


def _specs(where: str | None, namespace: str | None, options: list[str] | None) -> list[KubernetesSpec]:
    """Where to look, as a spec each."""
    from headrace.environments.kubernetes.spec import KubernetesSpec

    if where is None or not ("://" in where or Path(where).is_dir()):
        return [KubernetesSpec(context=where, namespace=namespace)]
    store = support.storage_of(where, options, must_exist=True)
    told = filter(None, map(_place, store.runs(RUNS)))
    places = {(each.get("context"), namespace or each.get("namespace")): None for each in told}
    if not places:
        support.remark(f"none of the last runs in {store.url} ran on Kubernetes")
    return [KubernetesSpec(context=context, namespace=name) for context, name in places]


def _place(record: RunRecord) -> dict[str, Any]:
    """Where a run had its cluster: as its environment was asked to have it, as it was, or as its launch tells."""
    with suppress(EnvelopeError, NotFound):  # one that is damaged, or was just deleted, hides no others
        environment = record.facts.get("environment") or {}
        if environment.get("cluster") != "kubernetes":
            return {}
        found = {**environment.get("options", {}), **environment}
        if "context" not in found:  # it was not up when the run began
            found |= record.environment or {}
        if "context" not in found:  # a driver in a pod knows of none; who launched it did
            with suppress(NotFound):
                found |= record.launch.get("driver") or {}
        return found
    return {}


def _counted(left: list[tuple[KubernetesSpec, Made | Stray]]) -> str:
    strays = sum(not hasattr(each, "orphan") for _, each in left)
    clusters = len(left) - strays
    told = ["1 cluster" if clusters == 1 else f"{clusters} clusters"] if clusters or not strays else []
    told += [f"{strays} Secret{'s' * (strays > 1)} of clusters that never came up"] if strays else []
    return " and ".join(told)
