"""The command line: composition only. What a command does lies in the library, how it looks in ``report``.

Exit codes: 0 only if the run succeeded (or, of the other commands, all went well); 1 if the run failed; 2 if what was
asked could not begin; 130 after Ctrl-C, 143 after SIGTERM. Answers go to standard output; progress, remarks and errors
go to standard error.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace import cli_arguments as typed
from headrace import cli_clusters
from headrace import cli_runs as shown
from headrace import cli_storages as storages
from headrace import cli_support as support
from headrace._version import __version__
from headrace.drivers import RUN_ID_VARIABLE
from headrace.errors import LeftOut, MissingPackage, NotFound, PreflightWarning, StorageError

if TYPE_CHECKING:
    from headrace.flows import Flow
    from headrace.storage.runs import RunRecord

app = typer.Typer(
    cls=support.Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Run the command line."""
    warnings.showwarning = functools.partial(_warn, warnings.showwarning)
    warnings.simplefilter("default", LeftOut)  # also where warnings are turned off
    app(prog_name="headrace")


def _warn(otherwise: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    """What a listing left out, and what a set-up found, is news for people, not for programmers."""
    if issubclass(category, LeftOut):
        support.remark(str(message))
    elif issubclass(category, PreflightWarning):
        support.remark(f"warning: {message}")
    else:
        otherwise(message, category, *where)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"headrace {__version__}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show the whole traceback of an error.")] = False,
) -> None:
    """Flows of Python tasks on Dask: store them at any URL, run them on any cluster, no server."""


# -- running -----------------------------------------------------------------------------------------------------


@app.command()
def demo(
    folder: Annotated[str, typer.Option(help="Where the report goes: a folder, or any fsspec URL.")] = "demo-output",
    option: typed.Options = None,
    quick: Annotated[bool, typer.Option("--quick", help="Try 14 models instead of 72.")] = False,
) -> None:
    """Find the best of 72 models that read handwritten digits, on all cores of this machine."""
    if any(importlib.util.find_spec(name) is None for name in ("sklearn", "matplotlib")):
        raise MissingPackage("the demo needs scikit-learn and matplotlib; pip install 'headrace[demo]'")
    from headrace.loading import Target, load_flow

    flow = load_flow(Target(_demo_file(), "digits", True))
    values: dict[str, Any] = {"folder": folder, **({"candidates": 14, "folds": 3} if quick else {})}
    store = support.private_storage()
    location = store.add_flow(flow)
    with support.up(support.environment_of("local", option)) as environment:
        run = shown.run_shown(environment, store, location, values)
        code = shown.exit_code(run)
        if code == 0:
            found = run.result()
            shown.print_facts(
                {
                    "best model": found["best"],
                    "accuracy": f"{found['accuracy']:.1%} of images that no fit has seen",
                    "report": found["report"],
                    "picture": found["picture"],
                }
            )
    raise typer.Exit(code)


def _demo_file() -> str:
    """The example: in an installed package beside this file, in a source checkout beside ``src``."""
    here = Path(__file__).parent
    places = [here / "_demo" / "digits.py", here.parents[1] / "examples" / "digits.py"]
    for place in places:
        if place.is_file():
            return str(place)
    looked = ", ".join(map(str, places))
    raise NotFound(f"the file of the demo is missing from this installation of headrace; looked for {looked}")


