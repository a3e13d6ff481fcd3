"""The command that shows which metadata a collection has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import say
from flowbed.records.values import count

if TYPE_CHECKING:
    from flowbed.index.search.fields import Field, Fields

LONGEST = 40  # characters of a value that are shown


def fields(
    common: Common,
    collection: Annotated[str, typer.Argument(metavar="COLLECTION", help="A collection.")],
    values: Annotated[int, typer.Option("--values", "-n", help="Show this many values of each key.")] = 5,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help="Count only rows that match this filter.")
    ] = None,
) -> None:
    """Show which metadata there is to filter by: keys, types and common values."""
    from flowbed.cli.printing import views

    condition = views.read_where(where)
    found = common.with_bed(lambda bed: bed.fields(collection, where=condition, values=values))
    common.show(found, _show)


def _show(found: Fields) -> None:
    read = f", {found.read:,} of them read" if found.read < found.rows else ""
    say(f"{found.collection}: {count(found.rows, 'row')} at version {found.version}{read}")
    for each in found.fields:
        say(f"  {each.name}: {'/'.join(each.types)} in {count(each.rows, 'row')}, {_distinct(each)}")
        shown = ", ".join(f"{_short(value.value)} ({value.rows:,})" for value in each.values)
        if shown:
            say(f"      {shown}{'' if each.distinct == len(each.values) else ', ...'}")


def _distinct(each: Field) -> str:
    values = "many values" if each.distinct is None else count(each.distinct, "value")
    return values if each.least is None else f"{values} from {each.least} to {each.most}"


def _short(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
