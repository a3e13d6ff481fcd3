"""The commands that write a map of a collection and a report about the project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import say
from flowbed.errors import Rejected
from flowbed.records.values import count
from flowbed.storage.atomic import write_whole

if TYPE_CHECKING:
    from flowbed.bed import Flowbed
    from flowbed.index.projection import Projection
    from flowbed.records import IndexedText

# Points of an HTML file, which holds their texts, and of a picture.
HTML_POINTS, PNG_POINTS = 20_000, 100_000
OUT = typer.Argument(metavar="FILE", help="The file to write, replaced if it is there.")


def map_(
    common: Common,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION")],
    file: Annotated[Path, OUT],
    points: Annotated[
        int | None,
        typer.Option(min=1, max=PNG_POINTS, help="Draw at most this many rows; HTML holds their texts."),
    ] = None,
) -> None:
    """Draw the vectors of a collection as an HTML file or a PNG picture, coloured by topic."""
    kind = file.suffix.lower()
    if kind not in {".html", ".png"}:
        raise Rejected(f"a map is written as .html or .png, and {file.name} is neither")
    most = points or (HTML_POINTS if kind == ".html" else PNG_POINTS)

    async def draw(bed: Flowbed) -> tuple[Projection, list[IndexedText]]:
        found = await bed.map(collection, points=most)
        return found, await bed.map_rows(found) if kind == ".html" else []

    drawn, rows = common.with_bed(draw)
    from flowbed.server.page.map_bytes import header_of
    from flowbed.server.page.map_files import html_of, png_of

    write_whole(file, html_of(drawn, rows).encode() if kind == ".html" else png_of(drawn))

    def show(said: dict[str, Any]) -> None:
        of = "" if said["points"] == said["rows"] else f" of {said['rows']:,}"
        say(f"{file}: {count(said['points'], 'row')}{of} of {collection}, version {said['version']}")
        for name in said["topics"]:
            say(f"  {name}")

    common.show({"file": str(file), **header_of(drawn)}, show)


def report(common: Common, file: Annotated[Path, OUT]) -> None:
    """Write a report about the project as one HTML file: quality, freshness, cost and growth."""
    if file.suffix.lower() != ".html":
        raise Rejected(f"a report is written as .html, and {file.name} is not")
    found = common.with_bed(lambda bed: bed.report())
    from flowbed.server.page.report_file import html_of, summary

    write_whole(file, html_of(found).encode())
    common.show({"file": str(file), **summary(found)}, lambda _: say(f"{file}: written"))
