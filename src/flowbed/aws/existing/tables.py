"""Sources that are existing tables of receipts, and what is written into them for those who read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flowbed.sources.receipts.table import SCHEME, place_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.aws.invocation import Invocation
    from flowbed.bed import Flowbed
    from flowbed.ledger import SubmissionRow
    from flowbed.settings import Settings, SourceSettings

STATUSES, RECORDS = "write_status", "write_records"


def written_tables(settings: Settings, option: str) -> dict[str, SourceSettings]:
    """Return the sources that are tables into which something is written, as their `option` says."""
    return {
        name: each
        for name, each in settings.sources.items()
        if each.kind == "receipts" and each.location.startswith(SCHEME) and each.options.get(option)
    }


def existing_tables(settings: Settings) -> dict[str, bool]:
    """Return each table that is a source, as NAME or REGION/NAME, and whether anything is written into it."""
    written = {**written_tables(settings, STATUSES), **written_tables(settings, RECORDS)}
    found: dict[str, bool] = {}
    for name, each in settings.sources.items():
        if each.kind == "receipts" and each.location.startswith(SCHEME):
            place = place_of(each.location)
            table = f"{place.region}/{place.table}" if place.region else place.table
            found[table] = found.get(table, False) or name in written
    return found


async def record_runs(bed: Flowbed, call: Invocation, *, documents: Collection[str] = ()) -> None:
    """Write the records of the runs that a call has recorded, and of these receipts, where a source asks for them."""
    if not written_tables(bed.settings, RECORDS):
        return
    from flowbed.aws.existing.run_records import write_run_records

    runs = [each["run"] for each in call.runs()]
    call.lines.count(RecordsWritten=await write_run_records(bed, runs, documents=documents))


async def record_submission(bed: Flowbed, call: Invocation, submission: SubmissionRow) -> None:
    """Write the records of a submission, where a source asks for them."""
    if not written_tables(bed.settings, RECORDS):
        return
    from flowbed.aws.existing.batch_records import write_batch_records

    call.lines.count(RecordsWritten=await write_batch_records(bed, submission))
