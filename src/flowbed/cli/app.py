"""The commands: what they take, and how their exit status is told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.keys import keys
from flowbed.cli.output import note, say, say_json
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
from flowbed.cli.runs import plan, run_
from flowbed.cli.serve import serve
from flowbed.cli.simulate import simulate
from flowbed.cli.submissions import submissions
from flowbed.cli.upkeep import upkeep
from flowbed.errors import Error, Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Sequence

app = typer.Typer(
    name="flowbed",
    help="Keep an embedding index in step with your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


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
        import flowbed  # reading the version costs a look at the package's metadata

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
    from flowbed import settings  # loaded by the commands that need it, so that --help is quick

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
    from flowbed.wiring import sources

    log_to_stderr(verbose=verbose)
    options: dict[str, Any] = {}
    for each in option or []:
        key, equals, value = each.partition("=")
        if not equals:
            raise Misconfigured(f"--option takes key=value, not {each!r}")
        options[key] = value
    folder = folder_of(config)
    sources.add(folder, name, kind=kind, location=location, collection=collection, options=options)
    if as_json:
        say_json({"added": name, "kind": kind, "location": location})
    else:
        say(f"added {name} ({kind}: {location}); `flowbed plan` tells what a run would do")


app.command()(plan)
app.command(name="run")(run_)


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
    from flowbed.cli import views

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
app.add_typer(submissions, name="submissions")
app.add_typer(upkeep)  # without a name: its commands stand beside those above, after them


def _tell(error: Error, *, as_json: bool) -> None:
    if as_json:
        say_json({"error": {"kind": type(error).__name__, "message": str(error)}})
    note(f"flowbed: {error}")
