"""The commands: what they take, and how their exit status is told."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from flowbed import telemetry
from flowbed.cli.output import note, progress, say, say_json
from flowbed.errors import Error, Misconfigured, Rejected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from flowbed.bed import Flowbed

Answer = TypeVar("Answer")

DONE, FAILURES, USAGE, INTERRUPTED = 0, 1, 2, 130

app = typer.Typer(
    name="flowbed",
    help="Keep an embedding index in step with your data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
letters = typer.Typer(help="What failed for good until someone looks.", no_args_is_help=True)
app.add_typer(letters, name="dead-letters")

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="The project's flowbed.toml; by default the one here."),
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Log what is done to standard error.")]
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

    _log(verbose=verbose)
    path = (folder if config is None else _folder(config)) / settings.FILE
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
    from flowbed import bed  # noqa: PLC0415

    _log(verbose=verbose)
    options: dict[str, Any] = {}
    for each in option or []:
        key, equals, value = each.partition("=")
        if not equals:
            message = f"--option takes key=value, not {each!r}"
            raise Misconfigured(message)
        options[key] = value
    folder = _folder(config)
    bed.add(folder, name, kind=kind, location=location, collection=collection, options=options)
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
    """Tell what a run would do, and what it would cost."""
    from flowbed.cli import views  # noqa: PLC0415

    _log(verbose=verbose)
    with progress(as_json=False):  # so that the plan is all there is on standard output
        found = _with_bed(config, lambda bed: bed.plan(*names or (), allow_deletes=allow_deletes))
    say_json(found) if as_json else views.show_plan(found)


@app.command(name="run")
def run_(
    names: Names = None,
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
    """Bring the index in step with the sources."""
    from flowbed.cli import views  # noqa: PLC0415
    from flowbed.records import Status  # noqa: PLC0415

    _log(verbose=verbose)
    if lane == "batch":
        message = "the batch lane is not built yet; leave --lane away, or use --lane realtime"
        raise Misconfigured(message)
    if lane not in {"auto", "realtime"}:
        message = f"no lane is called {lane!r}; there are auto and realtime"
        raise Misconfigured(message)
    if status is not None and status not in {Status.NONE, Status.FAILED}:
        message = f"chunks of status {status!r} cannot be embedded; choose NONE or FAILED"
        raise Misconfigured(message)
    chosen = None if status is None else Status(status)
    with progress(as_json=as_json):
        report = _with_bed(
            config, lambda bed: bed.run(*names or (), allow_deletes=allow_deletes, status=chosen, limit=limit)
        )
    say_json(report) if as_json else views.show_report(report)
    return FAILURES if report.failures or report.withheld else DONE


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

    _log(verbose=verbose)
    condition = views.read_where(where)
    found = _with_bed(
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


@app.command()
def status(as_json: Json = False, config: Config = None, verbose: Verbose = False) -> None:
    """Tell where every collection stands."""
    from flowbed.cli import views  # noqa: PLC0415

    _log(verbose=verbose)
    found = _with_bed(config, lambda bed: bed.status())
    say_json(found) if as_json else views.show_status(found)


@app.command()
def compact(
    collection: Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="By default all.")] = None,
    index: Annotated[str, typer.Option(help="The vector index: auto, always or never.")] = "auto",
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Merge small files, keep the vector index in step, drop what is outlived."""
    from flowbed.cli import views  # noqa: PLC0415

    _log(verbose=verbose)
    if index not in {"auto", "always", "never"}:
        message = f"--index is {index!r}; choose auto, always or never"
        raise Misconfigured(message)
    done = _with_bed(config, lambda bed: bed.compact(collection, vector_index=index))  # type: ignore[arg-type]
    say_json({"collections": done}) if as_json else views.show_compactions(done)


@app.command()
def versions(
    collection: Annotated[str | None, typer.Argument(metavar="[COLLECTION]", help="By default all.")] = None,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """List the versions of a collection that are kept."""
    from flowbed.cli import views  # noqa: PLC0415

    _log(verbose=verbose)

    async def look(bed: Flowbed) -> dict[str, Any]:
        names = [collection] if collection else list((await bed.status()).collections)
        return {name: await bed.versions(name) for name in names}

    found = _with_bed(config, look)
    say_json({"versions": found}) if as_json else views.show_versions(found)


@app.command()
def why(
    subject: Annotated[str, typer.Argument(metavar="ID", help="A chunk's id, or a document's.")],
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Tell why a chunk or a document is found, or is not."""
    from flowbed.cli import views  # noqa: PLC0415

    _log(verbose=verbose)
    found = _with_bed(config, lambda bed: bed.why(subject))
    say_json({"chunks": found}) if as_json else views.show_reasons(found)


@letters.command("list")
def letters_list(as_json: Json = False, config: Config = None, verbose: Verbose = False) -> None:
    """List what failed for good, and why."""
    from flowbed.cli import views  # noqa: PLC0415

    _log(verbose=verbose)
    found = _with_bed(config, lambda bed: bed.dead_letters())
    say_json({"dead_letters": found}) if as_json else views.show_letters(found)


@letters.command("retry")
def letters_retry(
    subjects: Annotated[
        list[str] | None, typer.Argument(metavar="[SUBJECT]...", help="By default all.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Let what failed wait for the next run again."""
    _log(verbose=verbose)
    waiting = _with_bed(config, lambda bed: bed.retry_dead_letters(*subjects or ()))
    if as_json:
        say_json({"waiting": waiting})
    else:
        say(f"{waiting} chunks wait for the next `flowbed run`")


def _with_bed(config: Path | None, work: Callable[[Flowbed], Awaitable[Answer]]) -> Answer:
    """Open the project that is meant, and carry out `work` with it."""
    from flowbed import bed, settings  # noqa: PLC0415

    folder = _folder(config)
    if not (folder / settings.FILE).exists():
        message = f"{folder} is no Flowbed project: it has no {settings.FILE}; `flowbed init` makes one"
        raise Misconfigured(message)

    async def opened() -> Answer:
        async with await bed.aopen(folder) as project:
            return await work(project)

    return asyncio.run(opened())


def _folder(config: Path | None) -> Path:
    if config is None:
        return Path.cwd()
    if config.is_dir():
        return config.absolute()
    if config.name != "flowbed.toml":
        message = f"--config takes the path of a flowbed.toml or of its folder, not {config}"
        raise Misconfigured(message)
    return config.absolute().parent


def _log(*, verbose: bool) -> None:
    # Of other packages only errors are of interest here: retries, for one, are told with the progress already.
    logging.basicConfig(
        level=logging.ERROR,
        format="%(asctime)s %(name)s %(message)s" if verbose else "%(message)s",
        stream=sys.stderr,
    )
    telemetry.log.setLevel(logging.DEBUG if verbose else logging.WARNING)


def _tell(error: Error, *, as_json: bool) -> None:
    if as_json:
        say_json({"error": {"kind": type(error).__name__, "message": str(error)}})
    note(f"flowbed: {error}")