@app.command()
def run(
    target: typed.TargetText,
    parameter: typed.Parameters = None,
    secret: typed.Secrets = None,
    on: typed.On = None,
    option: typed.Options = None,
    storage: Annotated[
        str | None,
        typer.Option(metavar="URL", help="For a flow from code: store it there first, and keep the run's record."),
    ] = None,
    detach: Annotated[
        bool,
        typer.Option("--detach", help="Have a process of its own run it (on Kubernetes, a Job), and return at once."),
    ] = False,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Run a flow from a storage or from code, in this process or on any Dask cluster."""
    values = support.values_of(parameter, secret)
    store, location, own = support.flow_of(target, storage, storage_option)
    if detach:
        shown.detach(support.environment_of(on, option, own), store, location, values)
        return
    with support.up(support.environment_of(on, option, own)) as environment:
        try:
            done = shown.run_shown(environment, store, location, values, strings=True)
        except KeyboardInterrupt as error:
            if (ended := getattr(error, "run", None)) is not None:
                shown.print_facts({"run": ended.run_id, "record": shown.record_of(store, ended)})
            raise
        code = shown.exit_code(done)
        result = {"result": shown.short_result(done)} if code == 0 else {}
        shown.print_facts({**result, "run": done.run_id, "record": shown.record_of(store, done)})
    raise typer.Exit(code)


@app.command()
def check(
    target: typed.TargetText,
    parameter: typed.Parameters = None,
    secret: typed.Secrets = None,
    on: typed.On = None,
    option: typed.Options = None,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Look for what would stop or spoil a run where its tasks run; executes none. Without #FLOW: a storage alone.

    Exit code 1 if there is an error.
    """
    from headrace.loading import parse_target

    values = support.values_of(parameter, secret)
    found = parse_target(target)
    location, own = None, None
    if found.is_code or found.flow:
        store, location, own = support.flow_of(target, None, storage_option)
    else:
        store = support.storage_of(found.place, storage_option, must_exist=True)
    with support.up(support.environment_of(on, option, own)) as environment:
        findings = environment.check(store, location, values, strings=True)
        storages.print_findings(findings, str(environment))
    raise typer.Exit(int(any(finding.level == "error" for finding in findings)))


@app.command()
def execute() -> None:
    """Run what environment variables say: for jobs and containers.

    These must be set:
      HEADRACE_STORAGE          JSON, as storage.serialize() gives it
      HEADRACE_FLOW             a location or a name
    and these may be:
      HEADRACE_PARAMETERS       JSON
      HEADRACE_ENVIRONMENT      JSON, as environment.serialize() gives it;
                                default: the flow's own, else this process
      HEADRACE_STORAGE_OPTIONS  JSON, added to those of the storage: secrets, say
      HEADRACE_RUN_ID           default: made from the time
    """
    from headrace import parameters
    from headrace import store as names
    from headrace.environments.base import Environment

    data, flow = support.variable(names.STORAGE_VARIABLE), os.environ.get(names.FLOW_VARIABLE)
    if data is None or not flow:
        raise StorageError(
            f"the environment variable {names.STORAGE_VARIABLE if data is None else names.FLOW_VARIABLE} is not set; "
            "headrace execute takes what to run from variables, and storage.get_env_runner(location).variables() "
            "gives them all"
        )
    store = names.Storage.deserialize(data, support.variable(names.STORAGE_OPTIONS_VARIABLE))
    run_id = os.environ.get(RUN_ID_VARIABLE) or None
    with shown.recorded(store, run_id):
        location = store.resolve(flow)
        given = support.variable(names.ENVIRONMENT_VARIABLE)
        own = Environment.deserialize(given) if given is not None else support.own_environment(store.manifest(location))
        values = parameters.from_json(support.variable(names.PARAMETERS_VARIABLE) or {})
        with support.up(support.environment_of(None, None, own)) as environment:
            done = shown.run_shown(environment, store, location, values, run_id=run_id)
    typer.echo(shown.last_words(done.run_id, done.state))
    raise typer.Exit(shown.exit_code(done))


@app.command()
def wait(url: typed.Url, run_id: typed.RunId, storage_option: typed.StorageOptions = None) -> None:
    """Follow a detached run to its end: what its driver says, and how it ended. Ctrl-C ends only the following."""
    from headrace.core.state import State

    record = support.storage_of(url, storage_option, must_exist=True).get_run(run_id)
    _show_record(record, outcome=not shown.follow(record))
    raise typer.Exit(0 if record.state == State.SUCCESS.label else 1)


@app.command()
def cancel(url: typed.Url, run_id: typed.RunId, storage_option: typed.StorageOptions = None) -> None:
    """Have a detached run end: it is cancelled, and what it has set up is cleaned up."""
    record = support.storage_of(url, storage_option, must_exist=True).get_run(run_id)
    with support.err_console().status("waiting for its clean-ups …", spinner="dots"):
        record.cancel()
        record.wait()
    support.remark(f"run {run_id} ended as {record.state}")


app.command()(cli_clusters.clusters)


# -- storing and looking -----------------------------------------------------------------------------------------


@app.command()
def add(
    target: Annotated[str, typer.Argument(metavar="MODULE_OR_FILE:FLOW", show_default=False)],
    url: typed.Url,
    replace: Annotated[bool, typer.Option("--replace", help="Take the name over from a flow of other code.")] = False,
    example: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="A parameter value to draw the shown graph for; may be repeated."),
    ] = None,
    source: Annotated[
        str,
        typer.Option(
            metavar="KIND",
            help="Where its code lies: 'pickle' (in the storage), 'module' (installed where it runs; the storage holds "
            "its import path), or 'script' (a file at any URL or in a git commit; the storage holds its name "
            "and digest).",
        ),
    ] = "pickle",
    storage_option: typed.StorageOptions = None,
) -> None:
    """Store a flow at a URL, once it is known to load in a fresh interpreter."""
    from headrace import parameters
    from headrace.loading import load_flow, parse_target

    store = support.storage_of(url, storage_option)
    values = support.pairs(example, "--example")
    flow: Flow | str = target
    if source == "pickle":
        found = parse_target(target)
        if not found.is_code:
            raise NotFound(f"{target!r} names neither a Python file nor a module, as flow.py:etl or package.flows:etl")
        flow = load_flow(found)
    drawn = None
    if values:
        known = store.named_flow(flow, source) if isinstance(flow, str) else flow
        drawn = parameters.validate(known, values, strings=True)
    location = support.store_flow(store, flow, replace=replace, example=drawn, source=source)
    typer.echo(location)
    manifest = store.manifest(location)
    name = manifest["name"]
    needed = [row["name"] for row in manifest["parameters"] if row["required"]]
    line = " ".join(["headrace run", support.quoted(f"{url}#{name}"), *(f"-p {each}=…" for each in needed)])
    support.remark(f"stored in {store.url} as version {store[name].number}; run it with\n  {line}")


