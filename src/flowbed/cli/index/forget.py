"""The command that erases rows everywhere, and keeps them from returning."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flowbed.cli.options import Common
from flowbed.cli.printing.output import note, say, say_json
from flowbed.cli.printing.progress import progress
from flowbed.cli.project import DONE, FAILURES
from flowbed.errors import Misconfigured
from flowbed.records.plain import plain
from flowbed.records.values import count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from flowbed.maintenance.forget import Forgettable, Receipt

NAMED = 10  # rows to name before asking


def forget(
    common: Common,
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Ids of chunks.")] = None,
    document: Annotated[
        list[str] | None,
        typer.Option(metavar="DOCUMENT", help="A whole document, or SOURCE#DOCUMENT; repeatable."),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="JSON", help="The chunks whose metadata match this filter.")
    ] = None,
    collection: Annotated[
        str | None, typer.Option("--collection", "-c", help="Look only in this collection.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask, and forget any number of rows.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Finish what was interrupted, or could not be reached.")
    ] = False,
    lift: Annotated[bool, typer.Option("--lift", help="Let forgotten rows return.")] = False,
    receipt: Annotated[
        str | None, typer.Option(metavar="FILE", help="Also write the receipt into this file.")
    ] = None,
) -> int:
    """Erase rows everywhere, and keep them from returning."""
    from flowbed.cli.printing import views

    named = bool(ids or document or where is not None)
    if (resume and (named or lift)) or (lift and where is not None):
        raise Misconfigured("--resume stands alone, and --lift takes ids of chunks or --document")
    chosen: dict[str, Any] = {"documents": document or ()}
    if lift:
        lifted = common.with_bed(lambda bed: bed.lift_forget(*ids or (), **chosen))
        common.show({"lifted": lifted}, lambda _: say(f"{lifted:,} lifted: the next run may bring them back"))
        return DONE
    chosen |= {"where": views.read_where(where), "collection": collection}
    if not resume and not yes and sys.stdin.isatty() and sys.stderr.isatty():
        found = common.with_bed(lambda bed: bed.find_to_forget(*ids or (), **chosen))
        _show_found(found)
        if not _agreed():
            note("nothing was erased")
            return FAILURES
        yes = True
    with progress(as_json=common.as_json):
        if resume:
            receipts = common.with_bed(lambda bed: bed.resume_forget())
        else:
            if yes:
                chosen["most"] = None
            receipts = [common.with_bed(lambda bed: bed.forget(*ids or (), **chosen))]
    _write(receipts, receipt)
    if common.as_json:
        say_json({"receipts": receipts} if resume else receipts[0])
    else:
        _show(receipts)
    return DONE if all(each.complete for each in receipts) else FAILURES


def _agreed() -> bool:
    try:
        return typer.confirm("erase them for good?", err=True)
    except typer.Abort:
        return False


def _write(receipts: Sequence[Receipt], file: str | None) -> None:
    if file is None:
        return
    import json
    from pathlib import Path

    try:
        Path(file).write_text(json.dumps(plain(list(receipts)), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise Misconfigured(f"the receipt cannot be written to {file}: {error.strerror}") from error


def _show_found(found: Forgettable) -> None:
    note(f"{count(len(found.chunks), 'chunk')} and {count(len(found.documents), 'whole document')}:")
    for collection, chunk in found.chunks[:NAMED]:
        note(f"  {collection}  {chunk}")
    if len(found.chunks) > NAMED:
        note(f"  and {len(found.chunks) - NAMED:,} more")
    if found.shared:
        note(
            f"{len(found.shared):,} other rows have the same texts, and stay: {', '.join(found.shared[:NAMED])}"
        )
    note("All older versions of these collections are dropped too.")


def _show(receipts: Sequence[Receipt]) -> None:
    if not receipts:
        say("nothing is left to forget")
    for each in receipts:
        say(
            f"{count(each.chunks, 'chunk')} and {count(each.documents, 'document')} forgotten; receipt {each.id}"
        )
        for erased in each.erased:
            say(f"  erased       {erased.place}: {erased.count:,} {erased.what}")
        for missed in each.not_reached:
            say(f"  not reached  {missed.place}: {missed.why}")
        if each.kept:
            say(f"  {each.kept:,} other rows have the same texts, and stay")
        if not each.complete:
            note("not complete: `flowbed forget --resume` finishes it")
