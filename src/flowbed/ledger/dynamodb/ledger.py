"""`Ledger` in a table of DynamoDB."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from flowbed.ledger.dynamodb.chunks import DynamoChunks
from flowbed.ledger.dynamodb.chunks.holders import Holders
from flowbed.ledger.dynamodb.chunks.items import ChunkItems
from flowbed.ledger.dynamodb.chunks.parts import Parts
from flowbed.ledger.dynamodb.chunks.tallies import Tallies
from flowbed.ledger.dynamodb.documents import DynamoDocuments
from flowbed.ledger.dynamodb.erasing import DynamoErasing
from flowbed.ledger.dynamodb.runs import DynamoRuns
from flowbed.ledger.dynamodb.swapping import Swapping
from flowbed.ledger.items.batches import ItemBatches
from flowbed.ledger.items.dead_letters import ItemDeadLetters
from flowbed.ledger.items.files import ItemFiles
from flowbed.ledger.items.index_jobs import ItemIndexJobs
from flowbed.ledger.items.jobs import ItemJobs
from flowbed.ledger.items.keys import ItemKeys, ItemQuotas
from flowbed.ledger.items.rollbacks import ItemRollbacks
from flowbed.ledger.items.rows import SEEN
from flowbed.ledger.items.spending import ItemSpending
from flowbed.ledger.items.submissions import ItemSubmissions
from flowbed.ledger.items.table import all_of
from flowbed.ledger.items.vector_store_files import ItemVectorStoreFiles
from flowbed.ledger.items.vector_stores import ItemVectorStores
from flowbed.ledger.protocols.ledger import Ledger
from flowbed.ledger.rows import Overview
from flowbed.records import Status

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from flowbed.ledger.dynamodb.table import DynamoTable

Row = TypeVar("Row")


class DynamoLedger(Ledger):
    """`Ledger` in a table of DynamoDB."""

    def __init__(self, table: DynamoTable, *, id: str, location: str) -> None:  # noqa: A002 - the protocol's word
        """Use a table, and the id of the ledger in it."""
        self.id = id
        self.location = location
        self.table = table
        items = ChunkItems(table)
        tallies = Tallies(table, items)
        holders = Holders(table, tallies)
        documents = DynamoDocuments(table, Swapping(table, items, tallies, holders))
        letters = ItemDeadLetters(table)
        submissions = ItemSubmissions(table)
        parts = Parts(
            table=table,
            items=items,
            tallies=tallies,
            holders=holders,
            documents=documents,
            submissions=submissions,
        )
        runs = DynamoRuns(parts, letters)
        self.documents = documents
        self.chunks = DynamoChunks(parts)
        self.batches = ItemBatches(table, documents.apply)
        self.runs = runs
        self.rollbacks = ItemRollbacks(table, runs)
        self.dead_letters = letters
        self.submissions = submissions
        self.spending = ItemSpending(table)
        self.keys = ItemKeys(table)
        self.quotas = ItemQuotas(table)
        self.files = ItemFiles(table)
        self.jobs = ItemJobs(table)
        self.index_jobs = ItemIndexJobs(table)
        self.vector_stores = ItemVectorStores(table)
        self.vector_store_files = ItemVectorStoreFiles(table)
        self.erasing = DynamoErasing(parts)

    async def overview(self) -> Overview:
        """Read the state of the ledger, one aggregate after the other: a table has no larger snapshot."""
        seen, letters, workers, pending, submissions, counts = await asyncio.gather(
            all_of(self.table.query, SEEN),
            _flat(self.dead_letters.pages()),
            self.chunks.workers(),
            self.runs.collections(),
            _flat(self.submissions.pages(live=True)),
            self.chunks.counts(),
        )
        return Overview(
            workers=frozenset(workers),
            pending=tuple(pending),
            seen={item["collection"]: item["version"] for item in seen},
            submissions=tuple(submissions),
            unfinished={key: number for key, number in counts.items() if key[1] is not Status.SUCCESS},
            troubled=frozenset(letter.owner for letter in letters if letter.kind == "source"),
        )

    async def close(self) -> None:
        """Do nothing: connections belong to the process, and are used again by the next call of a function."""


async def _flat(pages: AsyncIterator[list[Row]]) -> list[Row]:
    return [row async for page in pages for row in page]
