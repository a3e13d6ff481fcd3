"""The commands: what they take, and how their exit status is told."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.keys import keys
from flowbed.cli.output import note, progress, say, say_json
from flowbed.cli.project import (
    DONE,
    FAILURES,
    INTERRUPTED,
    USAGE,
    Config,
    Json,
    Verbose,
    folder_of,
    log_to_stderr,
    with_bed,
)
from flowbed.cli.serve import serve
from flowbed.cli.simulate import simulate
from flowbed.cli.upkeep import upkeep
from flowbed.errors import Error, Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.bed import Flowbed
    from flowbed.records import Plan

app = typer.Typer(
    name="flowbed",
    help="Keep an embedding index in step with your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
Names = Annotated[list[str] | None, typer.Argument(metavar="[NAME]...", help="Sources; by default all.")]


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit status."""
    as_json = "--json" in arguments
    try:
        status = app(args=list(arguments), prog_name="flowbed", standalone_mode=False)
    except KeyboardInterrupt:
        status = INTERRUPTED
    except Error as error:
        _tell(error, as_json=as_json)
        return USAGE if isinstance(error, Misconfigured | Rejected) else FAILURES
    except typer.Exit as error:
        return error.exit_code
    except Exception as error:
        if not hasattr(error, "exit_code") or not hasattr(error, "format_message"):
            raise
        # A usage error, as the argument parser words it.
        error.show()  # type: ignore[attr-defined]
        return USAGE
    if status == INTERRUPTED:  # which is also what the argument parser makes of Ctrl-C
        note("interrupted; nothing is lost, run again to go on")
    return status if isinstance(status, int) else DONE


def _version(wanted: bool) -> None:
    if wanted:
        import flowbed  # noqa: PLC0415 - reading the version costs a look at the package's metadata

        say(f"flowbed {flowbed.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Keep an embedding index in step with your data."""


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]")] = Path(),
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Make a folder a project: write its flowbed.toml."""
    from flowbed import settings  # noqa: PLC0415 - loaded by the commands that need it, so that --help is quick

    log_to_stderr(verbose=verbose)
    path = (folder if config is None else folder_of(config)) / settings.FILE
    there = path.exists()
    if there:
        settings.read_settings(path.parent)
    else:
        settings.write_whole(path, settings.BEGINNING)
    if as_json:
        say_json({"config": str(path)})
    elif there:
        say(f"{path} is there already; nothing was changed")
    else:
        say(f"{path}: add sources with `flowbed add NAME KIND LOCATION`, then `flowbed run`")


@app.command()
def add(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call it.")],
    kind: Annotated[str, typer.Argument(metavar="KIND", help="files, jsonl or receipts.")],
    location: Annotated[
        str, typer.Argument(metavar="LOCATION", help="A path, relative to the project's folder.")
    ],
    collection: Annotated[str | None, typer.Option(help="Where its chunks go; by default NAME.")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="An option of the kind; repeatable.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Add a source to flowbed.toml, or replace the one of that name."""
    from flowbed import feeds  # noqa: PLC0415

    log_to_stderr(verbose=verbose)
    options: dict[str, Any] = {}
    for each in option or []:
        key, equals, value = each.partition("=")
        if not equals:
            message = f"--option takes key=value, not {each!r}"
            raise Misconfigured(message)
        options[key] = value
    folder = folder_of(config)
    feeds.add(folder, name, kind=kind, location=location, collection=collection, options=options)
    if as_json:
        say_json({"added": name, "kind": kind, "location": location})
    else:
        say(f"added {name} ({kind}: {location}); `flowbed plan` tells what a run would do")


