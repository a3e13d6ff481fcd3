"""The commands that look after a project: its state, what is wrong with it, and the fix."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar, cast, get_args

import typer

from flowbed.cli.options import Collection, Common
from flowbed.cli.printing.output import note, say_json
from flowbed.cli.printing.progress import progress
from flowbed.cli.project import DONE, FAILURES, project_folder
from flowbed.errors import Error, Misconfigured, Rejected
from flowbed.records import Problem
from flowbed.records.plain import plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from flowbed.bed import Flowbed
    from flowbed.index.compaction import Compaction, VectorIndex
    from flowbed.index.versions import Version
    from flowbed.ledger import Spent
    from flowbed.maintenance.inspect import BedStatus
    from flowbed.maintenance.verify import Verified

Answer = TypeVar("Answer")
SpentBy = Literal["lane", "source", "document", "run", "day"]


def status(
    common: Common,
    cost: Annotated[
        bool, typer.Option("--cost", help="Show what was planned, what was billed, and what it cost.")
    ] = False,
    by: Annotated[str, typer.Option(help="With --cost: lane, source, document or run.")] = "lane",
    days: Annotated[
        float | None, typer.Option(min=0, help="With --cost: only the last days; default: all time.")
    ] = None,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=1, help="With --cost: show at most this many rows.")
    ] = 20,
) -> None:
    """Show the state of every collection, or what was spent."""
    from flowbed.cli.printing import reports, views

    if by not in (names := get_args(SpentBy)):
        raise Misconfigured(f"--by is {by!r}; choose {', '.join(names[:-1])} or {names[-1]}")

    async def look(bed: Flowbed) -> tuple[BedStatus, list[Spent]]:
        spent = await bed.spending(cast("SpentBy", by), limit=limit, days=days) if cost else []
        return await bed.status(), spent

    found, spent = common.with_bed(look)
    if common.as_json:
        say_json({**plain(found), **({"spending": reports.spending_json(by, spent)} if cost else {})})
    elif cost:
        reports.show_spending(by, spent)
    else:
        views.show_status(found)


def compact(
    common: Common,
    collection: Collection = None,
    index: Annotated[str, typer.Option(help="Build a vector index: auto, always or never.")] = "auto",
    full_text: Annotated[
        bool, typer.Option("--full-text", help="Build a full-text index; later runs extend it.")
    ] = False,
    now: Annotated[
        bool, typer.Option("--now", help="Drop every version but the newest and the tagged ones.")
    ] = False,
) -> int:
    """Merge small files, extend the indexes, drop expired versions."""
    from flowbed.cli.printing import views

    if index not in {"auto", "always", "never"}:
        raise Misconfigured(f"--index is {index!r}; choose auto, always or never")
    vector_index = cast("VectorIndex", index)

    async def work(bed: Flowbed) -> tuple[dict[str, dict[str, Compaction]], list[Problem]]:
        return await _each(
            bed,
            collection,
            lambda name: bed.compact(name, vector_index=vector_index, full_text=full_text, now=now),
        )

    found, failures = common.with_bed(work)
    done = {name: plan for each in found.values() for name, plan in each.items()}
    common.show({"collections": done, "failures": failures}, lambda _: views.show_compactions(done, failures))
    return FAILURES if failures else DONE


def versions(
    common: Common,
    collection: Collection = None,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", metavar="NAME=VERSION", help="Keep a version under a name; repeatable."),
    ] = None,
    untag: Annotated[
        list[str] | None, typer.Option("--untag", metavar="NAME", help="Remove a name; repeatable.")
    ] = None,
) -> int:
    """List the versions of a collection that are kept; --tag keeps one for good."""
    from flowbed.cli.printing import views

    tags = [_tag(each) for each in tag or ()]
    if (tags or untag) and collection is None:
        raise Misconfigured("--tag and --untag need a collection: `flowbed versions COLLECTION --tag ...`")

    async def look(bed: Flowbed) -> tuple[dict[str, list[Version]], list[Problem]]:
        for name, version in tags:
            await bed.tag(str(collection), version, name)
        for name in untag or ():
            if not await bed.untag(str(collection), name):
                raise Rejected(f"no version of {collection} is called {name!r}")
        return await _each(bed, collection, bed.versions)

    found, failures = common.with_bed(look)
    common.show({"versions": found, "failures": failures}, lambda _: views.show_versions(found, failures))
    return FAILURES if failures else DONE


def verify(
    common: Common,
    collection: Collection = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Fix what can be fixed; the next run embeds what is missing.")
    ] = False,
    allow_deletes: Annotated[
        bool,
        typer.Option("--allow-deletes", help="Let a repair drop many rows, or an unreadable index."),
    ] = False,
) -> int:
    """Check that index, ledger and store agree."""
    from flowbed.cli.printing import views

    async def look(bed: Flowbed) -> tuple[dict[str, Verified], str]:
        names = [collection] if collection else []
        return await bed.verify(*names, repair=repair, allow_deletes=allow_deletes), bed.rebound

    with progress(as_json=False):
        found, rebound = common.with_bed(look, repair=repair)
    say_json(views.verified_json(found)) if common.as_json else views.show_verified(found)
    if rebound:
        note(rebound)
    wrong = any(each.faults and (each.repaired is None or each.repaired.withheld) for each in found.values())
    return FAILURES if wrong else DONE


def gc(
    common: Common,
    collection: Collection = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be deleted.")] = False,
) -> int:
    """Delete stored objects that are no longer needed."""
    from flowbed.cli.printing import views

    names = [collection] if collection else []
    done = common.with_bed(lambda bed: bed.gc(*names, dry_run=dry_run))
    common.show(done, views.show_collected)
    return FAILURES if done.failures else DONE


def doctor(
    common: Common,
    checklist: Annotated[
        bool,
        typer.Option("--checklist", help="Walk the chain from sources to snapshots, stage by stage."),
    ] = False,
) -> int:
    """Find what is wrong, and name the command that fixes it."""
    from flowbed import bed
    from flowbed.cli.printing import views

    folder = project_folder(common.config)
    if checklist:
        walked = asyncio.run(bed.look_through(folder))
        say_json(plain(walked)) if common.as_json else views.show_checklist(walked)
        return FAILURES if walked.failed else DONE
    found = asyncio.run(bed.examine(folder))
    say_json(views.diagnosis_json(found)) if common.as_json else views.show_diagnosis(found)
    return FAILURES if any(each.severity != "note" for each in found.findings) else DONE


def rollback(
    common: Common,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    version: Annotated[
        int | None, typer.Argument(metavar="[VERSION]", help="A version of `flowbed versions`.")
    ] = None,
    release: Annotated[
        bool, typer.Option("--release", help="Commit the runs that rollbacks reverted; embeds nothing.")
    ] = False,
) -> int:
    """Restore an older version of a collection, or undo that with --release."""
    from flowbed.cli.printing import views

    if (version is None) != release:
        raise Misconfigured("name either a version to restore, or --release")
    if version is None:
        released = common.with_bed(lambda bed: bed.release(collection))
        common.show(released, views.show_release)
        return FAILURES if released.refused else DONE
    common.show(common.with_bed(lambda bed: bed.rollback(collection, version)), views.show_rollback)
    return DONE


def why(
    common: Common,
    subject: Annotated[
        str,
        typer.Argument(
            metavar="ID",
            help="The id of a chunk or a document, or the link of a message, an issue or a note.",
        ),
    ],
) -> None:
    """Explain why a chunk, a document or a message is in the index or is not."""
    from flowbed.cli.printing import views

    found = common.with_bed(lambda bed: bed.why(subject))
    common.show({"chunks": found}, lambda _: views.show_reasons(found))


async def _each(
    bed: Flowbed, collection: str | None, work: Callable[[str], Awaitable[Answer]]
) -> tuple[dict[str, Answer], list[Problem]]:
    """Work on one collection or on all, by name; of all, one that fails does not stop the others."""
    if collection is not None:
        return {collection: await work(collection)}, []
    found = await bed.status()
    done: dict[str, Answer] = {}
    failures: list[Problem] = []
    for name in sorted({*found.collections, *found.unreadable}):
        try:
            done[name] = await work(name)
        except Error as error:
            failures.append(Problem(subject=f"collection {name}", reason=str(error)))
    return done, failures


def _tag(text: str) -> tuple[str, int]:
    name, equals, version = text.partition("=")
    if not name or not equals or not version.isdigit():
        raise Misconfigured(f"--tag takes NAME=VERSION, such as stable=12, not {text!r}")
    return name, int(version)
