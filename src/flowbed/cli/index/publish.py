"""The commands that publish collections in other forms."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Collection, Common
from flowbed.cli.printing.output import say_json
from flowbed.cli.project import DONE, FAILURES, folder_of
from flowbed.records.values import count

if TYPE_CHECKING:
    from flowbed.publish import Published, PublishReport
    from flowbed.publish.chroma.pull import Pulled


def publish(
    common: Common,
    collection: Collection = None,
    reconcile: Annotated[
        bool, typer.Option("--reconcile", help="Compare what is published with the index, and fix it.")
    ] = False,
) -> int:
    """Publish collections as Chroma directories, to a Chroma server, or as Parquet files."""
    done = common.with_bed(lambda bed: bed.publish(collection, reconcile=reconcile))
    common.show(done, _show)
    return FAILURES if done.failures else DONE


def pull(
    common: Common,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder for the snapshots.")],
    mode: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="s3, efs or auto; default: CHROMADB_STORAGE_MODE, or auto."),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Where it is published; default: the project's, or CHROMADB_BUCKET."
        ),
    ] = None,
) -> None:
    """Download the current Chroma snapshot of a collection into DIR/VERSION; DIR/latest points to it."""
    from flowbed.wiring.publications import pull_snapshot

    folder = folder_of(common.config)
    done = asyncio.run(pull_snapshot(folder, collection, directory, mode=mode, store=store))
    if common.as_json:
        say_json({**asdict(done), "path": str(done.path)})
    else:
        _show_pulled(done)


def _show_pulled(done: Pulled) -> None:
    from flowbed.cli.printing.output import say

    say(
        f"{done.path}: version {done.index_version}, {count(done.rows, 'row')};"
        f" {done.downloaded / 1e6:,.1f} MB downloaded, {done.reused / 1e6:,.1f} MB were here already"
    )


def _show(done: PublishReport) -> None:
    from flowbed.cli.printing.formatting import problems
    from flowbed.cli.printing.output import say

    for each in done.published:
        say(f"{each.publication}: {each.collection} version {each.version} {_what(each)}")
    problems("failed", done.failures)


def _what(each: Published) -> str:
    fixed = f"; {count(each.fixed, 'drifted row')} fixed" if each.fixed else ""
    if each.already:
        return f"is published already, {count(each.rows, 'row')} at {each.place}{fixed}"
    how = (
        f"all written, because {each.rebuilt}"
        if each.rebuilt
        else f"{each.upserts:,} written, {each.deletes:,} deleted"
    )
    return f"published at {each.place}: {count(each.rows, 'row')}, {how}{fixed}"
