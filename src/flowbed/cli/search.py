"""The command that searches the index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from flowbed.cli.options import Common

if TYPE_CHECKING:
    from flowbed.index.search import Mode
    from flowbed.index.search.hits import Unit


def search(
    common: Common,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="The text to search for.")],
    collection: Annotated[str | None, typer.Option("--collection", "-c", help="Default: all.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", help="Show at most this many hits.")] = 10,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help='A filter such as {"source": "handbook"}.')
    ] = None,
    at: Annotated[
        int | None, typer.Option(metavar="VERSION", help="Search an older version of the collection.")
    ] = None,
    mode: Annotated[
        str, typer.Option(help="vector: nearest in meaning; text: with the words; hybrid: both.")
    ] = "vector",
    by_document: Annotated[
        bool, typer.Option("--by-document", help="Show each document once, by its best chunk.")
    ] = False,
) -> None:
    """Find the chunks nearest in meaning to a text, or with its words."""
    from flowbed.cli import views

    condition = views.read_where(where)
    unit: Unit = "document" if by_document else "chunk"
    found = common.with_bed(
        lambda bed: bed.find(
            query,
            collection=collection,
            where=condition,
            limit=limit,
            at=at,
            unit=unit,
            mode=cast("Mode", mode),  # checked by the search
        )
    )
    common.show(found, views.show_hits)