@app.command()
def plan(
    names: Names = None,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Plan with large deletions.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Tell what a run would do and what it would cost, and keep it for `run --plan`."""
    from flowbed.cli import views  # noqa: PLC0415

    log_to_stderr(verbose=verbose)
    with progress(as_json=False):  # so that the plan is all there is on standard output
        found = with_bed(config, lambda bed: bed.plan(*names or (), allow_deletes=allow_deletes))
    say_json(found) if as_json else views.show_plan(found)


@app.command(name="run")
def run_(
    names: Names = None,
    plan_id: Annotated[
        str | None, typer.Option("--plan", metavar="ID", help="Do just what this plan says.")
    ] = None,
    budget: Annotated[
        float | None, typer.Option(metavar="USD", min=0, help="Stop before a request that would pass it.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before what costs money.")] = False,
    lane: Annotated[str, typer.Option(help="auto, realtime or batch.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Embed at most so many chunks.")] = None,
    status: Annotated[str | None, typer.Option(help="Only chunks of this status: NONE or FAILED.")] = None,
    allow_deletes: Annotated[
        bool, typer.Option("--allow-deletes", help="Let more than 30 % of a source's documents go at once.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> int:
    """Bring the index in step with the sources; on a terminal, ask before what costs money."""
    from flowbed.cli import views  # noqa: PLC0415
    from flowbed.records import Status  # noqa: PLC0415

    log_to_stderr(verbose=verbose)
    if lane == "batch":
        message = "the batch lane is not built yet; leave --lane away, or use --lane realtime"
        raise Misconfigured(message)
    if lane not in {"auto", "realtime"}:
        message = f"no lane is called {lane!r}; there are auto and realtime"
        raise Misconfigured(message)
    if status is not None and status not in {Status.NONE, Status.FAILED}:
        message = f"chunks of status {status!r} cannot be embedded; choose NONE or FAILED"
        raise Misconfigured(message)
    how: dict[str, Any] = {
        "allow_deletes": allow_deletes,
        "status": None if status is None else Status(status),
    }
    which = names or []
    if plan_id is None and budget is None and not (yes or as_json) and _someone_is_there():
        agreed, shown = _agreed(config, which, allow_deletes=allow_deletes)
        if not agreed:
            note(
                "nothing was embedded" + (f"; `flowbed run --plan {shown}` does it as shown" if shown else "")
            )
            return FAILURES
        if shown and status is None:
            plan_id, which, how = shown, [], {}
    with progress(as_json=as_json):
        report = with_bed(
            config, lambda bed: bed.run(*which, plan=plan_id, budget=budget, limit=limit, **how)
        )
    say_json(report) if as_json else views.show_report(report)
    return FAILURES if report.failures or report.withheld or report.drift else DONE


def _someone_is_there() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


def _agreed(config: Path | None, names: Sequence[str], *, allow_deletes: bool) -> tuple[bool, str | None]:
    """Show what a run would cost, where it costs anything, and ask; also return the id of the plan that was shown."""
    from flowbed.cli import views  # noqa: PLC0415

    async def priced(bed: Flowbed) -> Plan | None:
        return await bed.plan(*names, allow_deletes=allow_deletes) if await bed.price() else None

    with progress(as_json=False):
        found = with_bed(config, priced)
    if found is None:
        return True, None
    lane = found.lanes["realtime"]
    if lane is None or not lane.cost_usd:
        return True, found.plan_id
    views.show_plan(found)
    try:
        agreed = typer.confirm(f"embed {found.tokens:,} tokens for ${lane.cost_usd:,.4f}?", err=True)
    except typer.Abort:
        agreed = False
    return agreed, found.plan_id


@app.command()
def search(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="A text to search for.")],
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="By default all.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help='A filter such as {"source": "handbook"}.')
    ] = None,
    at: Annotated[
        int | None, typer.Option(metavar="VERSION", help="An older version of the collection.")
    ] = None,
    by_document: Annotated[bool, typer.Option("--by-document", help="Count each document once.")] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Find what is nearest in meaning to a text."""
    from flowbed.cli import views  # noqa: PLC0415

    log_to_stderr(verbose=verbose)
    condition = views.read_where(where)
    found = with_bed(
        config,
        lambda bed: bed.find(
            query,
            collection=collection,
            where=condition,
            limit=limit,
            at=at,
            unit="document" if by_document else "chunk",
        ),
    )
    say_json(found) if as_json else views.show_hits(found)


app.command()(serve)
app.command()(simulate)
app.add_typer(keys, name="keys")
app.add_typer(upkeep)  # without a name: its commands stand beside those above, after them


def _tell(error: Error, *, as_json: bool) -> None:
    if as_json:
        say_json({"error": {"kind": type(error).__name__, "message": str(error)}})
    note(f"flowbed: {error}")
