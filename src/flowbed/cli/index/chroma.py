"""The commands that take over rows with their vectors: imports, and deltas of other producers; and exports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import note, say
from flowbed.cli.printing.progress import progress
from flowbed.cli.project import DONE, FAILURES
from flowbed.errors import Misconfigured
from flowbed.records.values import count

if TYPE_CHECKING:
    from flowbed.pipeline.importing import Imported
    from flowbed.pipeline.producer_deltas import DeltasAdded
    from flowbed.publish.exporting import Kind
    from flowbed.records import Problem

# What a kind of export adds to the name of a collection.
SUFFIXES = {"chroma": "-chroma", "parquet": ".parquet", "jsonl": ".jsonl"}
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


def export(
    common: Common,
    collection: Annotated[str, typer.Argument(metavar="C", help="The collection to export.")],
    path: Annotated[
        Path | None, typer.Argument(metavar="[PATH]", help="Where to write; default: named after C.")
    ] = None,
    to: Annotated[str, typer.Option("--to", metavar="KIND", help="chroma, parquet or jsonl.")] = "",
    at: Annotated[
        int | None, typer.Option(metavar="VERSION", help="An older version; default: the newest.")
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help='Only rows that match, such as {"author": "jane"}.')
    ] = None,
    no_vectors: Annotated[
        bool, typer.Option("--no-vectors", help="With jsonl: only ids, texts and metadata.")
    ] = False,
) -> None:
    """Write a collection's rows into a file or folder that other programs read."""
    from flowbed.cli.printing import views

    if to not in SUFFIXES:
        raise Misconfigured(f"--to is {to!r}; choose chroma, parquet or jsonl")
    target = Path(f"{collection}{SUFFIXES[to]}") if path is None else path
    condition = views.read_where(where)
    with progress(as_json=common.as_json):
        done = common.with_bed(
            lambda bed: bed.export(
                collection, to=cast("Kind", to), path=target, at=at, where=condition, vectors=not no_vectors
            )
        )
    common.show(
        done,
        lambda _: say(
            f"{count(done.rows, 'row')} of version {done.version} in {done.path} ({count(done.bytes, 'byte')})"
        ),
    )


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
        f"{count(done.read, 'row')} read, {done.written:,} written, {done.unchanged:,} there already,"
        f" {done.refused:,} refused in {done.seconds:,.1f} s ({rate:,.0f} rows/s)"
    )
    if done.cosine is not None:
        say(
            f"the vectors of {count(done.sampled, 'text')} agree with the model's: median cosine {done.cosine:.4f}"
        )
    if done.version is not None:
        say(f"version {done.version}")
    _name(done.problems)


def _show_added(done: DeltasAdded) -> None:
    say(
        f"{count(len(done.committed), 'delta')} committed: {count(done.rows, 'row')} written,"
        f" {done.unchanged:,} there already; {count(len(done.refused), 'delta')} refused"
    )
    for collection, version in sorted(done.versions.items()):
        say(f"{collection}: version {version}")
    _name(done.refused)


def _name(problems: list[Problem]) -> None:
    for each in problems[:NAMED]:
        note(f"{each.subject}: {each.reason}")
    if len(problems) > NAMED:
        note(f"and {len(problems) - NAMED:,} more")
