"""``headrace clusters``: what headrace has running on Kubernetes, and what was left over there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from headrace import cli_support as support

if TYPE_CHECKING:
    from headrace.environments.kubernetes.orphans import Made
    from headrace.environments.kubernetes.spec import KubernetesSpec

#: How many runs of a storage are asked where they ran.
RUNS = 100


def clusters(
    where: Annotated[
        str | None,
        typer.Argument(
            metavar="[URL_OR_CONTEXT]",
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
    storage_option: Annotated[
        list[str] | None, typer.Option("--storage-option", metavar="KEY=VALUE", help="For the storage.")
    ] = None,
) -> None:
    """List the Dask clusters that headrace made on Kubernetes, and remove those that were left over."""
    from headrace.environments.kubernetes import orphans
    from headrace.environments.kubernetes.api import Api
    from headrace.report.clusters import print_clusters

    found: list[tuple[KubernetesSpec, Made]] = []
    for spec in _specs(where, namespace, storage_option):
        found += [(spec, each) for each in orphans.made(Api(spec), everywhere=everywhere)]
    found = list({each.uid: (spec, each) for spec, each in found}.values())
    if not found:
        support.remark("no clusters that headrace made")
        return
    print_clusters(
        support.console(),
        [
            (each.name, each.namespace, each.created, each.workers, each.creator, each.seen, each.orphan)
            for _, each in found
        ],
    )
    left = [(spec, each) for spec, each in found if each.orphan]
    if not reap:
        if left:
            support.remark(f"{_counted(len(left))} left over; --reap removes what nobody uses any more")
        return
    if not left:
        support.remark("nothing was left over")
        return
    if not yes and not (sys.stdin.isatty() and typer.confirm(f"remove {_counted(len(left))}?")):
        raise typer.BadParameter("nothing was removed; --yes says that it shall be, where nobody can be asked")
    failed = [error for spec, each in left for error in orphans.reap(spec, [each])]
    for error in failed:
        support.complain(error)
    support.remark(f"removed {_counted(len(left) - len(failed))}")
    if failed:
        raise typer.Exit(1)


def _specs(where: str | None, namespace: str | None, options: list[str] | None) -> list[KubernetesSpec]:
    """Where to look, as a spec each."""
    from headrace.environments.kubernetes.spec import KubernetesSpec

    if where is None or not ("://" in where or Path(where).is_dir()):
        return [KubernetesSpec(context=where, namespace=namespace)]
    store = support.storage_of(where, options, must_exist=True)
    told = [record.environment or {} for record in store.runs(RUNS)]
    places = {
        (each.get("context"), namespace or each.get("namespace")): None
        for each in told
        if each.get("cluster") == "kubernetes"
    }
    if not places:
        support.remark(f"none of the last runs in {store.url} ran on Kubernetes")
    return [KubernetesSpec(context=context, namespace=name) for context, name in places]


def _counted(number: int) -> str:
    return "1 cluster" if number == 1 else f"{number} clusters"
