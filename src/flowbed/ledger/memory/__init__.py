"""A ledger in memory: the reference implementation, held to DynamoDB's limits and consistency.

Its table refuses transactions of more than 100 items, reads in pages of 1 MiB, and its indexes lag behind writes. It
proves that no caller needs more than such a table gives, and shows how to build a ledger on one.
"""

from __future__ import annotations

from itertools import count

from flowbed.ledger import Overview
from flowbed.ledger.items.batches import ItemBatches
from flowbed.ledger.items.dead_letters import ItemDeadLetters
from flowbed.ledger.items.files import ItemFiles
from flowbed.ledger.items.index_jobs import ItemIndexJobs
from flowbed.ledger.items.jobs import ItemJobs
from flowbed.ledger.items.keys import ItemKeys, ItemQuotas
from flowbed.ledger.items.rollbacks import ItemRollbacks
from flowbed.ledger.items.rows import INDEXES, SEEN
from flowbed.ledger.items.spending import ItemSpending
from flowbed.ledger.items.submissions import ItemSubmissions
from flowbed.ledger.items.table import all_of
from flowbed.ledger.items.vector_store_files import ItemVectorStoreFiles
from flowbed.ledger.items.vector_stores import ItemVectorStores
from flowbed.ledger.memory.chunk_indexes import CHUNK_INDEXES
from flowbed.ledger.memory.chunks import MemoryChunks
from flowbed.ledger.memory.documents import MemoryDocuments
from flowbed.ledger.memory.erasing import MemoryErasing
from flowbed.ledger.memory.runs import MemoryRuns
from flowbed.ledger.memory.table import MemoryTable
from flowbed.ledger.protocols.ledger import Ledger
from flowbed.records import Status

_NAMES = count(1)


def memory_table(*, lag: int = 0) -> MemoryTable:
    """Create an empty table for a ledger; its indexes lag behind by `lag` writes."""
    return MemoryTable({**INDEXES, **CHUNK_INDEXES}, lag=lag)


class MemoryLedger(Ledger):
    """`Ledger` in a `Table`; several ledgers on one table act like several processes on one ledger."""

    def __init__(self, table: MemoryTable, *, id: str) -> None:  # noqa: A002 - the protocol's word
        """Use a table, and the id of the ledger in it."""
        self.id = id
        self.location = "a table in memory"
        self.table = table
        documents = MemoryDocuments(table, name=f"{next(_NAMES)}")
        letters = ItemDeadLetters(table)
        runs = MemoryRuns(table, letters)
        submissions = ItemSubmissions(table)
        self.documents = documents
        self.chunks = MemoryChunks(table, documents, submissions)
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
        self.erasing = MemoryErasing(table, documents)

    async def overview(self) -> Overview:
        """Read the state of the ledger, one aggregate after the other: a table has no larger snapshot."""
        seen = await all_of(self.table.query, SEEN)
        letters = [letter async for page in self.dead_letters.pages() for letter in page]
        return Overview(
            workers=frozenset(await self.chunks.workers()),
            pending=tuple(await self.runs.collections()),
            seen={item["collection"]: item["version"] for item in seen},
            submissions=tuple([row async for page in self.submissions.pages(live=True) for row in page]),
            unfinished={
                key: number
                for key, number in (await self.chunks.counts()).items()
                if key[1] is not Status.SUCCESS
            },
            troubled=frozenset(letter.owner for letter in letters if letter.kind == "source"),
        )

    async def settle(self) -> None:
        """Bring the indexes up to date with all writes."""
        self.table.settle()

    async def close(self) -> None:
        """Do nothing: the table lives on in memory."""
