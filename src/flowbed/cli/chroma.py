"""The commands that take over rows with their vectors: imports, and deltas of other producers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.output import note, say
from flowbed.cli.progress import progress
from flowbed.cli.project import DONE, FAILURES

if TYPE_CHECKING:
    from flowbed.pipeline.importing import Imported
    from flowbed.pipeline.producer_deltas import DeltasAdded
    from flowbed.records import Problem

NAMED = 10  # refused rows to name


def import_(
    common: Common,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FROM", help="A Chroma directory, a Chroma server (https://host:port), or Parquet."
        ),
    ],
    collection: Annotated[str, typer.Option("--collection", "-c", help="The collection to write to.")],
    space: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model that made the vectors; default: the project's."),
    ] = None,
    name: Annotated[str, typer.Option(help="The collection's name in Chroma; default: its only one.")] = "",
    unchecked: Annotated[
        bool, typer.Option("--unchecked", help="Do not compare a sample of the vectors with the model's.")
    ] = False,
) -> int:
    """Take over rows with their vectors: nothing is embedded but a sample."""
    with progress(as_json=common.as_json):
        done = common.with_bed(
            lambda bed: bed.import_rows(
                source, collection=collection, space=space, name=name, check=not unchecked
            )
        )
    common.show(done, _show_imported)
    return FAILURES if done.refused else DONE


def add_deltas(
    common: Common,
    keys: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY]...", help="COLLECTION/delta/RUN or a run record; default: those registered."
        ),
    ] = None,
) -> int:
    """Check and commit deltas of other producers."""
    with progress(as_json=common.as_json):
        done = common.with_bed(lambda bed: bed.add_deltas(*keys or ()))
    common.show(done, _show_added)
    return FAILURES if done.refused else DONE


def _show_imported(done: Imported) -> None:
    rate = done.read / done.seconds if done.seconds else 0
    say(
        f"{done.read:,} rows read, {done.written:,} written, {done.unchanged:,} there already, {done.refused:,} refused"
        f" in {done.seconds:,.1f} s ({rate:,.0f} rows/s)"
    )
    if done.cosine is not None:
        say(f"the vectors of {done.sampled} texts agree with the model's: median cosine {done.cosine:.4f}")
    if done.version is not None:
        say(f"version {done.version}")
    _name(done.problems)


def _show_added(done: DeltasAdded) -> None:
    say(
        f"{len(done.committed):,} deltas committed: {done.rows:,} rows written, {done.unchanged:,} there already;"
        f" {len(done.refused):,} deltas refused"
    )
    for collection, version in sorted(done.versions.items()):
        say(f"{collection}: version {version}")
    _name(done.refused)


def _name(problems: list[Problem]) -> None:
    for each in problems[:NAMED]:
        note(f"{each.subject}: {each.reason}")
    if len(problems) > NAMED:
        note(f"and {len(problems) - NAMED:,} more")
