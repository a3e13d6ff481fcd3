"""A ledger: all its aggregates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from flowbed.ledger.protocols.chunks import Chunks
    from flowbed.ledger.protocols.documents import Batches, Documents, Erasing
    from flowbed.ledger.protocols.runs import DeadLetters, Rollbacks, Runs
    from flowbed.ledger.protocols.service import Files, Jobs, Keys, Quotas
    from flowbed.ledger.protocols.submissions import Spending, Submissions
    from flowbed.ledger.rows import Overview
    from flowbed.ledger.vector_stores import VectorStoreFiles, VectorStores


class Ledger(Protocol):
    """All aggregates of one ledger. `id` is created with the ledger; `location` shows no password."""

    id: str
    location: str
    documents: Documents
    chunks: Chunks
    batches: Batches
    runs: Runs
    rollbacks: Rollbacks
    dead_letters: DeadLetters
    submissions: Submissions
    spending: Spending
    keys: Keys
    quotas: Quotas
    files: Files
    jobs: Jobs
    vector_stores: VectorStores
    vector_store_files: VectorStoreFiles
    erasing: Erasing

    async def overview(self) -> Overview:
        """Return the state of the ledger in one snapshot."""
        ...

    async def close(self) -> None:
        """Close the database."""
        ...
