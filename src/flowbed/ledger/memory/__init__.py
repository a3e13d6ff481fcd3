"""A ledger in memory that is held to what DynamoDB grants: small transactions, short pages, and listings that lag.

It shows that nothing asks more of a ledger than a table of items can give, and how a ledger in such a table works.
"""

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from flowbed.ledger.memory.chunks import LimitedChunks
from flowbed.ledger.memory.documents import LimitedDocuments
from flowbed.ledger.memory.files import LimitedFiles
from flowbed.ledger.memory.jobs import LimitedJobs
from flowbed.ledger.memory.keys import LimitedKeys, LimitedQuotas
from flowbed.ledger.memory.letters import LimitedBatches, LimitedDeadLetters
from flowbed.ledger.memory.rows import INDEXES
from flowbed.ledger.memory.runs import LimitedRollbacks, LimitedRuns
from flowbed.ledger.memory.spending import LimitedSpending
from flowbed.ledger.memory.submissions import LimitedSubmissions
from flowbed.ledger.memory.table import Table

if TYPE_CHECKING:
    from flowbed.ledger import (
        Batches,
        Chunks,
        DeadLetters,
        Documents,
        Files,
        Jobs,
        Keys,
        Quotas,
        Rollbacks,
        Runs,
        Spending,
        Submissions,
    )

_NAMES = count(1)


def limited_table(*, lag: int = 0) -> Table:
    """Make an empty table for a ledger, whose indexes lag by so many writes."""
    return Table(INDEXES, lag=lag)


class LimitedLedger:
    """`Ledger` in a table; several on one table are as several processes on one ledger."""

    def __init__(self, table: Table, *, id: str) -> None:  # noqa: A002 - the protocol's word
        """Take the table, and the id of the ledger in it."""
        self.id = id
        self.location = "a table in memory"
        self.table = table
        documents = LimitedDocuments(table, name=f"{next(_NAMES)}")
        runs = LimitedRuns(table)
        submissions = LimitedSubmissions(table)
        self.documents: Documents = documents
        self.chunks: Chunks = LimitedChunks(table, documents, submissions)
        self.batches: Batches = LimitedBatches(table)
        self.runs: Runs = runs
        self.rollbacks: Rollbacks = LimitedRollbacks(table, runs)
        self.dead_letters: DeadLetters = LimitedDeadLetters(table)
        self.submissions: Submissions = submissions
        self.spending: Spending = LimitedSpending(table)
        self.keys: Keys = LimitedKeys(table)
        self.quotas: Quotas = LimitedQuotas(table)
        self.files: Files = LimitedFiles(table)
        self.jobs: Jobs = LimitedJobs(table)

    async def settle(self) -> None:
        """Wait until listings tell what was written."""
        self.table.settle()

    async def close(self) -> None:
        """Let go of nothing: what is in memory stays there."""