@app.command()
def ls(
    url: typed.UrlOrFlow,
    runs: Annotated[bool, typer.Option("--runs", help="List runs instead, newest first.")] = False,
    limit: Annotated[int, typer.Option(min=1, help="How many runs to list.")] = 20,
    storage_option: typed.StorageOptions = None,
) -> None:
    """List the flows in a storage (URL), the versions of one of them (URL#FLOW), or runs."""
    from headrace.loading import split

    place, flow = split(url)
    store = support.storage_of(place, storage_option, must_exist=True)
    if runs:
        storages.list_runs(store, limit, flow or None)
    elif flow:
        storages.list_versions(store, flow)
    else:
        storages.list_flows(store, url)


@app.command()
def sign(
    url: typed.Url,
    unsigned: Annotated[
        bool, typer.Option("--unsigned", help="Sign also what has no signature: you vouch for who could write there.")
    ] = False,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Sign what lies in a storage with the first key in HEADRACE_SIGNING_KEY."""
    done = support.storage_of(url, storage_option, must_exist=True).sign_again(unsigned=unsigned)
    for error in done.refused.values():
        support.remark(f"left alone: {error}")
    support.remark(f"signed {done.signed:,} objects; {done.kept:,} were signed with this key already")
    if done.refused:
        raise typer.Exit(1)


@app.command()
def show(
    target: typed.TargetText,
    run_id: Annotated[
        str | None, typer.Option("--run", metavar="RUN_ID", help="Show how this run in the storage ended instead.")
    ] = None,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Show a flow: parameters, tasks, and its graph as a tree. Runs no code of a stored flow."""
    from headrace.loading import load_flow, parse_target
    from headrace.report.stored import print_manifest

    found = parse_target(target)
    if run_id is not None:
        _show_record(support.storage_of(found.place, storage_option, must_exist=True).get_run(run_id))
    elif found.is_code:
        print_manifest(support.console(), load_flow(found).serialize(), "")
    else:
        store, location = support.stored_flow(found, storage_option)
        where, version = f"{store.url}/{location}", storages.version_line(store, location)
        print_manifest(support.console(), store.manifest(location), where, version)


def _show_record(record: RunRecord, *, outcome: bool = True) -> None:
    from headrace.report.console import print_outcome
    from headrace.report.stored import moment, parse_moment, state_of, summaries_of

    ended = record.outcome if outcome else None
    facts = {
        "run": record.run_id,
        "flow": f"{record.flow}  ({record.location})",
        "started": moment(parse_moment(record.start)),
        "parameters": json.dumps(record.parameters, ensure_ascii=False),
        "ran on": json.dumps(record.environment, ensure_ascii=False),
    }
    shown.print_facts(facts if ended is not None else {**facts, "state": record.state})
    if ended is not None:
        print_outcome(support.console(), summaries_of(ended), state_of(ended["state"]), ended["elapsed"])
        shown.print_errors([shown.error_of(row) for row in ended["errors"]])


# -- versions ----------------------------------------------------------------------------------------------------


@app.command()
def tag(
    target: typed.StoredText,
    label: Annotated[str, typer.Argument(metavar="LABEL", show_default=False, help="E.g. prod.")],
    expect: typed.Expect = None,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Let a label point at a version of a flow: headrace tag s3://bucket/flows#etl@3 prod. Without @, at the newest."""
    found = storages.target_in(target)
    storages.tag(support.storage_of(found.place, storage_option, must_exist=True), found.flow, label, expect)


@app.command()
def untag(
    target: typed.StoredText,
    label: Annotated[str, typer.Argument(metavar="LABEL", show_default=False)],
    expect: typed.Expect = None,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Take a label of a flow away."""
    found = storages.target_in(target)
    storages.untag(support.storage_of(found.place, storage_option, must_exist=True), found.flow, label, expect)


@app.command()
def rm(
    target: typed.StoredText,
    runs: Annotated[bool, typer.Option("--runs", help="Remove the records of its runs, too.")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Also if a label points at it, or a run of it has not ended.")
    ] = False,
    storage_option: typed.StorageOptions = None,
) -> None:
    """Remove a version of a flow (URL#FLOW@3), or a flow with all its versions (URL#FLOW)."""
    found = storages.target_in(target)
    store = support.storage_of(found.place, storage_option, must_exist=True)
    storages.remove(store, found.flow, runs=runs, force=force)


@app.command()
def cp(
    source: typed.UrlOrFlow,
    url: typed.Url,
    runs: Annotated[bool, typer.Option("--runs", help="Copy their runs that have ended, too.")] = False,
    storage_option: typed.StorageOptions = None,
    to_option: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="As --storage-option, for the storage that is copied to."),
    ] = None,
) -> None:
    """Copy flows to another storage: all (URL), one with its versions and labels (URL#FLOW), or a version (URL#FLOW@3).

    What was copied before is not copied again.
    """
    from headrace.loading import split

    place, flow = split(source)
    store = support.storage_of(place, storage_option, must_exist=True)
    storages.copy(store, support.storage_of(url, to_option), flow or None, runs=runs)
