"""The workers that hold chunks: one item each, and one for each batch that it claimed from."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from flowbed.ledger.dynamodb.chunks.items import WORKERS
from flowbed.ledger.dynamodb.table import key_of
from flowbed.ledger.items.table import ConditionFailed, all_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from flowbed.ledger.dynamodb.chunks.tallies import Tallies
    from flowbed.ledger.dynamodb.table import DynamoTable

_WEEK = 7 * 86_400  # s


class Holders:
    """Who holds chunks, from which batches, and until when."""

    def __init__(self, table: DynamoTable, tallies: Tallies) -> None:
        """Use a table, and the tallies, which count what workers hold."""
        self._table, self._tallies = table, tallies
        self._begun: set[tuple[str, str]] = set()

    async def begin(self, worker: str, homes: Collection[str], number: int) -> None:
        """Record that a worker is about to hold up to `number` chunks of some batches."""
        new = sorted({(worker, home) for home in homes} - self._begun)
        await self._table.put_all(
            [
                {
                    **key_of((f"H#{worker}", home)),
                    **self._table.expiring(_WEEK),  # should its worker never be released
                }
                for _, home in new
            ]
        )
        self._begun |= set(new)
        await self._tallies.hold(worker, number)

    async def all(self) -> set[str]:
        """Return the workers that hold chunks."""
        return {
            item["place"][1] for item in await all_of(self._table.query, WORKERS) if item.get("held", 0) > 0
        }

    async def homes(self, worker: str) -> list[str]:
        """Return the batches that a worker has claimed from."""
        return [item["place"][1] for item in await all_of(self._table.query, f"H#{worker}")]

    async def held(self, worker: str) -> int:
        """Return how many chunks a worker holds, as far as was counted."""
        item = await self._table.get((WORKERS, worker))
        return item.get("held", 0) if item else 0

    async def renew(self, worker: str, *, until: int) -> None:
        """Extend all claims of a worker."""
        with suppress(ConditionFailed):  # it holds nothing
            await self._table.repeated(
                "update_item",
                Key=key_of((WORKERS, worker)),
                UpdateExpression="SET #u = :u",
                ConditionExpression="attribute_exists(PK)",
                ExpressionAttributeNames={"#u": "until"},
                ExpressionAttributeValues={":u": {"N": str(until)}},
            )

    async def end(self, worker: str, homes: Collection[str], *, held: int) -> None:
        """Forget a worker that holds nothing any more; not if it has claimed again, and `held` is another number."""
        try:
            await self._table.repeated(
                "delete_item",
                Key=key_of((WORKERS, worker)),
                ConditionExpression="attribute_not_exists(PK) OR attribute_not_exists(held) OR held = :h",
                ExpressionAttributeValues={":h": {"N": str(held)}},
            )
        except ConditionFailed:
            return
        self._begun -= {each for each in self._begun if each[0] == worker}
        await self._table.delete_all([(f"H#{worker}", home) for home in homes])
