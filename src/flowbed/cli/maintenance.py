"""The commands that look after a project: where it stands, what is wrong with it, and how that is mended."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import typer

from flowbed.cli.output import note, plain, progress, say, say_json
from flowbed.cli.project import (
    DONE,
    FAILURES,
    Config,
    Json,
    One,
    Verbose,
    log_to_stderr,
    project_folder,
    with_bed,
)
from flowbed.errors import Misconfigured, Rejected

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.ledger import Spent
    from flowbed.maintenance.inspect import BedStatus
    from flowbed.maintenance.verify import Verified

Name = Literal["lane", "source", "document", "run"]
NAMES = get_args(Name)

upkeep = typer.Typer()
letters = typer.Typer(help="What failed for good until someone looks.", no_args_is_help=True)
upkeep.add_typer(letters, name="dead-letters")


@upkeep.command()
def status(
    cost: Annotated[
        bool, typer.Option("--cost", help="What was planned, what was billed, and what it cost.")
    ] = False,
    by: Annotated[str, typer.Option(help="With --cost: lane, source, document or run.")] = "lane",
    days: Annotated[
        float | None, typer.Option(min=0, help="With --cost: of so many days; by default of all time.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="With --cost: the dearest.")] = 20,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Tell where every collection stands, and what was spent."""
    from flowbed.cli import reports, views

    log_to_stderr(verbose=verbose)
    if by not in NAMES:
        raise Misconfigured(f"--by is {by!r}; choose {', '.join(NAMES[:-1])} or {NAMES[-1]}")

    async def look(bed: Flowbed) -> tuple[BedStatus, list[Spent]]:
        spent = await bed.spending(cast("Name", by), limit=limit, days=days) if cost else []
        return await bed.status(), spent

    found, spent = with_bed(config, look)
    if as_json:
        say_json({**plain(found), **({"spending": reports.spending_json(by, spent)} if cost else {})})
    elif cost:
        reports.show_spending(by, spent)
    else:
        views.show_status(found)


@upkeep.command()
def compact(
    collection: One = None,
    index: Annotated[str, typer.Option(help="The vector index: auto, always or never.")] = "auto",
    now: Annotated[
        bool, typer.Option("--now", help="Drop every version but the newest and the tagged ones.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Merge small files, keep the vector index in step, drop what is outlived."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    if index not in {"auto", "always", "never"}:
        raise Misconfigured(f"--index is {index!r}; choose auto, always or never")
    done = with_bed(config, lambda bed: bed.compact(collection, vector_index=index, now=now))  # type: ignore[arg-type]
    say_json({"collections": done}) if as_json else views.show_compactions(done)


@upkeep.command()
def versions(
    collection: One = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="NAME=VERSION", help="Keep a version under a name; repeatable."),
    ] = None,
    untag: Annotated[
        list[str] | None, typer.Option("--untag", metavar="NAME", help="Take a name away; repeatable.")
    ] = None,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """List the versions of a collection that are kept, and give them names that keep them."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    named = [_named(each) for each in tag or ()]
    if (named or untag) and collection is None:
        raise Misconfigured("a version is one collection's: name the collection too")

    async def look(bed: Flowbed) -> dict[str, Any]:
        for name, version in named:
            await bed.tag(str(collection), version, name)
        for name in untag or ():
            if not await bed.untag(str(collection), name):
                raise Rejected(f"no version of {collection} is called {name!r}")
        names = [collection] if collection else list((await bed.status()).collections)
        return {name: await bed.versions(name) for name in names}

    found = with_bed(config, look)
    say_json({"versions": found}) if as_json else views.show_versions(found)


@upkeep.command()
def verify(
    collection: One = None,
    repair: Annotated[
        bool,
        typer.Option("--repair", help="Mend what can be: the next run embeds what it sends round again."),
    ] = False,
    allow_deletes: Annotated[
        bool,
        typer.Option("--allow-deletes", help="Let a repair drop many rows, or an index that is unreadable."),
    ] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> int:
    """Prove that index, ledger and store agree."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)

    async def look(bed: Flowbed) -> tuple[dict[str, Verified], str]:
        names = [collection] if collection else []
        return await bed.verify(*names, repair=repair, allow_deletes=allow_deletes), bed.retied

    with progress(as_json=False):
        found, retied = with_bed(config, look, repair=repair)
    say_json(views.verified_json(found)) if as_json else views.show_verified(found)
    if retied:
        note(retied)
    wrong = any(each.faults and (each.mended is None or each.mended.withheld) for each in found.values())
    return FAILURES if wrong else DONE


@upkeep.command()
def gc(
    collection: One = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Delete from the store what nothing needs any more."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    names = [collection] if collection else []
    done = with_bed(config, lambda bed: bed.gc(*names, dry_run=dry_run))
    say_json(done) if as_json else views.show_collected(done)


@upkeep.command()
def doctor(as_json: Json = False, config: Config = None, verbose: Verbose = False) -> int:
    """Find what is wrong, and name the command that mends it."""
    from flowbed import bed
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    folder = project_folder(config)
    found = asyncio.run(bed.examine(folder))
    say_json(found) if as_json else views.show_diagnosis(found)
    return FAILURES if any(each.severity != "note" for each in found.findings) else DONE


@upkeep.command()
def rollback(
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="One that `flowbed versions` lists.")
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Commit what rollbacks reverted; nothing is embedded.")
    ] = False,
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> int:
    """Put a collection back to an older version, or take that back with --release."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    if (version is None) != release:
        raise Misconfigured("name either the version to put back, or --release")
    if version is None:
        released = with_bed(config, lambda bed: bed.release(collection))
        say_json(released) if as_json else views.show_release(released)
        return FAILURES if released.refused else DONE
    done = with_bed(config, lambda bed: bed.rollback(collection, version))
    say_json(done) if as_json else views.show_rollback(done)
    return DONE


@upkeep.command()
def why(
    subject: Annotated[str, typer.Argument(metavar="ID", help="A chunk's id, or a document's.")],
    as_json: Json = False,
    config: Config = None,
    verbose: Verbose = False,
) -> None:
    """Tell why a chunk or a document is found, or is not."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    found = with_bed(config, lambda bed: bed.why(subject))
    say_json({"chunks": found}) if as_json else views.show_reasons(found)


@letters.command("list")
def letters_list(as_json: Json = False, config: Config = None, verbose: Verbose = False) -> None:
    """List what failed for good, and why."""
    from flowbed.cli import views

    log_to_stderr(verbose=verbose)
    found = with_bed(config, lambda bed: bed.dead_letters())
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
    log_to_stderr(verbose=verbose)
    waiting = with_bed(config, lambda bed: bed.retry_dead_letters(*subjects or ()))
    if as_json:
        say_json({"waiting": waiting})
    else:
        say(f"{waiting} chunks wait for the next `flowbed run`")


def _named(text: str) -> tuple[str, int]:
    name, equals, version = text.partition("=")
    if not name or not equals or not version.isdigit():
        raise Misconfigured(f"--tag takes NAME=VERSION, such as stable=12, not {text!r}")
    return name, int(version)
