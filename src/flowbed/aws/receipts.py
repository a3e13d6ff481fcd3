"""Receipts as the realtime functions name them, found in the ledger."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flowbed.errors import Rejected
from flowbed.lanes.claims import WAITING
from flowbed.records import Status
from flowbed.records.values import shown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Mapping

    from flowbed.bed import Flowbed
    from flowbed.ledger import ChunkRow

DOCUMENT = re.compile(r"IMAGE#(?P<image>[^#]+)#RECEIPT#(?P<receipt>\d+)")


@dataclass(frozen=True, order=True)
class Place:
    """How far receipts were listed: the time of a batch file, its id, and a document in it."""

    timestamp: int = 0
    batch: str = ""
    document: str = ""

    def key(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {"timestamp": self.timestamp, "batch": self.batch, "document": self.document}


def place_of(key: Any) -> Place:
    """Read a `last_evaluated_key`.

    Raises:
        Rejected: it is none.
    """
    if key is None:
        return Place()
    try:
        return Place(int(key["timestamp"]), str(key["batch"]), str(key["document"]))
    except (TypeError, KeyError, ValueError, OverflowError) as error:
        raise Rejected(
            f"last_evaluated_key has to be what find_receipts_realtime returned, not {shown(key)}",
            param="last_evaluated_key",
        ) from error


def statuses_of(event: Mapping[str, Any]) -> Collection[Status]:
    """Return the statuses of a `filter_by_embedding_status`; without one, those of chunks that wait.

    Raises:
        Rejected: it is no status.
    """
    value = event.get("filter_by_embedding_status")
    if value is None or value is True:
        return WAITING
    if value is False:
        return frozenset(Status)
    if value not in tuple(Status):  # which takes values of any kind
        raise Rejected(
            f"filter_by_embedding_status has to be one of {', '.join(Status)}, not {shown(value)}",
            param="filter_by_embedding_status",
        )
    return frozenset({Status(value)})


def receipt_sources(bed: Flowbed) -> list[str]:
    """Return the sources of the project that have receipts."""
    return [name for name, each in bed.settings.sources.items() if each.kind == "receipts"]


def document_of(image: str, receipt: int) -> str:
    """Return the id of the document that a receipt is."""
    return f"IMAGE#{image}#RECEIPT#{receipt:05d}"


async def receipts_after(
    place: Place, statuses: Collection[Status], bed: Flowbed
) -> AsyncIterator[tuple[Place, dict[str, Any]]]:
    """Iterate over the receipts with a chunk of these statuses, in the order of their batch files and ids."""
    sources = receipt_sources(bed)
    if not sources:
        return
    ledger, now = bed.ledger, bed.clock()
    async for page in ledger.chunks.batches(statuses, now=now, sources=sources):
        known = await ledger.batches.get([batch for batch in page if batch])
        for row in sorted(known.values(), key=lambda each: (each.timestamp, each.id)):
            if (row.timestamp, row.id) < (place.timestamp, place.batch):
                continue
            chunks = await ledger.chunks.ready(row.id, statuses, now=now, sources=sources)
            for document in sorted({chunk.document for chunk in chunks}):
                at = Place(row.timestamp, row.id, document)
                match = DOCUMENT.fullmatch(document)
                if at > place and match is not None:
                    yield at, {"image_id": match["image"], "receipt_id": int(match["receipt"])}


async def chunks_of(document: str, bed: Flowbed) -> list[ChunkRow]:
    """Return the live chunks of a receipt, in whichever source has it."""
    found: list[ChunkRow] = []
    for source in receipt_sources(bed):
        found += [row for row in await bed.ledger.chunks.of(source, [document]) if not row.deleted]
    return found
