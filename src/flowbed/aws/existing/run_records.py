"""Records of runs (COMPACTION_RUN) in an existing table of receipts, for programs that follow its runs.

A record is of one receipt, and says what became of its lines and of its words. It is made from the ledger alone, so
writing it again does no harm.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import RECORDS, written_tables
from flowbed.aws.receipts import DOCUMENT, document_of
from flowbed.errors import NotFound, Rejected
from flowbed.ledger.items.table import ConditionFailed, Unanswered
from flowbed.records import Status
from flowbed.sources.receipts.items import receipt_key
from flowbed.sources.receipts.table import open_table
from flowbed.storage import bucket_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger import ChunkRow, RunRow
    from flowbed.sources.receipts.table import TableReceipts

# The two collections of a receipt, as the existing layout names them.
SIDES = ("lines", "words")
# What readers of the existing layout call the states of a run.
STATES = {"pending": "PENDING", "committed": "COMPLETED", "refused": "FAILED", "reverted": "FAILED"}
REVERTED = "reverted by a rollback"
# Run ids have to be UUIDs there. Made once at random; another one would write every record a second time.
NAMESPACE = uuid.UUID("5a1c1f6e-2f0b-4d0e-9d39-0a7be1f3c8d4")
# Of all records, the newest that are looked through for unfinished ones: runs end within a day, which are some
# thousands of receipts.
NEWEST = 2_000


@dataclass(frozen=True, kw_only=True)
class _Record:
    """What a record is about: a receipt, and the runs of its lines and of its words, which may be one."""

    document: str
    runs: tuple[str, str]


async def write_run_records(
    bed: Flowbed, runs: Collection[str] = (), *, documents: Collection[str] = (), unfinished: bool = False
) -> int:
    """Write the record of each receipt in these runs or documents into the tables whose source asks for it.

    With `unfinished`, also those that the table still has as PENDING. Returns how many were written; one that says
    the same already is left as it is.
    """
    written = 0
    named = {*documents, *await _documents_of(runs, bed)}
    known = _Runs(bed)
    for source, each in written_tables(bed.settings, RECORDS).items():
        table = open_table(each.location, options=each.options, clock=bed.clock)
        records = await _unfinished(table) if unfinished else set()
        rows: defaultdict[str, list[ChunkRow]] = defaultdict(list)
        for row in await bed.ledger.chunks.of(source, sorted({*named, *(each.document for each in records)})):
            if not row.deleted:
                rows[row.document].append(row)
        for document in named & rows.keys():
            if newest := await known.newest(rows[document]):
                records.add(_Record(document=document, runs=newest))
        for record in sorted(records, key=lambda each: (each.document, each.runs)):
            found = [await known.get(run) for run in record.runs]
            if None not in found:  # a record of another program's run is its own
                sides = dict(zip(SIDES, filter(None, found), strict=True))
                written += await _put(table, _item(record, sides, rows[record.document], bed))
    return written


class _Runs:
    """The runs of the ledger, each read once."""

    def __init__(self, bed: Flowbed) -> None:
        self._bed = bed
        self._known: dict[str, RunRow | None] = {}

    async def get(self, run: str) -> RunRow | None:
        if run not in self._known:
            self._known[run] = await self._bed.ledger.runs.get(run)
        return self._known[run]

    async def newest(self, rows: Sequence[ChunkRow]) -> tuple[str, str] | None:
        """Return the newest runs of the lines and of the words of a receipt, None until both have one.

        Chunks that were embedded again later are in a run of their own: that is what readers wait for. A receipt
        without words has the run of its lines twice, since a record has to name two.
        """
        found = {}
        for side in SIDES:
            own = [row for row in rows if row.collection.endswith(side)]
            runs = [run for name in {row.run for row in own} - {""} if (run := await self.get(name))]
            if runs:
                found[side] = max(runs, key=lambda each: (each.created, each.id)).id
            elif own:
                return None
        lines, words = (found.get(side) for side in SIDES)
        return (lines or words or "", words or lines or "") if found else None


async def _documents_of(runs: Collection[str], bed: Flowbed) -> set[str]:
    """Return the receipts whose chunks are in the deltas of runs."""
    if not runs:
        return set()
    from flowbed.index.deltas import peek  # loads pyarrow

    found: set[str] = set()
    for run in runs:
        row = await bed.ledger.runs.get(run)
        if row is None or not row.collection.endswith(SIDES):
            continue
        try:
            ids = peek((await bed.store.get(row.key)).body)
        except (NotFound, Rejected):
            continue  # its run was refused, and names no receipt any more
        found |= {match[0] for chunk, _ in ids if (match := DOCUMENT.match(chunk))}
    return found


async def _unfinished(table: TableReceipts) -> set[_Record]:
    """Return the newest records that are PENDING in the table."""
    found: set[_Record] = set()
    looked = 0
    fields = ", ".join(
        ("PK", "SK", *(f"{side}_{name}" for side in SIDES for name in ("state", "delta_prefix")))
    )
    async for items in table.query("GSI1", "GSI1PK", "RUNS", fields, newest=True):
        looked += len(items)
        for item in items:
            said = {name: value.get("S", "") for name, value in item.items()}
            lines, words = (
                said.get(f"{side}_delta_prefix", "").strip("/").rpartition("/")[2] for side in SIDES
            )
            if "PENDING" in {said.get(f"{side}_state") for side in SIDES} and (key := receipt_key(item)):
                found.add(_Record(document=document_of(*key), runs=(lines, words)))
        if looked >= NEWEST:
            break
    return found


def _item(
    record: _Record, runs: Mapping[str, RunRow], rows: Sequence[ChunkRow], bed: Flowbed
) -> dict[str, Any]:
    """Return a record as an item; `rows` are the chunks of its receipt."""
    _, image, _, number = record.document.split("#")
    receipt = int(number)
    run = str(uuid.uuid5(NAMESPACE, " ".join((record.document, *record.runs))))
    created = _iso(min(each.created for each in runs.values()))
    item: dict[str, Any] = {
        **_text(PK=f"IMAGE#{image}", SK=f"RECEIPT#{receipt:05d}#COMPACTION_RUN#{run}"),
        **_text(GSI1PK="RUNS", GSI1SK=f"CREATED_AT#{created}", TYPE="COMPACTION_RUN"),
        **_text(run_id=run, image_id=image, created_at=created, updated_at=_iso(bed.clock())),
        "receipt_id": {"N": str(receipt)},
    }
    for side, row in runs.items():
        merged = sum(
            each.run == row.id and each.collection.endswith(side) and each.status is Status.SUCCESS
            for each in rows
        )
        item |= {f"{side}_{name}": value for name, value in _about(row, merged, bed).items()}
    return item


def _about(run: RunRow, merged: int, bed: Flowbed) -> dict[str, Any]:
    """Return what a record says of one of its runs, which has merged so many rows of the receipt."""
    state = STATES[run.state]
    error = (run.error or REVERTED) if state == "FAILED" else ""
    _, prefix = bucket_of(bed.store.url)
    return {
        **_text(
            delta_prefix=f"{prefix}{run.key.rpartition('/')[0]}/", state=state, started_at=_iso(run.created)
        ),
        "finished_at": {"NULL": True} if state == "PENDING" else {"S": _iso(bed.clock())},
        "error": {"S": error} if error else {"NULL": True},
        "merged_vectors": {"N": str(merged if state == "COMPLETED" else 0)},
    }


async def _put(table: TableReceipts, item: Mapping[str, Any]) -> bool:
    """Write a record, unless the table has the same states, or knows of an end that this one does not."""
    states = {side: item[f"{side}_state"] for side in SIDES}
    ended = [side for side, state in states.items() if state["S"] != "PENDING"]
    news = [f"{side}_state <> :{side}" for side in ended]
    if len(ended) == 1:
        news = [
            f"({' AND '.join([*news, *(f'{side}_state = :{side}' for side in SIDES if side not in ended)])})"
        ]
    values = {f":{side}": states[side] for side in SIDES} if ended else {}
    try:
        await table.client.write(
            "put_item",
            Item=item,
            ConditionExpression=" OR ".join(["attribute_not_exists(PK)", *news]),
            **({"ExpressionAttributeValues": values} if values else {}),
        )
    except ConditionFailed:
        return False
    except Unanswered:
        return False  # it was written, or the next compaction writes it
    return True


def _text(**values: str) -> dict[str, Any]:
    return {name: {"S": value} for name, value in values.items()}


def _iso(micros: int) -> str:
    return datetime.fromtimestamp(micros / 1e6, UTC).isoformat(timespec="microseconds")
