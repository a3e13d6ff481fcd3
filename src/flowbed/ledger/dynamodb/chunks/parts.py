"""What the parts of `Chunks` work with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flowbed.ledger.dynamodb.chunks.holders import Holders
    from flowbed.ledger.dynamodb.chunks.items import ChunkItems
    from flowbed.ledger.dynamodb.chunks.tallies import Tallies
    from flowbed.ledger.dynamodb.documents import DynamoDocuments
    from flowbed.ledger.dynamodb.table import DynamoTable
    from flowbed.ledger.items.submissions import ItemSubmissions


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The table, the chunks in it, what counts them and who holds them; documents, whose swaps are applied first."""

    table: DynamoTable
    items: ChunkItems
    tallies: Tallies
    holders: Holders
    documents: DynamoDocuments
    submissions: ItemSubmissions
