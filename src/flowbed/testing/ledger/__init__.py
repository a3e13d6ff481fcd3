"""What every ledger must do: one class of tests for each aggregate.

Subclass them with a fixture `ledger` that yields an empty, open ledger, and run them with pytest in asyncio's auto
mode. A ledger whose listings lag has a method `settle` that waits until they are current: see `rows.Settles`.
"""

from flowbed.testing.ledger.batches import BatchesContract
from flowbed.testing.ledger.carrying import CarryingContract
from flowbed.testing.ledger.chunks import ChunksContract
from flowbed.testing.ledger.claims import ClaimsContract
from flowbed.testing.ledger.dead_letters import DeadLettersContract
from flowbed.testing.ledger.documents import DocumentsContract
from flowbed.testing.ledger.erasing import ErasingContract
from flowbed.testing.ledger.index_jobs import IndexJobsContract
from flowbed.testing.ledger.overview import OverviewContract
from flowbed.testing.ledger.rollbacks import RollbacksContract
from flowbed.testing.ledger.rows import (
    chunk,
    claim,
    document,
    file,
    flat,
    job,
    key,
    letter,
    only,
    put,
    run,
    spend,
    submission,
    waiting,
)
from flowbed.testing.ledger.runs import RunsContract
from flowbed.testing.ledger.service.files import FilesContract
from flowbed.testing.ledger.service.jobs import JobsContract
from flowbed.testing.ledger.service.keys import KeysContract
from flowbed.testing.ledger.service.quotas import QuotasContract
from flowbed.testing.ledger.service.vector_stores import VectorStoresContract
from flowbed.testing.ledger.service.workers import WorkersContract
from flowbed.testing.ledger.spending import SpendingContract
from flowbed.testing.ledger.submissions import SubmissionsContract
from flowbed.testing.ledger.taking import TakingContract

__all__ = [
    "BatchesContract",
    "CarryingContract",
    "ChunksContract",
    "ClaimsContract",
    "DeadLettersContract",
    "DocumentsContract",
    "ErasingContract",
    "FilesContract",
    "IndexJobsContract",
    "JobsContract",
    "KeysContract",
    "OverviewContract",
    "QuotasContract",
    "RollbacksContract",
    "RunsContract",
    "SpendingContract",
    "SubmissionsContract",
    "TakingContract",
    "VectorStoresContract",
    "WorkersContract",
    "chunk",
    "claim",
    "document",
    "file",
    "flat",
    "job",
    "key",
    "letter",
    "only",
    "put",
    "run",
    "spend",
    "submission",
    "waiting",
]
