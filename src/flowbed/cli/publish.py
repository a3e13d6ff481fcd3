"""The commands that publish collections in other forms."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Collection, Common
from flowbed.cli.project import DONE, FAILURES

if TYPE_CHECKING:
    from flowbed.publish import Published, PublishReport


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


def _show(done: PublishReport) -> None:
    from flowbed.cli.formatting import problems
    from flowbed.cli.output import say

    for each in done.published:
        say(f"{each.publication}: {each.collection} version {each.version} {_what(each)}")
    problems("failed", done.failures)


def _what(each: Published) -> str:
    fixed = f"; {each.fixed:,} rows had drifted and were fixed" if each.fixed else ""
    if each.already:
        return f"is published already, {each.rows:,} rows at {each.place}{fixed}"
    how = (
        f"all written, because {each.rebuilt}"
        if each.rebuilt
        else f"{each.upserts:,} written, {each.deletes:,} deleted"
    )
    return f"published at {each.place}: {each.rows:,} rows, {how}{fixed}"
