"""Write what the ledger knows back into an existing table of receipts, for those who read its `embedding_status`."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from flowbed.aws.existing.tables import STATUSES, written_tables
from flowbed.ledger.items.table import ConditionFailed, Unanswered
from flowbed.records import Entry, Status
from flowbed.sources.receipts.items import receipt_key
from flowbed.sources.receipts.reading import Receipt
from flowbed.sources.receipts.table import OF_STATUS, UNEMBEDDED, open_table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flowbed.bed import Flowbed
    from flowbed.ledger import ChunkRow
    from flowbed.records import Problem
    from flowbed.sources.receipts.table import TableReceipts

UPDATE = {
    "UpdateExpression": "SET embedding_status = :new, GSI1PK = :place",
    # An item that someone has changed meanwhile, its text or its status, is theirs.
    "ConditionExpression": "embedding_status = :old AND #text = :text",
    "ExpressionAttributeNames": {"#text": "text"},
}


async def write_statuses(bed: Flowbed) -> int:
    """Write SUCCESS or FAILED for each line and word that the table has as NONE, and return how many were written.

    A receipt whose items have changed since it was fetched is left to the next fetch.
    """
    written = 0
    for name, source in written_tables(bed.settings, STATUSES).items():
        table = open_table(source.location, options=source.options, clock=bed.clock)
        async for items in table.query(*OF_STATUS, UNEMBEDDED, "PK, SK"):
            waiting: defaultdict[tuple[str, int], list[Mapping[str, Any]]] = defaultdict(list)
            for item in items:
                if key := receipt_key(item):
                    waiting[key].append(item)
            for (image, receipt), some in waiting.items():
                written += await _write(name, table, await table.read(image, receipt), some, bed)
    return written


async def _write(
    source: str,
    table: TableReceipts,
    found: Entry | Problem | None,
    items: Sequence[Mapping[str, Any]],
    bed: Flowbed,
) -> int:
    if not isinstance(found, Entry) or not isinstance(found.read, Receipt):
        return 0
    read = found.read
    known = (await bed.ledger.documents.etags(source, [read.name])).get(read.name, "")
    if not known.endswith(f":{found.etag}"):
        return 0
    rows = {row.id: row for row in await bed.ledger.chunks.of(source, [read.name])}
    texts = dict(_texts(read))
    written = 0
    for item in items:
        chunk = f"{item['PK']['S']}#{item['SK']['S']}"
        status = _final(rows.get(chunk))
        if status and chunk in texts and await _update(table, item, texts[chunk], status):
            written += 1
    return written


def _texts(receipt: Receipt) -> list[tuple[str, str]]:
    """Return the text of each line and word, by the id of its chunk."""
    found = []
    for line in receipt.record["lines"]:
        key = f"{receipt.name}#LINE#{line['line_id']:05d}"
        found.append((key, line["text"]))
        found += [(f"{key}#WORD#{word['word_id']:05d}", word["text"]) for word in line["words"]]
    return found


def _final(row: ChunkRow | None) -> str:
    """Return what the table is told of a chunk, "" while that may change."""
    if row is None or row.deleted:
        return ""
    if row.status is Status.SUCCESS:
        return "SUCCESS"
    return "FAILED" if row.status is Status.FAILED and row.failure == "rejected" else ""


async def _update(table: TableReceipts, item: Mapping[str, Any], text: str, status: str) -> bool:
    values = {":new": status, ":place": f"EMBEDDING_STATUS#{status}", ":old": "NONE", ":text": text}
    try:
        await table.client.write(
            "update_item",
            Key={"PK": item["PK"], "SK": item["SK"]},
            ExpressionAttributeValues={name: {"S": value} for name, value in values.items()},
            **UPDATE,
        )
    except (ConditionFailed, Unanswered):
        return False
    return True
