"""Receipts of an existing table of DynamoDB, read as they are.

The first fetch lists every receipt, and so does one each day. The others look at the lines and words whose status is
NONE, by an index, and read their receipts.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from flowbed.errors import Misconfigured, Rejected
from flowbed.ledger.dynamodb.client import Client
from flowbed.ledger.dynamodb.failures import Place
from flowbed.records import Entry, Page, Problem, canonical
from flowbed.sources.options import SourceOptions
from flowbed.sources.receipts.items import receipt_key, receipt_record
from flowbed.sources.receipts.reading import NONE, RECORD, Receipt, receipt_identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

SCHEME = "dynamodb://"
KNOWN = ("full_hours", "write_records", "write_status")
PLACE = ("region", "endpoint", "profile")
# Of the index: how its keys are called, and the partition that has every receipt, or what has a status.
OF_TYPE, OF_STATUS, OF_RECEIPT = ("GSITYPE", "TYPE"), ("GSI1", "GSI1PK"), ("GSI4", "GSI4PK")
UNEMBEDDED = "EMBEDDING_STATUS#NONE"
FULL_HOURS = 24
# Receipts of a page, and those that are read at once: a query takes some 5 ms.
PAGE, AT_ONCE = 200, 16
# Raise the number whenever the same items give other metadata.
FINGERPRINT = "table1"


def place_of(location: str) -> Place:
    """Read the address of a table of receipts: `dynamodb://table?region=eu-west-1`.

    Raises:
        Misconfigured: it is not of this form.
    """
    parts = urlsplit(location)
    options = dict(parse_qsl(parts.query))
    if not parts.netloc or parts.path.strip("/") or set(options) - set(PLACE):
        raise Misconfigured(
            f"{location!r} is not the address of a table: write dynamodb://table?region=eu-west-1; its options are:"
            f" {', '.join(PLACE)}"
        )
    return Place(table=parts.netloc, called="table", **options)


def open_table(location: str, *, options: Mapping[str, object], clock: Callable[[], int]) -> TableReceipts:
    """Open the receipts of a table.

    Raises:
        Misconfigured: the address or an option is invalid.
    """
    values = SourceOptions("receipts", options, KNOWN)
    for name in ("write_records", "write_status"):  # which functions on AWS do
        values.flag(name)
    hours = values.positive_integer("full_hours", FULL_HOURS)
    return TableReceipts(
        location=location, client=Client(place_of(location)), every=hours * 3_600_000_000, clock=clock
    )


@dataclass(frozen=True, kw_only=True)
class TableReceipts:
    """The receipts of a table; every receipt is listed again after `every` µs."""

    location: str
    client: Client = field(repr=False)
    every: int
    clock: Callable[[], int]

    async def fetch(self, cursor: str) -> AsyncIterator[Page]:
        """List every receipt, or those with a line or word whose status is NONE."""
        mark, _, since = cursor.partition(":")
        now = self.clock()
        last = int(since) if mark == FINGERPRINT and since.isdecimal() else 0
        if last and now - last < self.every:
            async for page in self._pages(*OF_STATUS, UNEMBEDDED):
                yield replace(page, cursor=cursor)
            yield Page(cursor=cursor)
            return
        listed = 0
        async for page in self._pages(*OF_TYPE, "RECEIPT"):
            listed += len(page.entries) + len(page.problems)
            yield page
        empty = "" if listed else "its index GSITYPE has no item of type RECEIPT"
        yield Page(cursor="" if empty else f"{FINGERPRINT}:{now}", complete=True, empty=empty)

    async def _pages(self, index: str, name: str, value: str) -> AsyncIterator[Page]:
        """Read the receipts that a partition of an index names, each once."""
        seen: set[tuple[str, int]] = set()
        waiting: list[tuple[str, int]] = []
        async for items in self.query(index, name, value, "PK, SK"):
            found = dict.fromkeys(key for key in map(receipt_key, items) if key and key not in seen)
            seen.update(found)
            waiting += found
            while len(waiting) >= PAGE:
                yield await self._page(waiting[:PAGE])
                waiting = waiting[PAGE:]
        if waiting:
            yield await self._page(waiting)

    async def query(
        self, index: str, name: str, value: str, fields: str = "", *, newest: bool = False
    ) -> AsyncIterator[Sequence[Mapping[str, Any]]]:
        """Iterate over the items of a partition of an index, in pages; with all fields, or those named.

        With `newest`, from the largest sort key down.
        """
        more: dict[str, Any] = {"ProjectionExpression": fields} if fields else {}
        if newest:
            more["ScanIndexForward"] = False
        while True:
            answer = await self.client.read(
                "query",
                IndexName=index,
                KeyConditionExpression="#n = :v",  # TYPE is a reserved word
                ExpressionAttributeNames={"#n": name},
                ExpressionAttributeValues={":v": {"S": value}},
                **more,
            )
            yield answer["Items"]
            if "LastEvaluatedKey" not in answer:
                return
            more["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    async def _page(self, receipts: Sequence[tuple[str, int]]) -> Page:
        slots = asyncio.Semaphore(AT_ONCE)

        async def read_one(image: str, receipt: int) -> Entry | Problem | None:
            async with slots:
                return await self.read(image, receipt)

        found = await asyncio.gather(*(read_one(*each) for each in receipts))
        return Page(
            entries=[each for each in found if isinstance(each, Entry)],
            problems=[each for each in found if isinstance(each, Problem)],
        )

    async def read(self, image: str, receipt: int) -> Entry | Problem | None:
        """Read one receipt; None where there is none."""
        document = f"IMAGE#{image}#RECEIPT#{receipt:05d}"
        items: list[Mapping[str, Any]] = []
        async for some in self.query(*OF_RECEIPT, document):
            items += some
        try:
            record = receipt_record(image, receipt, items)
            if record is None:
                return None
            receipt_identity(record)
        except Rejected as error:
            return Problem(subject=document, reason=str(error), document=document)
        body = canonical(record)
        return Entry(
            document=document,
            etag=hashlib.sha256(FINGERPRINT.encode() + body).hexdigest()[:32],
            read=Receipt(
                name=document,
                record=record,
                text=body.decode(),
                merchant_by=RECORD if "merchant_name" in record else NONE,
            ),
        )
