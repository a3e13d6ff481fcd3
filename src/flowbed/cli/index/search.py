"""The command that searches the index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

import typer

from flowbed.cli.options import Common
from flowbed.errors import Rejected

if TYPE_CHECKING:
    from flowbed.index.search import Mode, Order
    from flowbed.index.search.hits import Unit


def search(
    common: Common,
    query: Annotated[
        str | None, typer.Argument(metavar="QUERY", help="The text to search for; none with --like.")
    ] = None,
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
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="A date, a time, or an age such as 7d.")
    ] = None,
    before: Annotated[str | None, typer.Option(metavar="TIME", help="The same, for the end.")] = None,
    order: Annotated[
        str, typer.Option(help="score: best first; newest or oldest: the best by their time.")
    ] = "score",
    like: Annotated[
        str | None, typer.Option(metavar="ID", help="Find what is near this row, in place of a query.")
    ] = None,
    rerank: Annotated[
        bool, typer.Option("--rerank", help="Order the best hits by the reranker of the settings.")
    ] = False,
    cursor: Annotated[
        str | None, typer.Option(metavar="NEXT", help="Go on after the page whose `next` this is (--json).")
    ] = None,
    by_document: Annotated[
        bool, typer.Option("--by-document", help="Show each document once, by its best chunk.")
    ] = False,
) -> None:
    """Find the chunks nearest in meaning to a text, or with its words."""
    from flowbed.cli.printing import views

    if query is None and like is None:
        raise Rejected("give a QUERY, the text to search for, or --like ID")
    condition = views.read_where(where)
    unit: Unit = "document" if by_document else "chunk"
    found = common.with_bed(
        lambda bed: bed.find(
            query or "",
            collection=collection,
            where=condition,
            limit=limit,
            at=at,
            unit=unit,
            mode=cast("Mode", mode),  # checked by the search, as the order is
            since=since,
            before=before,
            order=cast("Order", order),
            like=like,
            rerank=rerank,
            cursor=cursor,
        )
    )
    common.show(found, views.show_hits)
