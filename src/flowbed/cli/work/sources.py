"""The sources of a project: list them, and remove one."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import say
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flowbed.bed import Flowbed
    from flowbed.maintenance.inspect import SourceStatus
    from flowbed.settings import SourceSettings


def list_(common: Common) -> None:
    """List the sources: where they are, and how many documents are known of each."""

    async def listed(bed: Flowbed) -> tuple[list[SourceStatus], Mapping[str, SourceSettings]]:
        return await bed.sources(), bed.settings.sources

    found, configured = common.with_bed(listed)
    rows = [_row(each, configured.get(each.name)) for each in found]
    common.show({"sources": rows}, lambda _: _show(rows))


def remove(
    common: Common, name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the source.")]
) -> None:
    """Remove a source from flowbed.toml; its rows stay searchable until `run NAME --allow-deletes` deletes them."""

    async def removed(bed: Flowbed) -> int:
        await bed.remove(name)
        return next((each.documents for each in await bed.sources() if each.name == name), 0)

    documents = common.with_bed(removed)

    def show(_: object) -> None:
        say(f"removed {name} from flowbed.toml")
        if documents:
            say(
                f"searches still find {count(documents, 'document')} of it;"
                f" `flowbed run {name} --allow-deletes` deletes them"
            )

    common.show({"removed": name, "documents": documents}, show)


def _row(status: SourceStatus, source: SourceSettings | None) -> dict[str, Any]:
    where: dict[str, Any] = {"kind": None, "location": None, "collection": None, "options": {}}
    return asdict(status) | (where if source is None else asdict(source))


def _show(rows: list[dict[str, Any]]) -> None:
    if not rows:
        say("there are no sources; `flowbed add NAME KIND LOCATION` adds one")
    for row in rows:
        if row["configured"]:
            state = count(row["documents"], "document") if row["fetched"] else "not fetched yet"
            say(f"{row['name']}  {row['kind']}: {row['location']}  {state}")
            for key, value in sorted(row["options"].items()):
                say(f"    {key} = {value}")
        elif row["precomputed"]:
            say(
                f"{row['name']}  {count(row['documents'], 'row')} that came with vectors; no run changes them"
            )
        else:
            say(f"{row['name']}  in no setting  {count(row['documents'], 'document')}")
