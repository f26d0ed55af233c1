"""What several commands take: arguments and options, with their help, and how a shell completes them."""

from __future__ import annotations

from typing import Annotated

import typer

from headrace import cli_support as support

# -- completion --------------------------------------------------------------------------------------------------


def complete_target(incomplete: str) -> list[str]:
    """Return how ``URL#…`` may go on: names of flows, and behind ``@`` numbers and labels. Never an error.

    Parameters
    ----------
    incomplete : str
        As typed so far. Without ``#``, the shell completes files.
    """
    from headrace.loading import split

    place, text = split(incomplete)
    if place == incomplete or place.endswith(".py"):
        return []
    try:
        store = support.storage_of(place, None, must_exist=True)
        name, at, _ = text.partition("@")
        if not at:
            return [word for each in store if (word := f"{place}#{each}").startswith(incomplete)]
        which = [label for version in store.versions(name) for label in (*version.labels, str(version.number))]
        return [word for each in which if (word := f"{place}#{name}@{each}").startswith(incomplete)]
    except Exception:  # noqa: BLE001 - a shell that completes has no place for what went wrong; the command tells it
        return []


def complete_run(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the ids that begin so, newest first, of the last runs at the URL that was named before. Never an error."""
    try:
        store = support.storage_of(ctx.params["url"], ctx.params.get("storage_option"), must_exist=True)
        return [each.run_id for each in store.runs(20) if each.run_id.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - as above
        return []


def complete_place(incomplete: str) -> list[str]:
    """Return the names of places to run on that begin so."""
    from headrace.environments.clusters import KINDS

    return [name for name in ("inline", *KINDS) if name.startswith(incomplete)]


def complete_option(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the options that begin so, of the place that was named before; of others, those that all clusters have."""
    from headrace.environments.clusters import option_names
    from headrace.environments.dask import DaskEnvironment
    from headrace.environments.options import names_of

    known = [*names_of(DaskEnvironment)[1:], *option_names(ctx.params.get("on") or "local")]
    return [f"{name}=" for name in known if name.startswith(incomplete)]


# -- arguments and options ---------------------------------------------------------------------------------------

TargetText = Annotated[
    str,
    typer.Argument(
        metavar="URL_OR_FILE#FLOW",
        show_default=False,
        autocompletion=complete_target,
        help="Stored (s3://bucket/flows#etl, folder#etl@3), or code (flow.py#etl, package.module:etl).",
    ),
]
StoredText = Annotated[
    str,
    typer.Argument(
        metavar="URL#FLOW[@VERSION]",
        show_default=False,
        autocompletion=complete_target,
        help="VERSION: a number (etl@3), a label (etl@prod), or the beginning of a digest (etl@ab12cd).",
    ),
]
UrlOrFlow = Annotated[
    str,
    typer.Argument(
        metavar="URL[#FLOW]",
        show_default=False,
        autocompletion=complete_target,
        help="A folder, or any fsspec URL: s3://bucket/flows",
    ),
]
Expect = Annotated[
    str | None,
    typer.Option(metavar="VERSION", help="Fail unless the label points at this version now; 'none': at none."),
]
Url = Annotated[
    str, typer.Argument(metavar="URL", show_default=False, help="A folder, or any fsspec URL: s3://bucket/flows")
]
RunId = Annotated[
    str,
    typer.Argument(
        metavar="RUN_ID",
        show_default=False,
        autocompletion=complete_run,
        help="As headrace ls URL --runs lists it.",
    ),
]
Parameters = Annotated[
    list[str] | None,
    typer.Option("--parameter", "-p", metavar="KEY=VALUE", help="A parameter of the flow; may be repeated."),
]
Secrets = Annotated[
    list[str] | None,
    typer.Option(
        "--secret",
        metavar="KEY=NAME",
        help="A parameter whose value is the secret of this name, which is looked up where the tasks run; may be "
        "repeated.",
    ),
]
On = Annotated[
    str | None,
    typer.Option(
        metavar="WHERE",
        autocompletion=complete_place,
        help="'inline' (in this process), 'local' (a Dask cluster on this machine), 'kubernetes', the address of a "
        "scheduler (tcp://host:8786), or the import path of a Dask cluster class. Default: the flow's own environment, "
        "with any --option over its own; without one, 'local' if there is an --option, else 'inline'.",
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        "-o",
        metavar="KEY=VALUE",
        autocompletion=complete_option,
        help="Of the cluster, e.g. n_workers=4 or adapt=[2,10], on Kubernetes also image=host/etl:3; may be repeated; "
        "the value may be JSON.",
    ),
]
StorageOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--storage-option",
        metavar="KEY=VALUE",
        help="For the storage, e.g. endpoint_url=http://host:9000; may be repeated; the value may be JSON. Others are "
        "read from HEADRACE_STORAGE_OPTIONS, a JSON object.",
    ),
]
