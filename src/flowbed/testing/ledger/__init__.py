"""What every ledger must do: one class of tests for each aggregate.

Subclass them with a fixture `ledger` that gives an empty, open ledger, and run them with pytest in asyncio's auto mode.
A ledger whose listings lag has a method `settle` that waits until they tell what was written: see `rows.Settles`.
"""

from flowbed.testing.ledger.batches import BatchesContract
from flowbed.testing.ledger.chunks import ChunksContract
from flowbed.testing.ledger.claims import ClaimsContract
from flowbed.testing.ledger.dead_letters import DeadLettersContract
from flowbed.testing.ledger.documents import DocumentsContract
from flowbed.testing.ledger.keys import KeysContract
from flowbed.testing.ledger.quotas import QuotasContract
from flowbed.testing.ledger.rollbacks import RollbacksContract
from flowbed.testing.ledger.rows import chunk, claim, document, flat, key, letter, only, put, run, waiting
from flowbed.testing.ledger.runs import RunsContract

__all__ = [
    "BatchesContract",
    "ChunksContract",
    "ClaimsContract",
    "DeadLettersContract",
    "DocumentsContract",
    "KeysContract",
    "QuotasContract",
    "RollbacksContract",
    "RunsContract",
    "chunk",
    "claim",
    "document",
    "flat",
    "key",
    "letter",
    "only",
    "put",
    "run",
    "waiting",
]
